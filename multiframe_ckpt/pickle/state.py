"""State: what the opcodes of a pickle work on, and the budget they share.

Memory is counted before it is taken, in bytes as CPython 3.11 lays objects out: what an opcode of one byte makes takes up
to two hundred, so that a small file could otherwise fill any memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import FormatError, UnsafeError
from .dangerous import is_dangerous
from .keys import Alike, hashable
from .raw import Builders, Call, Global, Pending

__all__ = ["PROBLEMS", "State"]

#: What Python raises where data is not of the kind or the value it should be.
PROBLEMS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)

#: Any pickle may take this much memory, and one of a larger file a multiple of the pickle and of the file around it,
#: where the records of a pickle's tensors lie.
_FREE_ROOM = 40 << 20
_PER_PICKLED, _PER_STORED = 3, 6

_SLOT, _REMEMBERED, _FAR = 16, 9, 128  # a value on the stack, in the memo, and out of turn in the memo
_ENTRY, _MEMBER, _ITEM = 72, 100, 9  # of a dict while it grows, of a set, of a list
_FIRST, _FEW = 160, 32  # what a dict takes for its first entry, and a list that has grown at its end
_CONTAINER, _CALLED, _MADE, _REFERENCE, _NAMED = 64, 128, 320, 200, 400

_MAX_NAME = 1000
_SHOWN = 200


class State:
    """Stack, memo and names of one run. The stack above a mark is a list of its own, so that nothing pops through it."""

    __slots__ = (
        *("alike", "builders", "data", "end", "far", "marks", "memo", "names"),
        *("persistent", "room", "size", "stack", "where"),
    )

    def __init__(
        self,
        data: Any,
        *,
        where: str,
        builders: Builders,
        persistent: Callable[[Any], Any] | None = None,
        start: int = 0,
        stored: int = 0,
    ) -> None:
        self.data = data  # bytes or a map: slices of both are bytes
        self.size = len(data)
        self.where = where
        self.builders = builders
        self.persistent = persistent
        self.end = start
        self.room = max(_FREE_ROOM, _PER_PICKLED * self.size + _PER_STORED * stored)
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []  # the stacks below each open mark
        self.memo: list[Any] = []  # picklers count from 0
        self.far: dict[int, Any] = {}  # what was put at other places
        self.names: dict[Any, Global] = {}  # (module, name), and the two lines of GLOBAL → one Global for each name
        self.alike: Alike = {}

    # Room

    def charge(self, nbytes: int) -> None:
        """Count memory; UnsafeError where the file asks for more than one of its size may."""
        self.room -= nbytes
        if self.room < 0:
            raise UnsafeError(
                f"{self.where}: found a pickle that asks for many times its own size in memory, expected a checkpoint; "
                "this file is forged"
            )

    def require_free_space(self) -> None:
        """Ask the same of what is kept on the stack and in the memo."""
        slots = len(self.stack) + sum(map(len, self.marks))
        held = _SLOT * slots + _REMEMBERED * len(self.memo) + _FAR * (len(self.far) + len(self.alike))
        if held > self.room:
            self.charge(held)

    # Reading

    def take(self, at: int, stop: int) -> bytes:
        """Return the bytes from ``at`` to ``stop``."""
        if not at <= stop <= self.size:
            raise IndexError("it ends too soon")
        piece: bytes = self.data[at:stop]
        return piece

    def line(self, at: int) -> tuple[bytes, int]:
        """Return the line at ``at`` without its end, and the offset behind it."""
        stop = self.data.find(b"\n", at)
        if stop < 0:
            raise IndexError("a line without its end")
        return self.data[at:stop].rstrip(b"\r"), stop + 1

    # Stack and memo

    def pop_to_mark(self) -> list[Any]:
        """Return what lies above the last mark, and take both away."""
        values = self.stack
        self.stack = self.marks.pop()
        return values

    def remember(self, index: int) -> None:
        """Put the top of the stack into the memo."""
        value = self.stack[-1]
        if index == len(self.memo):
            self.memo.append(value)
        elif 0 <= index < len(self.memo):
            self.memo[index] = value
        else:
            self.far[index] = value

    def recall(self, index: int) -> Any:
        """Return what the memo holds at ``index``."""
        return self.memo[index] if 0 <= index < len(self.memo) else self.far[index]

    # Building

    def named(self, module: Any, name: Any) -> Global:
        """Return the name, never imported; UnsafeError for one by which pickles run code."""
        found = self.names.get((module, name))
        if found is not None:
            return found
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a name that is no text")
        if len(module) + len(name) > _MAX_NAME:
            raise ValueError(f"a name of more than {_MAX_NAME} characters")
        if is_dangerous(module, name):
            raise UnsafeError(
                f"{self.where}: found {f'{module}.{name}'[:_SHOWN]} in a pickle, a name by which files run code, expected "
                "none in a checkpoint; nothing was run, and no option lets it pass: do not load this file anywhere"
            )
        self.charge(_NAMED + len(module) + len(name))
        found = self.names[module, name] = Global(module, name)
        return found

    def call(self, target: Any, args: Any) -> Any:
        """Return what the builder of a known name makes, or the record of the call of an unknown one."""
        if type(target) is not Global or type(args) is not tuple:
            raise UnsafeError(
                f"{self.where}: found a pickle that calls a {type(target).__name__}, expected a name; "
                "no pickler writes this: do not load this file anywhere"
            )
        builder = self.builders.get((target.module, target.name))
        if builder is None:
            return self._made(target, args)
        for arg in args:
            if type(arg) in _COPIED and _COPIED[type(arg)] * len(arg) > self.room:
                self.charge(_COPIED[type(arg)] * len(arg))
        try:
            value = builder(*args)
        except FormatError:
            raise
        except PROBLEMS:
            if not any(isinstance(arg, Call) for arg in args):
                raise
            return self._made(target, args)  # a time in a zone of another package: as unknown as its zone
        if isinstance(value, Pending):
            self.charge(value.footprint)
            return value
        return self._received(value)

    def _received(self, value: Any) -> Any:
        """Count what a builder has made of plain values."""
        kind = type(value)
        if kind is Global:
            return self.named(value.module, value.name)
        self.charge(_CONTAINER + _MADE_OF[kind] * len(value) if kind in _MADE_OF else _CALLED)
        return value

    def _made(self, target: Global, args: tuple[Any, ...]) -> Call:
        self.charge(_MADE)
        return Call(target, args)

    def build(self, state: Any) -> None:
        """Return the top of the stack its state: taken by what can take one, of no effect on plain containers."""
        target = self.stack[-1]
        if isinstance(target, Pending):
            target.set_state(state)
        elif isinstance(target, Call):
            target.state = state
        elif not isinstance(target, dict):  # whose attributes, such as OrderedDict._metadata, are not carried
            raise TypeError(f"state for a {type(target).__name__}")

    def append_all(self, values: list[Any]) -> None:
        """Append to the list, or the unknown object, on top of the stack."""
        target = self.stack[-1]
        self.charge(_ITEM * len(values) + _FEW)
        (target.items if isinstance(target, Call) else _require(target, list)).extend(values)

    def set_all(self, values: list[Any]) -> None:
        """Fill the dict, or the unknown object, on top of the stack with keys and values in turn."""
        target = self.stack[-1]
        entries = target.entries if isinstance(target, Call) else _require(target, dict)
        self.fill(entries, values)

    def fill(self, entries: dict[Any, Any], values: list[Any]) -> None:
        """Fill a dict with keys and values in turn."""
        if len(values) % 2:
            raise ValueError("a dict with a key and no value")
        self.charge(_ENTRY // 2 * len(values) + (0 if entries else _FIRST))
        alike, owner = self.alike, id(entries)
        pairs = iter(values)
        for key, value in zip(pairs, pairs, strict=True):
            entries[key if type(key) is str else hashable(key, alike, owner)] = value

    def add_all(self, values: list[Any]) -> None:
        """Add members to the set on top of the stack."""
        target = _require(self.stack[-1], set)
        self.charge(_MEMBER * len(values))
        target.update([hashable(value, self.alike, id(target)) for value in values])

    def frozen(self, values: list[Any]) -> frozenset[Any]:
        """Return a frozenset."""
        self.charge(_MEMBER * len(values))
        alike: Alike = {}
        return frozenset([hashable(value, alike) for value in values])

    def persist(self, identifier: Any) -> Any:
        """Return what the layout answers to a persistent id."""
        if self.persistent is None:
            raise UnsafeError(
                f"{self.where}: found a reference to an outside object, expected none in this layout; "
                "if it is a PyTorch file, name the format: torch"
            )
        self.charge(_REFERENCE)
        return self.persistent(identifier)


def _require(target: Any, kind: type) -> Any:
    if not isinstance(target, kind):
        raise TypeError(f"a {type(target).__name__} where a {kind.__name__} is filled")
    return target


#: What a builder takes for each part of what it makes, and at most for each part of what it copies.
_MADE_OF: dict[type, int] = {
    str: 1,
    bytes: 1,
    list: _ITEM,
    tuple: _ITEM,
    dict: _ENTRY,
    set: _MEMBER,
    frozenset: _MEMBER,
}
_COPIED: dict[type, int] = {str: 1, bytes: 1, **dict.fromkeys((list, tuple, dict, set, frozenset), _MEMBER)}
