"""HANDLERS: what each opcode does, protocols 0 to 5, without out-of-band buffers and copyreg extensions.

A handler takes the state and the offset behind its opcode, and returns the offset of the next one. It subtracts from the
state's budget what it makes, at most a few hundred bytes and a few times what it reads; the machine looks at that now and
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

__all__ = ["CONTAINER_NBYTES", "HANDLERS", "NUMBER_NBYTES", "TEXT_NBYTES", "TUPLE_NBYTES", "Handler"]

Handler: TypeAlias = Callable[[State, int], int]

_PROTOCOL = 5
#: More digits than this, newer Pythons do not read either: the time grows with the square.
_MAX_DIGITS = 4300
#: A pickler recurses for each container that is open, and Python stops it at 1,000 by default.
_MAX_MARKS = 10_000
#: The memory of a number, of empty containers and of empty text.
NUMBER_NBYTES, CONTAINER_NBYTES, _SET_NBYTES, TUPLE_NBYTES, TEXT_NBYTES = 32, 64, 224, 48, 56
#: Bytes of a byte string that is not copied out of a file's map, and the memory of a view of it.
_LEFT_NBYTES, _VIEW_NBYTES = 1 << 20, 256
_WIDEST_CHARACTER = 4  # bytes; one character past the first 65,536 makes all of its text as wide

_U8, _U16, _U32, _I32, _U64, _F64 = map(Struct, ("<B", "<H", "<I", "<i", "<Q", ">d"))
_u32 = _U32.unpack_from


def _refuse(state: State, offset: int) -> int:
    raise UnsafeError(
        f"{state.where}: found pickle opcode 0x{state.data[offset - 1]:02x} at offset {offset - 1}, expected one of "
        "protocols 0 to 5 without extensions; this is no pickle, or a forged one"
    )


def _stop(_: State, offset: int) -> int:
    return offset


def _proto(state: State, offset: int) -> int:
    if state.data[offset] > _PROTOCOL:
        raise ValueError(f"pickle protocol {state.data[offset]}")
    return offset + 1


def _frame(state: State, offset: int) -> int:
    (nbytes,) = _U64.unpack_from(state.data, offset)
    if nbytes > state.size - offset - 8:
        raise IndexError("a frame that ends behind the file")
    return offset + 8


def _constant(value: object) -> Handler:
    """Return the handler of an opcode that is a value by itself."""

    def handle(state: State, offset: int) -> int:
        state.stack.append(value)
        return offset

    return handle


def _byte(state: State, offset: int) -> int:
    state.stack.append(state.data[offset])
    return offset + 1


def _number(packing: Struct) -> Handler:
    """Return the handler of a number of fixed size."""
    unpack, size = packing.unpack_from, packing.size

    def handle(state: State, offset: int) -> int:
        state.stack.append(unpack(state.data, offset)[0])
        state.budget -= NUMBER_NBYTES
        return offset + size

    return handle


def _sized(length: Struct, make: Callable[[bytes], object]) -> Handler:
    """Return the handler of a value behind its number of bytes."""
    unpack, size = length.unpack_from, length.size

    def handle(state: State, offset: int) -> int:
        start = offset + size
        stop: int = start + unpack(state.data, offset)[0]
        if not start <= stop <= state.size:
            raise IndexError("it ends too soon")
        value = make(state.data[start:stop])
        state.budget -= getsizeof(value)
        state.stack.append(value)
        return stop

    return handle


def _bytes_left(length: Struct) -> Handler:
    """Return the handler of bytes behind their number: many of them stay where they are, in the map of a file."""
    unpack, size, copy = length.unpack_from, length.size, _sized(length, bytes)

    def handle(state: State, offset: int) -> int:
        start = offset + size
        stop: int = start + unpack(state.data, offset)[0]
        if stop - start < _LEFT_NBYTES or stop > state.size or isinstance(state.data, bytes):
            return copy(state, offset)
        state.stack.append(memoryview(state.data)[start:stop])
        state.budget -= _VIEW_NBYTES
        return stop

    return handle


def _on_line(make: Callable[[bytes], object]) -> Handler:
    """Return the handler of a value that stands on a line."""

    def handle(state: State, offset: int) -> int:
        line, offset = state.line(offset)
        value = make(line)
        state.budget -= getsizeof(value)
        state.stack.append(value)
        return offset

    return handle


def _sized_text(length: Struct) -> Handler:
    """Return the handler of text behind its number of bytes; most of it is short and ASCII."""
    unpack, size = length.unpack_from, length.size

    def handle(state: State, offset: int) -> int:
        start = offset + size
        stop: int = start + unpack(state.data, offset)[0]
        raw = state.data[start:stop]
        if len(raw) != stop - start:
            raise IndexError("it ends too soon")
        ascii = raw.isascii()
        state.stack.append(raw.decode() if ascii else raw.decode("utf-8", "surrogatepass"))
        if ascii or len(raw) < _LEFT_NBYTES:
            state.budget -= TEXT_NBYTES + (len(raw) if ascii else _WIDEST_CHARACTER * len(raw))
        else:  # an array, as protocol 2 writes bytes: each is a character, and most of them are two bytes here
            state.budget -= getsizeof(state.stack[-1])
        return stop

    return handle


def _python2_text(raw: bytes) -> str:
    """Decode a Python 2 str so that ``encode("utf-8", "surrogateescape")`` gives back its bytes."""
    return raw.decode("utf-8", "surrogateescape")


def _python2_bytes(state: State, offset: int) -> int:
    """Push a str of Python 2: text, unless there is so much of it that it can only be an array's bytes."""
    (length,) = _I32.unpack_from(state.data, offset)
    return (_LONG_STRING if length >= _LEFT_NBYTES else _SHORT_STRING)(state, offset)


