"""Zip archives that lie: about sizes, offsets and names, on top of each other, twice, or blown up a millionfold."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from .case import Hostile, outside
from .opcodes import RECORDS, tensor, text, torch_zip, zipped

__all__ = ["CASES", "central", "honest", "npy", "one_deflated", "patched", "zip64_throughout"]

_PICKLE = b"\x80\x02}" + text("w") + tensor(shape=(16,), stride=(1,)) + b"s."
_END, _FULL = b"PK\x05\x06", 0xFFFFFFFF


def honest(records: dict[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED) -> bytes:
    """Gives a torch archive whose tensor ``w`` is the whole of record data/0, or an archive of other records."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, raw in (RECORDS | {"x/data.pkl": _PICKLE} if records is None else records).items():
            archive.writestr(name, raw)
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def central(raw: bytes, name: bytes) -> int:
    """Gives where a member's entry in the directory begins."""
    return raw.rindex(name) - 46


def patched(raw: bytes, at: int, packing: str, *values: int) -> bytes:
    piece = struct.pack(packing, *values)
    return raw[:at] + piece + raw[at + len(piece) :]


def _in_directory(field: int, packing: str, *values: int, name: bytes = b"x/data/0") -> Callable[[bytes], bytes]:
    """Gives what changes fields of a member's entry in the directory, and there alone."""
    return lambda raw: patched(raw, central(raw, name) + field, packing, *values)


def _in_both(field: int, packing: str, *values: int, name: bytes = b"x/data/0") -> Callable[[bytes], bytes]:
    """Gives what changes fields of a member's own header and of its entry, whose fields lie two further."""

    def tamper(raw: bytes) -> bytes:
        raw = patched(raw, raw.index(name) - 30 + field, packing, *values)
        return patched(raw, central(raw, name) + field + 2, packing, *values)

    return tamper


def _in_end(field: int, packing: str, *values: int) -> Callable[[bytes], bytes]:
    return lambda raw: patched(raw, raw.rindex(_END) + field, packing, *values)


def _over_another(raw: bytes) -> bytes:
    """The pickle's member reaches over the next one's header and bytes."""
    size = struct.unpack_from("<I", raw, central(raw, b"x/data.pkl") + 20)[0] + 80
    return _in_both(18, "<II", size, size, name=b"x/data.pkl")(raw)


def _on_one_place(raw: bytes) -> bytes:
    """Two entries of the directory name one member's bytes."""
    at = struct.unpack_from("<I", raw, central(raw, b"x/data/0") + 42)[0]
    return patched(raw, central(raw, b"x/byteorder") + 42, "<I", at)


def _behind_another_end(raw: bytes) -> bytes:
    """A comment that is itself an end of directory: readers that search from the front find another archive."""
    other = honest(RECORDS)
    return raw[:-2] + struct.pack("<H", len(other)) + other


def _with_an_end_in_its_comment(raw: bytes) -> bytes:
    """A comment that ends in a second, empty end of directory."""
    empty = _END + bytes(18)
    return raw[:-2] + struct.pack("<H", len(empty)) + empty


def _with_a_digit_changed(raw: bytes) -> bytes:
    at = raw.index(bytes(range(64)))
    return raw[: at + 7] + b"\xff" + raw[at + 8 :]


def _zip64_of(size: int, offset: int) -> Callable[[bytes], bytes]:
    """Gives what says a member's sizes and place in a zip64 field, where they are these."""

    def tamper(raw: bytes) -> bytes:
        at, end = central(raw, b"x/data/0"), raw.rindex(_END)
        field = struct.pack("<HHQQQ", 1, 24, size, size, offset)
        entry = patched(raw, at + 20, "<IIHH", 0xFFFFFFFF, 0xFFFFFFFF, 8, len(field))
        entry = patched(entry, at + 42, "<I", 0xFFFFFFFF)
        changed = entry[: at + 54] + field + entry[at + 54 :]
        start, length = struct.unpack_from("<I", raw, end + 16)[0], struct.unpack_from("<I", raw, end + 12)[0]
        return patched(changed, end + len(field) + 12, "<II", length + len(field), start)

    return tamper


