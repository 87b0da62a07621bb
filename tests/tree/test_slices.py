"""A part of a tensor is NumPy's slice of the whole, bit for bit, for every source, and reads only what it must."""

from dataclasses import dataclass
from itertools import pairwise
from math import prod

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multiframe_ckpt.dtypes import DTYPES, UINT8, dtype_named
from multiframe_ckpt.testing import MemoryFile
from multiframe_ckpt.testing.strategies import indices
from multiframe_ckpt.tree import (
    Computed,
    Joined,
    LazyTensor,
    Part,
    Strided,
    Turned,
    elementwise,
    joined,
)
from multiframe_ckpt.tree.boxes import blocks, c_strides
from multiframe_ckpt.tree.digests import bytes_of, digest_of

FLOAT32 = dtype_named("float32")
#: Bytes between two runs that a reader may read with them; see tree/sources.py.
GAP = 256
HEAD = b"head"
quick = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))


@dataclass
class Case:
    """A tensor, and the array that it must read as."""

    tensor: LazyTensor
    array: np.ndarray


def array_of(draw, dtype, shape):
    nbytes = prod(shape) * dtype.itemsize
    raw = np.frombuffer(draw(st.binary(min_size=nbytes, max_size=nbytes)), np.uint8)
    return (raw & 1 if dtype.kind == "bool" else raw).view(dtype.numpy).reshape(shape)


def in_file(array, dtype, *, digest=False):
    file = MemoryFile(HEAD + array.tobytes() + b"tail")
    promised = digest_of(np.asarray(array, order="C")) if digest else None
    return LazyTensor.in_file(file, dtype, array.shape, len(HEAD), what="w", digest=promised)


def storage_of(array, kind):
    """The bytes of an array as a storage: in memory, or in a file, with a digest or without."""
    raw = np.frombuffer(array.tobytes(), np.uint8)
    return LazyTensor.from_array(raw) if kind == "memory" else in_file(raw, UINT8, digest=kind == "file and digest")


