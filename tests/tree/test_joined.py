"""A tensor in parts: its boxes are checked, digests of parts are compared, and it streams in blocks of rows."""

import tracemalloc
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multiframe_ckpt.dtypes import dtype_named
from multiframe_ckpt.errors import DamagedError
from multiframe_ckpt.storage.transfer import materialized, read_once
from multiframe_ckpt.testing import MemoryFile
from multiframe_ckpt.tree import Joined, LazyTensor, Part, Turned, elementwise, joined
from multiframe_ckpt.tree.digests import PIECE, digest_of

FLOAT32, INT32 = dtype_named("float32"), dtype_named("int32")


def part(starts, shape, value=1.0):
    return Part(starts, LazyTensor.from_array(np.full(shape, value, np.float32)))


def in_file(array, *, digest=None, dtype=FLOAT32):
    return LazyTensor.in_file(MemoryFile(array.tobytes()), dtype, array.shape, 0, what="w", digest=digest)


def streamed(tensor, size=64):
    return b"".join(bytes(piece) for piece in tensor.pieces(memoryview(bytearray(size))))


@contextmanager
def peak_below(limit):
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


WRONG = {
    "a gap": ((4, 4), [part((0, 0), (2, 4)), part((3, 0), (1, 4))]),
    "an overlap": ((4, 4), [part((0, 0), (3, 4)), part((2, 0), (2, 4))]),
    "an overlap that fills no gap of the same size": ((4, 4), [part((0, 0), (2, 4)), part((1, 0), (2, 4))]),
    "a corner twice and a corner never": ((2, 2), [part((0, 0), (1, 2)), part((0, 1), (2, 1)), part((1, 1), (1, 1))]),
    "no parts": ((4, 4), []),
    "no parts for one element": ((), []),
    "outside, at the end": ((4, 4), [part((0, 0), (4, 4)), part((4, 0), (1, 4))]),
    "outside, before the start": ((4, 4), [part((-1, 0), (1, 4)), part((0, 0), (3, 4))]),
    "outside, though empty": ((4, 4), [part((0, 0), (4, 4)), part((5, 0), (0, 4))]),
    "too wide": ((4, 4), [part((0, 0), (4, 5))]),
    "other dimensions": ((4, 4), [part((0,), (16,))]),
    "fewer starts than dimensions": ((4, 4), [part((0,), (4, 4))]),
    "another dtype": ((4,), [Part((0,), LazyTensor.from_array(np.zeros(4, np.int32)))]),
    "a negative shape": ((-1, 0), []),
    "a shape that no array has": ((1 << 62, 1 << 62), []),
    "a shape of too many dimensions": ((1,) * 65, []),
    "the same box with another shape": ((2, 2), [part((0, 0), (2, 2)), part((0, 0), (2, 1))]),
}


@pytest.mark.parametrize("name", WRONG)
def test_parts_that_do_not_fill_the_shape_once_are_refused_when_it_is_opened(name):
    shape, parts = WRONG[name]
    with pytest.raises(DamagedError, match="index: w: found"):
        joined(FLOAT32, shape, parts, where="index: w")


def staircase(size):
    """Rows of which each is cut in two at another place, so that there are as many cells as elements."""
    row = np.broadcast_to(np.float32(0), (1, size))
    for number in range(size - 1):
        yield Part((number, 0), LazyTensor.from_array(row[:, : number + 1]))
        yield Part((number, number + 1), LazyTensor.from_array(row[:, number + 1 :]))
    yield Part((size - 1, 0), LazyTensor.from_array(row))


def test_very_many_cuts_are_looked_through_in_bounded_memory_or_refused():
    assert joined(FLOAT32, (300, 300), [*staircase(300)], where="w")[7, :9].numpy().tolist() == [0] * 9
    parts = [*staircase(8500)]
    with peak_below(1 << 27), pytest.raises(DamagedError, match="cells"):
        joined(FLOAT32, (8500, 8500), parts, where="w")


def test_replicated_parts_are_read_once_and_the_first_is():
    files = [MemoryFile(np.full(4, value, np.float32).tobytes()) for value in (1, 2)]
    parts = [Part((0,), LazyTensor.in_file(file, FLOAT32, (4,), 0, what="w")) for file in files]
    tensor = joined(FLOAT32, (4,), parts, where="w")
    assert tensor.numpy().tolist() == [1, 1, 1, 1]
    assert [file.read_bytes for file in files] == [16, 0]


def test_each_part_is_read_once_and_only_what_a_slice_crosses():
    files = [MemoryFile(np.full((2, 8), value, np.float32).tobytes()) for value in range(4)]
    parts = [
        Part((2 * row, 0), LazyTensor.in_file(file, FLOAT32, (2, 8), 0, what="w")) for row, file in enumerate(files)
    ]
    tensor = joined(FLOAT32, (8, 8), parts, where="w")
    tensor[3:5].numpy()
    assert [file.read_bytes for file in files] == [0, 32, 32, 0]
    streamed(tensor)
    assert [file.read_bytes for file in files] == [64, 96, 96, 64]