_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.)|$)", re.DOTALL)
_ESCAPED = {b"\\": b"\\", b"'": b"'", b'"': b'"', b"n": b"\n", b"r": b"\r", b"t": b"\t"}


def _unquoted(line: bytes) -> str:
    """Read a Python 2 str as its ``repr`` spells it."""
    if len(line) < 2 or line[0] != line[-1] or line[:1] not in (b"'", b'"'):
        raise ValueError("a string without its quotes")
    return _python2_text(_ESCAPE.sub(_unescaped, line[1:-1]))


def _unescaped(match: re.Match[bytes]) -> bytes:
    code, letter = match.groups()
    return bytes.fromhex(code.decode()) if code else _ESCAPED[letter]


def _decimal(line: bytes) -> int:
    return int(_checked_digits(line))


def _float(line: bytes) -> float:
    return float(_checked_digits(line))


def _checked_digits(line: bytes) -> bytes:
    if len(line) > _MAX_DIGITS:
        raise ValueError(f"a number of more than {_MAX_DIGITS} digits")
    return line


def _int_or_bool(line: bytes) -> int | bool:
    return line == b"01" if line in (b"00", b"01") else _decimal(line)


def _signed_int(raw: bytes) -> int:
    if len(raw) > MAX_INT_NBYTES:
        raise ValueError(f"an int of more than {MAX_INT_NBYTES} bytes")
    return int.from_bytes(raw, "little", signed=True)


_SHORT_STRING, _LONG_STRING = _sized(_I32, _python2_text), _bytes_left(_I32)

# Most opcodes of a pickle work on the stack and the memo, so that their handlers do by themselves what is usual.


def _mark(state: State, offset: int) -> int:
    state.marks.append(state.stack)
    state.stack = []
    if len(state.marks) > _MAX_MARKS:
        raise ValueError(f"more than {_MAX_MARKS} containers begun within each other")
    return offset


def _pop(state: State, offset: int) -> int:
    if state.stack:
        state.stack.pop()
    else:
        state.pop_to_mark()
    return offset


def _pop_mark(state: State, offset: int) -> int:
    state.pop_to_mark()
    return offset


def _dup(state: State, offset: int) -> int:
    state.stack.append(state.stack[-1])
    return offset


def _put(state: State, offset: int) -> int:
    line, offset = state.line(offset)
    state.remember(_decimal(line))
    return offset


def _binput(state: State, offset: int) -> int:
    index, memo = state.data[offset], state.memo
    if index == len(memo):
        memo.append(state.stack[-1])
    else:
        state.remember(index)
    return offset + 1


def _long_binput(state: State, offset: int) -> int:
    (index,), memo = _u32(state.data, offset), state.memo
    if index == len(memo):
        memo.append(state.stack[-1])
    else:
        state.remember(index)
    return offset + 4