def strided(draw, dtype, shape):
    """A view with steps, offsets and axes in another order into a storage that is larger."""
    kind = draw(st.sampled_from(["memory", "file", "file and digest"]))
    index = draw(indices(shape))
    base = array_of(draw, dtype, shape)
    array = base[(*index, ...)] if isinstance(index, tuple) and ... not in index else base[index]
    array = np.asarray(array).transpose(draw(st.permutations(range(np.ndim(array)))))
    offset = array.__array_interface__["data"][0] - base.__array_interface__["data"][0] if array.size else 0
    steps = tuple(step // dtype.itemsize for step in array.strides)
    view = Strided(storage_of(base, kind), dtype, array.shape, offset // dtype.itemsize, steps)
    return Case(LazyTensor(dtype, array.shape, view), array)


def of_parts(draw, dtype, shape):
    """A tensor cut along every axis, each piece now in memory, now in a file."""
    array = array_of(draw, dtype, shape)
    cuts = [sorted({0, size, *draw(st.lists(st.integers(0, size), max_size=2))}) for size in shape]
    spans = [list(pairwise(edges)) for edges in cuts]
    parts = []
    for corner in np.ndindex(tuple(map(len, spans))):
        box = [spans[axis][position] for axis, position in enumerate(corner)]
        piece = np.array(array[tuple(slice(*span) for span in box)], order="C")
        tensor = draw(
            st.sampled_from(
                [
                    LazyTensor.from_array(piece),
                    in_file(piece, dtype),
                    in_file(piece, dtype, digest=True),
                    elementwise(in_file(piece, dtype, digest=True), dtype, np.copy),
                ]
            )
        )
        parts.append(Part(tuple(start for start, _ in box), tensor))
    return Case(joined(dtype, shape, draw(st.permutations(parts)), where="w"), array)


def turned(draw, dtype, shape):
    array = array_of(draw, dtype, shape)
    axes = tuple(draw(st.permutations(range(len(shape)))))
    base = in_file(array, dtype, digest=draw(st.booleans()))
    return Case(
        LazyTensor(dtype, tuple(shape[axis] for axis in axes), Turned(base, axes)), np.asarray(array).transpose(axes)
    )


def changed(draw, dtype, shape):
    """Elements of another size, which are taken apart again."""
    array = array_of(draw, dtype, shape)
    wider = dtype_named("complex128")
    wide = np.zeros((*shape, 16), np.uint8)
    wide[..., : dtype.itemsize] = np.asarray(array)[..., None].view(np.uint8).reshape(*shape, dtype.itemsize)
    base = in_file(wide.reshape(-1).view(wider.numpy).reshape(shape), wider, digest=draw(st.booleans()))

    def narrow(elements):
        raw = np.asarray(elements, order="C").reshape(-1).view(np.uint8).reshape(-1, 16)[:, : dtype.itemsize]
        return np.ascontiguousarray(raw).reshape(-1).view(dtype.numpy).reshape(elements.shape)

    return Case(elementwise(base, dtype, narrow), array)


def live(draw, dtype, shape):
    array = array_of(draw, dtype, shape).transpose(draw(st.permutations(range(len(shape)))))
    return Case(LazyTensor.from_array(array), array)


def computed(draw, dtype, shape):
    array = array_of(draw, dtype, shape)
    return Case(LazyTensor(dtype, shape, Computed(dtype, shape, lambda: array)), array)


def plain(draw, dtype, shape):
    array = array_of(draw, dtype, shape)
    return Case(in_file(array, dtype, digest=draw(st.booleans())), array)


KINDS = [plain, live, computed, strided, changed, turned, of_parts]


@st.composite
def cases(draw, kinds=KINDS):
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
    return draw(st.sampled_from(kinds))(draw, draw(st.sampled_from(DTYPES)), shape)


def same(tensor, array):
    found = tensor.numpy()
    assert tensor.shape == found.shape == np.shape(array)
    assert found.tobytes() == np.asarray(array, order="C").tobytes()


def streamed(tensor, size):
    return b"".join(bytes(piece) for piece in tensor.pieces(memoryview(bytearray(size))))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_every_source_reads_slices_and_streams_every_dtype_as_numpy_does(kind, dtype):
    @settings(quick, max_examples=12)
    @given(data=st.data())
    def check(data):
        shape = tuple(data.draw(st.lists(st.integers(0, 5), max_size=3)))
        case = kind(data.draw, dtype, shape)
        same(case.tensor, case.array)
        index = data.draw(indices(case.array.shape))
        same(case.tensor[index], case.array[index])
        assert streamed(case.tensor[index], 64) == np.asarray(case.array[index], order="C").tobytes()

    check()


@settings(quick, max_examples=300)
@given(case=cases(), data=st.data())
def test_a_slice_of_a_slice_is_numpys(case, data):
    tensor, array = case.tensor, case.array
    for _ in range(3):
        index = data.draw(indices(np.shape(array)))
        tensor, array = tensor[index], array[index]
        same(tensor, array)


@settings(quick, max_examples=300)
@given(case=cases(), size=st.integers(1, 100), data=st.data())
def test_pieces_are_the_bytes_in_c_order_whatever_the_buffer_is(case, size, data):
    part = data.draw(st.none() | indices(case.array.shape))
    tensor, array = (case.tensor, case.array) if part is None else (case.tensor[part], case.array[part])
    assert streamed(tensor, size) == np.asarray(array, order="C").tobytes()


@settings(quick, max_examples=300)
@given(case=cases(), data=st.data())
def test_into_fills_an_array_of_any_strides(case, data):
    index = data.draw(indices(case.array.shape))
    part, expected = case.tensor[index], np.asarray(case.array[index])
    wide = np.zeros(tuple(2 * size for size in expected.shape), expected.dtype)
    gaps = wide[(*(slice(None, None, 2) for _ in expected.shape), ...)]
    backward = gaps[(*(slice(None, None, -1) for _ in expected.shape), ...)]
    for out in (np.zeros_like(expected, order="C"), np.zeros_like(expected, order="F"), gaps, backward):
        part.source.into(out)
        assert out.tobytes() == expected.tobytes()


@settings(quick)
@given(shape=st.lists(st.integers(0, 5), max_size=4).map(tuple), itemsize=st.integers(1, 16), limit=st.integers(1, 99))
def test_blocks_fill_a_shape_in_c_order(shape, itemsize, limit):
    numbers = np.arange(prod(shape)).reshape(shape)
    taken = [
        numbers[tuple(slice(entry.start, entry.stop) for entry in block)] for block in blocks(shape, itemsize, limit)
    ]
    assert [number for block in taken for number in block.ravel().tolist()] == list(range(prod(shape)))
    assert all(block.size == 1 or block.nbytes // 8 * itemsize <= limit for block in taken)


def test_a_part_of_a_live_array_is_read_late_an_element_too():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    row, element = LazyTensor.from_array(array)[1], LazyTensor.from_array(array)[1, 2]
    array[1] = 9
    assert row.numpy().tolist() == [9, 9, 9]
    assert element.numpy() == 9 and element.shape == ()


@pytest.mark.parametrize(
    ("index", "error"),
    [
        (np.array([0, 1]), TypeError),
        ([0, 1], TypeError),
        (None, TypeError),
        (True, TypeError),
        ("a", TypeError),
        (1.0, TypeError),
        ((0, np.array([True, False, True])), TypeError),
        (2, IndexError),
        (-3, IndexError),
        ((0, 0, 0), IndexError),
        ((..., 0, ...), IndexError),
        (slice(None, None, 0), ValueError),
    ],
    ids=repr,
)
def test_an_index_of_another_kind_is_refused_when_it_is_asked_for(index, error):
    with pytest.raises(error):
        LazyTensor.from_array(np.zeros((2, 3), np.float32))[index]


def test_numpys_ints_are_indices_as_ints_are():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    same(LazyTensor.from_array(array)[np.int64(1), np.uint8(2)], array[1, 2])


# What is read


def reads_of(tensor, index):
    """Return the bytes that reading a part reads of the tensor's file, and the bytes of the part."""
    file = tensor.source.file
    before = file.read_bytes
    part = tensor[index]
    part.numpy()
    return file.read_bytes - before, part.nbytes


@pytest.fixture(scope="module")
def matrix():
    return in_file(np.arange(200 * 300, dtype=np.float32).reshape(200, 300), FLOAT32, digest=True)


@settings(quick, max_examples=100)
@given(data=st.data())
def test_rows_that_follow_each_other_read_exactly_their_bytes(matrix, data):
    start = data.draw(st.integers(0, 200))
    read, nbytes = reads_of(matrix, slice(start, data.draw(st.integers(start, 200))))
    assert read == nbytes


@pytest.mark.parametrize(
    "index",
    [
        (slice(None), slice(0, 5)),  # runs of 20 bytes, 1180 apart
        (slice(10, 150, 7), slice(40, 90)),
        (slice(None, None, -1), slice(100, 200)),
        (slice(None, None, 2),),
        (slice(None), 7),
        (slice(5, 6), slice(5, 6)),
        (3, slice(10, 20)),
        (slice(50, 50),),
    ],
    ids=repr,
)
def test_boxes_whose_runs_are_far_apart_read_exactly_their_bytes(matrix, index):
    read, nbytes = reads_of(matrix, index)
    assert read == nbytes


@settings(quick, max_examples=200)
@given(data=st.data())
def test_any_box_reads_at_most_a_small_gap_with_each_of_its_runs(matrix, data):
    index = data.draw(indices(matrix.shape))
    read, nbytes = reads_of(matrix, index)
    runs = prod(matrix[index].shape)  # at the most: each element by itself
    assert nbytes <= read <= nbytes + GAP * runs


@settings(quick)
@given(columns=st.integers(1, 300))
def test_columns_read_the_gaps_between_rows_only_where_these_are_small(matrix, columns):
    read, nbytes = reads_of(matrix, (slice(None), slice(columns)))
    gap = (300 - columns) * 4
    assert read == (nbytes if gap > GAP else nbytes + gap * 199)


def test_slices_through_changed_turned_and_joined_tensors_read_no_more(matrix):
    file = matrix.source.file
    whole = LazyTensor(FLOAT32, (300, 200), Turned(elementwise(matrix, FLOAT32, np.negative), (1, 0)))
    parts = [Part((0, 0), whole[:100]), Part((100, 0), whole[100:])]
    tensor = joined(FLOAT32, (300, 200), parts, where="w")
    before = file.read_bytes
    part = tensor[:, 50:60]
    part.numpy()
    assert file.read_bytes - before == part.nbytes


def test_a_slice_is_not_compared_with_the_digest_of_the_whole():
    array = np.arange(1000, dtype=np.float32)
    tensor = in_file(array, FLOAT32).with_(digest=digest_of(array + 1))
    assert tensor[10:12].numpy().tolist() == [10, 11]


def test_views_of_a_storage_with_a_digest_compare_it_once():
    array = np.arange(1000, dtype=np.float32)
    storage = in_file(np.frombuffer(array.tobytes(), np.uint8), UINT8, digest=True)
    views = [LazyTensor(FLOAT32, (10,), Strided(storage, FLOAT32, (10,), 10 * number, (1,))) for number in range(5)]
    for number, view in enumerate(views):
        same(view, array[10 * number : 10 * number + 10])
    assert storage.source.file.read_bytes == storage.nbytes + 4 * views[0].nbytes
    assert views[0].extent is not None  # seen to be whole: its bytes may be copied from where they lie


def test_bytes_of_a_derived_tensor_of_no_elements_are_none():
    empty = np.zeros((0, 3), np.float32)
    for tensor in (in_file(empty, FLOAT32), elementwise(in_file(empty, FLOAT32), FLOAT32, np.negative)):
        assert streamed(tensor, 8) == b"" and tensor[:, 1].shape == (0,)
        assert bytes_of(tensor.numpy()).nbytes == 0
    assert isinstance(joined(FLOAT32, (0, 3), [], where="w").source, Joined)
    assert c_strides((0, 3)) == (3, 1)
