"""Tensor values as JSON text and back, exactly, piece by piece.

Numbers are the shortest text that reads back exactly through a double, which is how every JSON reader reads. What JSON
cannot say is a string: ``"Infinity"``, ``"-Infinity"``, ``"NaN"`` (the dtype's usual quiet NaN), and ``"nan:0x7fc00001"``
for any other NaN, with all bits of the dtype. A complex number is a pair.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from ...dtypes import DType, dtype_named, unsigned_of
from ...errors import DamagedError
from ...tree import LazyTensor

__all__ = ["PIECE_ELEMENTS", "least_text_nbytes", "parse_values", "value_texts"]

#: So many elements are written at a time.
PIECE_ELEMENTS = 1 << 14
_LINE_ELEMENTS = 1 << 10  # a row longer than this many elements is broken into lines
_PIECE_NBYTES = 1 << 17  # of text read at a time
_HALF_OF_COMPLEX = {"complex64": "float32", "complex128": "float64"}
_QUIET_NAN = {
    "float16": 0x7E00,
    "float32": 0x7FC0_0000,
    "float64": 0x7FF8_0000_0000_0000,
    "bfloat16": 0x7FC0,
    "float8_e4m3fn": 0x7F,
    "float8_e5m2": 0x7E,
    "float8_e4m3fnuz": 0x80,
    "float8_e5m2fnuz": 0x80,
    "float8_e8m0fnu": 0xFF,
}
_NAN_TEXT = re.compile(r"nan:0x[0-9a-f]+")
_BLANK_BRACKETS = bytes.maketrans(b"[]", b"  ")


def _as_real(dtype: DType, shape: tuple[int, ...]) -> tuple[DType, tuple[int, ...]]:
    """Return the real dtype and shape of what is written: a complex number is a row of two."""
    half_name = _HALF_OF_COMPLEX.get(dtype.name)
    half = dtype_named(half_name) if half_name else None
    return (half, (*shape, 2)) if half else (dtype, shape)


def _brackets_before(shape: tuple[int, ...], start: int, stop: int) -> np.ndarray:
    """Return, for elements ``start`` to ``stop``, how many brackets open before each; as many close before it."""
    numbers = np.arange(start, stop)
    rows = np.zeros(stop - start, np.int64)
    for axis in range(1, len(shape)):
        rows += numbers % prod(shape[axis:]) == 0
    return rows


def value_texts(tensor: LazyTensor) -> Iterator[str]:
    """Yield the JSON text of a tensor's values, as nested lists with a row on a line; they are read piece by piece."""
    if tensor.size == 0:
        yield "[]"  # whatever its shape: 2**40 empty rows say no more
        return
    real, shape = _as_real(tensor.dtype, tensor.shape)
    pieces = _in_pieces(tensor, real)
    if not shape:
        yield _element_texts(next(pieces), real)[0]
        return
    depth = len(shape)
    breaks = [", ", *("]" * rows + ",\n" + "[" * rows for rows in range(1, depth))]
    yield "[\n" + "[" * (depth - 1)
    start = 0
    for flat in pieces:
        texts = _element_texts(flat, real)
        rows = _brackets_before(shape, start, start + len(texts)).tolist()
        separators = [
            ",\n" if not row and element % _LINE_ELEMENTS == 0 else breaks[row]
            for element, row in enumerate(rows, start)
        ]
        if start == 0:
            separators[0] = ""
        yield "".join(text for pair in zip(separators, texts, strict=True) for text in pair)
        start += len(texts)
    yield "]" * (depth - 1) + "\n]"


def _in_pieces(tensor: LazyTensor, real: DType) -> Iterator[np.ndarray]:
    """Yield the elements in C order, as those of a real dtype, so many at a time as are written at a time."""
    for piece in tensor.source.pieces(memoryview(bytearray(PIECE_ELEMENTS * real.itemsize))):
        flat = np.frombuffer(piece, np.uint8).view(real.numpy)
        for start in range(0, flat.size, PIECE_ELEMENTS):
            yield flat[start : start + PIECE_ELEMENTS]


def _element_texts(flat: np.ndarray, dtype: DType) -> list[str]:
    if dtype.kind == "bool":
        return ["true" if value else "false" for value in flat.tolist()]
    if dtype.kind == "int":
        return list(map(str, flat.tolist()))
    with np.errstate(invalid="ignore"):  # a signalling NaN: its bits are read below
        wide = flat.astype(np.float64)
    not_finite = np.flatnonzero(~np.isfinite(wide))
    wide[not_finite] = 0
    texts = (
        _float32_texts(np.where(np.isfinite(flat), flat, 0))
        if dtype.name == "float32"
        else list(map(repr, wide.tolist()))
    )
    for position in not_finite.tolist():
        texts[position] = f'"{_not_finite_text(flat[position : position + 1], dtype)}"'
    return texts


def _float32_texts(flat: np.ndarray) -> list[str]:
    """Return the shortest text of each float32, or its double's where rounding twice would miss it."""
    short = flat.astype("S")
    texts = [text.decode("ascii") for text in short.tolist()]
    missed = np.flatnonzero(short.astype(np.float64).astype(np.float32).view(np.uint32) != flat.view(np.uint32))
    for position in missed.tolist():
        texts[position] = repr(float(flat[position]))
    return texts


