"""NumPy's dtypes and arrays in pickles, and what a tree holds of arrays that are no numbers.

    numbers and booleans          LazyTensor
    text and bytes                nested lists of str or bytes
    objects                       nested lists of what they are
    datetime64, timedelta64       nested lists of text, as NumPy writes it
    fields                        an unknown object whose state has a column for each
    anything else                 an unknown object whose state has the bytes, as uint8

``numpy.dtype`` takes a small language, which files are not to speak: a dtype is made of parts that were looked at.
Source: NumPy 2.4 ``numpy/_core/src/multiarray/descriptor.c`` (``arraydescr_reduce``) and ``methods.c`` (``array_reduce``).
"""

from __future__ import annotations

import re
import sys
from math import prod
from typing import Any

import numpy as np

from ..dtypes import UINT8, DType, dtype_named, dtype_of_numpy
from ..errors import DamagedError
from ..tree import LazyTensor
from ..tree.shapes import require_shape
from .raw import Call, Expanding, Global, NotBuilt, Pending

__all__ = ["ArrayPart", "DtypePart", "build_array", "build_number", "bytes_of_pickle", "plain_values"]

_NUMBER = re.compile(r"(bool|(u?int|float|complex)\d{1,3}|[biufc]\d{1,2})_?")
_SIZED = re.compile(r"[SUV]\d{1,9}")
_OBJECTS = re.compile(r"O[48]?|object_?")
_MOMENT = re.compile(r"([Mm])8")
_MOMENT_UNITS = {*("Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as", "generic")}
_KINDS_OF_CLASSES = {"record": "V0", "void": "V0"}  # numpy.record stands for elements with fields
_ARRAY = Global("numpy", "ndarray")
#: Memory of a value in a list: the reference, a short text or the number it is written from, a share of a list.
_VALUE_NBYTES = 128


class DtypePart(Pending):
    """A ``numpy.dtype`` in the making: pickled as its kind and size, then its byte order and fields."""

    __slots__ = ("_state", "kind")

    def __init__(self, kind: object, *_: object) -> None:
        if isinstance(kind, Global):  # dtype(numpy.float64), or ml_dtypes.bfloat16
            kind = _KINDS_OF_CLASSES.get(kind.name, kind.name)
        if not isinstance(kind, str):
            raise TypeError(f"a NumPy dtype of a {type(kind).__name__}")
        self.kind = kind
        self._state: tuple[Any, ...] = ()

    def set_state(self, state: Any) -> None:
        """Take ``(version, byte order, subdtype, names, fields, itemsize, alignment, flags, metadata)``."""
        if not isinstance(state, tuple):
            raise TypeError(f"a NumPy dtype whose state is a {type(state).__name__}")
        self._state = state

    def resolve(self) -> str:
        """Return the dtype's name."""
        if self.holds_objects:
            return "object"
        dtype = self.numpy()
        row = dtype_of_numpy(dtype)
        return dtype.name if row is not None and row.numpy == dtype else str(dtype)

    @property
    def holds_objects(self) -> bool:
        """Whether elements are objects, which lie in a pickle one by one."""
        return _OBJECTS.fullmatch(self.kind) is not None

    def numpy(self) -> np.dtype:
        """Return the dtype, in the byte order of the pickle; TypeError or ValueError for one that NumPy does not have."""
        row = dtype_named(self.kind)
        if row is not None:
            return self._ordered(row.numpy)
        if _NUMBER.fullmatch(self.kind):
            return self._ordered(np.dtype(self.kind.rstrip("_")))
        moment = _MOMENT.fullmatch(self.kind)
        if moment is not None:
            return self._ordered(np.dtype(f"{moment[0]}{self._unit()}"))
        if not _SIZED.fullmatch(self.kind):
            raise ValueError(f"a NumPy dtype of kind {self.kind[:80]!r}")
        if self._part(3) is not None:
            return self._with_fields()
        subdtype = self._part(2)
        if subdtype is not None:
            base, shape = subdtype
            return np.dtype((base.numpy(), shape))
        return self._ordered(np.dtype(self.kind))

    def _ordered(self, dtype: np.dtype) -> np.dtype:
        return dtype.newbyteorder(">") if self._part(1) == ">" and dtype.kind in "iufcUMm" else dtype

    def _part(self, place: int) -> Any:
        return self._state[place] if len(self._state) > place else None

    def _unit(self) -> str:
        """Return the unit of a moment, such as ``[25ns]``, or nothing."""
        metadata = self._part(8)
        if metadata is None:
            return ""
        unit, number, divisor, _ = metadata[1]
        unit = unit.decode("ascii") if isinstance(unit, bytes) else unit
        if unit not in _MOMENT_UNITS or type(number) is not int or not 0 < number < 1 << 31 or divisor != 1:
            raise ValueError("moments of another unit than NumPy's")
        return "" if unit == "generic" else f"[{number}{unit}]"

    def _with_fields(self) -> np.dtype:
        names, fields = self._part(3), self._part(4)
        parts = [fields[name] for name in names]
        formats = [kind.numpy() for kind, *_ in parts]
        offsets, itemsize = [offset for _, offset, *_ in parts], self._part(5)
        return np.dtype({"names": list(names), "formats": formats, "offsets": offsets, "itemsize": itemsize})


