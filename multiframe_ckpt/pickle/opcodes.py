"""HANDLERS: what each opcode does, protocols 0 to 5, without out-of-band buffers and copyreg extensions.

A step takes the state and the offset behind its opcode, and gives the offset of the next one. It subtracts from the
state's room what it makes, at most a few hundred bytes and a few times what it reads; the machine looks at it now and
then. A long file, as it is one table and a few lines for each opcode. Source: CPython 3.13 ``Lib/pickletools.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from struct import Struct
from sys import getsizeof
from typing import Any, TypeAlias

from ..errors import UnsafeError
from .raw import MAX_INT_NBYTES
from .state import State

__all__ = ["CONTAINER", "HANDLERS", "NUMBER", "TEXT", "TUPLE", "Step"]

Step: TypeAlias = Callable[[State, int], int]

_PROTOCOL = 5
#: More digits than this, newer Pythons do not read either: the time grows with the square.
_MAX_DIGITS = 4300
#: A pickler recurses for each container that is open, and Python stops it at 1,000 by default.
_MAX_MARKS = 10_000
#: The memory of a number and of empty containers.
NUMBER, CONTAINER, _SET, TUPLE, TEXT = 32, 64, 224, 48, 56
_WIDEST = 4  # one character past the first 65,536 makes all of its text as wide

_U8, _U16, _U32, _I32, _U64, _F64 = map(Struct, ("<B", "<H", "<I", "<i", "<Q", ">d"))
_u32 = _U32.unpack_from


def _unknown(state: State, at: int) -> int:
    raise UnsafeError(
        f"{state.where}: found pickle opcode 0x{state.data[at - 1]:02x} at offset {at - 1}, expected one of protocols 0 to "
        "5 without extensions; this is no pickle, or a forged one"
    )


def _stop(_: State, at: int) -> int:
    return at


def _proto(state: State, at: int) -> int:
    if state.data[at] > _PROTOCOL:
        raise ValueError(f"pickle protocol {state.data[at]}")
    return at + 1


def _frame(state: State, at: int) -> int:
    (nbytes,) = _U64.unpack_from(state.data, at)
    if nbytes > state.size - at - 8:
        raise IndexError("a frame that ends behind the file")
    return at + 8


# Plain values


def _pushing(value: Any) -> Step:
    """Return the step of an opcode that is a value by itself."""

    def step(state: State, at: int) -> int:
        state.stack.append(value)
        return at

    return step


def _byte(state: State, at: int) -> int:
    state.stack.append(state.data[at])
    return at + 1


def _packed(layout: Struct) -> Step:
    """Return the step of a number of fixed size."""
    unpack, size = layout.unpack_from, layout.size

    def step(state: State, at: int) -> int:
        state.stack.append(unpack(state.data, at)[0])
        state.room -= NUMBER
        return at + size

    return step


def _counted(layout: Struct, make: Callable[[bytes], Any]) -> Step:
    """Return the step of a value behind its number of bytes."""
    unpack, size = layout.unpack_from, layout.size

    def step(state: State, at: int) -> int:
        start = at + size
        stop: int = start + unpack(state.data, at)[0]
        if not start <= stop <= state.size:
            raise IndexError("it ends too soon")
        value = make(state.data[start:stop])
        state.room -= getsizeof(value)
        state.stack.append(value)
        return stop

    return step


def _lined(make: Callable[[bytes], Any]) -> Step:
    """Return the step of a value that stands on a line."""

    def step(state: State, at: int) -> int:
        line, at = state.line(at)
        value = make(line)
        state.room -= getsizeof(value)
        state.stack.append(value)
        return at

    return step


def _text(layout: Struct) -> Step:
    """Return the step of text behind its number of bytes; most of it is short and ASCII."""
    unpack, size = layout.unpack_from, layout.size

    def step(state: State, at: int) -> int:
        start = at + size
        stop: int = start + unpack(state.data, at)[0]
        raw = state.data[start:stop]
        if len(raw) != stop - start:
            raise IndexError("it ends too soon")
        ascii = raw.isascii()
        state.stack.append(raw.decode() if ascii else raw.decode("utf-8", "surrogatepass"))
        state.room -= TEXT + (len(raw) if ascii else _WIDEST * len(raw))
        return stop

    return step


def _old_text(raw: bytes) -> str:
    """Decode a Python 2 str so that ``encode("utf-8", "surrogateescape")`` gives back its bytes."""
    return raw.decode("utf-8", "surrogateescape")


_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.)|$)", re.DOTALL)
_ESCAPED = {b"\\": b"\\", b"'": b"'", b'"': b'"', b"n": b"\n", b"r": b"\r", b"t": b"\t"}


def _quoted(line: bytes) -> str:
    """Read a Python 2 str as its ``repr`` spells it."""
    if len(line) < 2 or line[0] != line[-1] or line[:1] not in (b"'", b'"'):
        raise ValueError("a string without its quotes")
    return _old_text(_ESCAPE.sub(_unescaped, line[1:-1]))


def _unescaped(match: re.Match[bytes]) -> bytes:
    code, letter = match.groups()
    return bytes.fromhex(code.decode()) if code else _ESCAPED[letter]


def _decimal(line: bytes) -> int:
    return int(_digits(line))


def _float(line: bytes) -> float:
    return float(_digits(line))


def _digits(line: bytes) -> bytes:
    if len(line) > _MAX_DIGITS:
        raise ValueError(f"a number of more than {_MAX_DIGITS} digits")
    return line


def _integer(line: bytes) -> int | bool:
    return line == b"01" if line in (b"00", b"01") else _decimal(line)


def _signed(raw: bytes) -> int:
    if len(raw) > MAX_INT_NBYTES:
        raise ValueError(f"an int of more than {MAX_INT_NBYTES} bytes")
    return int.from_bytes(raw, "little", signed=True)


# Stack and memo: what most opcodes of a pickle do, so that the steps do by themselves what is usual.


def _mark(state: State, at: int) -> int:
    state.marks.append(state.stack)
    state.stack = []
    if len(state.marks) > _MAX_MARKS:
        raise ValueError(f"more than {_MAX_MARKS} containers begun within each other")
    return at


def _pop(state: State, at: int) -> int:
    if state.stack:
        state.stack.pop()
    else:
        state.pop_to_mark()
    return at


def _pop_mark(state: State, at: int) -> int:
    state.pop_to_mark()
    return at


def _dup(state: State, at: int) -> int:
    state.stack.append(state.stack[-1])
    return at


def _put(state: State, at: int) -> int:
    line, at = state.line(at)
    state.remember(_decimal(line))
    return at


def _binput(state: State, at: int) -> int:
    index, memo = state.data[at], state.memo
    if index == len(memo):
        memo.append(state.stack[-1])
    else:
        state.remember(index)
    return at + 1


def _long_binput(state: State, at: int) -> int:
    (index,), memo = _u32(state.data, at), state.memo
    if index == len(memo):
        memo.append(state.stack[-1])
    else:
        state.remember(index)
    return at + 4


def _memoize(state: State, at: int) -> int:
    state.remember(len(state.memo) + len(state.far))
    return at


def _get(state: State, at: int) -> int:
    line, at = state.line(at)
    state.stack.append(state.recall(_decimal(line)))
    return at


def _binget(state: State, at: int) -> int:
    index, memo = state.data[at], state.memo
    state.stack.append(memo[index] if index < len(memo) else state.recall(index))
    return at + 1


def _long_binget(state: State, at: int) -> int:
    (index,), memo = _u32(state.data, at), state.memo
    state.stack.append(memo[index] if index < len(memo) else state.recall(index))
    return at + 4


# Containers


def _empty(kind: type, nbytes: int) -> Step:
    """Return the step of a new container."""

    def step(state: State, at: int) -> int:
        state.stack.append(kind())
        state.room -= nbytes
        return at

    return step


def _tuple(state: State, at: int) -> int:
    values = tuple(state.stack)
    state.stack = stack = state.marks.pop()
    stack.append(values)
    state.room -= TUPLE + 8 * len(values)
    return at


def _tuple_1(state: State, at: int) -> int:
    stack = state.stack
    stack[-1] = (stack[-1],)
    state.room -= TUPLE + 8
    return at


def _tuple_2(state: State, at: int) -> int:
    stack = state.stack
    last = stack.pop()
    stack[-1] = stack[-1], last
    state.room -= TUPLE + 16
    return at


def _tuple_3(state: State, at: int) -> int:
    stack = state.stack
    last, middle = stack.pop(), stack.pop()
    stack[-1] = stack[-1], middle, last
    state.room -= TUPLE + 24
    return at


def _list(state: State, at: int) -> int:
    values = state.pop_to_mark()
    state.stack.append(values)
    state.room -= CONTAINER + 8 * len(values)
    return at


def _dict(state: State, at: int) -> int:
    values: list[Any] = state.pop_to_mark()
    entries: dict[Any, Any] = {}
    state.fill(entries, values)
    state.stack.append(entries)
    state.room -= CONTAINER
    return at


def _frozenset(state: State, at: int) -> int:
    values = state.pop_to_mark()
    state.stack.append(state.frozen(values))
    state.room -= _SET
    return at


def _append(state: State, at: int) -> int:
    state.append_all([state.stack.pop()])
    return at


def _appends(state: State, at: int) -> int:
    values = state.pop_to_mark()
    state.append_all(values)
    return at


def _set_item(state: State, at: int) -> int:
    value, key = state.stack.pop(), state.stack.pop()
    state.set_all([key, value])
    return at


def _set_items(state: State, at: int) -> int:
    values = state.pop_to_mark()
    state.set_all(values)
    return at


def _add_items(state: State, at: int) -> int:
    values = state.pop_to_mark()
    state.add_all(values)
    return at


# Objects


def _global(state: State, at: int) -> int:
    stop: int = state.data.find(b"\n", state.data.find(b"\n", at) + 1) + 1
    lines = state.data[at:stop]
    name = state.names.get(lines)
    if name is None:
        module, at = state.line(at)
        attribute, stop = state.line(at)
        name = state.named(module.decode(), attribute.decode())
        state.names[lines] = name
        state.charge(2 * len(lines))
    state.stack.append(name)
    return stop


def _stack_global(state: State, at: int) -> int:
    name, module = state.stack.pop(), state.stack.pop()
    state.stack.append(state.named(module, name))
    return at


def _reduce(state: State, at: int) -> int:
    args = state.stack.pop()
    stack = state.stack
    stack[-1] = state.call(stack[-1], args)
    return at


def _newobj_ex(state: State, at: int) -> int:
    keywords, args, target = state.stack.pop(), state.stack.pop(), state.stack.pop()
    state.charge(TUPLE + 8 * len(args))
    state.stack.append(state.call(target, (*args, keywords) if keywords else args))
    return at


def _inst(state: State, at: int) -> int:
    module, at = state.line(at)
    name, at = state.line(at)
    args = tuple(state.pop_to_mark())
    state.stack.append(state.call(state.named(module.decode("ascii"), name.decode("ascii")), args))
    return at


def _obj(state: State, at: int) -> int:
    target, *args = state.pop_to_mark()
    state.stack.append(state.call(target, tuple(args)))
    return at


def _build(state: State, at: int) -> int:
    state.build(state.stack.pop())
    return at


def _persistent_text(state: State, at: int) -> int:
    line, at = state.line(at)
    state.stack.append(state.persist(line.decode("ascii")))
    return at


def _persistent_id(state: State, at: int) -> int:
    stack = state.stack
    stack[-1] = state.persist(stack[-1])
    return at


_STEPS: dict[str, Step] = {
    ".": _stop,
    "\x80": _proto,
    "\x95": _frame,
    # plain values
    "N": _pushing(None),
    "\x88": _pushing(True),
    "\x89": _pushing(False),
    "I": _lined(_integer),
    "L": _lined(lambda line: _decimal(line.rstrip(b"L"))),
    "J": _packed(_I32),
    "K": _byte,
    "M": _packed(_U16),
    "\x8a": _counted(_U8, _signed),
    "\x8b": _counted(_I32, _signed),
    "F": _lined(_float),
    "G": _packed(_F64),
    "S": _lined(_quoted),
    "T": _counted(_I32, _old_text),
    "U": _counted(_U8, _old_text),
    "V": _lined(lambda line: line.decode("raw-unicode-escape")),
    "X": _text(_U32),
    "\x8c": _text(_U8),
    "\x8d": _text(_U64),
    "B": _counted(_U32, bytes),
    "C": _counted(_U8, bytes),
    "\x8e": _counted(_U64, bytes),
    "\x96": _counted(_U64, bytes),
    # stack and memo
    "(": _mark,
    "0": _pop,
    "1": _pop_mark,
    "2": _dup,
    "p": _put,
    "q": _binput,
    "r": _long_binput,
    "\x94": _memoize,
    "g": _get,
    "h": _binget,
    "j": _long_binget,
    # containers
    ")": _pushing(()),
    "]": _empty(list, CONTAINER),
    "}": _empty(dict, CONTAINER),
    "\x8f": _empty(set, _SET),
    "t": _tuple,
    "\x85": _tuple_1,
    "\x86": _tuple_2,
    "\x87": _tuple_3,
    "l": _list,
    "d": _dict,
    "\x91": _frozenset,
    "a": _append,
    "e": _appends,
    "s": _set_item,
    "u": _set_items,
    "\x90": _add_items,
    # objects
    "c": _global,
    "\x93": _stack_global,
    "R": _reduce,
    "\x81": _reduce,
    "\x92": _newobj_ex,
    "i": _inst,
    "o": _obj,
    "b": _build,
    "P": _persistent_text,
    "Q": _persistent_id,
}

#: Opcode → step, for each byte.
HANDLERS: tuple[Step, ...] = tuple(_STEPS.get(chr(opcode), _unknown) for opcode in range(256))
