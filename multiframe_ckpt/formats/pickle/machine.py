"""PickleMachine: runs the opcodes of a pickle and builds only what its table of known names says.

Protocols 0 to 5 (CPython ``Lib/pickletools.py``), without persistent out-of-band buffers and copyreg extensions. What is
not known becomes a :class:`Made`, a record of what the file asked for; ``resolve`` refuses it or leaves it inert.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from ...errors import DamagedError, FormatError, UnsafeError
from .raw import Builders, Global, Made, Pending

__all__ = ["PickleMachine", "broken_pickle", "hashable"]


class _Mark:
    pass


_MARK = _Mark()
_SIZED = (str, bytes, list, tuple, dict, set, frozenset)
#: What Python raises where data is not of the kind or the value it should be.
_PROBLEMS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError, struct.error)

#: A key of a dict or a set may be nested this deep and hold this many parts: hashing walks all of them, a part that is
#: shared again each time, and has no guard of its own against depth.
_KEY_DEPTH, _KEY_PARTS = 32, 1000

#: Builders may copy this many items and bytes, and four more for each byte read, which what a pickler writes stays below.
_FREE_COPIES = 100_000


@contextmanager
def broken_pickle(where: Callable[[], str]) -> Iterator[None]:
    """Turns what wrong data makes Python raise into DamagedError."""
    try:
        yield
    except FormatError:
        raise
    except _PROBLEMS as problem:
        raise DamagedError(
            f"{where()} ({type(problem).__name__}: {str(problem)[:200]}), expected a whole one; "
            "the file is damaged: fetch it again"
        ) from problem


class PickleMachine:
    """One run over one pickle. ``end`` is the offset behind its STOP, where a stream of pickles goes on."""

    def __init__(
        self,
        data: Any,
        *,
        where: str,
        builders: Builders,
        persistent: Callable[[Any], Any] | None = None,
        start: int = 0,
    ) -> None:
        self._whole = data  # bytes or a map: it can be searched, as a view of it cannot
        self._data = memoryview(data)
        self._where = where
        self._builders = builders
        self._persistent = persistent
        self.end = start
        self._copies = 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Gives the raw object; DamagedError for opcodes that no pickler writes, UnsafeError for forbidden ones."""
        with broken_pickle(lambda: f"{self._where}: found a pickle that breaks at offset {self.end}"):
            while True:
                opcode = self._take(1)[0]
                if opcode == 0x2E:  # STOP
                    return self._pop()
                step = _STEPS.get(opcode)
                if step is None:
                    raise UnsafeError(
                        f"{self._where}: found pickle opcode 0x{opcode:02x} at offset {self.end - 1}, expected one of "
                        "protocols 0 to 5 without extensions; this is no pickle, or a forged one"
                    )
                step(self)

    # Reading

    def _take(self, count: int) -> memoryview:
        piece = self._data[self.end : self.end + count]
        if count < 0 or len(piece) != count:
            raise IndexError("it ends too soon")
        self.end += count
        return piece

    def _number(self, layout: str) -> int:
        return int(struct.unpack(layout, self._take(struct.calcsize(layout)))[0])

    def _line(self) -> bytes:
        # Lines are short: names and decimal numbers.
        stop = self._whole.find(b"\n", self.end, self.end + 65536)
        if stop < 0:
            raise IndexError("a line without its end")
        line = bytes(self._data[self.end : stop])
        self.end = stop + 1
        return line.rstrip(b"\r")

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise IndexError("it takes a value where there is a mark")
        return value

    def _pop_to_mark(self) -> list[Any]:
        stack = self._stack
        at = len(stack) - 1
        while stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise IndexError("it goes back to a mark that is not there")
        values = stack[at + 1 :]
        del stack[at:]
        return values

    # Building

    def _global(self, module: str, name: str) -> None:
        self._push(Global(module, name))

    def _call(self, target: Any, args: Any) -> Any:
        if not isinstance(target, Global) or not isinstance(args, tuple):
            raise UnsafeError(
                f"{self._where}: found a pickle that calls a {type(target).__name__}, expected a name; "
                "no pickler writes this: do not load this file anywhere"
            )
        builder = self._builders.get((target.module, target.name))
        if builder is None:
            return Made(target, args)
        self._spend(len(args) + sum(len(arg) for arg in args if isinstance(arg, _SIZED)))
        try:
            return builder(*args)
        except FormatError:
            raise
        except _PROBLEMS:
            if not any(isinstance(arg, Made) for arg in args):
                raise
            return Made(target, args)  # a time in a zone of another package: as unknown as its zone

    def _spend(self, copies: int) -> None:
        """Counts what builders copy; a small file could ask for one long value to be copied without end."""
        self._copies += copies
        if self._copies > _FREE_COPIES + 4 * self.end:
            raise UnsafeError(
                f"{self._where}: found a pickle that copies its values over and over, expected each once; "
                "this file is forged"
            )

    def _reduce(self) -> None:
        args = self._pop()
        self._push(self._call(self._pop(), args))

    def _newobj_ex(self) -> None:
        keywords, args, target = self._pop(), self._pop(), self._pop()
        self._spend(len(args))
        self._push(self._call(target, (*args, keywords) if keywords else args))

    def _inst(self) -> None:
        module, name = self._line().decode("ascii"), self._line().decode("ascii")
        self._push(self._call(Global(module, name), tuple(self._pop_to_mark())))

    def _obj(self) -> None:
        target, *args = self._pop_to_mark()
        self._push(self._call(target, tuple(args)))

    def _build(self) -> None:
        state, target = self._pop(), self._stack[-1]
        if isinstance(target, Pending):
            target.set_state(state)
        elif isinstance(target, Made):
            target.state = state
        elif not isinstance(
            target, dict | list | set
        ):  # attributes of a plain container, such as OrderedDict._metadata
            raise TypeError(f"state for a {type(target).__name__}")

    def _append_all(self, values: list[Any]) -> None:
        target = self._stack[-1]
        (target.items if isinstance(target, Made) else _require(target, list)).extend(values)

    def _set_all(self, values: list[Any]) -> None:
        target = self._stack[-1]
        entries = target.entries if isinstance(target, Made) else _require(target, dict)
        if len(values) % 2:
            raise ValueError("a dict with a key and no value")
        for key, value in zip(values[::2], values[1::2], strict=True):
            entries[hashable(key)] = value

    def _memoize(self, at: int) -> None:
        if not self._stack:
            raise IndexError("nothing to remember")
        self._memo[at] = self._stack[-1]

    def _persist(self, identifier: Any) -> None:
        if self._persistent is None:
            raise UnsafeError(
                f"{self._where}: found a reference to an outside object, expected none in this layout; "
                "if it is a PyTorch file, name the format: torch"
            )
        self._push(self._persistent(identifier))


