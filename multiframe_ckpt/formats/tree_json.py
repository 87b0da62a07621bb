"""Everything a tree holds besides tensors, as JSON and back, exactly.

None, booleans, text, finite floats and ints that a double holds stand as plain JSON, lists as arrays, dicts whose keys
are text as objects. Whatever JSON cannot say is an object with one key that begins with ``$``:

    {"$int": "0x…"}                 an int past ±2**53, in hexadecimal, which has no digit limit
    {"$float": "-Infinity"}         a float that is not finite: Infinity, -Infinity, NaN, or nan:0x<its 64 bits>
    {"$complex": [re, im]}          two floats, each as above
    {"$str": "…"}                   text with lone surrogates: base64 of its UTF-8 form (surrogatepass)
    {"$bytes": "…"}                 base64
    {"$tuple": [item, …]}
    {"$dict": [[key, item], …]}     a dict with a key that is not text, or whose one key begins with ``$``
    {"$tensor": key}                a tensor, found by its key in the table beside the tree

Reading is strict: an unknown or malformed ``$`` object is DamagedError, never a guess.
"""

from __future__ import annotations

import base64
import json
import math
import re
import struct
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, TypeVar

from ..errors import DamagedError, ValueRefusedError
from ..terminal.text import short_repr
from ..tree import MAX_DEPTH, TensorRef, Tree

__all__ = [
    "Json",
    "decode",
    "decode_text",
    "dump_json",
    "encode",
    "float_text",
    "is_utf8",
    "load_json",
    "read_float_text",
]

T = TypeVar("T")

Json: TypeAlias = (
    Any  # None | bool | int | float | str | list | dict, which mypy cannot say without cost to every caller
)

_EXACT_INT = 1 << 53  # the range of RFC 7493 (I-JSON): what every JSON reader takes in exactly
_HEXADECIMAL = re.compile(r"-?0x[0-9a-f]+")
_NAN_BITS = 0x7FF8_0000_0000_0000  # the NaN that float("nan") gives


def dump_json(value: Json) -> str:
    """Return compact ASCII JSON; the same value always gives the same text."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def load_json(text: str | bytes, where: str, object_hook: Callable[[dict[str, Json]], Json] | None = None) -> Json:
    """Read JSON strictly: DamagedError for bad syntax, keys that come twice, NaN literals and endless nesting.

    ``object_hook`` gives what stands for an object, from its entries.
    """

    def read_pairs(pairs: list[tuple[str, Json]]) -> Json:
        return object_hook(_distinct_entries(pairs)) if object_hook else _distinct_entries(pairs)

    if isinstance(text, bytes):
        text = decode_text(text, where)
    try:
        return json.loads(text, object_pairs_hook=read_pairs, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as problem:
        raise _not_strict(where, problem) from None


def decode_text(raw: bytes, where: str) -> str:
    """Return text of JSON, which is in UTF-8; raise DamagedError for bytes that are none."""
    try:
        return str(raw, "utf-8")
    except ValueError as problem:
        raise _not_strict(where, problem) from None


def _not_strict(where: str, problem: Exception) -> DamagedError:
    return DamagedError(
        f"{where}: found text that is not strict JSON ({problem}), expected JSON as RFC 8259 has it; "
        "the file is damaged: fetch it again"
    )


def _distinct_entries(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a key comes twice in one object")
    return entries


def _refuse_constant(name: str) -> Json:
    raise ValueError(f"{name} is no JSON value")


def float_text(value: float) -> str:
    """Return the text of a float that is not finite; the bits of a NaN other than the usual one are kept."""
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    bits = struct.unpack("<Q", struct.pack("<d", value))[0]
    return "NaN" if bits == _NAN_BITS else f"nan:0x{bits:016x}"


def read_float_text(text: str) -> float:
    """Undo :func:`float_text`; ValueError for any other text."""
    if text in ("Infinity", "-Infinity"):
        return float(text)
    bits = _NAN_BITS if text == "NaN" else int(text.removeprefix("nan:"), 16)
    value: float = struct.unpack("<d", struct.pack("<Q", bits))[0]
    if not math.isnan(value) or float_text(value) != text:
        raise ValueError(text)
    return value


def encode(node: Tree, *, depth: int = 0) -> Json:
    """Return the JSON value of a tree with a TensorRef for each tensor; ValueRefusedError for what is no part of one."""
    if depth > MAX_DEPTH:
        raise ValueRefusedError(f"found containers deeper than {MAX_DEPTH}, expected fewer; flatten the checkpoint")
    kind = type(node)
    if kind in _ENCODERS:
        return _ENCODERS[kind](node)
    if type(node) is list:
        return [encode(item, depth=depth + 1) for item in node]
    if type(node) is tuple:
        return {"$tuple": [encode(item, depth=depth + 1) for item in node]}
    if type(node) is dict:
        return _encode_dict(node, depth + 1)
    raise ValueRefusedError(
        f"found an object of type {kind.__module__}.{kind.__qualname__}, expected plain values, lists, tuples, "
        "dicts and tensors; turn it into one of them first"
    )


def _encode_dict(node: dict[Any, Tree], depth: int) -> Json:
    items = [(encode(key, depth=depth), encode(item, depth=depth)) for key, item in node.items()]
    keys_are_text = all(type(key) is str for key, _ in items)
    if keys_are_text and not (len(items) == 1 and items[0][0].startswith("$")):
        return dict(items)
    return {"$dict": [[key, item] for key, item in items]}


def _encode_int(value: int) -> Json:
    return value if -_EXACT_INT <= value <= _EXACT_INT else {"$int": hex(value)}


def _encode_float(value: float) -> Json:
    return value if math.isfinite(value) else {"$float": float_text(value)}


def _encode_complex(value: complex) -> Json:
    return {"$complex": [_encode_float(value.real), _encode_float(value.imag)]}


def is_utf8(value: str) -> bool:
    """Return whether text has a UTF-8 form: whether it holds no lone surrogate, which most JSON readers refuse."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _encode_str(value: str) -> Json:
    if is_utf8(value):
        return value
    return {"$str": base64.b64encode(value.encode("utf-8", "surrogatepass")).decode("ascii")}