def _with_a_zip64_locator_to(offset: int) -> Callable[[bytes], bytes]:
    def tamper(raw: bytes) -> bytes:
        end = raw.rindex(_END)
        record = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 1 << 60, 1 << 60, 1 << 62, offset)
        locator = b"PK\x06\x07" + struct.pack("<IQI", 0, end, 1)
        tail = patched(raw[end:], 8, "<HHII", 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
        return raw[:end] + record + locator + tail

    return tamper


#: Each changes the bytes of an honest archive.
TAMPERED: dict[str, Callable[[bytes], bytes]] = {
    "a size past the file": _in_directory(20, "<II", 1 << 30, 1 << 30),
    "a size past the file, in both headers": _in_both(18, "<II", 1 << 30, 1 << 30),
    "more bytes than are stored": _in_directory(24, "<I", 1 << 31),
    "fewer bytes than are stored": _in_directory(20, "<II", 8, 8),
    "an encrypted member": _in_both(6, "<H", 1),
    "an encrypted member, by the directory alone": _in_directory(8, "<H", 1),
    "a masked directory": _in_both(6, "<H", 1 << 13),
    "a patch": _in_both(6, "<H", 1 << 5),
    "an offset into another member": _in_directory(42, "<I", 7),
    "an offset past the end": _in_directory(42, "<I", 0x7FFFFFFF),
    "a member over another": _over_another,
    "two members in one place": _on_one_place,
    "an unknown compression": _in_both(8, "<H", 14),
    "bzip2": _in_both(8, "<H", 12),
    "stored bytes said to be deflated": _in_both(8, "<H", 8),
    "stored bytes said to be deflated, by the directory alone": _in_directory(10, "<H", 8),
    "zip64 without its field": _in_directory(20, "<II", 0xFFFFFFFF, 0xFFFFFFFF, name=b"x/version"),
    "zip64 of endless size": _zip64_of(1 << 62, 0),
    "zip64 of size 2**64 - 1": _zip64_of((1 << 64) - 1, 0),
    "zip64 with an offset past the end": _zip64_of(64, 1 << 62),
    "a zip64 end of endless members": _with_a_zip64_locator_to(1 << 62),
    "a directory elsewhere": _in_end(16, "<I", 0x7FFFFFFF),
    "a directory of endless size": _in_end(12, "<I", 0x7FFFFFFF),
    "a directory of fewer members than it has": _in_end(8, "<HH", 1, 1),
    "a directory of more members than it has": _in_end(8, "<HH", 9, 9),
    "an archive of several disks": _in_end(4, "<HH", 3, 1),
    "other names in the members' own headers": lambda raw: raw.replace(b"x/data/0", b"x/data/9", 1),
    "a pickle under another name by the members' own headers": lambda raw: raw.replace(b"x/data.pkl", b"x/date.pkl", 1),
    "no pickle": lambda raw: raw.replace(b"x/data.pkl", b"x/date.pkl"),
    "another archive in the comment": _behind_another_end,
    "an empty end of directory in the comment": _with_an_end_in_its_comment,
    "bytes behind the end": lambda raw: raw + bytes(100),
    "bytes in front": lambda raw: b"MZ" + bytes(98) + raw,
    "a CRC that is not the member's": _with_a_digit_changed,
    "nothing but an end": lambda raw: _END + bytes(18),
    "half an archive": lambda raw: raw[: len(raw) // 2],
    "an archive without its first bytes": lambda raw: raw[40:],
    "an archive without its last byte": lambda raw: raw[:-1],
    "a directory without its entries": lambda raw: raw[: raw.index(b"PK\x01\x02")] + raw[raw.rindex(_END) :],
}
_LATE = {"a CRC that is not the member's", "stored bytes said to be deflated"}
_TOLERATED = {"bytes behind the end", "bytes in front"}


def _tampered(tamper: Callable[[bytes], bytes], place: Path) -> None:
    raw = honest()
    changed = tamper(raw)
    assert changed != raw
    place.write_bytes(changed)


def one_deflated(name: bytes, raw: bytes, crc: int, size: int) -> bytes:
    """Gives an archive of one deflated member."""
    same = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 0, crc, len(raw), size, len(name), 0)
    local = b"PK\x03\x04" + same + name + raw
    entry = b"PK\x01\x02" + struct.pack("<H", 20) + same + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name
    return local + entry + _END + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(entry), len(local), 0)