def _require(target: Any, kind: type) -> Any:
    if not isinstance(target, kind):
        raise TypeError(f"a {type(target).__name__} where a {kind.__name__} is filled")
    return target


def hashable(key: Any) -> Any:
    """Gives what stands for a dict key or set member; a mutable one, or one too deep or large, is no pickler's."""
    groups, left = [key] if isinstance(key, tuple | frozenset) else [], _KEY_PARTS
    for _ in range(_KEY_DEPTH):
        left -= sum(map(len, groups))
        if not groups or left < 0:
            break
        groups = [part for group in groups for part in group if isinstance(part, tuple | frozenset)]
    if groups:
        raise ValueError(f"a key with more than {_KEY_PARTS} parts, or nested deeper than {_KEY_DEPTH}")
    hash(key)
    return key


def _text(raw: bytes | memoryview) -> str:
    return bytes(raw).decode("utf-8", "surrogatepass")


def _old_text(raw: bytes | memoryview) -> str:
    """Decodes a Python 2 str so that ``encode("utf-8", "surrogateescape")`` gives back its bytes."""
    return bytes(raw).decode("utf-8", "surrogateescape")


def _quoted(line: bytes) -> str:
    if len(line) < 2 or line[0] != line[-1] or line[:1] not in b"'\"":
        raise ValueError("a string without its quotes")
    return _old_text(codecs.escape_decode(line[1:-1])[0])


def _signed(raw: memoryview) -> int:
    return int.from_bytes(raw, "little", signed=True)


def _integer_line(line: bytes) -> int | bool:
    return {b"00": False, b"01": True}.get(line) if line in (b"00", b"01") else int(line)  # type: ignore[return-value]


def _set_members(machine: PickleMachine) -> None:
    values = machine._pop_to_mark()
    _require(machine._stack[-1], set).update(map(hashable, values))


def _stack_global(machine: PickleMachine) -> None:
    name, module = machine._pop(), machine._pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise TypeError("a name that is no text")
    machine._global(module, name)


def _proto(machine: PickleMachine) -> None:
    version = machine._take(1)[0]
    if version > 5:
        raise ValueError(f"pickle protocol {version}")


