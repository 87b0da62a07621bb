"""What tensors share is said by where they lie, whatever a file makes of their strides, and in bounded time."""

import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multiframe_ckpt.dtypes import UINT8, dtype_named
from multiframe_ckpt.tree import Computed, LazyTensor, Sharing, Strided

FLOAT32 = dtype_named("float32")
STORAGE = LazyTensor.from_array(np.zeros(1 << 16, np.uint8))


def view(offset, shape, strides, *, dtype=FLOAT32, storage=STORAGE):
    return LazyTensor(dtype, shape, Strided(storage, dtype, shape, offset, strides), alias="storage")


def overlaps(**tensors):
    return Sharing(tensors).overlaps


def test_parts_of_one_storage_that_lie_apart_share_nothing():
    assert overlaps(a=view(0, (4,), (1,)), b=view(4, (4,), (1,)), c=view(8, (2, 2), (2, 1))) == []


def test_columns_of_a_matrix_lie_apart_though_between_each_other():
    assert overlaps(**{str(column): view(column, (10,), (8,)) for column in range(8)}) == []


def test_views_that_share_one_element_lie_on_each_other_and_a_chain_of_them_is_one_group():
    found = overlaps(a=view(0, (4,), (1,)), far=view(20, (4,), (1,)), b=view(3, (4,), (1,)), c=view(6, (4,), (1,)))
    assert found == [["a", "b", "c"]]


def test_one_tensor_under_two_names_is_a_tie_and_no_overlap():
    sharing = Sharing({"a": view(0, (4,), (1,)), "b": view(0, (4,), (1,))})
    assert (sharing.ties, sharing.overlaps) == ([["a", "b"]], [])


def test_ties_that_lie_on_another_view_are_named_with_it():
    assert overlaps(a=view(0, (4,), (1,)), b=view(2, (4,), (1,)), c=view(0, (4,), (1,))) == [["a", "b", "c"]]


def test_empty_views_lie_on_nothing():
    assert overlaps(a=view(0, (4,), (1,)), b=view(1, (0, 3), (1, 1))) == []


def test_views_with_elements_of_other_sizes_are_compared_by_bytes():
    assert overlaps(a=view(1, (2,), (1,)), b=view(4, (4,), (1,), dtype=UINT8)) == [["a", "b"]]
    assert overlaps(a=view(1, (2,), (1,)), b=view(0, (4,), (1,), dtype=UINT8)) == []


def test_a_tensor_that_does_not_say_where_it_lies_may_lie_on_all():
    elsewhere = LazyTensor.from_array(np.zeros(4, np.float32), alias="storage")
    assert overlaps(a=view(0, (4,), (1,)), b=view(8, (4,), (1,)), c=elsewhere) == [["a", "b", "c"]]


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_overlaps_are_those_of_the_elements_positions(data):
    def draw_view():
        shape = tuple(data.draw(st.lists(st.integers(0, 3), max_size=3)))
        strides = tuple(data.draw(st.integers(0, 9)) for _ in shape)
        return view(data.draw(st.integers(0, 30)), shape, strides)

    tensors = {str(number): draw_view() for number in range(data.draw(st.integers(2, 5)))}
    elements = {}
    for key, tensor in tensors.items():
        source = tensor.source
        elements[key] = {
            source.offset + sum(index * step for index, step in zip(place, source.strides, strict=True))
            for place in np.ndindex(tensor.shape)
        }
    pairs = {
        (one, other)
        for one, other in combinations(tensors, 2)
        if elements[one] & elements[other] and tensors[one].identity != tensors[other].identity
    }
    groups = Sharing(tensors).overlaps
    together = {pair for group in groups for pair in combinations(group, 2)}
    assert pairs <= together
    assert all(any(key in pair for pair in pairs) or _is_tied(key, tensors, pairs) for group in groups for key in group)


def _is_tied(key, tensors, pairs):
    named = {name for pair in pairs for name in pair}
    return any(tensors[name].identity == tensors[key].identity for name in named)


HOSTILE = {
    "strides that make it hard to say whether two views meet": """
        numbers = lambda seed: [int(k) * 1000 + 1 for k in np.random.default_rng(seed).integers(1, 90, 24)]
        tensors = {str(seed): view(500 * seed, (2,) * 24, tuple(numbers(seed))) for seed in range(2)}
    """,
    "tens of thousands of views side by side": """
        tensors = {str(number): view(number, (1,), (1,)) for number in range(50_000)}
    """,
    "tens of thousands of views between each other": """
        tensors = {str(number): view(number, (2,), (50_000,)) for number in range(20_000)}
    """,
    "tens of thousands of views on each other": """
        tensors = {str(number): view(0, (number + 1,), (1,)) for number in range(20_000)}
    """,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_cannot_make_it_take_for_ever(name):
    code = f"""if True:
        import numpy as np
        from multiframe_ckpt.dtypes import UINT8
        from multiframe_ckpt.tree import Computed, LazyTensor, Sharing, Strided

        storage = LazyTensor(UINT8, (1 << 22,), Computed(UINT8, (1 << 22,), lambda: None))

        def view(offset, shape, strides):
            return LazyTensor(UINT8, shape, Strided(storage, UINT8, shape, offset, strides), alias="storage")
        {HOSTILE[name]}
        Sharing(tensors).overlaps
    """
    # NumPy does not answer to signals while it thinks: only the end of a process ends it.
    subprocess.run([sys.executable, "-c", code], timeout=120, check=True)


def test_a_storage_is_not_read_to_say_what_is_shared():
    def read():
        raise AssertionError("read")

    storage = LazyTensor(UINT8, (64,), Computed(UINT8, (64,), read))
    assert overlaps(a=view(0, (4,), (1,), storage=storage), b=view(2, (4,), (1,), storage=storage)) == [["a", "b"]]
