"""What every backend promises, whichever way it loads: how tensors and trees cross. ``backends`` has the suites on it."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest

from ..backend import Backend, LoadReport
from ..dtypes import dtype_named
from ..errors import CheckpointWarning, MismatchError, ValueRefusedError
from ..tree import LazyTensor, Tree, expect_entries, expect_tensor, node_at, tensors

__all__ = ["CrossingContract", "Moments", "Settings", "lazy", "same_bits", "samples"]

_SEED = 20240229


def samples(dtype: str, shape: tuple[int, ...] = (3, 4)) -> np.ndarray:
    """Return an array of small numbers that every dtype of the kind holds exactly; floats include -0.0 and infinity."""
    row = dtype_named(dtype)
    assert row is not None, f"{dtype}: expected a name of multiframe_ckpt.dtypes.DTYPES"
    array = np.random.default_rng(_SEED).integers(0, 2 if row.kind == "bool" else 16, shape).astype(row.numpy)
    if row.kind == "float" and array.size > 1:
        array.flat[0] = -0.0
        if np.isinf(np.array(np.inf).astype(row.numpy)):
            array.flat[1] = np.inf
    return array


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two arrays have one dtype, one shape and the same bits."""
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


def lazy(array: np.ndarray) -> LazyTensor:
    """Return a lazy tensor over an array."""
    return LazyTensor.from_array(array)


class Moments(NamedTuple):
    """A state of an optimizer as optax has them."""

    step: object
    mean: object


class Settings(tuple[object, ...]):
    """A tuple's subclass whose elements have no names."""