def _memoize(state: State, offset: int) -> int:
    state.remember(len(state.memo) + len(state.sparse_memo))
    return offset


def _get(state: State, offset: int) -> int:
    line, offset = state.line(offset)
    state.stack.append(state.recall(_decimal(line)))
    return offset


def _binget(state: State, offset: int) -> int:
    index, memo = state.data[offset], state.memo
    state.stack.append(memo[index] if index < len(memo) else state.recall(index))
    return offset + 1


def _long_binget(state: State, offset: int) -> int:
    (index,), memo = _u32(state.data, offset), state.memo
    state.stack.append(memo[index] if index < len(memo) else state.recall(index))
    return offset + 4


def _empty(kind: type, nbytes: int) -> Handler:
    """Return the handler of a new container."""

    def handle(state: State, offset: int) -> int:
        state.stack.append(kind())
        state.budget -= nbytes
        return offset

    return handle


def _tuple(state: State, offset: int) -> int:
    values = tuple(state.stack)
    state.stack = stack = state.marks.pop()
    stack.append(values)
    state.budget -= TUPLE_NBYTES + 8 * len(values)
    return offset


def _tuple_1(state: State, offset: int) -> int:
    stack = state.stack
    stack[-1] = (stack[-1],)
    state.budget -= TUPLE_NBYTES + 8
    return offset


def _tuple_2(state: State, offset: int) -> int:
    stack = state.stack
    last = stack.pop()
    stack[-1] = stack[-1], last
    state.budget -= TUPLE_NBYTES + 16
    return offset


def _tuple_3(state: State, offset: int) -> int:
    stack = state.stack
    last, middle = stack.pop(), stack.pop()
    stack[-1] = stack[-1], middle, last
    state.budget -= TUPLE_NBYTES + 24
    return offset


def _list(state: State, offset: int) -> int:
    values = state.pop_to_mark()
    state.stack.append(values)
    state.budget -= CONTAINER_NBYTES + 8 * len(values)
    return offset


def _dict(state: State, offset: int) -> int:
    values = state.pop_to_mark()
    entries: dict[Any, Any] = {}
    state.fill(entries, values)
    state.stack.append(entries)
    state.budget -= CONTAINER_NBYTES
    return offset


def _frozenset(state: State, offset: int) -> int:
    values = state.pop_to_mark()
    state.stack.append(state.frozen_set(values))
    state.budget -= _SET_NBYTES
    return offset


def _append(state: State, offset: int) -> int:
    state.append_all([state.stack.pop()])
    return offset


def _appends(state: State, offset: int) -> int:
    values = state.pop_to_mark()
    state.append_all(values)
    return offset


def _set_item(state: State, offset: int) -> int:
    value, key = state.stack.pop(), state.stack.pop()
    state.set_all([key, value])
    return offset


def _set_items(state: State, offset: int) -> int:
    values = state.pop_to_mark()
    state.set_all(values)
    return offset


def _add_items(state: State, offset: int) -> int:
    values = state.pop_to_mark()
    state.add_all(values)
    return offset


def _global(state: State, offset: int) -> int:
    stop: int = state.data.find(b"\n", state.data.find(b"\n", offset) + 1) + 1
    lines = state.data[offset:stop]
    name = state.names.get(lines)
    if name is None:
        module, offset = state.line(offset)
        attribute, stop = state.line(offset)
        name = state.global_named(module.decode(), attribute.decode())
        state.names[lines] = name
        state.charge(2 * len(lines))
    state.stack.append(name)
    return stop


def _stack_global(state: State, offset: int) -> int:
    name, module = state.stack.pop(), state.stack.pop()
    state.stack.append(state.global_named(module, name))
    return offset


def _reduce(state: State, offset: int) -> int:
    args = state.stack.pop()
    stack = state.stack
    stack[-1] = state.call(stack[-1], args)
    return offset


def _newobj_ex(state: State, offset: int) -> int:
    keywords, args, target = state.stack.pop(), state.stack.pop(), state.stack.pop()
    state.charge(TUPLE_NBYTES + 8 * len(args))
    state.stack.append(state.call(target, (*args, keywords) if keywords else args))
    return offset


def _inst(state: State, offset: int) -> int:
    module, offset = state.line(offset)
    name, offset = state.line(offset)
    args = tuple(state.pop_to_mark())
    state.stack.append(state.call(state.global_named(module.decode("ascii"), name.decode("ascii")), args))
    return offset


