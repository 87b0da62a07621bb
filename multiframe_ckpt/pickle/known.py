"""The names of plain Python and NumPy that a pickle may mention, and what each becomes in a tree.

    collections.OrderedDict, defaultdict, Counter; argparse.Namespace; types.SimpleNamespace     dict
    collections.deque; set; frozenset                                                            list
    pathlib paths; datetime, date, time, timedelta, timezone; Decimal; Fraction                  str
    NumPy scalars                                                                                bool, int, float, complex
    NumPy arrays                                                                                 LazyTensor
    complex, bytes, bytearray                                                                    themselves

A name that is not here is never built.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterable
from math import prod
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import Any, Literal

import numpy as np

from ..dtypes import DType, dtype_named, dtype_of_numpy
from ..errors import DamagedError, UnsafeError
from ..tree import LazyTensor
from ..tree.shapes import require_shape
from .keys import HashCounts, checked_key
from .raw import Builders, Call, Global, Pending

__all__ = ["AS_TEXT", "PLAIN", "ArrayPart", "DtypePart"]


#: How NumPy's pickles write dtypes of numbers; ``numpy.dtype`` takes a small language, which files are not to speak.
_DTYPE = re.compile(r"(bool|(u?int|float|complex)\d{1,3}|[biufc]\d{1,2})_?")
_DECIMAL_NUMBER = re.compile(r"[-+]?[0-9.]+([eE][-+]?\d+)?(/\d+)?|-?(Infinity|s?NaN\d*)")


class AttributeBag(Pending):
    """A namespace in the making: its state becomes its entries."""

    __slots__ = ("_attributes",)

    def __init__(self, attributes: Any = ()) -> None:
        self._attributes = _build_dict(attributes)

    def set_state(self, state: Any) -> None:
        """Take the attributes."""
        self._attributes.update(_build_dict(state[1] if isinstance(state, tuple) else state))

    def resolve(self) -> dict[Any, Any]:
        """Return the attributes as a plain dict."""
        return self._attributes


class DtypePart(Pending):
    """A ``numpy.dtype`` in the making: pickled as its kind and size, then its byte order."""

    __slots__ = ("kind", "order")

    def __init__(self, kind: object, *_: object) -> None:
        if isinstance(kind, Global):  # dtype(numpy.float64), or ml_dtypes.bfloat16
            kind = kind.name
        if not isinstance(kind, str):
            raise TypeError(f"a NumPy dtype of a {type(kind).__name__}")
        self.kind = kind
        self.order = "="

    def set_state(self, state: Any) -> None:
        """Take ``(version, byte order, …)``."""
        self.order = state[1]

    def resolve(self) -> str:
        """Return the dtype's name."""
        dtype = self.numpy()
        return dtype.name if self.row().numpy == dtype else str(dtype)

    def row(self) -> DType:
        """Return the dtype's row; UnsafeError for one that is no number."""
        row = dtype_named(self.kind)
        if row is None and _DTYPE.fullmatch(self.kind):
            row = dtype_of_numpy(np.dtype(self.kind.rstrip("_")))
        if row is None:
            raise UnsafeError(
                f"found a NumPy value of dtype {self.kind[:80]!r} in a pickle, expected a number or bool; "
                "store it as plain values"
            )
        return row

    def numpy(self) -> np.dtype:
        """Return the dtype, in the byte order of the pickle."""
        dtype = self.row().numpy
        return dtype.newbyteorder(">") if self.order == ">" and dtype.kind in "iufc" else dtype