class CrossingContract:
    """What every backend promises, whichever way it loads; the attributes and methods first here are yours to give."""

    backend: ClassVar[Backend]
    #: Names of the dtypes the framework holds.
    dtypes: ClassVar[tuple[str, ...]] = ("float32", "int64")

    def tensor(self, array: np.ndarray) -> Any:
        """Return a live tensor that holds the array's values in memory of its own."""
        raise NotImplementedError

    def array(self, tensor: Any) -> np.ndarray:
        """Return a live tensor's values, bfloat16 and float8 as ml_dtypes' types."""
        raise NotImplementedError

    def test_it_owns_its_tensors_and_nothing_else(self) -> None:
        """Plain values, containers, strangers and classes are not the framework's."""
        assert self.backend.owns(self.tensor(samples("float32")))
        assert not any(self.backend.owns(value) for value in (None, 1, "text", {}, [], object(), type(self)))

    def test_every_dtype_crosses_both_ways_bit_for_bit(self) -> None:
        """In every rank, 0-d and empty included."""
        for dtype in self.dtypes:
            for shape in ((3, 4), (), (0, 2), (1,)):
                array = samples(dtype, shape)
                tensor = expect_tensor(self.backend.to_tree(self.tensor(array)), dtype)
                assert (tensor.dtype.name, tensor.shape) == (dtype, shape)
                assert same_bits(tensor.numpy(), array), dtype
                live = self.backend.from_tree(LazyTensor.from_array(array))
                assert self.backend.owns(live)
                assert same_bits(self.array(live), array), dtype

    def test_fortran_order_and_foreign_byte_order_come_out_right(self) -> None:
        """Strides and byte order are the array's business, not the tensor's."""
        array = samples("float32")
        for odd in (np.asfortranarray(array), array.astype(">f4"), array[::-1, ::-1][::-1, ::-1]):
            assert same_bits(self.array(self.backend.from_tree(LazyTensor.from_array(odd))), array)

    def test_a_nested_mix_keeps_its_containers_keys_and_plain_values(self) -> None:
        """Integer keys stay integers, tuples tuples, empty dicts empty dicts."""
        mix = {"model": {"w": self.tensor(samples("float32"))}, 3: [1, 2.5, None, ("a", b"b", True)], "empty": {}}
        tree = self.backend.to_tree(mix)
        assert isinstance(node_at(tree, ("model", "w")), LazyTensor)
        back = self.backend.from_tree(tree)
        assert same_bits(self.array(back["model"].pop("w")), samples("float32"))
        assert back == {"model": {}, 3: [1, 2.5, None, ("a", b"b", True)], "empty": {}}

    def test_numpy_scalars_become_plain_numbers_and_arrays_tensors(self) -> None:
        """Every training script has some beside its tensors."""
        live = {"loss": np.float32(0.5), "step": np.int64(3), "state": np.arange(4)}
        tree = expect_entries(self.backend.to_tree(live), "tree")
        assert (tree["loss"], type(tree["loss"]), tree["step"], type(tree["step"])) == (0.5, float, 3, int)
        assert same_bits(expect_tensor(tree["state"], "state").numpy(), np.arange(4))

    def test_an_unknown_object_is_refused_by_key(self) -> None:
        """With its type, so that it can be found."""
        with pytest.raises(ValueRefusedError, match=r"^config/model: found builtins\.object, expected"):
            self.backend.to_tree({"config": {"model": object()}})

    def test_one_tensor_under_two_names_stays_one(self) -> None:
        """In the tree, and in what is made of the tree."""
        tensor = self.tensor(samples("float32"))
        tree = self.backend.to_tree({"a": tensor, "b": tensor, "c": self.tensor(samples("float32"))})
        for table in (tensors(tree), tensors(self.backend.to_tree(self.backend.from_tree(tree)))):
            assert table["a"].identity == table["b"].identity != table["c"].identity

    def test_a_tuples_subclass_is_named_where_it_becomes_a_plain_one(self) -> None:
        """By its key and its type, since no file could say it later."""
        live = {"optimizer": [self.moments(1)], "plain": (1, (2,)), "settings": Settings((1, 2))}
        with pytest.warns(
            CheckpointWarning, match=r"optimizer/0 \(.*Moments\), settings \(.*Settings\): found 2"
        ) as caught:
            tree = self.backend.to_tree(live)
        assert len(caught) == 1
        assert (type(node_at(tree, ("optimizer", 0))), type(node_at(tree, ("settings",)))) == (tuple, tuple)

    def test_a_template_gives_a_tree_its_types_back(self) -> None:
        """NamedTuples and other tuple subclasses; elements and plain values are the tree's."""
        tree: Tree = {"optimizer": [(7, lazy(samples("float32")))], "settings": (1, 2.5), "epoch": True, "new": (None,)}
        like = {"optimizer": [self.moments(0.0)], "settings": Settings((3, 4)), "epoch": 0, "unused": {}}
        back = self.backend.from_tree(tree, like=like)
        assert list(back) == ["optimizer", "settings", "epoch", "new"]
        assert [type(back["optimizer"][0]), type(back["settings"]), type(back["new"])] == [Moments, Settings, tuple]
        assert same_bits(self.array(back["optimizer"][0].mean), samples("float32"))
        assert (back["optimizer"][0].step, back["settings"], back["epoch"]) == (7, (1, 2.5), True)
        assert (type(back["optimizer"][0].step), type(back["epoch"])) == (int, bool)

    def test_a_template_of_another_length_is_refused_by_key(self) -> None:
        """A NamedTuple has as many elements as its type has fields."""
        with pytest.raises(MismatchError, match=r"^optimizer/0: found 3 elements, expected the 2 of Moments"):
            self.backend.from_tree({"optimizer": [(1, 2, 3)]}, like={"optimizer": [self.moments(0)]})

    def moments(self, step: object) -> Moments:
        """Return a state of an optimizer whose tensor is all zeros."""
        return Moments(step, self.tensor(np.zeros((3, 4), np.float32)))

    def zeros(self) -> dict[str, Any]:
        """Return live tensors of zeros, to be loaded from what differs."""
        return {name: self.tensor(np.zeros((3, 4), np.float32)) for name in ("fits", "shape", "dtype", "lost")}

    def differing(self) -> dict[str, LazyTensor]:
        """Return tensors of which one fits the zeros, and each other differs in one way."""
        arrays = {
            "fits": samples("float32"),
            "shape": samples("float32", (2, 2)),
            "dtype": samples("int64"),
            "extra": samples("float32"),
        }
        return {name: lazy(array) for name, array in arrays.items()}

    def check_report(self, report: object) -> None:
        """Assert what a load of them into the zeros reports."""
        assert isinstance(report, LoadReport)
        assert (report.loaded, report.missing, report.unexpected) == (("fits",), ("lost",), ("extra",))
        assert [(one.key, one.found, one.expected) for one in report.mismatched] == [
            ("shape", "float32 (2, 2)", "float32 (3, 4)"),
            ("dtype", "int64 (3, 4)", "float32 (3, 4)"),
        ]
        assert "cast the checkpoint first: dtype='float32'" in report.suggestions
