"""safetensors files whose headers lie about offsets, shapes and dtypes, and index files that name shards elsewhere."""

from __future__ import annotations

import json
import struct
from functools import partial
from pathlib import Path
from typing import Any

from .case import Hostile, outside

__all__ = ["CASES", "raw_file", "written"]


def raw_file(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def written(header: Any, data: bytes, place: Path) -> None:
    place.write_bytes(raw_file(json.dumps(header).encode(), data))


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


#: Headers over 16 bytes of data.
HEADERS: dict[str, Any] = {
    "a hole between tensors": {"a": entry(), "b": entry(shape=[1], offsets=[12, 16])},
    "a hole in front": {"a": entry(offsets=[8, 16])},
    "tensors that overlap": {"a": entry(offsets=[0, 8]), "b": entry(shape=[3], offsets=[4, 16])},
    "two tensors in one place": {"a": entry(shape=[4], offsets=[0, 16]), "b": entry(shape=[4], offsets=[0, 16])},
    "bytes that no tensor has": {"a": entry()},
    "bytes past the end": {"a": entry(shape=[8], offsets=[0, 32])},
    "offsets past 2**64": {"a": entry(offsets=[1 << 64, (1 << 64) + 8])},
    "negative offsets": {"a": entry(offsets=[-8, 0])},
    "offsets the wrong way round": {"a": entry(offsets=[8, 0])},
    "offsets of floats": {"a": entry(offsets=[0.0, 8.0])},
    "offsets of booleans": {"a": entry("U8", [1], [False, True])},
    "three offsets": {"a": entry(offsets=[0, 8, 16])},
    "no offsets": {"a": {"dtype": "F32", "shape": [2]}},
    "a shape other than its bytes": {"a": entry(shape=[5], offsets=[0, 16])},
    "a shape whose product wraps to the size": {"a": entry(shape=[1 << 32, 1 << 32], offsets=[0, 16])},
    "a shape whose product is endless": {"a": entry(shape=[1 << 62] * 60, offsets=[0, 16])},
    "an empty shape of endless size": {"a": entry(shape=[0, 1 << 62, 1 << 62], offsets=[0, 0])},
    "a negative shape": {"a": entry(shape=[-1, -4], offsets=[0, 16])},
    "a shape of text": {"a": entry(shape="4", offsets=[0, 16])},
    "a shape that nests": {"a": entry(shape=[[4]], offsets=[0, 16])},
    "eighty dimensions": {"a": entry(shape=[1] * 80, offsets=[0, 4])},
    "a hundred thousand dimensions": {"a": entry(shape=[1] * 100_000, offsets=[0, 4])},
    "a dtype of nobody": {"a": entry("F128", [1], [0, 16])},
    "a dtype that is a number": {"a": entry(4, [4], [0, 16])},
    "a dtype that is a list": {"a": entry(["F32"], [4], [0, 16])},
    "an entry that is a list": {"a": [1, 2]},
    "an entry that is null": {"a": None},
    "an entry with more to it": {"a": entry(shape=[4], offsets=[0, 16]) | {"run": "x"}},
    "metadata that is a list": {"__metadata__": [], "a": entry(shape=[4], offsets=[0, 16])},
    "metadata of numbers": {"__metadata__": {"a": 1}, "a": entry(shape=[4], offsets=[0, 16])},
    "metadata that nests": {"__metadata__": {"a": {"b": "c"}}, "a": entry(shape=[4], offsets=[0, 16])},
    "metadata that is a tensor": {"__metadata__": entry(shape=[4], offsets=[0, 16])},
}
#: Which safetensors reads as well.
_HONEST = "a header that begins with a space"
_GOOD = json.dumps({"a": entry(shape=[4], offsets=[0, 16])}).encode()
_DEEP = b'{"a":' * 150_000 + b"1" + b"}" * 150_000
RAW = {
    "a header past the file": raw_file(_GOOD, bytes(16), 1 << 20),
    "a header of 2**63": raw_file(_GOOD, bytes(16), 1 << 63),
    "a header of 2**64 - 1": raw_file(_GOOD, bytes(16), (1 << 64) - 1),
    "a header past the cap": raw_file(_GOOD, bytes(16), 100_000_001),
    "a header of no bytes": raw_file(b"", bytes(16)),
    "half a header": raw_file(_GOOD, bytes(16), 20),
    "a header that is a list": raw_file(b"[1, 2]", bytes(16)),
    "a header that begins with a space": raw_file(b" " + _GOOD, bytes(16)),
    "a header behind a BOM": raw_file(b"\xef\xbb\xbf" + _GOOD, bytes(16)),
    "a header that is no UTF-8": raw_file(b'{"\xff": 1}', bytes(16)),
    "a header with text behind it": raw_file(_GOOD + b"x", bytes(16)),
    "a name twice": raw_file(_GOOD[:-1] + b"," + _GOOD[1:], bytes(16)),
    "a dtype twice": raw_file(_GOOD.replace(b'"shape"', b'"dtype": "F32", "shape"'), bytes(16)),
    "metadata twice": raw_file(b'{"__metadata__": {}, "__metadata__": {}, ' + _GOOD[1:], bytes(16)),
    "NaN for an offset": raw_file(_GOOD.replace(b"[0, 16]", b"[NaN, 16]"), bytes(16)),
    "an offset of a million digits": raw_file(_GOOD.replace(b"[0, 16]", b"[0, 1" + b"6" * 900_000 + b"]"), bytes(16)),
    "an offset with an exponent": raw_file(_GOOD.replace(b"[0, 16]", b"[0, 1.6e1]"), bytes(16)),
    "nesting without end": raw_file(_DEEP),
    "lists nested without end": raw_file(b'{"a":' + b"[" * 400_000),
    "spaces without end": raw_file(b"{" + b" " * 900_000),
    "quotes without end": raw_file(b'{"' + b'\\"' * 400_000),
    "a shape of half a million sizes": raw_file(_GOOD.replace(b"[4]", b"[" + b"9," * 450_000 + b"9]"), bytes(16)),
    "half its data": raw_file(_GOOD, bytes(8)),
    "a byte too many": raw_file(_GOOD, bytes(17)),
    "seven bytes": b"\x08\0\0\0\0\0\0",
    "eight bytes": b"\x08\0\0\0\0\0\0\0",
}


def _raw(raw: bytes, place: Path) -> None:
    place.write_bytes(raw)


def _index(shard: str, place: Path) -> None:
    """A Hugging Face index file, which names shards for a reader to open."""
    name = shard.format(outside=outside(place))
    place.write_text(json.dumps({"metadata": {"total_size": 8}, "weight_map": {"w": name}}))


_CONTROL = ("\x1b[31mred", "\x1b]0;title\x07", "a\r\nb", "right\u202eleft", "\x9b2J", "\x00", "\x7f", "a\u2028b")

CASES: dict[str, Hostile] = {
    **{
        title: Hostile(partial(written, header, bytes(16)), "whole" if title == "a dtype of nobody" else "headers")
        for title, header in HEADERS.items()
    },
    **{title: Hostile(partial(_raw, raw), "never" if title == _HONEST else "headers") for title, raw in RAW.items()},
    **{
        f"an index that names {shard!r}": Hostile(partial(_index, shard))
        for shard in ("../outside/shard.safetensors", "{outside}/shard.safetensors", "/dev/zero", "pipe", "x" * 5000)
    },
    "names with control characters": Hostile(
        partial(written, {name: entry("U8", [0], [0, 0]) for name in _CONTROL}, b""), "never"
    ),
    "metadata with control characters": Hostile(
        partial(written, {"__metadata__": {name: name for name in _CONTROL}}, b""), "never"
    ),
    "a dtype in control characters": Hostile(
        partial(written, {"a": entry("\x1b[2J\x1b]0;x\x07\n", [4], [0, 16])}, bytes(16)), "whole"
    ),
    "a name a megabyte long": Hostile(partial(written, {"x" * 900_000: entry("U8", [0], [0, 0])}, b""), "never"),
    "a bad name a megabyte long": Hostile(partial(written, {"\x1b" * 150_000: entry("F0", [0], [0, 0])}, b""), "whole"),
}
