"""The NumPy adapter keeps the contract, shares memory both ways, and gets strides and byte orders right."""

import ml_dtypes
import numpy as np
import pytest

from multiframe_ckpt.backend import backend_named
from multiframe_ckpt.dtypes import DTYPES
from multiframe_ckpt.errors import DtypeRefusedError, MismatchError, ValueRefusedError
from multiframe_ckpt.testing.backends import BackendContract, LikeBackendContract
from multiframe_ckpt.tree import LazyTensor

NUMPY = backend_named("numpy")


class TestNumpy(BackendContract, LikeBackendContract):
    backend = NUMPY
    dtypes = tuple(row.name for row in DTYPES)

    def tensor(self, array):
        return array.copy()

    def array(self, tensor):
        return tensor


def test_memory_is_shared_both_ways():
    array = np.arange(6.0)
    back = NUMPY.from_tree(NUMPY.to_tree({"a": array}))["a"]
    assert np.shares_memory(back, array)


def test_equal_sized_views_of_one_buffer_are_not_tied():
    square = np.arange(4.0).reshape(2, 2)
    tree = NUMPY.to_tree({"a": square, "transposed": square.T, "again": square[:], "row": square[0]})
    assert tree["a"].identity == tree["again"].identity
    assert len({tree[name].identity for name in ("a", "transposed", "row")}) == 3
    assert tree["transposed"].numpy().tolist() == [[0, 2], [1, 3]]


def test_loading_fills_views_and_foreign_byte_orders_in_place():
    wide = np.zeros((4, 4), np.float32)
    target = {"view": wide[::2, ::2], "big": np.zeros(2, ">f4")}
    NUMPY.load_into(
        target,
        {"view": LazyTensor.from_array(np.ones((2, 2), np.float32)), "big": LazyTensor.from_array(np.float32([1, 2]))},
    )
    assert wide.sum() == 4
    assert target["big"].tolist() == [1, 2]


def test_a_read_only_array_is_not_loaded_into():
    target = np.zeros(3)
    target.flags.writeable = False
    with pytest.raises(MismatchError, match="a writable array"):
        NUMPY.load_into({"a": target}, {"a": LazyTensor.from_array(np.ones(3))})


def test_one_name_of_a_tied_pair_fills_both():
    array = np.zeros(3)
    report = NUMPY.load_into({"in": array, "out": array}, {"out": LazyTensor.from_array(np.ones(3))})
    assert (report.complete, sorted(report.loaded)) == (True, ["in", "out"])
    assert array.tolist() == [1, 1, 1]


def test_plain_leaves_of_a_tuple_cannot_be_set_and_say_so():
    with pytest.raises(MismatchError, match=r"pair/1: found int, expected"):
        NUMPY.load_into({"pair": (np.zeros(1), 1)}, NUMPY.to_tree({"pair": (np.zeros(1), 2)}))


def test_scalars_of_every_kind_become_plain():
    tree = NUMPY.to_tree([ml_dtypes.bfloat16(1.5), np.bool_(True), np.str_("x"), np.bytes_(b"y"), np.complex64(1j)])
    assert tree == [1.5, True, "x", b"y", 1j]
    assert [type(leaf) for leaf in tree] == [float, bool, str, bytes, complex]


@pytest.mark.parametrize(
    ("array", "error"),
    [
        (np.array(["text"]), DtypeRefusedError),
        (np.array([{}], dtype=object), DtypeRefusedError),
        (np.array(["2024-02-29"], "datetime64[D]"), DtypeRefusedError),
        (np.ma.masked_array([1.0], [True]), ValueRefusedError),
    ],
)
def test_arrays_of_other_things_than_numbers_are_refused_by_key(array, error):
    with pytest.raises(error, match=r"^data/0: found"):
        NUMPY.to_tree({"data": [array]})


def test_a_device_other_than_the_cpu_is_refused():
    with pytest.raises(ValueRefusedError, match="device 'cuda'"):
        NUMPY.from_tree({"a": LazyTensor.from_array(np.ones(2))}, device="cuda")


def test_a_cycle_is_refused():
    cycle: list[object] = []
    cycle.append(cycle)
    with pytest.raises(ValueRefusedError, match="nest deeper"):
        NUMPY.to_tree(cycle)
