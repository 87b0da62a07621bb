"""HDF5 files that lead a reader out of them, walk it in circles, or promise more than they store."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .case import Hostile, outside

__all__ = ["CASES"]

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_TEXT = h5py.string_dtype()


def _file(fill: Callable[[Any, Path], object], place: Path) -> None:
    """Writes a file with an honest dataset, and what ``fill`` puts beside it, given the folder outside."""
    with h5py.File(place, "w") as file:
        file["honest"] = np.arange(6, dtype=np.float32)
        fill(file, outside(place))


def _virtual(name: str) -> Callable[[Any, Path], object]:
    def fill(file: Any, away: Path) -> None:
        layout = h5py.VirtualLayout((6,), np.float32)
        layout[:] = h5py.VirtualSource(name.format(outside=away), "w", (6,))
        file.create_virtual_dataset("w", layout)

    return fill


def _external_bytes(name: str) -> Callable[[Any, Path], object]:
    return lambda file, away: file.create_dataset("w", (2,), np.float32, external=[(name.format(outside=away), 0, 8)])


def _link(name: str, make: Callable[[Path], object]) -> Callable[[Any, Path], object]:
    return lambda file, away: file.__setitem__(name, make(away))


def _below_a_link(file: Any, away: Path) -> None:
    file["group/honest"] = np.ones(2)
    file["group/more"] = h5py.SoftLink("/group/deeper")
    file["deeper"] = h5py.ExternalLink(away / "file.h5", "/group")


def _ring(file: Any, away: Path) -> None:
    file["a/b/c/w"] = np.ones(2)
    file["a/b/c/a"] = file["a"]


def _root_below_itself(file: Any, away: Path) -> None:
    file["a/root"] = file["/"]


def _two_names(file: Any, away: Path) -> None:
    file["a/w"] = np.ones(2)
    file["b"] = file["a"]


def _tower(file: Any, away: Path) -> None:
    """Groups that hold one group twice, thirty times over."""
    below = file.create_group("0")
    below["w"] = np.ones(1)
    for level in range(1, 30):
        group = file.create_group(str(level))
        group["a"] = group["b"] = below
        below = group


def _deep(file: Any, away: Path) -> None:
    group = file
    for _ in range(1500):
        group = group.create_group("g")


def _shared_text(file: Any, away: Path) -> None:
    """A text of a megabyte, referred to two hundred times: its heap entry is written once and pointed at by all."""
    file.create_dataset("t", (200,), _TEXT)
    file["t"][0] = "x" * 700_000
    offset = file["t"].id.get_offset()
    file.flush()
    raw = Path(file.filename).read_bytes()[offset : offset + 16]
    file.attrs["patch"] = np.frombuffer(raw * 200, np.uint8)


def _text_on_text(place: Path) -> None:
    _file(_shared_text, place)
    with h5py.File(place, "r") as file:
        patch, offset = file.attrs["patch"].tobytes(), file["t"].id.get_offset()
    raw = bytearray(place.read_bytes())
    raw[offset : offset + len(patch)] = patch
    place.write_bytes(raw)


def _endless_heap(place: Path) -> None:
    """A heap whose free space has no length: the HDF5 library walks it for ever."""
    _file(lambda file, away: file.attrs.update({"who": "x" * 300}), place)
    blob = bytearray(place.read_bytes())
    free = blob.index(b"GCOL") + 16 + 16 + 304
    assert int.from_bytes(blob[free + 8 : free + 16], "little") > 0
    blob[free + 8 : free + 16] = bytes(8)
    place.write_bytes(blob)


def _of_type(kind: Any, shape: tuple[int, ...] = (2,)) -> Callable[[Any, Path], object]:
    return lambda file, away: file.create_dataset("w", shape, kind)


def _filtered(file: Any, away: Path) -> None:
    file.create_dataset("w", data=np.arange(1000.0), chunks=(1000,), compression="lzf")


def _unknown_filter(number: int, place: Path) -> None:
    """A filter that HDF5 looks for among the plugins on the disk, to load their code."""
    _file(_filtered, place)
    raw = place.read_bytes()
    name = raw.index(b"lzf\0")
    at = raw.rindex((32000).to_bytes(2, "little"), 0, name)
    place.write_bytes(raw[:at] + number.to_bytes(2, "little") + raw[at + 2 :])


def _damaged(change: Callable[[bytes], bytes], place: Path) -> None:
    with h5py.File(place, "w") as file:
        file.create_dataset("w", data=np.arange(10_000.0), chunks=(1000,), compression="gzip", fletcher32=True)
    raw = place.read_bytes()
    changed = change(raw)
    assert changed != raw
    place.write_bytes(changed)


def _flipped(raw: bytes) -> bytes:
    at = raw.rindex(b"\x78") + 20  # in the last chunk of deflated bytes
    return raw[:at] + bytes([raw[at] ^ 0x55]) + raw[at + 1 :]


def _endless_chunk(file: Any, away: Path) -> None:
    file.create_dataset("w", (1 << 40,), np.uint8, chunks=(1 << 31,), compression="gzip")


_BOMB = 1 << 28  # bytes that a chunk of 64 unpacks to


def _bomb(chunk: bytes, file: Any, away: Path, *, dtype: Any = "u1", **filters: Any) -> None:
    """A dataset of one chunk, which is not what its filters make of 64 bytes."""
    dataset = file.create_dataset("w", (64,), dtype, chunks=(64,), **filters)
    dataset.id.write_direct_chunk((0,), chunk)


def _deflated_bomb(file: Any, away: Path, *, times: int = 1, **more: Any) -> None:
    chunk = bytes(_BOMB)
    for _ in range(times):
        chunk = zlib.compress(chunk, 9)
    _bomb(chunk + bytes(4) * bool(more.get("fletcher32")), file, away, compression="gzip", **more)


def _twice_deflated_bomb(file: Any, away: Path) -> None:
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_chunk((64,))
    creation.set_deflate(9)
    creation.set_filter(1, 0, (9,))
    space = h5py.h5s.create_simple((64,))
    dataset = h5py.h5d.create(file.id, b"w", h5py.h5t.STD_U8LE, space, creation)
    dataset.write_direct_chunk((0,), zlib.compress(zlib.compress(bytes(_BOMB), 9), 9))


def _lzf_bomb(file: Any, away: Path) -> None:
    """One literal byte, and then copies of what stands before, 264 bytes for each three."""
    _bomb(b"\0\0" + b"\xe0\xff\0" * (_BOMB // 264), file, away, compression="lzf")


def _setup_bomb(place: Path, **filters: Any) -> None:
    """A filter whose setup in the file's header has many more elements than the chunk."""
    _file(
        lambda file, away: file.create_dataset("w", data=np.arange(6000, dtype="i4"), chunks=(6000,), **filters), place
    )
    raw = place.read_bytes()
    setup = raw.index((6000).to_bytes(4, "little") + (0).to_bytes(4, "little") + (4).to_bytes(4, "little"))
    place.write_bytes(raw[:setup] + (_BOMB).to_bytes(4, "little") + raw[setup + 4 :])


