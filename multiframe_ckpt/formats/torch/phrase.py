"""TORCH_HANDLERS: the handlers of all opcodes, and one for the opcodes by which torch pickles a tensor, taken together.

They are nearly all of a checkpoint's pickle, 24 for each tensor and always in this order (protocol 2):

    (( "storage" type key device count t Q   offset shape stride False   hooks ) R   t R

What such a phrase makes and remembers is what its opcodes would one by one, and it counts what of that is kept; opcodes in
any other order go that way.
Source: torch 2.13 ``torch/_tensor.py`` (``_reduce_ex_internal``) and ``torch/serialization.py`` (``persistent_id``).
"""

from __future__ import annotations

import re
from functools import lru_cache
from struct import Struct

from ...pickle.opcodes import CONTAINER_NBYTES, HANDLERS, NUMBER_NBYTES, TEXT_NBYTES, TUPLE_NBYTES, Handler
from ...pickle.raw import Global
from ...pickle.state import State
from .tensors import TorchTensor, has_elements

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
_PUT_GROUPS = (5, 8, 11, 13, 15, 16, 17)  # of _FULL, those that say where in the memo; the others are those of _BARE
_BARE_VALUES = range(1, 11)
_FULL_VALUES = tuple(group for group in range(1, 18) if group not in _PUT_GROUPS)
_MEMO_INDEXES = Struct("<7I")
_BININT1_NBYTES = 2  # of the opcode with its operand
_BINGET_MEMO = 256  # entries of the memo, which BINGET asks for; another opcode does for what is remembered later
_NUMBERS = re.compile(_INT, re.DOTALL)
#: The memory of what a phrase makes and keeps, and of what only a memo keeps: the reference, the arguments, the hooks.
_KEPT_NBYTES = TEXT_NBYTES + TorchTensor.footprint
_MEMO_NBYTES = 2 * TUPLE_NBYTES + 8 * 11 + CONTAINER_NBYTES


def _mark_or_tensor(state: State, offset: int) -> int:
    """Begin a tuple, as MARK does, and go on to the end of the phrase where one begins at ``offset``."""
    stack, memo = state.stack, state.memo
    phrase = _phrase(state, offset) if state.data[offset] == _MARK and stack and not state.sparse_memo else None
    if phrase is None or not _is_global(stack[-1], "torch._utils", "_rebuild_tensor_v2"):
        return HANDLERS[_MARK](state, offset)
    remembers = phrase.re is _FULL
    (word_index, type_index, key_length, key_text, device_index, count, first, shape, stride, hooks_index) = (
        phrase.group(*(_FULL_VALUES if remembers else _BARE_VALUES))
    )
    if key_length[0] != len(key_text) or not _is_global(memo[hooks_index[0]], "collections", "OrderedDict"):
        return HANDLERS[_MARK](state, offset)
    key, first_element = key_text.decode(), _int_of(first)
    (sizes, sizes_nbytes), (strides, strides_nbytes) = _ints_of(shape), _ints_of(stride)
    reference = (memo[word_index[0]], memo[type_index[0]], key, memo[device_index[0]], _int_of(count))
    if not has_elements(reference[1]):  # no tensor is built over it
        return HANDLERS[_MARK](state, offset)
    storage = state.outside_object(reference)
    tensor = TorchTensor(storage, first_element, sizes, strides, storage.dtype)
    state.budget -= _KEPT_NBYTES + len(key_text) + _nbytes(count) + _nbytes(first) + sizes_nbytes + strides_nbytes
    if remembers:
        state.budget -= _MEMO_NBYTES
        hooks: dict[str, object] = {}
        arguments = (storage, first_element, sizes, strides, False, hooks)
        memo.extend((key, reference, sizes, strides, hooks, arguments, tensor))
    stack[-1] = tensor
    return phrase.end()


def _phrase(state: State, offset: int) -> re.Match[bytes] | None:
    """Return the phrase that begins at ``offset``, unless it puts things elsewhere than one by one at the memo's end."""
    bare = _BARE.match(state.data, offset)
    if bare is not None:
        return bare
    full, first_index = _FULL.match(state.data, offset), len(state.memo)
    if full is None or first_index < _BINGET_MEMO:
        return None
    indexes = _MEMO_INDEXES.unpack(b"".join(full.group(*_PUT_GROUPS)))
    return full if indexes == tuple(range(first_index, first_index + len(indexes))) else None


def _is_global(value: object, module: str, name: str) -> bool:
    return type(value) is Global and value.name == name and value.module == module


@lru_cache(maxsize=4096)  # most tensors have the sizes of others
def _ints_of(opcodes: bytes) -> tuple[tuple[int, ...], int]:
    """Return the tuple that the opcodes make, and the memory that it is counted with."""
    numbers = _NUMBERS.findall(opcodes)
    nbytes = TUPLE_NBYTES + 8 * len(numbers) + sum(map(_nbytes, numbers)) if numbers else 0
    return tuple(map(_int_of, numbers)), nbytes


def _int_of(opcode: bytes) -> int:
    """Return the number that BININT, BININT1 or BININT2 pushes."""
    return int.from_bytes(opcode[1:], "little", signed=opcode[0] == _SIGNED)


def _nbytes(opcode: bytes) -> int:
    """Return the memory that the number of an opcode takes."""
    return 0 if len(opcode) == _BININT1_NBYTES else NUMBER_NBYTES  # Python has one object for each small number


TORCH_HANDLERS: tuple[Handler, ...] = (*HANDLERS[:_MARK], _mark_or_tensor, *HANDLERS[_MARK + 1 :])
