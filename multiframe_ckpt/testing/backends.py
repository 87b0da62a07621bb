"""BackendContract: the suite that says whether an adapter keeps the contract of ``backend.Backend``.

Subclass it in a test module, give it a backend and the two ways between an array and a tensor, and pytest runs it:

    class TestMine(BackendContract):
        backend = MyBackend()
        dtypes = ("float32", "int64")

        def tensor(self, array): return mine.from_numpy(array.copy())
        def array(self, tensor): return tensor.numpy()

:class:`ModuleContract` is for frameworks that have modules.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest

from ..backend import Backend
from ..dtypes import dtype_named
from ..errors import MismatchError, ValueRefusedError
from ..tree import LazyTensor

__all__ = ["BackendContract", "ModuleContract", "same_bits", "samples"]

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


class BackendContract:
    """Every promise of the contract, as tests."""

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
                tree = self.backend.to_tree(self.tensor(array))
                assert (tree.dtype.name, tree.shape) == (dtype, shape)
                assert same_bits(tree.numpy(), array), dtype
                live = self.backend.from_tree(LazyTensor.of_array(array))
                assert self.backend.owns(live)
                assert same_bits(self.array(live), array), dtype

    def test_a_read_only_array_is_loaded_without_a_warning(self) -> None:
        """Arrays mapped from a file are read-only."""
        array = samples("float32")
        array.flags.writeable = False
        copied = {"w": self.tensor(np.zeros_like(array))}
        self.backend.load_into(copied, {"w": LazyTensor.of_array(array)})
        assert same_bits(self.array(copied["w"]), array)

    def test_fortran_order_and_foreign_byte_order_come_out_right(self) -> None:
        """Strides and byte order are the array's business, not the tensor's."""
        array = samples("float32")
        for odd in (np.asfortranarray(array), array.astype(">f4"), array[::-1, ::-1][::-1, ::-1]):
            assert same_bits(self.array(self.backend.from_tree(LazyTensor.of_array(odd))), array)

    def test_a_nested_mix_keeps_its_containers_keys_and_plain_values(self) -> None:
        """Integer keys stay integers, tuples tuples, empty dicts empty dicts."""
        mix = {"model": {"w": self.tensor(samples("float32"))}, 3: [1, 2.5, None, ("a", b"b", True)], "empty": {}}
        tree = self.backend.to_tree(mix)
        assert isinstance(tree["model"]["w"], LazyTensor)
        back = self.backend.from_tree(tree)
        assert same_bits(self.array(back["model"].pop("w")), samples("float32"))
        assert back == {"model": {}, 3: [1, 2.5, None, ("a", b"b", True)], "empty": {}}

    def test_numpy_scalars_become_plain_numbers_and_arrays_tensors(self) -> None:
        """Every training script has some beside its tensors."""
        tree = self.backend.to_tree({"loss": np.float32(0.5), "step": np.int64(3), "state": np.arange(4)})
        assert (tree["loss"], type(tree["loss"]), tree["step"], type(tree["step"])) == (0.5, float, 3, int)
        assert same_bits(tree["state"].numpy(), np.arange(4))

    def test_an_unknown_object_is_refused_by_key(self) -> None:
        """With its type, so that it can be found."""
        with pytest.raises(ValueRefusedError, match=r"^config/model: found builtins\.object, expected"):
            self.backend.to_tree({"config": {"model": object()}})

    def test_one_tensor_under_two_names_stays_one(self) -> None:
        """In the tree, and in what is made of the tree."""
        tensor = self.tensor(samples("float32"))
        tree = self.backend.to_tree({"a": tensor, "b": tensor, "c": self.tensor(samples("float32"))})
        assert tree["a"].identity == tree["b"].identity != tree["c"].identity
        back = self.backend.from_tree(tree)
        self.backend.load_into({"a": back["a"]}, {"a": LazyTensor.of_array(samples("float32") + 1)})
        assert same_bits(self.array(back["b"]), samples("float32") + 1)
        assert same_bits(self.array(back["c"]), samples("float32"))

    def test_loading_copies_in_place_and_sets_plain_values(self) -> None:
        """The target's own tensors are filled, never replaced."""
        tensor = self.tensor(np.zeros((3, 4), np.float32))
        target = {"w": tensor, "epoch": 0, "history": [1], "best": None}
        tree = {"w": LazyTensor.of_array(samples("float32")), "epoch": 7, "history": [1, 2, 3], "best": 0.5}
        report = self.backend.load_into(target, tree)
        assert same_bits(self.array(tensor), samples("float32"))
        assert target["w"] is tensor
        assert (target["epoch"], target["history"], target["best"]) == (7, [1, 2, 3], 0.5)
        assert (report.complete, set(report.loaded)) == (True, {"w", "epoch", "history", "best"})

    def test_a_strict_load_that_differs_touches_nothing_and_carries_its_report(self) -> None:
        """All or nothing."""
        target = {name: self.tensor(np.zeros((3, 4), np.float32)) for name in ("fits", "shape", "dtype", "lost")}
        with pytest.raises(MismatchError) as caught:
            self.backend.load_into(target, self._differing())
        self._check_report(caught.value.report)
        assert all(same_bits(self.array(tensor), np.zeros((3, 4), np.float32)) for tensor in target.values())

    def test_a_lenient_load_takes_what_fits_and_reports_the_rest(self) -> None:
        """With the same report."""
        target = {name: self.tensor(np.zeros((3, 4), np.float32)) for name in ("fits", "shape", "dtype", "lost")}
        self._check_report(self.backend.load_into(target, self._differing(), strict=False))
        assert same_bits(self.array(target["fits"]), samples("float32"))
        for name in ("shape", "dtype", "lost"):
            assert same_bits(self.array(target[name]), np.zeros((3, 4), np.float32))

    def _differing(self) -> dict[str, LazyTensor]:
        arrays = {
            "fits": samples("float32"),
            "shape": samples("float32", (2, 2)),
            "dtype": samples("int64"),
            "extra": samples("float32"),
        }
        return {name: LazyTensor.of_array(array) for name, array in arrays.items()}

    def _check_report(self, report: Any) -> None:
        assert (report.loaded, report.missing, report.unexpected) == (("fits",), ("lost",), ("extra",))
        assert [(one.key, one.found, one.expected) for one in report.mismatched] == [
            ("shape", "float32 (2, 2)", "float32 (3, 4)"),
            ("dtype", "int64 (3, 4)", "float32 (3, 4)"),
        ]
        assert "cast the checkpoint first: dtype='float32'" in report.suggestions