def _szip_bomb(file: Any, away: Path) -> None:
    _bomb((0xF0000000).to_bytes(4, "little") + bytes(60), file, away, compression="szip")


#: What each puts into a file beside an honest dataset.
FILES: dict[str, Callable[[Any, Path], object]] = {
    "a soft link": _link("w", lambda away: h5py.SoftLink("/honest")),
    "a soft link to nothing": _link("w", lambda away: h5py.SoftLink("/nothing")),
    "a soft link to itself": _link("w", lambda away: h5py.SoftLink("/w")),
    "a soft link to all above": _link("w", lambda away: h5py.SoftLink("/")),
    "an external link": _link("w", lambda away: h5py.ExternalLink(away / "file.h5", "/w")),
    "a relative external link": _link("w", lambda away: h5py.ExternalLink("../outside/file.h5", "/w")),
    "an external link to a pipe": _link("w", lambda away: h5py.ExternalLink(away / "pipe", "/w")),
    "an external link to a device": _link("w", lambda away: h5py.ExternalLink("/dev/zero", "/w")),
    "an external link to a whole file": _link("w", lambda away: h5py.ExternalLink(away / "file.h5", "/")),
    "links below groups": _below_a_link,
    "a virtual dataset": _virtual("{outside}/file.h5"),
    "a virtual dataset by a relative name": _virtual("../outside/file.h5"),
    "a virtual dataset of this file": _virtual("."),
    "a virtual dataset of a pipe": _virtual("{outside}/pipe"),
    "external bytes": _external_bytes("{outside}/secret"),
    "external bytes by a relative name": _external_bytes("../outside/secret"),
    "external bytes of a device": _external_bytes("/dev/zero"),
    "external bytes of a process": _external_bytes("/proc/self/environ"),
    "a group within itself": _ring,
    "the root within a group": _root_below_itself,
    "a group of two names": _two_names,
    "groups of two, thirty high": _tower,
    "groups nested without end": _deep,
    "a terabyte of nothing": lambda file, away: file.create_dataset("w", (1 << 40,), np.uint8),
    "a terabyte of nothing, in chunks": lambda file, away: file.create_dataset("w", (1 << 40,), "u1", chunks=(1024,)),
    "chunks of two gigabytes": _endless_chunk,
    "a shape past any memory": lambda file, away: file.create_dataset(
        "w", (1 << 31, 1 << 31, 2), "u1", chunks=(1, 1, 2)
    ),
    "a fill value of terabytes": lambda file, away: file.create_dataset("w", (1 << 38,), "f8", fillvalue=1.0),
    "a million empty texts": _of_type(_TEXT, (1_000_000,)),
    "texts of a gigabyte each": _of_type("S1073741824", (1,)),
    "references": _of_type(h5py.ref_dtype),
    "region references": _of_type(h5py.regionref_dtype),
    "arrays of any length": _of_type(h5py.vlen_dtype(np.float32)),
    "compounds": _of_type(np.dtype([("a", "f4"), ("b", "i4")])),
    "opaque bytes": _of_type(np.dtype("V8")),
    "arrays for elements": _of_type(np.dtype(("f4", (2, 2)))),
    "a compressed gigabyte of zeros": lambda file, away: file.create_dataset(
        "w", data=np.zeros(1 << 27, "u1"), chunks=(1 << 22,), compression="gzip"
    ),
    "many datasets that unpack to much together": lambda file, away: [
        file.create_dataset(f"w{n}", data=np.zeros(1 << 24, "u1"), chunks=(1 << 22,), compression="gzip")
        for n in range(6)
    ],
    "moments": _of_type(h5py.opaque_dtype(np.dtype("M8[s]"))),
}
_DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "half a file": lambda raw: raw[: len(raw) // 2],
    "all but the last byte": lambda raw: raw[:-1],
    "nothing but the signature": lambda raw: raw[:8],
    "a superblock of the future": lambda raw: raw[:8] + b"\x09" + raw[9:],
    "sizes of offsets that nobody has": lambda raw: raw[:13] + b"\xff\xff" + raw[15:],
    "an end past the file": lambda raw: raw[:40] + (1 << 60).to_bytes(8, "little") + raw[48:],
    "a root outside the file": lambda raw: raw[:64] + (1 << 60).to_bytes(8, "little") + raw[72:],
}