def _obj(state: State, offset: int) -> int:
    target, *args = state.pop_to_mark()
    state.stack.append(state.call(target, tuple(args)))
    return offset


def _build(state: State, offset: int) -> int:
    state.set_state(state.stack.pop())
    return offset


def _persistent_text(state: State, offset: int) -> int:
    line, offset = state.line(offset)
    state.stack.append(state.outside_object(line.decode("ascii")))
    return offset


def _persistent_id(state: State, offset: int) -> int:
    stack = state.stack
    stack[-1] = state.outside_object(stack[-1])
    return offset


_HANDLER_BY_CHARACTER: dict[str, Handler] = {
    ".": _stop,  # STOP
    "\x80": _proto,  # PROTO
    "\x95": _frame,  # FRAME
    "N": _constant(None),  # NONE
    "\x88": _constant(True),  # NEWTRUE
    "\x89": _constant(False),  # NEWFALSE
    "I": _on_line(_int_or_bool),  # INT
    "L": _on_line(lambda line: _decimal(line.rstrip(b"L"))),  # LONG
    "J": _number(_I32),  # BININT
    "K": _byte,  # BININT1
    "M": _number(_U16),  # BININT2
    "\x8a": _sized(_U8, _signed_int),  # LONG1
    "\x8b": _sized(_I32, _signed_int),  # LONG4
    "F": _on_line(_float),  # FLOAT
    "G": _number(_F64),  # BINFLOAT
    "S": _on_line(_unquoted),  # STRING
    "T": _python2_bytes,  # BINSTRING
    "U": _sized(_U8, _python2_text),  # SHORT_BINSTRING
    "V": _on_line(lambda line: line.decode("raw-unicode-escape")),  # UNICODE
    "X": _sized_text(_U32),  # BINUNICODE
    "\x8c": _sized_text(_U8),  # SHORT_BINUNICODE
    "\x8d": _sized_text(_U64),  # BINUNICODE8
    "B": _bytes_left(_U32),  # BINBYTES
    "C": _sized(_U8, bytes),  # SHORT_BINBYTES
    "\x8e": _bytes_left(_U64),  # BINBYTES8
    "\x96": _bytes_left(_U64),  # BYTEARRAY8
    "(": _mark,  # MARK
    "0": _pop,  # POP
    "1": _pop_mark,  # POP_MARK
    "2": _dup,  # DUP
    "p": _put,  # PUT
    "q": _binput,  # BINPUT
    "r": _long_binput,  # LONG_BINPUT
    "\x94": _memoize,  # MEMOIZE
    "g": _get,  # GET
    "h": _binget,  # BINGET
    "j": _long_binget,  # LONG_BINGET
    ")": _constant(()),  # EMPTY_TUPLE
    "]": _empty(list, CONTAINER_NBYTES),  # EMPTY_LIST
    "}": _empty(dict, CONTAINER_NBYTES),  # EMPTY_DICT
    "\x8f": _empty(set, _SET_NBYTES),  # EMPTY_SET
    "t": _tuple,  # TUPLE
    "\x85": _tuple_1,  # TUPLE1
    "\x86": _tuple_2,  # TUPLE2
    "\x87": _tuple_3,  # TUPLE3
    "l": _list,  # LIST
    "d": _dict,  # DICT
    "\x91": _frozenset,  # FROZENSET
    "a": _append,  # APPEND
    "e": _appends,  # APPENDS
    "s": _set_item,  # SETITEM
    "u": _set_items,  # SETITEMS
    "\x90": _add_items,  # ADDITEMS
    "c": _global,  # GLOBAL
    "\x93": _stack_global,  # STACK_GLOBAL
    "R": _reduce,  # REDUCE
    "\x81": _reduce,  # NEWOBJ
    "\x92": _newobj_ex,  # NEWOBJ_EX
    "i": _inst,  # INST
    "o": _obj,  # OBJ
    "b": _build,  # BUILD
    "P": _persistent_text,  # PERSID
    "Q": _persistent_id,  # BINPERSID
}

#: Opcode → handler, for each byte.
HANDLERS: tuple[Handler, ...] = tuple(_HANDLER_BY_CHARACTER.get(chr(opcode), _refuse) for opcode in range(256))
