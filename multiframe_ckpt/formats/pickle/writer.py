"""PickleWriter: plain values as protocol 2 opcodes, the subset that ``torch.load(weights_only=True)`` takes.

Layouts subclass it and say how a tensor is written. Nothing is memoized: sharing between tensors goes through their
storages. An int of more than 255 bytes needs LONG4, which only the standard unpickler reads.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

from ...errors import ValueRefusedError
from ...tensor import LazyTensor
from ...tree import Tree, join_key
from .raw import MAX_INT_NBYTES

__all__ = ["PickleWriter"]


class PickleWriter(ABC):
    """Collects opcodes; :meth:`dump` gives them for a tree."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def dump(self, tree: Tree) -> bytes:
        """Gives the pickle of ``tree``."""
        self._parts = [b"\x80\x02"]
        self.value(tree, ())
        self._parts.append(b".")
        return b"".join(self._parts)

    @abstractmethod
    def tensor(self, tensor: LazyTensor, path: tuple[Any, ...]) -> None:
        """Writes what stands for a tensor: each layout says what."""

    def emit(self, *opcodes: bytes) -> None:
        """Adds opcodes as they are."""
        self._parts.extend(opcodes)

    def value(self, node: Tree, path: tuple[Any, ...]) -> None:
        """Writes one node; ValueRefusedError names the key of one that a tree cannot hold."""
        if isinstance(node, LazyTensor):
            self.tensor(node, path)
        elif isinstance(node, dict):
            self.emit(b"}(")
            for key, child in node.items():
                self.value(key, path)
                self.value(child, (*path, key))
            self.emit(b"u")
        elif isinstance(node, list):
            self.emit(b"](")
            self._children(node, path)
            self.emit(b"e")
        elif isinstance(node, tuple):
            self.group(lambda: self._children(node, path))
        else:
            self._plain(node, path)

    def _children(self, nodes: Iterable[Tree], path: tuple[Any, ...]) -> None:
        for index, child in enumerate(nodes):
            self.value(child, (*path, index))

    def group(self, contents: Callable[[], None]) -> None:
        """Writes a tuple of what ``contents`` writes."""
        self.emit(b"(")
        contents()
        self.emit(b"t")

    def name(self, module: str, name: str) -> None:
        """Writes a global name."""
        self.emit(b"c", module.encode(), b"\n", name.encode(), b"\n")

    def _plain(self, value: Any, path: tuple[Any, ...]) -> None:
        write = _PLAIN.get(type(value))
        if write is None:
            raise ValueRefusedError(
                f"{join_key(path)}: found a {type(value).__name__}, expected a tensor, a plain value, a dict, a list or a "
                "tuple; store it as one of these"
            )
        if type(value) is int and value.bit_length() >= 8 * MAX_INT_NBYTES:
            raise ValueRefusedError(
                f"{join_key(path)}: found an int of {value.bit_length()} bits, expected at most {MAX_INT_NBYTES} bytes; "
                "store it as bytes"
            )
        write(self, value)

    def _none(self, _: None) -> None:
        self.emit(b"N")

    def _bool(self, value: bool) -> None:
        self.emit(b"\x88" if value else b"\x89")

    def _int(self, value: int) -> None:
        if -(2**31) <= value < 2**31:
            self.emit(b"J", struct.pack("<i", value))
            return
        raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        self.emit(*((b"\x8a", bytes([len(raw)])) if len(raw) < 256 else (b"\x8b", struct.pack("<i", len(raw)))), raw)

    def _float(self, value: float) -> None:
        self.emit(b"G", struct.pack(">d", value))

    def _complex(self, value: complex) -> None:
        self.name("__builtin__", "complex")
        self._float(value.real)
        self._float(value.imag)
        self.emit(b"\x86R")

    def _str(self, value: str) -> None:
        raw = value.encode("utf-8", "surrogatepass")
        self.emit(b"X", struct.pack("<I", len(raw)), raw)

    def _bytes(self, value: bytes) -> None:
        self.name("_codecs", "encode")
        self._str(value.decode("latin1"))
        self._str("latin1")
        self.emit(b"\x86R")


_PLAIN: dict[type, Callable[[PickleWriter, Any], None]] = {
    type(None): PickleWriter._none,
    bool: PickleWriter._bool,
    int: PickleWriter._int,
    float: PickleWriter._float,
    complex: PickleWriter._complex,
    str: PickleWriter._str,
    bytes: PickleWriter._bytes,
}