#: Listed as what they are, and neither followed nor read.
_UNKNOWN = {
    *(title for title in FILES if title.startswith("a soft link")),
    *("a group within itself", "the root within a group", "a group of two names", "groups of two, thirty high"),
    *("groups nested without end", "a terabyte of nothing", "a terabyte of nothing, in chunks"),
    *("chunks of two gigabytes", "a shape past any memory", "a fill value of terabytes", "a million empty texts"),
    *("texts of a gigabyte each", "references", "region references", "arrays of any length", "compounds"),
    *("opaque bytes", "arrays for elements", "moments"),
    *("a compressed gigabyte of zeros", "many datasets that unpack to much together"),
}

CASES: dict[str, Hostile] = {
    **{
        title: Hostile(partial(_file, fill), "whole" if title in _UNKNOWN else "headers")
        for title, fill in FILES.items()
    },
    **{title: Hostile(partial(_damaged, change)) for title, change in _DAMAGE.items()},
    "a chunk that inflates to much more": Hostile(partial(_file, _deflated_bomb), "values"),
    "a shuffled chunk that inflates to much more": Hostile(
        partial(_file, partial(_deflated_bomb, dtype="f8", shuffle=True)), "values"
    ),
    "a checked chunk that inflates to much more": Hostile(
        partial(_file, partial(_deflated_bomb, fletcher32=True)), "values"
    ),
    "a chunk of text that inflates to much more": Hostile(partial(_file, partial(_deflated_bomb, dtype="S8"))),
    "a chunk that inflates twice": Hostile(partial(_file, _twice_deflated_bomb), "values"),
    "a chunk of runs without end": Hostile(partial(_file, _lzf_bomb), "values"),
    "a chunk that is set up for many more elements": Hostile(partial(_setup_bomb, scaleoffset=0), "values"),
    "a chunk of szip that says four gigabytes": Hostile(partial(_file, _szip_bomb), "values"),
    "a bit in a chunk": Hostile(partial(_damaged, _flipped), "values"),
    "a text that lies on itself two hundred times": Hostile(_text_on_text),
    "a heap without an end": Hostile(_endless_heap),
    "a filter that is a plugin": Hostile(partial(_unknown_filter, 32001), "whole"),
    "a filter of nobody": Hostile(partial(_unknown_filter, 60000), "whole"),
    "nothing behind a user block": Hostile(lambda place: place.write_bytes(bytes(512) + _SIGNATURE + bytes(600))),
    "names with control characters": Hostile(
        partial(_file, lambda file, away: file.create_dataset("\x1b[2J\x1b]0;t\x07\r\n\u202e\x9b", data=np.ones(2))),
        "never",
    ),
    "attributes with control characters": Hostile(
        partial(_file, lambda file, away: file.attrs.update({"\x1b[2J": "\x1b]0;t\x07", "a\nb": "\u202e"})), "never"
    ),
}
