"""State: what the opcodes of a pickle work on, and the budget of memory that they share.

Memory is counted before it is taken, in bytes as CPython 3.11 lays objects out: what an opcode of one byte makes takes up
to two hundred, so that a small file could otherwise fill any memory.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import FormatError, UnsafeError
from .dangerous import is_dangerous
from .keys import HashCounts, checked_key
from .raw import Builders, Call, Global, NotBuilt, Pending

__all__ = ["PROBLEMS", "State", "memory_budget"]

T = TypeVar("T")

#: The attribute in which a module's state dict keeps the versions of its modules.
_VERSIONS = "_metadata"
#: What Python raises where data is not of the kind or the value it should be.
PROBLEMS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)

#: What the objects of any pickle may take.
_LEAST_BUDGET = 40 << 20
_TIMES_PICKLE, _TIMES_STORED = 3, 6

# Bytes of memory, by what takes them.
_STACK_SLOT, _MEMO_SLOT, _SPARSE_MEMO_SLOT = 16, 9, 128
_DICT_ENTRY, _SET_MEMBER, _LIST_ITEM = 72, 100, 9  # while the container grows
_FIRST_ENTRY, _GROWN_LIST = 160, 32  # what a dict takes for its first entry, and a list that has grown at its end
_CONTAINER, _BUILT_VALUE, _UNKNOWN_CALL, _STORAGE_REFERENCE, _GLOBAL = 64, 128, 320, 200, 400

#: How torch pickles a storage by itself: as a pickle within the pickle.
_OF_TORCH = "_load_from_bytes"
#: Packages whose pickles run code as they mean to, honest ones too, and what to do with one.
_PICKLERS_OF_CODE = {
    package: f"{package} keeps functions and classes as code; with the program that wrote it, save its state dict alone"
    for package in ("dill", "cloudpickle", "joblib", "jsonpickle")
} | {_OF_TORCH: "tensors were pickled without torch.save; if you trust the file, torch.save what pickle.load gives"}

_MAX_NAME = 1000
_SHOWN_NAME = 200


def memory_budget(pickle_nbytes: int, stored_nbytes: int, *, least: int) -> int:
    """Return how many bytes of memory a pickle may ask for: ``least``, and more the larger it is and the file around it.

    ``stored_nbytes`` are the bytes of that file beside the pickle, where the records of its tensors lie.
    """
    return max(least, _TIMES_PICKLE * pickle_nbytes + _TIMES_STORED * stored_nbytes)


class State:
    """Stack, memo and names of one run. The stack above a mark is a list of its own, so that nothing pops through it.

    ``persistent_load`` answers the references to outside objects of a format that has them.
    """

    __slots__ = (
        *("budget", "builders", "data", "end", "hash_counts", "marks", "memo"),
        *("names", "persistent_load", "size", "sparse_memo", "stack", "versions", "where"),
    )

    def __init__(
        self,
        data: bytes | mmap.mmap,
        *,
        where: str,
        builders: Builders,
        persistent_load: Callable[[Any], Any] | None = None,
        start: int = 0,
        stored_nbytes: int = 0,
    ) -> None:
        self.data = data
        self.size = len(data)
        self.where = where
        self.builders = builders
        self.persistent_load = persistent_load
        self.end = start
        self.budget = memory_budget(self.size, stored_nbytes, least=_LEAST_BUDGET)
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []  # the stacks below each open mark
        self.memo: list[Any] = []  # picklers count from 0
        self.sparse_memo: dict[int, Any] = {}  # what was put elsewhere than at the memo's end
        self.names: dict[Any, Global] = {}  # (module, name), and the two lines of GLOBAL → one Global for each name
        self.hash_counts: HashCounts = {}
        self.versions: dict[int, tuple[dict[Any, Any], object]] = {}  # by id: state dicts, and what stands beside each

    def charge(self, nbytes: int) -> None:
        """Count memory; UnsafeError where the file asks for more than one of its size may."""
        self.budget -= nbytes
        if self.budget < 0:
            raise UnsafeError(
                f"{self.where}: found a pickle whose objects take many times its own size in memory, expected tensors and "
                "a few plain values; save those alone with the program that wrote it"
            )

    def require_budget(self) -> None:
        """Raise UnsafeError where the budget does not hold what lies on the stack and in the memo besides."""
        slots = len(self.stack) + sum(map(len, self.marks))
        sparse = len(self.sparse_memo) + len(self.hash_counts)
        nbytes = _STACK_SLOT * slots + _MEMO_SLOT * len(self.memo) + _SPARSE_MEMO_SLOT * sparse
        if nbytes > self.budget:
            self.charge(nbytes)

    def line(self, offset: int) -> tuple[bytes, int]:
        """Return the line that begins at ``offset`` without its end, and the offset behind it."""
        stop = self.data.find(b"\n", offset)
        if stop < 0:
            raise IndexError("a line without its end")
        return self.data[offset:stop].rstrip(b"\r"), stop + 1

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
            self.sparse_memo[index] = value

    def recall(self, index: int) -> Any:
        """Return what the memo holds at ``index``."""
        return self.memo[index] if 0 <= index < len(self.memo) else self.sparse_memo[index]

    def global_named(self, module: object, name: object) -> Global:
        """Return the name, never imported; UnsafeError for one by which pickles run code."""
        known = self.names.get((module, name))
        if known is not None:
            return known
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a name that is no text")
        if len(module) + len(name) > _MAX_NAME:
            raise ValueError(f"a name of more than {_MAX_NAME} characters")
        if is_dangerous(module, name):
            advice = _PICKLERS_OF_CODE.get(
                name if name == _OF_TORCH else module.partition(".")[0], "do not load this file anywhere"
            )
            raise UnsafeError(
                f"{self.where}: found {f'{module}.{name}'[:_SHOWN_NAME]} in a pickle, a name by which files run code, "
                f"expected none in a checkpoint; nothing was run, and no option lets it pass: {advice}"
            )
        self.charge(_GLOBAL + len(module) + len(name))
        new = self.names[module, name] = Global(module, name)
        return new

    def call(self, target: object, args: object) -> object:
        """Return what the builder of a known name makes, or the record of the call of an unknown one."""
        if type(target) is Call and type(args) is tuple:  # a method of an object, or what another call gave
            return self._unknown_call(Global(target.type.module, f"{target.type.name}()"), (target, args))
        if type(target) is not Global or type(args) is not tuple:
            raise UnsafeError(
                f"{self.where}: found a pickle that calls a {type(target).__name__}, expected a name; "
                "no pickler writes this: do not load this file anywhere"
            )
        builder = self.builders.get((target.module, target.name))
        if builder is None:
            return self._unknown_call(target, args)
        for arg in args:
            if type(arg) in _COPIED_PART and _COPIED_PART[type(arg)] * len(arg) > self.budget:
                self.charge(_COPIED_PART[type(arg)] * len(arg))
        try:
            value = builder(*args)
        except FormatError:
            raise
        except NotBuilt:
            return self._unknown_call(target, args)
        except PROBLEMS:
            if not any(isinstance(arg, Call) for arg in args):
                raise
            return self._unknown_call(target, args)  # a time in a zone of another package: as unknown as its zone
        if isinstance(value, Pending):
            self.charge(value.footprint)
            return value
        return self._charged_value(value)

    def _charged_value(self, value: Any) -> Any:
        """Return what a builder has made of plain values, after counting it."""
        kind = type(value)
        if kind is Global:
            return self.global_named(value.module, value.name)
        self.charge(_CONTAINER + _BUILT_PART[kind] * len(value) if kind in _BUILT_PART else _BUILT_VALUE)
        return value

    def _unknown_call(self, target: Global, args: tuple[Any, ...]) -> Call:
        self.charge(_UNKNOWN_CALL)
        return Call(target, args)

    def set_state(self, state: object) -> None:
        """Give the top of the stack its state: taken by what can take one, of no effect on plain containers."""
        target = self.stack[-1]
        if isinstance(target, Pending):
            target.set_state(state)
        elif isinstance(target, Call):
            target.state = state
        elif not isinstance(target, dict):
            raise TypeError(f"state for a {type(target).__name__}")
        elif isinstance(state, dict) and _VERSIONS in state:  # no other attribute of a dict is carried
            self.charge(_DICT_ENTRY)
            self.versions[id(target)] = target, state[_VERSIONS]

    def append_all(self, values: list[Any]) -> None:
        """Append to the list, or the unknown object, on top of the stack."""
        target = self.stack[-1]
        self.charge(_LIST_ITEM * len(values) + _GROWN_LIST)
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
        self.charge(_DICT_ENTRY // 2 * len(values) + (0 if entries else _FIRST_ENTRY))
        hash_counts, container = self.hash_counts, id(entries)
        pairs = iter(values)
        for key, value in zip(pairs, pairs, strict=True):
            entries[key if type(key) is str else checked_key(key, hash_counts, container)] = value

    def add_all(self, values: list[Any]) -> None:
        """Add members to the set on top of the stack."""
        target = _require(self.stack[-1], set)
        self.charge(_SET_MEMBER * len(values))
        target.update([checked_key(value, self.hash_counts, id(target)) for value in values])

    def frozen_set(self, values: list[Any]) -> frozenset[Any]:
        """Return a frozenset of the values."""
        self.charge(_SET_MEMBER * len(values))
        hash_counts: HashCounts = {}
        return frozenset([checked_key(value, hash_counts) for value in values])

    def outside_object(self, identifier: object) -> Any:
        """Return what the format answers to a persistent id, by which a pickle refers to an outside object."""
        if self.persistent_load is None:
            raise UnsafeError(
                f"{self.where}: found a reference to an outside object, expected none in this format; "
                "if it is a PyTorch file, name the format: torch"
            )
        self.charge(_STORAGE_REFERENCE)
        return self.persistent_load(identifier)


def _require(target: object, kind: type[T]) -> T:
    if not isinstance(target, kind):
        raise TypeError(f"a {type(target).__name__} where a {kind.__name__} is filled")
    return target


#: Bytes that a builder takes for each part of what it makes, and at most for each part of what it copies.
_BUILT_PART: dict[type, int] = {
    str: 1,
    bytes: 1,
    list: _LIST_ITEM,
    tuple: _LIST_ITEM,
    dict: _DICT_ENTRY,
    set: _SET_MEMBER,
    frozenset: _SET_MEMBER,
}
_COPIED_PART: dict[type, int] = {str: 1, bytes: 1, **dict.fromkeys((list, tuple, dict, set, frozenset), _SET_MEMBER)}
