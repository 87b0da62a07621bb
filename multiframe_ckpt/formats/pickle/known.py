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
from collections.abc import Callable, Iterable
from decimal import Decimal
from fractions import Fraction
from math import prod
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from ...dtypes import dtype_named, dtype_of_numpy
from ...errors import DamagedError, UnsafeError
from ...tensor import LazyTensor
from .machine import Builders, Global, Made

__all__ = ["AS_TEXT", "PLAIN", "ArrayPart", "DtypePart"]


class AttributeBag(dict[str, Any]):
    """A namespace in the making: its state becomes its entries."""

    def set_state(self, state: Any) -> None:
        """Takes the attributes."""
        self.update(state[1] if isinstance(state, tuple) else state)

    def resolve(self) -> dict[str, Any]:
        """Gives the attributes as a plain dict."""
        return dict(self)


class DtypePart:
    """A ``numpy.dtype`` in the making: pickled as its kind and size, then its byte order."""

    def __init__(self, kind: Any, *_: Any) -> None:
        if isinstance(kind, Global):  # dtype(numpy.float64), or ml_dtypes.bfloat16
            kind = kind.name
        self.kind = str(kind)
        self.order = "="

    def set_state(self, state: Any) -> None:
        """Takes ``(version, byte order, …)``."""
        self.order = state[1]

    def resolve(self) -> Any:
        """Gives the dtype's name."""
        return str(self.numpy())

    def numpy(self) -> np.dtype:
        """Gives the dtype; UnsafeError for one that is no number."""
        row = dtype_named(self.kind)
        dtype = row.numpy if row else np.dtype(self.kind)
        if self.order == ">" and dtype.kind in "iufc":
            dtype = dtype.newbyteorder(">")
        if dtype_of_numpy(dtype) is None:
            raise UnsafeError(
                f"found a NumPy value of dtype {self.kind!r} in a pickle, expected a number or bool; "
                "store it as plain values"
            )
        return dtype


class ArrayPart:
    """A ``numpy.ndarray`` in the making: pickled empty, then its shape, dtype, order and bytes."""

    def __init__(self, *_: Any) -> None:
        self._state: tuple[Any, ...] | None = None
        self._tensor: LazyTensor | None = None

    def set_state(self, state: Any) -> None:
        """Takes ``(version, shape, dtype, Fortran order, bytes)``."""
        self._state = state[-4:]

    def array(self) -> np.ndarray:
        """Gives the array over the pickle's own bytes."""
        if self._state is None:
            raise DamagedError("found a NumPy array without contents in a pickle, expected its state")
        shape, dtype, fortran, data = self._state
        if isinstance(data, list):
            raise UnsafeError("found a NumPy array of Python objects in a pickle, expected numbers; store a list")
        raw = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else bytes(data)
        return _over(raw, dtype.numpy(), tuple(shape), "F" if fortran else "C")

    def resolve(self) -> LazyTensor:
        """Gives the array as a tensor."""
        if self._tensor is None:
            self._tensor = LazyTensor.of_array(self.array())
        return self._tensor


def _over(raw: bytes, dtype: np.dtype, shape: tuple[int, ...], order: Any) -> np.ndarray:
    if any(dim < 0 for dim in shape) or prod(shape) * dtype.itemsize != len(raw):
        raise DamagedError(f"found {len(raw)} bytes for a NumPy array of {dtype} {shape} in a pickle, expected as many")
    return np.frombuffer(raw, dtype).reshape(shape, order=order)


def _from_buffer(raw: Any, dtype: DtypePart, shape: Any, order: Any) -> ArrayPart:
    part = ArrayPart()
    part.set_state((shape, dtype, order == "F", raw))
    return part


def _scalar(dtype: DtypePart, raw: Any = b"") -> Any:
    data = raw.encode("utf-8", "surrogateescape") if isinstance(raw, str) else bytes(raw)
    value = _over(data, dtype.numpy(), (1,), "C")[0].item()
    return value if isinstance(value, bool | int | float | complex) else float(value)


