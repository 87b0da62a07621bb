"""npz archives whose headers are programs, pickles or lies."""

from __future__ import annotations

import io
import struct
from functools import partial
from pathlib import Path

import numpy as np

from .archives import npy
from .case import Hostile
from .opcodes import zipped

__all__ = ["CASES"]


def _header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode("latin-1") + bytes(16)


def _said(descr: str = "'<f4'", order: str = "False", shape: str = "(4,)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}"


HEADERS = {
    "seventy dimensions": _said(shape=f"({'1,' * 70})"),
    "a shape past any memory": _said(shape="(9223372036854775807, 9223372036854775807)"),
    "a negative shape": _said(shape="(-1,)"),
    "a shape of True": _said(shape="(True,)"),
    "a shape of floats": _said(shape="(4.0,)"),
    "a shape that is a list": _said(shape="[4]"),
    "a shape that wraps to the size": _said(shape="(4294967296, 4294967296)"),
    "more elements than there are": _said(shape="(5,)"),
    "fewer elements than there are": _said(shape="(3,)"),
    "an empty array of endless size": _said("'<U9'", shape="(0, 9223372036854775807)"),
    "moments of endless years": _said("'<M8[9999999999999999999Y]'", shape="(1,)"),
    "texts of endless length": _said("'|S999999999999999'", shape="(1,)"),
    "text past the end of Unicode": _said("'<U4'", shape="(1,)") + "\xff" * 16,
    "fields": _said("[('a', '<f4')]"),
    "nothing but bytes": _said("'|V4'"),
    "objects": _said("'|O8'", shape="(2,)"),
    "objects in fields": _said("[('a', '|O8')]", shape="(2,)"),
    "a dtype of text that is a call": _said("\"__import__('os').abort()\""),
    "a call": "__import__('os').abort()",
    "a call in the shape": _said(shape="(__import__('os').abort(),)"),
    "a comprehension": _said(shape="tuple(x for x in range(10**12))"),
    "a power": _said(shape="(10**10**10,)"),
    "an f-string": _said(shape="(f'{1}',)"),
    "an entry twice": _said()[:-1] + ", 'shape': (1,)}",
    "an entry too many": _said()[:-1] + ", 'x': 1}",
    "parentheses without end": "(" * 5000,
    "minus without end": "-" * 5000 + "1",
    "lists in lists": "[" * 2000 + "]" * 2000,
    "braces without end": "{" * 100,
    "endless digits": "1" * 9000,
    "half a character": "'\\ud800'",
    "a NUL": "\0",
    "nothing": "",
}
#: Listed as bytes.
_UNKNOWN = {"fields", "nothing but bytes"}
_RAW = {
    "no magic": b"NUMPY\x01\x00" + bytes(80),
    "a version of the future": b"\x93NUMPY\x09\x00" + struct.pack("<H", 60) + _said().encode() + bytes(16),
    "a header past its cap": b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 31) + _said().encode(),
    "a header past the member": b"\x93NUMPY\x01\x00" + struct.pack("<H", 60_000) + _said().encode(),
    "nothing at all": b"",
    "half an array": npy(np.arange(9.0))[:-1],
    "an array and a byte": npy(np.arange(9.0)) + b"x",
}


def _member(raw: bytes, place: Path) -> None:
    zipped(place, {"a.npy": raw})


def _pickled(place: Path) -> None:
    file = io.BytesIO()
    np.savez(file, a=np.empty(1, object))
    place.write_bytes(file.getvalue())


def _texts(kind: str, place: Path) -> None:
    file = io.BytesIO()
    np.savez_compressed(file, a=np.zeros(1 << 20, kind))
    place.write_bytes(file.getvalue())


CASES: dict[str, Hostile] = {
    **{
        f"a header with {title}": Hostile(partial(_member, _header(text)), "whole" if title in _UNKNOWN else "headers")
        for title, text in HEADERS.items()
    },
    **{title: Hostile(partial(_member, raw)) for title, raw in _RAW.items()},
    "a pickle that NumPy wrote": Hostile(_pickled, "never"),
    "a million texts": Hostile(partial(_texts, "U2"), "whole"),
    "a million bytestrings": Hostile(partial(_texts, "S2"), "whole"),
    "a member both with and without its suffix": Hostile(
        partial(zipped, records={"a.npy": npy(np.ones(1)), "a": npy(np.ones(1))})
    ),
    "a member that is no array": Hostile(partial(zipped, records={"a.npy": npy(np.ones(1)), "b.npy": b"MZ"})),
}