class ArrayPart(Pending):
    """A ``numpy.ndarray`` in the making: pickled empty, then its shape, dtype, order and bytes."""

    __slots__ = ("_kind", "_state", "_value")

    def __init__(self, kind: object = _ARRAY, *_: object) -> None:
        self._kind = kind if isinstance(kind, Global) else _ARRAY
        self._state: Any = None
        self._value: object = None

    def set_state(self, state: Any) -> None:
        """Take ``(version, shape, dtype, Fortran order, bytes)``, up to NumPy 1.1 without the version."""
        self._state = state

    def array(self) -> np.ndarray:
        """Return the array of plain elements over the pickle's own bytes."""
        shape, dtype, fortran, data = self._parts()
        return _array_over(bytes_of_pickle(data), dtype.numpy(), shape, fortran=fortran)

    def resolve(self) -> object:
        """Return the array as a tensor where its elements are numbers, else as what the module's docstring says."""
        if self._value is None:
            self._value = self._resolved()
        return self._value

    def _resolved(self) -> object:
        if self._state is None:
            raise DamagedError("found a NumPy array without contents in a pickle, expected its state")
        if self._kind.name != "ndarray" and not self._is_plain():  # a subclass with a state of its own making
            return Call(self._kind, (), self._state)
        shape, dtype, _, data = self._parts()
        if isinstance(data, list) or dtype.holds_objects:
            require_shape(shape, UINT8, "a NumPy array in a pickle")
            return _ObjectArray(data, shape)
        return _raw_of(self.array())

    def _is_plain(self) -> bool:
        state = self._state
        return isinstance(state, tuple) and len(state) in (4, 5) and isinstance(state[-3], DtypePart)

    def _parts(self) -> tuple[tuple[int, ...], DtypePart, bool, Any]:
        if not self._is_plain():
            raise TypeError("a NumPy array whose state is not shape, dtype, order and bytes")
        shape, dtype, fortran, data = self._state[-4:]
        return tuple(shape), dtype, bool(fortran), data


def _array_over(
    raw: bytes | memoryview, dtype: np.dtype, shape: tuple[int, ...], *, fortran: bool = False
) -> np.ndarray:
    require_shape(shape, dtype_of_numpy(dtype) or UINT8, "a NumPy array in a pickle")
    if prod(shape) * dtype.itemsize != len(raw):
        raise DamagedError(
            f"found {len(raw)} bytes for a NumPy array {shape} in a pickle, expected as many as it takes"
        )
    return np.ndarray(shape, dtype, raw, order="F" if fortran else "C")