_ENCODERS: dict[type, Callable[[Any], Json]] = {
    type(None): lambda value: value,
    bool: lambda value: value,
    int: _encode_int,
    float: _encode_float,
    complex: _encode_complex,
    str: _encode_str,
    bytes: lambda value: {"$bytes": base64.b64encode(value).decode("ascii")},
    TensorRef: lambda ref: {"$tensor": _encode_str(ref.key)},
}


def decode(value: Json, where: str, *, depth: int = 0) -> Tree:
    """Undo :func:`encode`; DamagedError, naming ``where``, for anything that ``encode`` does not give."""
    if depth > MAX_DEPTH:
        raise DamagedError(f"{where}: found containers deeper than {MAX_DEPTH}, expected fewer; the file is damaged")
    if isinstance(value, list):
        return _decode_items(value, where, depth + 1)
    if isinstance(value, dict):
        return _decode_object(value, where, depth + 1)
    if isinstance(value, float) and not math.isfinite(value):
        raise _malformed(value, where)
    leaf: Tree = value
    return leaf


# A level of the tree costs three calls here, so that MAX_DEPTH levels stay well inside Python's recursion limit.
def _decode_items(values: Iterable[Json], where: str, depth: int) -> list[Tree]:
    items = []
    for value in values:
        items.append(decode(value, where, depth=depth))  # a comprehension is one more call a level
    return items


def _decode_object(value: dict[str, Json], where: str, depth: int) -> Tree:
    tag = next(iter(value), "") if len(value) == 1 else ""
    inner = value.get(tag)
    if not tag.startswith("$"):
        return dict(zip(value, _decode_items(value.values(), where, depth), strict=True))
    if tag == "$tuple" and isinstance(inner, list):
        return tuple(_decode_items(inner, where, depth))
    if tag == "$dict" and isinstance(inner, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in inner):
        keys, items = (_decode_items((pair[side] for pair in inner), where, depth) for side in (0, 1))
        return _distinct_dict(keys, items, where)
    return _decode_leaf(tag, inner, where)


def _distinct_dict(keys: list[Any], items: list[Tree], where: str) -> dict[Any, Tree]:
    try:
        entries = dict(zip(keys, items, strict=True))
    except TypeError:  # a key that cannot be hashed
        raise _malformed("a key that no dict can have", where) from None
    if len(entries) != len(keys):
        raise _malformed("a key that comes twice in one dict", where)
    return entries


def _decode_leaf(tag: str, inner: Json, where: str) -> Tree:
    try:
        return _LEAF_DECODERS[tag](inner, where)
    except (LookupError, ValueError, TypeError, struct.error) as problem:
        if isinstance(problem, DamagedError):
            raise
        raise _malformed({tag: inner}, where) from None


def _malformed(value: Json, where: str) -> DamagedError:
    return DamagedError(
        f"{where}: found {short_repr(value)} in the tree, expected a value this version writes; "
        "the file is damaged, or newer than this library: upgrade it"
    )


def _decode_int(value: Json, where: str) -> int:
    if not _HEXADECIMAL.fullmatch(value):
        raise ValueError
    return int(value, 16)


def _decode_float(value: Json, where: str) -> float:
    return read_float_text(_require(value, str))


def _decode_complex(value: Json, where: str) -> complex:
    real, imaginary = (decode(part, where) for part in _require(value, list))
    return complex(_require(real, float), _require(imaginary, float))


def _decode_bytes(value: Json, where: str) -> bytes:
    return base64.b64decode(_require(value, str), validate=True)


def _decode_str(value: Json, where: str) -> str:
    return _decode_bytes(value, where).decode("utf-8", "surrogatepass")


def _decode_tensor(value: Json, where: str) -> TensorRef:
    return TensorRef(_require(decode(value, where), str))


def _require(value: Json, kind: type[T]) -> T:
    if type(value) is not kind:
        raise TypeError
    return value


_LEAF_DECODERS: dict[str, Callable[[Json, str], Tree]] = {
    "$int": _decode_int,
    "$float": _decode_float,
    "$complex": _decode_complex,
    "$str": _decode_str,
    "$bytes": _decode_bytes,
    "$tensor": _decode_tensor,
}