def _bomb(name: bytes, start: bytes, mebibytes: int, place: Path) -> None:
    """Zeros, a thousandth of their size once deflated."""
    squeezed, piece = zlib.compressobj(9, zlib.DEFLATED, -15), bytes(1 << 20)
    raw, crc = squeezed.compress(start), zlib.crc32(start)
    for _ in range(mebibytes):
        raw, crc = raw + squeezed.compress(piece), zlib.crc32(piece, crc)
    place.write_bytes(one_deflated(name, raw + squeezed.flush(), crc, len(start) + (mebibytes << 20)))


def _array_header(mebibytes: int) -> bytes:
    whole = npy(np.zeros((0, mebibytes << 20), np.uint8))
    return whole.replace(b"(0, ", b"(1, ")


def _understated(place: Path) -> None:
    raw = honest({"a.npy": npy(np.zeros(5000))}, zipfile.ZIP_DEFLATED)
    place.write_bytes(patched(raw, central(raw, b"a.npy") + 24, "<I", 4000))


def _twice(records: dict[str, bytes], name: str, place: Path) -> None:
    """Two members of one name: readers differ over which is meant."""
    raw = honest(records | {f"{name[:-1]}?": bytes(64)})
    place.write_bytes(raw.replace(f"{name[:-1]}?".encode(), name.encode()))


def _renamed(old: str, new: str, place: Path) -> None:
    names = {old: new}
    zipped(place, {names.get(name, name): raw for name, raw in (RECORDS | {"x/data.pkl": _PICKLE}).items()})


def _beside(more: dict[str, bytes], place: Path) -> None:
    zipped(place, RECORDS | {"x/data.pkl": _PICKLE} | more)


def _nested(place: Path) -> None:
    """A zip in a zip in a zip."""
    raw = honest()
    for _ in range(5):
        raw = honest({"x/data.pkl": raw, "x/version": b"3\n"})
    place.write_bytes(raw)


def _quoted(place: Path) -> None:
    """Each member's deflate data quotes the headers behind it, so that all overlap: the overlapping bomb of D. Fifield."""
    kernel = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = kernel.compress(bytes(1 << 20)) + kernel.flush()
    names = [f"x/data/{n}".encode() for n in range(50)]
    heads = [
        b"PK\x03\x04" + struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 0, 0, len(body), 1 << 20, len(name), 0) + name
        for name in names
    ]
    offsets, at = [], 0
    for head in heads:
        offsets.append(at)
        at += len(head)
    entries = b"".join(
        b"PK\x01\x02"
        + struct.pack(
            "<HHHHHHIIIHHHHHII", 20, 20, 0, 8, 0, 0, 0, at - offset + len(body), 1 << 20, len(name), *[0] * 6
        )[:-4]
        + struct.pack("<I", offset)
        + name
        for name, offset in zip(names, offsets, strict=True)
    )
    start = at + len(body)
    end = _END + struct.pack("<HHHHIIH", 0, 0, len(names), len(names), len(entries), start, 0)
    place.write_bytes(b"".join(heads) + body + entries + end)


def _many_members(place: Path) -> None:
    """Twenty thousand empty members: a directory of megabytes, and not one byte of a tensor."""
    entry = struct.Struct("<HHHHHHIIIHHHHHII")
    names = [b"x/%05d" % n for n in range(20_000)]
    local = b"PK\x03\x04" + struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 0, 0, 0, 0, 7, 0)
    body = b"".join(local + name for name in names)
    entries = b"".join(
        b"PK\x01\x02" + entry.pack(20, 20, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 37 * n) + name
        for n, name in enumerate(names)
    )
    end = _END + struct.pack("<HHHHIIH", 0, 0, len(names), len(names), len(entries), len(body), 0)
    place.write_bytes(body + entries + end)


