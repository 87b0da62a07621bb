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
from multiframe_ckpt.pickle.opcodes import CONTAINER, HANDLERS, TUPLE
from multiframe_ckpt.pickle.raw import Call
from multiframe_ckpt.pickle.state import State
from multiframe_ckpt.pickle.writer import int_opcodes, name_opcodes, str_opcodes, tuple_opcodes

SIZES = [(), (3,), (300, 2), (2, 70_000, 1), (2, 3, 4, 5), (1, 1, 1, 1, 1, 1, 1, 1)]
TENSORS = 60


class Pickler:
    """Writes what torch.save writes (protocol 2), with everything put into the memo, or nothing but what is asked for."""

    def __init__(self, *, thorough: bool) -> None:
        self.thorough, self.parts, self.count = thorough, [b"\x80\x02}("], 0

    def put(self, *, needed: bool = False) -> None:
        """Puts the top of the stack into the memo."""
        if self.thorough or needed:
            self.parts.append(b"q%c" % self.count if self.count < 256 else b"r" + pack("<I", self.count))
            self.count += 1

    def add(self, *parts: bytes) -> None:
        self.parts.extend(parts)

    def sizes(self, sizes: tuple[int, ...]) -> None:
        self.add(tuple_opcodes([*map(int_opcodes, sizes)]))
        self.put()

    def tensor(self, at: int, names: dict[str, bytes]) -> None:
        shape = SIZES[at % len(SIZES)]
        self.add(str_opcodes(f"layer.{at}"))
        self.put()
        self.add(names["rebuild"], b"((", names["storage"], names["type"], str_opcodes(str(at)))
        self.put()
        self.add(names["cpu"], int_opcodes(10**6), b"t")
        self.put()
        self.add(b"Q", int_opcodes(at))
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
    """Gives a pickle whose result holds the tensors, and then all that its memo holds."""
    pickler, recalled = Pickler(thorough=thorough), {}
    for name, spelled in NAMES.items():
        pickler.add(str_opcodes(name), spelled)
        recalled[name] = b"h%c" % pickler.count
        pickler.put(needed=True)
    for at in range(TENSORS):
        pickler.tensor(at, recalled)
    pickler.add(str_opcodes("memo"), b"(", *(b"j" + pack("<I", index) for index in range(pickler.count)), b"tu.")
    return b"".join(pickler.parts)


def run(raw: bytes, steps: Any) -> Any:
    """Gives what a pickle holds, spelled, or its refusal, how many steps it took, and the room that it left."""
    counted: list[int] = []

    def counting(step: Any) -> Any:
        def counted_step(state: State, at: int) -> int:
            counted.append(at)
            return step(state, at)

        return counted_step

    storages: dict[Any, TorchStorage] = {}

    def persistent(identifier: Any) -> TorchStorage:
        _, kind, key, _, count = identifier
        return storages.setdefault(key, TorchStorage(kind, key, count))

    machine = PickleMachine(raw, where="x", builders=TORCH_BUILDERS, persistent=persistent)
    try:
        return spelled(machine.run([counting(step) for step in steps])), len(counted), machine.room
    except FormatError:
        return "refused", len(counted), machine.room


def spelled(value: Any) -> Any:
    if isinstance(value, TorchTensor):
        return [spelled(getattr(value, name)) for name in TorchTensor.__slots__]
    if isinstance(value, Call):
        return [str(value.type), *map(spelled, (value.args, value.state, value.items, value.entries))]
    if isinstance(value, TorchStorage):
        return [value.key, value.dtype.name, value.nbytes]
    if isinstance(value, dict):
        return [[spelled(key), spelled(part)] for key, part in value.items()]
    if isinstance(value, list | tuple):
        return [type(value).__name__, *map(spelled, value)]
    return repr(value)


@pytest.mark.parametrize("thorough", [True, False])
def test_tensors_are_taken_in_a_fraction_of_the_steps(thorough: bool) -> None:
    one_by_one, steps, room = run(pickled(thorough=thorough), HANDLERS)
    together, fewer, less_room = run(pickled(thorough=thorough), TORCH_HANDLERS)
    assert together == one_by_one != "refused"
    assert steps - fewer >= 20 * (TENSORS // 2)  # the first of a thorough pickle lie too near in the memo
    # What only a memo keeps is not counted where there is none: two tuples of 5 and 6, and the dict of hooks.
    assert less_room - room == (0 if thorough else TENSORS * (2 * TUPLE + 8 * 11 + CONTAINER))


@pytest.mark.parametrize("thorough", [True, False])
def test_a_changed_pickle_comes_to_the_same_both_ways(thorough: bool) -> None:
    whole, chance, read = pickled(thorough=thorough), random.Random(0), 0
    for _ in range(3_000):
        raw = bytearray(whole)
        for _ in range(chance.choice((1, 1, 2, 5))):
            at = chance.randrange(len(raw))
            some = raw[(other := chance.randrange(len(raw))) : other + chance.randrange(1, 5)]
            raw[at : at + chance.choice((0, 1, len(some)))] = chance.choice((some, bytes([chance.randrange(256)])))
        one_by_one, together = run(bytes(raw), HANDLERS)[0], run(bytes(raw), TORCH_HANDLERS)[0]
        assert together == one_by_one, raw
        read += together != "refused"
    assert read > 100
