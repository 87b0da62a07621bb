"""PickleWriter: plain values as protocol 2 opcodes, the subset that ``torch.load(weights_only=True)`` takes.

Formats subclass it and say how a tensor is written. Plain values are not memoized. An int of more than 255 bytes needs
LONG4, which only the standard unpickler reads.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..errors import ValueRefusedError
from ..tree import LazyTensor, Path, Tree, join_key
from .raw import MAX_INT_NBYTES

__all__ = ["PickleWriter", "int_opcodes", "name_opcodes", "require_plain", "str_opcodes", "tuple_opcodes"]

_BINUNICODE = struct.Struct("<cI")
_NEW_ORDERED_DICT = b"ccollections\nOrderedDict\n)R("
_NONE: Mapping[str, Mapping[str, Mapping[str, Tree]]] = {}
_SHORT_TUPLES = {0: b")", 1: b"\x85", 2: b"\x86", 3: b"\x87"}


class PickleWriter(ABC):
    """The opcodes of a pickle in the making; :meth:`dump` returns those of a tree."""

    def __init__(self, versions: Mapping[str, Mapping[str, Mapping[str, Tree]]] = _NONE) -> None:
        self._parts: list[bytes] = []
        self._versions = versions  # of the modules of state dicts, by the key of each

    def dump(self, tree: Tree) -> bytes:
        """Return the pickle of ``tree``."""
        self._parts = [b"\x80\x02"]
        self.value(tree, ())
        self._parts.append(b".")
        return b"".join(self._parts)

    @abstractmethod
    def tensor(self, tensor: LazyTensor, path: Path) -> None:
        """Write what stands for a tensor: each format says what."""

    def emit(self, *opcodes: bytes) -> None:
        """Add opcodes as they are."""
        self._parts.extend(opcodes)

    def value(self, node: Tree, path: Path) -> None:
        """Write one node; ValueRefusedError names the key of one that a tree cannot hold."""
        if type(node) is LazyTensor:
            self.tensor(node, path)
        elif isinstance(node, dict):
            versions = self._versions.get(join_key(path)) if self._versions else None
            self.emit(b"}(" if versions is None else _NEW_ORDERED_DICT)
            for key, child in node.items():
                if type(key) is str:
                    self._parts.append(str_opcodes(key))
                else:
                    self.value(key, path)
                self.value(child, (*path, key))
            self.emit(b"u")
            if versions is not None:
                self._attribute("_metadata", versions, path)
        elif isinstance(node, list):
            self.emit(b"](")
            self._children(node, path)
            self.emit(b"e")
        elif isinstance(node, tuple):
            self.emit(b"(")
            self._children(node, path)
            self.emit(b"t")
        else:
            self.emit(_plain_opcodes(node, path))

    def _attribute(self, name: str, facts: Mapping[str, Mapping[str, Tree]], path: Path) -> None:
        """Write an attribute of the dict before, as an OrderedDict keeps the versions of modules."""
        self.emit(b"}", str_opcodes(name), _NEW_ORDERED_DICT)
        for module, entries in facts.items():
            self.emit(str_opcodes(module))
            self.value(dict(entries), (*path, name, module))
        self.emit(b"usb")

    def _children(self, nodes: Iterable[Tree], path: Path) -> None:
        for index, child in enumerate(nodes):
            self.value(child, (*path, index))


class _PlainCheck(PickleWriter):
    def tensor(self, tensor: LazyTensor, path: Path) -> None:
        pass


def require_plain(tree: Tree) -> None:
    """Raise ValueRefusedError where the tree holds, beside tensors, what no pickle of ours does."""
    _PlainCheck().dump(tree)


def _plain_opcodes(value: Any, path: Path) -> bytes:
    opcodes_of = _OPCODES_OF.get(type(value))
    if opcodes_of is None:
        raise ValueRefusedError(
            f"{join_key(path)}: found a {type(value).__name__}, expected a tensor, a plain value, a dict, a list or a "
            "tuple; store it as one of these"
        )
    if type(value) is int and value.bit_length() >= 8 * MAX_INT_NBYTES:
        raise ValueRefusedError(
            f"{join_key(path)}: found an int of {value.bit_length()} bits, expected at most {MAX_INT_NBYTES} bytes; "
            "store it as bytes"
        )
    return opcodes_of(value)


def name_opcodes(module: str, name: str) -> bytes:
    """Return what pushes a global name."""
    return f"c{module}\n{name}\n".encode()


def tuple_opcodes(items: Sequence[bytes]) -> bytes:
    """Return what pushes a tuple of what the items push."""
    tuple_opcode = _SHORT_TUPLES.get(len(items))
    return b"(%bt" % b"".join(items) if tuple_opcode is None else b"".join(items) + tuple_opcode


def int_opcodes(value: int) -> bytes:
    """Return what pushes an int."""
    if 0 <= value < 1 << 8:
        return b"K%c" % value
    if 0 <= value < 1 << 16:
        return b"M" + value.to_bytes(2, "little")
    if -(2**31) <= value < 2**31:
        return b"J" + value.to_bytes(4, "little", signed=True)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return (b"\x8a" + bytes([len(raw)]) if len(raw) < 256 else b"\x8b" + struct.pack("<i", len(raw))) + raw


def str_opcodes(value: str) -> bytes:
    """Return what pushes text."""
    raw = value.encode("utf-8", "surrogatepass")
    return _BINUNICODE.pack(b"X", len(raw)) + raw


def _float_opcodes(value: float) -> bytes:
    return b"G" + struct.pack(">d", value)


def _complex_opcodes(value: complex) -> bytes:
    return name_opcodes("__builtin__", "complex") + _float_opcodes(value.real) + _float_opcodes(value.imag) + b"\x86R"


def _bytes_opcodes(value: bytes) -> bytes:
    return name_opcodes("_codecs", "encode") + str_opcodes(value.decode("latin1")) + str_opcodes("latin1") + b"\x86R"


_OPCODES_OF: Mapping[type, Callable[[Any], bytes]] = {
    type(None): lambda _: b"N",
    bool: lambda value: b"\x88" if value else b"\x89",
    int: int_opcodes,
    float: _float_opcodes,
    complex: _complex_opcodes,
    str: str_opcodes,
    bytes: _bytes_opcodes,
}
