"""TORCH_HANDLERS: the steps of all opcodes, and one for the opcodes by which torch pickles a tensor, taken together.

They are nearly all of a checkpoint's pickle, 24 for each tensor and always in this order (protocol 2):

    (( "storage" type key device count t Q   offset shape stride False   hooks ) R   t R

What such a phrase makes and remembers is what its opcodes would one by one, and it counts what of that is kept; any other
spelling goes that way.
Source: torch 2.13 ``torch/_tensor.py`` (``_reduce_ex_internal``) and ``torch/serialization.py`` (``persistent_id``).
"""

from __future__ import annotations

import re
from functools import lru_cache
from struct import Struct
from typing import Any

from ...pickle.opcodes import CONTAINER, HANDLERS, NUMBER, TEXT, TUPLE, Step
from ...pickle.raw import Global
from ...pickle.state import State
from .tensors import TorchTensor

__all__ = ["TORCH_HANDLERS"]

_MARK, _SIGNED = ord("("), ord("J")
_INT = rb"(?:K.|M..|J.{4})"
_SIZES = rb"(\)|%b\x85|%b{2}\x86|%b{3}\x87|\(%b{4,8}t)" % ((_INT,) * 4)
_PHRASE = rb"\(h(.)h(.)X(.)\0{3}([0-9]+)PUTh(.)(%b)tPUTQ(%b)%bPUT%bPUT\x89h(.)\)RPUTtPUTRPUT" % (
    _INT,
    _INT,
    _SIZES,
    _SIZES,
)
#: Without PUTs, as a pickler that remembers only what it asks for again, and with all of them, as Python's.
_BARE, _FULL = (re.compile(_PHRASE.replace(b"PUT", put), re.DOTALL) for put in (b"", rb"r(.{4})"))
_PUTS = (5, 8, 11, 13, 15, 16, 17)  # the groups of _FULL that say where; the others are those of _BARE
_VALUES = range(1, 11), tuple(group for group in range(1, 18) if group not in _PUTS)
_INDEXES = Struct("<7I")
_BYTE = 2  # the length of BININT1 with its operand
_FAR = 256  # what lies there in the memo is asked for by another opcode
_NUMBERS = re.compile(_INT, re.DOTALL)
#: The memory of what a phrase makes and keeps, and of what only a memo keeps: the reference, the arguments, the hooks.
_KEPT, _REMEMBERED = TEXT + TorchTensor.footprint, 2 * TUPLE + 8 * 11 + CONTAINER


def _tensor(state: State, at: int) -> int:
    """Begin a tuple, as MARK does, and go on to the end of the phrase where one begins here."""
    stack, memo = state.stack, state.memo
    phrase = _phrase(state, at) if state.data[at] == _MARK and stack and not state.far else None
    if phrase is None or not _is(stack[-1], "torch._utils", "_rebuild_tensor_v2"):
        return HANDLERS[_MARK](state, at)
    remembers = phrase.re is _FULL
    word, kind, length, key, device, count, offset, shape, stride, hooks = phrase.group(*_VALUES[remembers])
    if length[0] != len(key) or not _is(memo[hooks[0]], "collections", "OrderedDict"):
        return HANDLERS[_MARK](state, at)
    name, first = key.decode(), _number(offset)
    (sizes, sizes_nbytes), (steps, steps_nbytes) = _sizes(shape), _sizes(stride)
    reference = (memo[word[0]], memo[kind[0]], name, memo[device[0]], _number(count))
    storage = state.persist(reference)
    tensor = TorchTensor(storage, first, sizes, steps, storage.dtype)
    state.room -= _KEPT + len(key) + _nbytes(count) + _nbytes(offset) + sizes_nbytes + steps_nbytes
    if remembers:
        state.room -= _REMEMBERED
        made: dict[str, object] = {}
        memo.extend((name, reference, sizes, steps, made, (storage, first, sizes, steps, False, made), tensor))
    stack[-1] = tensor
    return phrase.end()


def _phrase(state: State, at: int) -> re.Match[bytes] | None:
    """Return the phrase that begins here, unless it puts things elsewhere than at the memo's end, one after another."""
    bare = _BARE.match(state.data, at)
    if bare is not None:
        return bare
    full, first = _FULL.match(state.data, at), len(state.memo)
    if full is None or first < _FAR:
        return None
    places = _INDEXES.unpack(b"".join(full.group(*_PUTS)))
    return full if places == tuple(range(first, first + len(places))) else None


def _is(value: Any, module: str, name: str) -> bool:
    return type(value) is Global and value.name == name and value.module == module


@lru_cache(maxsize=4096)  # most tensors have the sizes of others
def _sizes(opcodes: bytes) -> tuple[tuple[int, ...], int]:
    """Return the tuple that the opcodes make, and the memory that it is counted with."""
    found = _NUMBERS.findall(opcodes)
    nbytes = TUPLE + 8 * len(found) + sum(map(_nbytes, found)) if found else 0
    return tuple(map(_number, found)), nbytes


def _number(opcode: bytes) -> int:
    """Return the number that BININT, BININT1 or BININT2 pushes."""
    return int.from_bytes(opcode[1:], "little", signed=opcode[0] == _SIGNED)


def _nbytes(opcode: bytes) -> int:
    return 0 if len(opcode) == _BYTE else NUMBER  # Python has one object for each small number


TORCH_HANDLERS: tuple[Step, ...] = (*HANDLERS[:_MARK], _tensor, *HANDLERS[_MARK + 1 :])