class ArrayPart(Pending):
    """A ``numpy.ndarray`` in the making: pickled empty, then its shape, dtype, order and bytes."""

    __slots__ = ("_state", "_tensor")

    def __init__(self, *_: object) -> None:
        self._state: tuple[Any, ...] | None = None
        self._tensor: LazyTensor | None = None

    def set_state(self, state: Any) -> None:
        """Take ``(version, shape, dtype, Fortran order, bytes)``."""
        self._state = state[-4:]

    def array(self) -> np.ndarray:
        """Return the array over the pickle's own bytes."""
        if self._state is None:
            raise DamagedError("found a NumPy array without contents in a pickle, expected its state")
        shape, dtype, fortran, data = self._state
        if isinstance(data, list):
            raise UnsafeError("found a NumPy array of Python objects in a pickle, expected numbers; store a list")
        return _array_over(_bytes_of(data), dtype, tuple(shape), "F" if fortran else "C")

    def resolve(self) -> LazyTensor:
        """Return the array as a tensor."""
        if self._tensor is None:
            self._tensor = LazyTensor.from_array(self.array())
        return self._tensor


def _array_over(raw: bytes, dtype: object, shape: tuple[int, ...], order: Literal["C", "F"]) -> np.ndarray:
    if not isinstance(dtype, DtypePart):
        raise TypeError(f"a NumPy array of a {type(dtype).__name__}")
    require_shape(shape, dtype.row(), "a NumPy array in a pickle")
    if prod(shape) * dtype.row().itemsize != len(raw):
        raise DamagedError(
            f"found {len(raw)} bytes for a NumPy array {shape} in a pickle, expected as many as it takes"
        )
    return np.frombuffer(raw, dtype.numpy()).reshape(shape, order=order)