def zip64_throughout(said: int | None, place: Path) -> None:
    """All sizes in zip64 fields; the own header of ``x/data/0`` says another one than the directory, if given."""
    body = entries = b""
    for name, raw in (RECORDS | {"x/data.pkl": _PICKLE}).items():
        fixed = struct.pack("<HHHHHIIIHH", 45, 0, 0, 0, 33, zlib.crc32(raw), _FULL, _FULL, len(name), 20)
        own = len(raw) if said is None or name != "x/data/0" else said
        entries += b"PK\x01\x02" + struct.pack("<H", 45) + fixed + struct.pack("<HHHII", 0, 0, 0, 0, len(body))
        entries += name.encode() + struct.pack("<HHQQ", 1, 16, len(raw), len(raw))
        body += b"PK\x03\x04" + fixed + name.encode() + struct.pack("<HHQQ", 1, 16, own, own) + raw
    count = len(RECORDS | {"x/data.pkl": b""})
    place.write_bytes(body + entries + _END + struct.pack("<HHHHIIH", 0, 0, count, count, len(entries), len(body), 0))


def _absolute(place: Path) -> None:
    _beside({f"{outside(place)}/escaped": b"x", "../outside/escaped": b"x", "..\\outside\\escaped": b"x"}, place)


def _link(place: Path) -> None:
    """A member that is a symbolic link, for whoever unpacks."""
    info = zipfile.ZipInfo("x/data/0")
    info.external_attr, info.create_system = 0o120777 << 16, 3
    with zipfile.ZipFile(place, "w") as archive:
        for name, raw in (RECORDS | {"x/data.pkl": _PICKLE}).items():
            if name == info.filename:
                archive.writestr(info, os.fspath(outside(place) / "secret"))
            else:
                archive.writestr(name, raw)


CASES: dict[str, Hostile] = {
    **{
        title: Hostile(
            partial(_tampered, tamper),
            "values" if title in _LATE else "never" if title in _TOLERATED else "headers",
        )
        for title, tamper in TAMPERED.items()
    },
    "two members of one name": Hostile(partial(_twice, RECORDS | {"x/data.pkl": _PICKLE}, "x/data/0")),
    "two pickles of one name": Hostile(partial(_twice, RECORDS | {"x/data.pkl": _PICKLE}, "x/data.pkl")),
    "two arrays of one name": Hostile(partial(_twice, {"a.npy": npy(np.zeros(3))}, "a.npy")),
    "two roots": Hostile(partial(_beside, {"y/data.pkl": b"\x80\x02}."})),
    "two roots, one within the other": Hostile(partial(_beside, {"x/y/data.pkl": b"\x80\x02}."})),
    "a root that is no folder": Hostile(partial(zipped, records={"data.pkl/x": b""})),
    "a pickle of 320 MiB once inflated": Hostile(partial(_bomb, b"x/data.pkl", b"\x80\x02", 320)),
    "an array of 320 MiB once inflated": Hostile(partial(_bomb, b"a.npy", _array_header(320), 320)),
    "an array that inflates to more than it says": Hostile(_understated, "headers"),
    "members that quote each other": Hostile(_quoted),
    "twenty thousand empty members": Hostile(_many_members),
    "a zip64 header that says less than the directory": Hostile(partial(zip64_throughout, 16)),
    "a zip64 header that says more than the directory": Hostile(partial(zip64_throughout, 1 << 50)),
    "a zip in a zip in a zip": Hostile(_nested),
    "names that lead outside": Hostile(_absolute, "never"),
    "a root that leads outside": Hostile(partial(_renamed, "x/data.pkl", "../outside/data.pkl")),
    "a root that is absolute": Hostile(partial(_renamed, "x/data.pkl", "/x/data.pkl")),
    "a storage that is a link": Hostile(_link),
    "a name with a NUL": Hostile(lambda place: place.write_bytes(honest().replace(b"x/data.pkl", b"x/dat\0.pkl"))),
    "a name with control characters": Hostile(
        partial(_beside, {"x/\x1b]0;title\x07\x1b[2J\u202e\x9b31m\r\nx": b"x"}), "never"
    ),
    "keys with control characters": Hostile(
        partial(
            torch_zip,
            b"}" + b"".join(text(t) + b"K\x01s" for t in ("\x1b[2J", "\x1b]0;x\x07", "a\u202eb", "a\r\nb", "\x9b31m")),
        ),
        "never",
    ),
}