def _not_finite_text(element: np.ndarray, dtype: DType) -> str:
    value = float(element[0])
    if value == value:
        return "Infinity" if value > 0 else "-Infinity"
    bits = int(element.view(unsigned_of(dtype.itemsize).numpy)[0])
    return "NaN" if bits == _QUIET_NAN[dtype.name] else f"nan:0x{bits:0{2 * dtype.itemsize}x}"


def least_text_nbytes(dtype: DType, shape: tuple[int, ...]) -> int:
    """Return the fewest bytes of text that can hold the values: a digit and a comma for each."""
    return 2 * prod(_as_real(dtype, shape)[1]) - 1


def parse_values(text: bytes | memoryview, dtype: DType, shape: tuple[int, ...], where: str) -> np.ndarray:
    """Return the values that a text says; raise DamagedError where they are not of that dtype and shape.

    The text is parsed piece by piece, so that little more memory is used than the tensor itself takes.
    """
    real, real_shape = _as_real(dtype, shape)
    elements = np.empty(prod(real_shape), real.numpy)
    try:
        if elements.size == 0:
            _require(not bytes(text).translate(None, b"[], \t\r\n"), "values")
        elif not real_shape:
            elements[0] = _as_array([json.loads(bytes(text))], real)[0]
        else:
            _require(text[:1] == b"[", "no list")
            _parse_pieces(text, 1, len(text) - 1, real, real_shape, elements)
    except (ValueError, OverflowError, TypeError, RecursionError) as problem:
        raise DamagedError(
            f"{where}: found values that are not {dtype.name} {shape} ({problem}), expected nested lists of that shape; "
            "the file was damaged or changed by hand: restore it from a copy"
        ) from None
    return elements.view(dtype.numpy).reshape(shape)


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(f"found {problem}")


def _parse_pieces(
    text: bytes | memoryview, start: int, stop: int, dtype: DType, shape: tuple[int, ...], elements: np.ndarray
) -> None:
    count = 0
    while start <= stop:
        piece = bytes(text[start : min(start + _PIECE_NBYTES, stop)])
        if start + _PIECE_NBYTES < stop:
            cut = piece.rfind(b",")
            _require(cut >= 0, "a number that does not end")
            piece = piece[:cut]
        values = json.loads(b"[" + piece.translate(_BLANK_BRACKETS) + b"]")
        _require(0 < len(values) <= elements.size - count, "another number of values")
        _require_rows(piece, shape, count, len(values))
        elements[count : count + len(values)] = _as_array(values, dtype)
        count += len(values)
        start += len(piece) + 1
    _require(count == elements.size, f"{count} values")


def _require_rows(piece: bytes, shape: tuple[int, ...], first: int, count: int) -> None:
    """Raise ValueError unless brackets stand around each value of the piece, from ``first`` on, as in the shape."""
    raw = np.frombuffer(piece, np.uint8)
    starts = np.concatenate([[0], np.flatnonzero(raw == ord(",")) + 1])
    _require(len(starts) == count, "commas elsewhere than between values")
    rows = _brackets_before(shape, first, first + count + 1)
    for bracket, expected in ((b"[", rows[:-1]), (b"]", rows[1:])):
        brackets = np.add.reduceat(raw == bracket[0], starts, dtype=np.int64)
        _require(np.array_equal(brackets, expected), "rows of other lengths")


def _as_array(values: list[Any], dtype: DType) -> np.ndarray:
    """Return parsed JSON values as an array; ValueError or OverflowError for one that the dtype cannot hold."""
    kinds = set(map(type, values))
    if dtype.kind == "bool":
        _require(kinds == {bool}, "values that are not true or false")
        return np.array(values, np.bool_)
    if dtype.kind == "int":
        _require(kinds == {int}, "values that are not whole numbers")
        limits = np.iinfo(dtype.numpy)
        _require(limits.min <= min(values) and max(values) <= limits.max, "numbers out of range")
        return np.array(values, dtype.numpy)
    _require(kinds <= {int, float, str}, "values that are not numbers")
    not_finite = (
        [(position, value) for position, value in enumerate(values) if type(value) is str] if str in kinds else []
    )
    for position, _ in not_finite:
        values[position] = 1.0  # which every dtype has: float8_e8m0fnu has no zero
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = np.array(values, np.float64).astype(dtype.numpy)
    _require(bool(np.isfinite(numbers.astype(np.float64)).all()), "numbers out of range")
    for position, text in not_finite:
        numbers[position : position + 1] = _not_finite_value(text, dtype)
    return numbers


def _not_finite_value(text: str, dtype: DType) -> np.ndarray:
    if text in ("Infinity", "-Infinity"):
        value = np.array([float(text)]).astype(dtype.numpy)
    else:
        _require(text == "NaN" or _NAN_TEXT.fullmatch(text) is not None, repr(text[:40]))
        bits = _QUIET_NAN[dtype.name] if text == "NaN" else int(text.removeprefix("nan:"), 16)
        value = np.array([bits], unsigned_of(dtype.itemsize).numpy).view(dtype.numpy)
    _require(_not_finite_text(value, dtype) == text, repr(text[:40]))
    return value