def _bytes_of(value: object) -> bytes:
    """Return the bytes that a pickle holds as bytes, or as Python 2's str; an int would be a size to allocate."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, bytes):
        return value
    raise TypeError(f"a {type(value).__name__} where bytes stand")


def _build_array(raw: object, dtype: object, shape: object, order: object) -> ArrayPart:
    """Answer ``numpy.core.numeric._frombuffer``, how protocol 5 makes an array."""
    part = ArrayPart()
    part.set_state((shape, dtype, order == "F", raw))
    return part


def _build_number(dtype: object, raw: object = b"") -> bool | int | float | complex:
    """Answer ``numpy.core.multiarray.scalar``."""
    value: object = _array_over(_bytes_of(raw), dtype, (1,), "C")[0].item()
    return value if isinstance(value, bool | int | float | complex) else float(value)  # type: ignore[arg-type]


def _encode(text: object, encoding: object = "utf-8", *_: object) -> bytes:
    if not isinstance(text, str) or not isinstance(encoding, str) or encoding not in _ENCODINGS:
        raise TypeError("bytes that are not written as text in latin1")
    return text.encode(encoding)


def _build_bytes(value: object = b"", *encoding: object) -> bytes:
    return _encode(value, *encoding) if isinstance(value, str) else _bytes_of(value)


def _reconstruct(kind: Any, base: object = None, state: object = None) -> object:
    """Answer ``copyreg._reconstructor``, how protocols 0 and 1 make an object."""
    if isinstance(kind, Global) and (kind.module, kind.name) in PLAIN:
        return PLAIN[kind.module, kind.name]()
    return (
        Call(kind, ()) if isinstance(kind, Global) else Call(Global("copyreg", "_reconstructor"), (kind, base, state))
    )


def _build_dict(entries: Any = (), *_: object) -> dict[Any, Any]:
    if not entries:
        return {}
    pairs = entries.items() if isinstance(entries, dict) else entries
    hash_counts: HashCounts = {}
    return {checked_key(key, hash_counts): value for key, value in pairs}


def _build_default_dict(_: object = None, entries: Any = ()) -> dict[Any, Any]:
    return _build_dict(entries)


def _build_list(values: Iterable[Any] = (), *_: object) -> list[Any]:
    return list(values)


def _build_set(values: Iterable[Any] = ()) -> set[Any]:
    hash_counts: HashCounts = {}
    return {checked_key(value, hash_counts) for value in values}


def _build_frozenset(values: Iterable[Any] = ()) -> frozenset[Any]:
    return frozenset(_build_set(values))


def _nested_class(owner: object, name: object) -> Global:
    """Answer ``getattr`` as protocols 0 to 3 name a class within a class; refuse every other use."""
    if isinstance(owner, Global) and isinstance(name, str) and name.isidentifier():
        return Global(owner.module, f"{owner.name}.{name}")
    raise UnsafeError(
        "found a pickle that takes an attribute of an object, expected only classes within classes; "
        "nothing was run: do not load this file anywhere"
    )


def _decimal_text(text: object) -> str:
    """Answer Decimal, which a tree holds as text: made a number, it could ask for any precision."""
    if not isinstance(text, str) or not _DECIMAL_NUMBER.fullmatch(text):
        raise ValueError("a number that is not written as one")
    return text


def _fraction_text(numerator: object, denominator: object = 1) -> str:
    """Answer Fraction: of two ints, or of text up to Python 3.10."""
    if isinstance(numerator, str):
        return _decimal_text(numerator)
    if not isinstance(numerator, int) or not isinstance(denominator, int):
        raise TypeError("a fraction of other things than ints")
    return str(numerator) if denominator == 1 else f"{numerator}/{denominator}"


def _time_builder(kind: Callable[..., object]) -> Callable[..., object]:
    """Return a builder of dates or times, which pickles give as bytes."""

    def build(state: object, *rest: object) -> object:
        return kind(_bytes_of(state), *rest)

    return build


#: Known values that a tree holds as text, and how each is written.
AS_TEXT: dict[type, Callable[[Any], str]] = {
    datetime.datetime: datetime.datetime.isoformat,
    datetime.date: datetime.date.isoformat,
    datetime.time: datetime.time.isoformat,
    datetime.timedelta: str,
    datetime.timezone: str,
    PurePosixPath: str,
    PureWindowsPath: str,
}

_ENCODINGS = ("latin1", "latin-1", "utf-8", "ascii")

_NUMPY_CORES = ("numpy.core.multiarray", "numpy._core.multiarray")
_PATHS: dict[str, type[PurePath]] = {
    "PosixPath": PurePosixPath,
    "PurePosixPath": PurePosixPath,
    "WindowsPath": PureWindowsPath,
    "PureWindowsPath": PureWindowsPath,
}

_BUILTINS: dict[str, Callable[..., object]] = {
    "set": _build_set,
    "frozenset": _build_frozenset,
    "list": _build_list,
    "dict": _build_dict,
    "bytes": _build_bytes,
    "bytearray": _build_bytes,
    "complex": complex,
    "getattr": _nested_class,
}

#: The table: (module, name) → builder. Formats add their own names to it.
PLAIN: Builders = {
    ("collections", "OrderedDict"): _build_dict,
    ("collections", "Counter"): _build_dict,
    ("collections", "defaultdict"): _build_default_dict,
    ("collections", "deque"): _build_list,
    ("argparse", "Namespace"): AttributeBag,
    ("types", "SimpleNamespace"): AttributeBag,
    ("copyreg", "_reconstructor"): _reconstruct,
    ("copy_reg", "_reconstructor"): _reconstruct,
    ("_codecs", "encode"): _encode,
    ("datetime", "datetime"): _time_builder(datetime.datetime),
    ("datetime", "date"): _time_builder(datetime.date),
    ("datetime", "time"): _time_builder(datetime.time),
    ("datetime", "timedelta"): datetime.timedelta,
    ("datetime", "timezone"): datetime.timezone,
    ("decimal", "Decimal"): _decimal_text,
    ("fractions", "Fraction"): _fraction_text,
    ("numpy", "dtype"): DtypePart,
    ("numpy", "ndarray"): ArrayPart,
    **{(core, "_reconstruct"): ArrayPart for core in _NUMPY_CORES},
    **{(core, "scalar"): _build_number for core in _NUMPY_CORES},
    ("numpy.core.numeric", "_frombuffer"): _build_array,
    ("numpy._core.numeric", "_frombuffer"): _build_array,
    **{(module, name): kind for module in ("pathlib", "pathlib._local") for name, kind in _PATHS.items()},
    **{(module, name): build for module in ("builtins", "__builtin__") for name, build in _BUILTINS.items()},
}