def _encode(text: str, encoding: str = "utf-8", *_: Any) -> bytes:
    if encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise DamagedError(f"found bytes encoded as {encoding!r} in a pickle, expected latin1")
    return text.encode(encoding)


def _bytes(*args: Any) -> bytes:
    return _encode(*args) if args and isinstance(args[0], str) else bytes(*(bytes(arg) for arg in args))


def _reconstructor(kind: Any, base: Any = None, state: Any = None) -> Any:
    """Answers ``copyreg._reconstructor``, how protocols 0 and 1 make an object."""
    if isinstance(kind, Global) and (kind.module, kind.name) in PLAIN:
        return PLAIN[kind.module, kind.name]()
    return (
        Made(kind, ()) if isinstance(kind, Global) else Made(Global("copyreg", "_reconstructor"), (kind, base, state))
    )


def _defaults(_: Any = None, *args: Any) -> dict[Any, Any]:
    return dict(*args)


def _list(values: Iterable[Any] = (), *_: Any) -> list[Any]:
    return list(values)


def _moment(kind: Callable[..., Any]) -> Callable[..., Any]:
    def build(state: Any, *rest: Any) -> Any:
        return kind(state.encode("utf-8", "surrogateescape") if isinstance(state, str) else state, *rest)

    return build


#: Known values that a tree holds as text, and how each is spelled.
AS_TEXT: dict[type, Callable[[Any], str]] = {
    datetime.datetime: datetime.datetime.isoformat,
    datetime.date: datetime.date.isoformat,
    datetime.time: datetime.time.isoformat,
    datetime.timedelta: str,
    datetime.timezone: str,
    Decimal: str,
    Fraction: str,
    PurePosixPath: str,
    PureWindowsPath: str,
}

_NUMPY_CORES = ("numpy.core.multiarray", "numpy._core.multiarray")
_PATHS: dict[str, type[PurePath]] = {
    "PosixPath": PurePosixPath,
    "PurePosixPath": PurePosixPath,
    "WindowsPath": PureWindowsPath,
    "PureWindowsPath": PureWindowsPath,
}

_BUILTINS: dict[str, Callable[..., Any]] = {
    "set": set,
    "frozenset": frozenset,
    "list": _list,
    "dict": dict,
    "bytes": _bytes,
    "bytearray": _bytes,
    "complex": complex,
}

#: The table: (module, name) → builder. Layouts add their own names to it.
PLAIN: Builders = {
    ("collections", "OrderedDict"): dict,
    ("collections", "Counter"): dict,
    ("collections", "defaultdict"): _defaults,
    ("collections", "deque"): _list,
    ("argparse", "Namespace"): AttributeBag,
    ("types", "SimpleNamespace"): AttributeBag,
    ("copyreg", "_reconstructor"): _reconstructor,
    ("copy_reg", "_reconstructor"): _reconstructor,
    ("_codecs", "encode"): _encode,
    ("datetime", "datetime"): _moment(datetime.datetime),
    ("datetime", "date"): _moment(datetime.date),
    ("datetime", "time"): _moment(datetime.time),
    ("datetime", "timedelta"): datetime.timedelta,
    ("datetime", "timezone"): datetime.timezone,
    ("decimal", "Decimal"): Decimal,
    ("fractions", "Fraction"): Fraction,
    ("numpy", "dtype"): DtypePart,
    ("numpy", "ndarray"): ArrayPart,
    **{(core, "_reconstruct"): ArrayPart for core in _NUMPY_CORES},
    **{(core, "scalar"): _scalar for core in _NUMPY_CORES},
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    **{(module, name): kind for module in ("pathlib", "pathlib._local") for name, kind in _PATHS.items()},
    **{(module, name): build for module in ("builtins", "__builtin__") for name, build in _BUILTINS.items()},
}