def _raw_of(array: np.ndarray) -> object:
    """Return what a pickle's array of plain elements is among raw objects."""
    dtype = array.dtype
    if dtype_of_numpy(dtype) is not None:
        return LazyTensor.from_array(array)
    if dtype.kind in "US":
        return _TextArray(array)
    if dtype.kind in "Mm":
        return _MomentArray(array)
    if dtype.names is not None:
        return Call(_ARRAY, (str(dtype),), {name: _raw_of(array[name]) for name in dtype.names})
    stored = np.ascontiguousarray(array).reshape(array.shape or (1,)).view(np.uint8)
    return Call(_ARRAY, (str(dtype), array.shape), {"bytes": LazyTensor.from_array(stored)})


def plain_values(array: np.ndarray) -> Any:
    """Return an array of text, bytes, dates or time spans as nested lists, one without dimensions as its value."""
    return (_MomentArray if array.dtype.kind in "Mm" else _TextArray)(array).values()


class _TextArray(Expanding):
    """An array of text, or of bytes."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self.title = f"numpy.ndarray of {array.dtype} {array.shape}"
        self.nbytes = _VALUE_NBYTES * array.size + array.nbytes

    def values(self) -> Any:
        """Return nested lists; raise DamagedError for code points that no text has."""
        if not self._array.size:
            return []
        if self._array.dtype.kind == "U" and self._array.dtype.itemsize:
            code_points = np.ascontiguousarray(self._array).reshape(-1).view(self._array.dtype.byteorder + "u4")
            if int(code_points.max()) > sys.maxunicode:  # NumPy would make text of them that Python cannot hold
                raise DamagedError("found code points that no text has in a NumPy array, expected text")
        return self._array.tolist()


class _MomentArray(Expanding):
    """An array of dates or time spans."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self.title = f"numpy.ndarray of {array.dtype} {array.shape}"
        self.nbytes = 2 * _VALUE_NBYTES * array.size

    def values(self) -> Any:
        if not self._array.size:
            return []
        texts = np.array(list(map(str, self._array.reshape(-1))), object)
        return texts.reshape(self._array.shape).tolist()


class _ObjectArray(Expanding):
    """An array of objects, which the pickle has as one list, in C order whatever the array's is."""

    def __init__(self, objects: object, shape: tuple[int, ...]) -> None:
        if not isinstance(objects, list) or len(objects) != prod(shape):
            raise DamagedError(f"found a NumPy array of objects {shape} in a pickle, expected a list of as many")
        self._objects, self._shape = objects, shape
        self.title = f"numpy.ndarray of object {shape}"
        self.nbytes = 0 if len(shape) == 1 else _VALUE_NBYTES * len(objects)

    def values(self) -> Any:
        if len(self._shape) == 1 or not self._objects:
            return self._objects
        array = np.empty(len(self._objects), object)
        for place, value in enumerate(self._objects):
            array[place] = value
        return array.reshape(self._shape).tolist()


def bytes_of_pickle(value: object) -> bytes | memoryview:
    """Return the bytes that a pickle holds as bytes, or as Python 2's str; an int would be a size to allocate."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, bytes | memoryview):
        return value
    raise TypeError(f"a {type(value).__name__} where bytes stand")


def build_array(raw: object, dtype: object, shape: object, order: object) -> ArrayPart:
    """Answer ``numpy.core.numeric._frombuffer``, how protocol 5 makes an array."""
    part = ArrayPart()
    part.set_state((shape, dtype, order == "F", raw))
    return part


def build_number(dtype: object, raw: object = b"") -> object:
    """Answer ``numpy.core.multiarray.scalar``: a number, a date as text, text, bytes or an object; else unknown."""
    if not isinstance(dtype, DtypePart):
        raise TypeError(f"a NumPy number of a {type(dtype).__name__}")
    if dtype.holds_objects:
        return raw
    kind = dtype.numpy()
    array = _array_over(bytes_of_pickle(raw), kind, (1,))
    row: DType | None = dtype_of_numpy(kind)
    if row is None and kind.kind not in "USMm":
        raise NotBuilt
    value: object = plain_values(array)[0] if row is None else array[0].item()
    return value if isinstance(value, bool | int | float | complex | str | bytes) else float(value)  # type: ignore[arg-type]
