"""The header of ``.npy`` data: a magic, a version, and a Python literal of dtype, order and shape.

Source: NumPy 2.4 ``numpy/lib/_format_impl.py``. The literal is parsed, never evaluated.
"""

from __future__ import annotations

import ast
import re
import struct
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from ...errors import DamagedError

__all__ = ["MAGIC", "MAX_HEADER_NBYTES", "ArrayHeader", "header_bytes", "read_header"]

#: NumPy's own bound (``_MAX_HEADER_SIZE``) on the literal of a file that is not trusted.
MAX_HEADER_NBYTES = 10_000
MAGIC = b"\x93NUMPY"
_LENGTH_FORMAT = {1: "<H", 2: "<I", 3: "<I"}
_ALIGNMENT = 64
_DTYPE_TEXT = re.compile(r"[<>|][biufcmMSUVO]\d*(\[.*\])?")
_MAX_FIELDS, _MAX_FIELDS_DEPTH = 1000, 8


@dataclass(frozen=True, slots=True)
class ArrayHeader:
    """What a header says: dtype, shape, order of the axes, and how many bytes the header itself takes."""

    dtype: np.dtype
    shape: tuple[int, ...]
    fortran: bool
    size: int

    @property
    def nbytes(self) -> int:
        """Bytes of the elements that follow the header."""
        return prod(self.shape) * self.dtype.itemsize


def header_bytes(descr: str, shape: tuple[int, ...]) -> bytes:
    """Return a version 1.0 header, padded with spaces to a multiple of 64 bytes as NumPy does."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode("ascii")
    text += b" " * (-(len(MAGIC) + 4 + len(text) + 1) % _ALIGNMENT) + b"\n"
    return MAGIC + b"\x01\x00" + struct.pack("<H", len(text)) + text


def read_header(start: bytes, where: str) -> ArrayHeader:
    """Read a header from the first bytes of the data, of which MAX_HEADER_NBYTES + 12 are enough."""
    length_format = _LENGTH_FORMAT.get(start[6]) if len(start) > 12 and start[:6] == MAGIC and start[7] == 0 else None
    if length_format is None:
        raise DamagedError(f"{where}: found no .npy header, expected one of version 1 to 3; fetch the file again")
    text_offset = 8 + struct.calcsize(length_format)
    length = struct.unpack_from(length_format, start, 8)[0]
    if length > MAX_HEADER_NBYTES or text_offset + length > len(start):
        raise DamagedError(
            f"{where}: found a header of {length} bytes, expected at most {MAX_HEADER_NBYTES}; fetch it again"
        )
    text = start[text_offset : text_offset + length].decode("latin-1")
    header = _header_entries(text)
    if header is None:
        raise DamagedError(f"{where}: found header {text[:80]!r}, expected descr, fortran_order, shape; fetch it again")
    return ArrayHeader(
        _numpy_dtype(header["descr"], where), header["shape"], header["fortran_order"], text_offset + length
    )


@lru_cache(maxsize=1024)  # a model has many arrays of few shapes
def _header_entries(text: str) -> dict[str, Any] | None:
    """Return the entries of a header, or None for text that is none."""
    try:
        header = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        header = None
    if (
        not isinstance(header, dict)
        or header.keys() != {"descr", "fortran_order", "shape"}
        or type(header["fortran_order"]) is not bool
        or type(header["shape"]) is not tuple
        or not all(type(size) is int and size >= 0 for size in header["shape"])
    ):
        return None
    return header


def _numpy_dtype(descr: Any, where: str) -> np.dtype:
    try:
        return _checked_dtype(descr, 0)
    except (TypeError, ValueError):
        raise DamagedError(
            f"{where}: found dtype {str(descr)[:80]!r}, which does not exist; fetch the file again"
        ) from None


def _checked_dtype(descr: Any, depth: int) -> np.dtype:
    """Return the dtype of text, or of a list of fields, made of parts that were looked at; TypeError for any other."""
    if isinstance(descr, str) and _DTYPE_TEXT.fullmatch(descr):
        return np.dtype(descr)
    if not isinstance(descr, list) or len(descr) > _MAX_FIELDS or depth == _MAX_FIELDS_DEPTH:
        raise TypeError("a dtype that is neither text nor a list of fields")
    return np.dtype([_field(entry, depth + 1) for entry in descr])


def _field(entry: Any, depth: int) -> tuple[Any, ...]:
    if not isinstance(entry, tuple) or len(entry) not in (2, 3):
        raise TypeError("a field that is not its name, dtype and shape")
    name, descr, *shape = entry
    title_and_name = name if isinstance(name, tuple) else (name,)
    sizes: Any = shape[0] if shape else ()
    if not all(type(part) is str for part in title_and_name) or not all(type(size) is int for size in sizes):
        raise TypeError("a field that is not its name, dtype and shape")
    return (name, _checked_dtype(descr, depth), *shape)
