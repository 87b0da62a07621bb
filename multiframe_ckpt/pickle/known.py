"""The names of plain Python and NumPy that a pickle may mention, and what each becomes in a tree.

    collections.OrderedDict, defaultdict, Counter; argparse.Namespace; types.SimpleNamespace     dict
    collections.deque; set; frozenset                                                            list
    pathlib paths; datetime, date, time, timedelta, timezone; Decimal; Fraction                  str
    NumPy scalars                                                                                bool, int, float, complex
    NumPy arrays of numbers                                                                      LazyTensor
    NumPy arrays of text, of objects and of dates                                                list
    complex, bytes, bytearray                                                                    themselves

A name that is not here is never built.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterable
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import Any

from ..errors import UnsafeError
from .arrays import ArrayPart, DtypePart, build_array, build_number, bytes_of_pickle
from .keys import HashCounts, checked_key
from .raw import Builders, Call, Global, NotBuilt, Pending

__all__ = ["AS_TEXT", "PLAIN"]

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


def _encode(text: object, encoding: object = "utf-8", *_: object) -> bytes:
    if not isinstance(text, str) or not isinstance(encoding, str) or encoding not in _ENCODINGS:
        raise TypeError("bytes that are not written as text in latin1")
    return text.encode(encoding)


def _build_bytes(value: object = b"", *encoding: object) -> bytes:
    return _encode(value, *encoding) if isinstance(value, str) else bytes(bytes_of_pickle(value))


def _reconstruct(kind: Any, base: object = None, state: object = None) -> object:
    """Answer ``copyreg._reconstructor``, how protocols 0 and 1 make an object."""
    if isinstance(kind, Global) and (kind.module, kind.name) in PLAIN:
        return PLAIN[kind.module, kind.name]()
    return (
        Call(kind, () if state is None else (state,))
        if isinstance(kind, Global)
        else Call(Global("copyreg", "_reconstructor"), (kind, base, state))
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


def _attribute(owner: object, name: object = None, *default: object) -> Global:
    """Answer ``getattr``: protocols 0 to 3 name a class within a class so; a method of an object is an unknown object."""
    if not isinstance(name, str) or default:
        raise TypeError("an attribute that is not called by a name")
    if isinstance(owner, Global) and name.isidentifier():
        return Global(owner.module, f"{owner.name}.{name}")
    if "." in name or (name[:2] == name[-2:] == "__" and name not in _HARMLESS_METHODS):
        raise UnsafeError(
            f"found a pickle that takes the attribute {name[:80]!r} of an object, a way by which files run code, expected "
            "a method; nothing was run, and no option lets it pass: do not load this file anywhere"
        )
    raise NotBuilt


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
        return kind(bytes(bytes_of_pickle(state)), *rest)

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

#: Methods that objects are stored by, such as a function kept as ``obj.__call__``.
_HARMLESS_METHODS = {"__call__", "__getitem__", "__contains__", "__len__", "__iter__"}

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
    "getattr": _attribute,
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
    **{(core, "scalar"): build_number for core in _NUMPY_CORES},
    ("numpy.core.numeric", "_frombuffer"): build_array,
    ("numpy._core.numeric", "_frombuffer"): build_array,
    **{(module, name): kind for module in ("pathlib", "pathlib._local") for name, kind in _PATHS.items()},
    **{(module, name): build for module in ("builtins", "__builtin__") for name, build in _BUILTINS.items()},
}