def test_a_flipped_byte_in_one_part_is_damage_at_the_end_of_streaming_and_when_read():
    arrays = [np.arange(32, dtype=np.float32).reshape(4, 8) + number for number in range(3)]
    raws = [bytearray(array.tobytes()) for array in arrays]
    raws[1][77] ^= 4
    parts = [
        Part(
            (0, 8 * number),
            LazyTensor.in_file(MemoryFile(bytes(raw)), FLOAT32, (4, 8), 0, what="w", digest=digest_of(array)),
        )
        for number, (raw, array) in enumerate(zip(raws, arrays, strict=True))
    ]
    tensor = joined(FLOAT32, (4, 24), parts, where="w")
    assert tensor.is_covered
    pieces = tensor.pieces(memoryview(bytearray(64)))
    given = 0
    with pytest.raises(DamagedError, match="digest"):
        for piece in pieces:
            given += len(piece)
    assert given == tensor.nbytes
    for read in (tensor.numpy, lambda: read_once("w", tensor), lambda: materialized({"w": tensor})):
        with pytest.raises(DamagedError, match="digest"):
            read()
    tensor[:, :8].numpy()  # which does not cross it


@pytest.mark.parametrize("size", [4, 12, 100, 4096])
@pytest.mark.parametrize("wrap", ["changed", "turned", "joined", "changed and turned"])
def test_a_flipped_byte_beneath_a_part_is_damage_too(wrap, size):
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    raw = bytearray(array.tobytes())
    raw[5] ^= 1
    base = LazyTensor.in_file(MemoryFile(bytes(raw)), FLOAT32, (3, 4), 0, what="w", digest=digest_of(array))
    changed = elementwise(base, FLOAT32, np.negative)
    inner = {
        "changed": changed,
        "turned": LazyTensor(FLOAT32, (4, 3), Turned(base, (1, 0))),
        "joined": joined(FLOAT32, (3, 4), [Part((0, 0), base)], where="w"),
        "changed and turned": LazyTensor(FLOAT32, (4, 3), Turned(changed, (1, 0))),
    }[wrap]
    tensor = joined(FLOAT32, inner.shape, [Part((0, 0), inner)], where="w")
    assert tensor.is_covered
    for read in (lambda: streamed(tensor, size), tensor.numpy, lambda: streamed(inner, size), inner.numpy):
        with pytest.raises(DamagedError, match="digest"):
            read()


def test_one_part_without_a_digest_leaves_the_whole_uncovered_and_the_others_compared():
    good, bad = np.zeros(4, np.float32), np.ones(4, np.float32)
    parts = [Part((0,), in_file(good)), Part((4,), in_file(bad, digest=digest_of(good)))]
    tensor = joined(FLOAT32, (8,), parts, where="w")
    assert not tensor.is_covered
    with pytest.raises(DamagedError):
        streamed(tensor)


SHAPES = {
    "one long row": (1, 3 << 20),
    "a long vector": (3 << 20,),
    "many rows": (3 << 10, 1 << 10),
    "many columns in two parts": (1 << 10, 3 << 10),
    "one element": (),
    "nothing": (0, 5),
    "nothing, though long": (1 << 40, 0),
}


@pytest.mark.parametrize("name", SHAPES)
def test_it_streams_in_blocks_whose_memory_stays_near_the_buffers(name):
    shape = SHAPES[name]
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    axis = len(shape) - 1
    cut = shape[axis] // 3 if shape else 0
    halves = [array] if not cut else np.split(array, [cut], axis=axis)
    starts = [(0,) * len(shape), (*(0,) * axis, cut)]
    parts = [
        Part(start, in_file(np.array(half, order="C"), digest=digest_of(np.array(half, order="C"))))
        for start, half in zip(starts, halves, strict=False)
    ]
    tensor = joined(FLOAT32, shape, parts, where="w")
    buffer = memoryview(bytearray(PIECE))
    expected, done = memoryview(array.reshape(-1).view(np.uint8)), 0
    with peak_below(4 * PIECE):
        for piece in tensor.pieces(buffer):
            assert piece == expected[done : done + len(piece)]
            done += len(piece)
    assert done == tensor.nbytes


def test_many_parts_of_a_part_stay_as_they_are_when_it_is_made_of_others():
    parts = [part((number,), (1,), number) for number in range(4)]
    tensor = joined(FLOAT32, (4,), parts, where="w")
    doubled = tensor.with_(
        source=tensor.source.over([elementwise(one, FLOAT32, lambda a: 2 * a) for one in tensor.source.bases])
    )
    assert isinstance(doubled.source, Joined)
    assert doubled.numpy().tolist() == [0, 2, 4, 6]
    assert tensor.ready() is tensor


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_a_random_change_of_one_box_is_noticed(data):
    edges = sorted({0, 6, *data.draw(st.sets(st.integers(1, 5), max_size=3))})
    boxes = [
        [first, second, other_first, other_second]
        for first, second in pairwise(edges)
        for other_first, other_second in pairwise(edges)
    ]

    def tensor_of(boxes):
        parts = [part((top, left), (bottom - top, right - left)) for top, bottom, left, right in boxes]
        return joined(FLOAT32, (6, 6), parts, where="w")

    tensor_of(boxes)
    box = data.draw(st.sampled_from(boxes))
    side = data.draw(st.integers(0, 3))
    box[side] += -1 if side % 2 else 1
    if box[0] < box[1] and box[2] < box[3]:
        with pytest.raises(DamagedError):
            tensor_of(boxes)