def _frozenset(machine: PickleMachine) -> None:
    machine._push(frozenset(map(hashable, machine._pop_to_mark())))


def _set_item(machine: PickleMachine) -> None:
    value, key = machine._pop(), machine._pop()
    machine._set_all([key, value])


def _tuple_of(count: int) -> Callable[[PickleMachine], None]:
    def step(machine: PickleMachine) -> None:
        machine._push(tuple([machine._pop() for _ in range(count)][::-1]))

    return step


def _dict_of(values: list[Any]) -> dict[Any, Any]:
    return {hashable(key): value for key, value in zip(values[::2], values[1::2], strict=True)}


_Step: TypeAlias = Callable[[PickleMachine], None]
_STEPS: dict[int, _Step] = {
    ord(opcode): step
    for opcode, step in {
        "(": lambda m: m._push(_MARK),
        "0": lambda m: m._stack.pop() and None,
        "1": lambda m: m._pop_to_mark() and None,
        "2": lambda m: m._push(m._stack[-1]),
        "\x80": _proto,
        "\x95": lambda m: m._take(8) and None,
        # plain values
        "N": lambda m: m._push(None),
        "\x88": lambda m: m._push(True),
        "\x89": lambda m: m._push(False),
        "I": lambda m: m._push(_integer_line(m._line())),
        "L": lambda m: m._push(int(m._line().rstrip(b"L"))),
        "J": lambda m: m._push(m._number("<i")),
        "K": lambda m: m._push(m._number("<B")),
        "M": lambda m: m._push(m._number("<H")),
        "\x8a": lambda m: m._push(_signed(m._take(m._number("<B")))),
        "\x8b": lambda m: m._push(_signed(m._take(m._number("<i")))),
        "F": lambda m: m._push(float(m._line())),
        "G": lambda m: m._push(struct.unpack(">d", m._take(8))[0]),
        "S": lambda m: m._push(_quoted(m._line())),
        "T": lambda m: m._push(_old_text(m._take(m._number("<i")))),
        "U": lambda m: m._push(_old_text(m._take(m._number("<B")))),
        "V": lambda m: m._push(m._line().decode("raw-unicode-escape")),
        "X": lambda m: m._push(_text(m._take(m._number("<I")))),
        "\x8c": lambda m: m._push(_text(m._take(m._number("<B")))),
        "\x8d": lambda m: m._push(_text(m._take(m._number("<Q")))),
        "B": lambda m: m._push(bytes(m._take(m._number("<I")))),
        "C": lambda m: m._push(bytes(m._take(m._number("<B")))),
        "\x8e": lambda m: m._push(bytes(m._take(m._number("<Q")))),
        "\x96": lambda m: m._push(bytes(m._take(m._number("<Q")))),
        # containers
        ")": lambda m: m._push(()),
        "]": lambda m: m._push([]),
        "}": lambda m: m._push({}),
        "\x8f": lambda m: m._push(set()),
        "t": lambda m: m._push(tuple(m._pop_to_mark())),
        "l": lambda m: m._push(m._pop_to_mark()),
        "d": lambda m: m._push(_dict_of(m._pop_to_mark())),
        "\x85": _tuple_of(1),
        "\x86": _tuple_of(2),
        "\x87": _tuple_of(3),
        "\x91": _frozenset,
        "a": lambda m: m._append_all([m._pop()]),
        "e": lambda m: m._append_all(m._pop_to_mark()),
        "s": _set_item,
        "u": lambda m: m._set_all(m._pop_to_mark()),
        "\x90": _set_members,
        # memo
        "p": lambda m: m._memoize(int(m._line())),
        "q": lambda m: m._memoize(m._number("<B")),
        "r": lambda m: m._memoize(m._number("<I")),
        "\x94": lambda m: m._memoize(len(m._memo)),
        "g": lambda m: m._push(m._memo[int(m._line())]),
        "h": lambda m: m._push(m._memo[m._number("<B")]),
        "j": lambda m: m._push(m._memo[m._number("<I")]),
        # objects
        "c": lambda m: m._global(m._line().decode("utf-8"), m._line().decode("utf-8")),
        "\x93": _stack_global,
        "R": lambda m: m._reduce(),
        "\x81": lambda m: m._reduce(),
        "\x92": lambda m: m._newobj_ex(),
        "i": lambda m: m._inst(),
        "o": lambda m: m._obj(),
        "b": lambda m: m._build(),
        "P": lambda m: m._persist(m._line().decode("ascii")),
        "Q": lambda m: m._persist(m._pop()),
    }.items()
}
