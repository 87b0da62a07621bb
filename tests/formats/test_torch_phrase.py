"""TORCH_HANDLERS: a tensor's opcodes taken together come to what they come to one by one, whatever a file makes of them."""

from __future__ import annotations

import random
from struct import pack
from typing import Any

import pytest

from multiframe_ckpt.errors import FormatError
from multiframe_ckpt.formats.torch.phrase import TORCH_HANDLERS
from multiframe_ckpt.formats.torch.tensors import TORCH_BUILDERS, TorchStorage, TorchTensor
from multiframe_ckpt.pickle.machine import PickleMachine
from multiframe_ckpt.pickle.opcodes import CONTAINER_NBYTES, HANDLERS, TUPLE_NBYTES
from multiframe_ckpt.pickle.raw import Call
from multiframe_ckpt.pickle.state import State
from multiframe_ckpt.pickle.writer import int_opcodes, name_opcodes, str_opcodes, tuple_opcodes

SIZES = [(), (3,), (300, 2), (2, 70_000, 1), (2, 3, 4, 5), (1, 1, 1, 1, 1, 1, 1, 1)]
TENSORS = 60


class Pickler:
    """What torch.save writes (protocol 2), with everything put into the memo, or nothing but what is asked for."""

    def __init__(self, *, thorough: bool) -> None:
        self.thorough, self.parts, self.count = thorough, [b"\x80\x02}("], 0

    def put(self, *, needed: bool = False) -> None:
        """Put the top of the stack into the memo."""
        if self.thorough or needed:
            self.parts.append(b"q%c" % self.count if self.count < 256 else b"r" + pack("<I", self.count))
            self.count += 1

    def add(self, *parts: bytes) -> None:
        self.parts.extend(parts)

    def sizes(self, sizes: tuple[int, ...]) -> None:
        self.add(tuple_opcodes([*map(int_opcodes, sizes)]))
        self.put()

    def tensor(self, number: int, names: dict[str, bytes]) -> None:
        shape = SIZES[number % len(SIZES)]
        self.add(str_opcodes(f"layer.{number}"))
        self.put()
        self.add(names["rebuild"], b"((", names["storage"], names["type"], str_opcodes(str(number)))
        self.put()
        self.add(names["cpu"], int_opcodes(10**6), b"t")
        self.put()
        self.add(b"Q", int_opcodes(number))
        self.sizes(shape)
        self.sizes(tuple(range(len(shape))))
        self.add(b"\x89", names["hooks"], b")R")
        for opcode in (b"t", b"R", b""):
            self.put()
            self.add(opcode)


NAMES = {
    "rebuild": name_opcodes("torch._utils", "_rebuild_tensor_v2"),
    "storage": str_opcodes("storage"),
    "type": name_opcodes("torch", "FloatStorage"),
    "cpu": str_opcodes("cpu"),
    "hooks": name_opcodes("collections", "OrderedDict"),
}


def pickled(*, thorough: bool) -> bytes:
    """Return a pickle whose result holds the tensors, and then all that its memo holds."""
    pickler, recalled = Pickler(thorough=thorough), {}
    for name, opcodes in NAMES.items():
        pickler.add(str_opcodes(name), opcodes)
        recalled[name] = b"h%c" % pickler.count
        pickler.put(needed=True)
    for number in range(TENSORS):
        pickler.tensor(number, recalled)
    pickler.add(str_opcodes("memo"), b"(", *(b"j" + pack("<I", index) for index in range(pickler.count)), b"tu.")
    return b"".join(pickler.parts)


def run(raw: bytes, handlers: Any) -> Any:
    """Return what a pickle holds as text, or its refusal, how many handlers ran, and the budget that it left."""
    offsets: list[int] = []

    def counting(handler: Any) -> Any:
        def counted_handler(state: State, offset: int) -> int:
            offsets.append(offset)
            return handler(state, offset)

        return counted_handler

    storages: dict[Any, TorchStorage] = {}

    def persistent_load(identifier: Any) -> TorchStorage:
        _, kind, key, _, count = identifier
        return storages.setdefault(key, TorchStorage(kind, key, count))

    machine = PickleMachine(raw, where="x", builders=TORCH_BUILDERS, persistent_load=persistent_load)
    try:
        return as_text(machine.run([counting(handler) for handler in handlers])), len(offsets), machine.budget
    except FormatError:
        return "refused", len(offsets), machine.budget


def as_text(value: Any) -> Any:
    if isinstance(value, TorchTensor):
        return [as_text(getattr(value, name)) for name in TorchTensor.__slots__]
    if isinstance(value, Call):
        return [str(value.type), *map(as_text, (value.args, value.state, value.items, value.entries))]
    if isinstance(value, TorchStorage):
        return [value.key, str(value.kind), value.dtype and value.dtype.name, value.nbytes]
    if isinstance(value, dict):
        return [[as_text(key), as_text(part)] for key, part in value.items()]
    if isinstance(value, list | tuple):
        return [type(value).__name__, *map(as_text, value)]
    return repr(value)


@pytest.mark.parametrize("thorough", [True, False])
def test_tensors_are_taken_by_a_fraction_of_the_handlers(thorough: bool) -> None:
    one_by_one, many, budget = run(pickled(thorough=thorough), HANDLERS)
    together, few, larger_budget = run(pickled(thorough=thorough), TORCH_HANDLERS)
    assert together == one_by_one != "refused"
    assert many - few >= 20 * (TENSORS // 2)  # the first of a thorough pickle lie too near in the memo
    # What only a memo keeps is not counted where there is none: two tuples of 5 and 6, and the dict of hooks.
    assert larger_budget - budget == (0 if thorough else TENSORS * (2 * TUPLE_NBYTES + 8 * 11 + CONTAINER_NBYTES))


@pytest.mark.parametrize("thorough", [True, False])
def test_a_changed_pickle_comes_to_the_same_both_ways(thorough: bool) -> None:
    whole, chance, read = pickled(thorough=thorough), random.Random(0), 0
    for _ in range(3_000):
        raw = bytearray(whole)
        for _ in range(chance.choice((1, 1, 2, 5))):
            offset = chance.randrange(len(raw))
            some = raw[(other := chance.randrange(len(raw))) : other + chance.randrange(1, 5)]
            raw[offset : offset + chance.choice((0, 1, len(some)))] = chance.choice(
                (some, bytes([chance.randrange(256)]))
            )
        one_by_one, together = run(bytes(raw), HANDLERS)[0], run(bytes(raw), TORCH_HANDLERS)[0]
        assert together == one_by_one, raw
        read += together != "refused"
    assert read > 100