class ModuleContract(BackendContract):
    """The same, and the promises about modules."""

    def module(self) -> Any:
        """Return a fresh module of at least two parameters with values of its own."""
        raise NotImplementedError

    def test_a_module_gives_its_state_dict_and_takes_it_back(self) -> None:
        """In the order and with the names of its state dict."""
        source, target = self.module(), self.module()
        tree = self.backend.to_tree(source)
        assert list(tree) == list(source.state_dict())
        report = self.backend.load_into(target, tree)
        assert report.complete
        assert set(report.loaded) == set(tree)
        for key, tensor in target.state_dict().items():
            assert same_bits(self.array(tensor), tree[key].numpy())

    def test_a_wrapped_modules_prefix_is_recognised(self) -> None:
        """The error says which rename rule removes it."""
        tree = {f"module.{key}": leaf for key, leaf in self.backend.to_tree(self.module()).items()}
        with pytest.raises(MismatchError, match=r"rename=\['module\.\*=\*'\]"):
            self.backend.load_into(self.module(), tree)

    def test_a_module_whose_load_fails_is_untouched(self) -> None:
        """A framework's own loading copies what fits before it raises."""
        module = self.module()
        before = {key: leaf.numpy().copy() for key, leaf in self.backend.to_tree(module).items()}
        tree = {key: LazyTensor.of_array(array + 1) for key, array in before.items()}
        tree.popitem()
        with pytest.raises(MismatchError, match="1 missing"):
            self.backend.load_into(module, tree)
        for key, leaf in self.backend.to_tree(module).items():
            assert same_bits(leaf.numpy(), before[key])
