"""The suites that say whether an adapter keeps the contract of ``backend.Backend``.

Subclass one in a test module, give it a backend and the two ways between an array and a tensor, and pytest runs it:

    class TestMine(BackendContract):
        backend = MyBackend()
        dtypes = ("float32", "int64")

        def tensor(self, array): return mine.from_numpy(array.copy())
        def array(self, tensor): return tensor.numpy()

:class:`BackendContract` is for frameworks whose tensors are filled in place, :class:`ModuleContract` for those that have
modules too, :class:`LikeBackendContract` for those whose tensors are values, as JAX's. One that loads both ways subclasses
both.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any

import numpy as np
import pytest

from ..errors import MismatchError, ValueRefusedError
from ..tree import LazyTensor, Tree, expect_entries, expect_tensor
from .crossing import CrossingContract, Moments, Settings, lazy, same_bits, samples

__all__ = ["BackendContract", "LikeBackendContract", "ModuleContract", "same_bits", "samples"]


class BackendContract(CrossingContract):
    """The promises of a backend whose objects are filled in place."""

    def test_a_read_only_array_is_loaded_without_a_warning(self) -> None:
        """Arrays mapped from a file are read-only."""
        array = samples("float32")
        array.flags.writeable = False
        copied = {"w": self.tensor(np.zeros_like(array))}
        self.backend.load_into(copied, {"w": LazyTensor.from_array(array)})
        assert same_bits(self.array(copied["w"]), array)

    def test_one_tensor_under_two_names_is_filled_under_both(self) -> None:
        """What is made of a tree is tied as the tree is."""
        tensor = self.tensor(samples("float32"))
        tree = self.backend.to_tree({"a": tensor, "b": tensor, "c": self.tensor(samples("float32"))})
        back = self.backend.from_tree(tree)
        self.backend.load_into({"a": back["a"]}, {"a": LazyTensor.from_array(samples("float32") + 1)})
        assert same_bits(self.array(back["b"]), samples("float32") + 1)
        assert same_bits(self.array(back["c"]), samples("float32"))

    def test_loading_copies_in_place_and_sets_plain_values(self) -> None:
        """The target's own tensors are filled, never replaced."""
        tensor = self.tensor(np.zeros((3, 4), np.float32))
        target = {"w": tensor, "epoch": 0, "history": [1], "best": None}
        tree: Tree = {"w": LazyTensor.from_array(samples("float32")), "epoch": 7, "history": [1, 2, 3], "best": 0.5}
        report = self.backend.load_into(target, tree)
        assert same_bits(self.array(tensor), samples("float32"))
        assert target["w"] is tensor
        assert (target["epoch"], target["history"], target["best"]) == (7, [1, 2, 3], 0.5)
        assert (report.complete, set(report.loaded)) == (True, {"w", "epoch", "history", "best"})

    def test_a_plain_value_keeps_the_type_of_the_tuple_it_replaces(self) -> None:
        """A NamedTuple of plain values is replaced by one."""
        target = {"w": self.tensor(np.zeros(2, np.float32)), "state": Moments(0, None)}
        self.backend.load_into(target, {"w": lazy(np.ones(2, np.float32)), "state": (3, 0.5)})
        assert (target["state"], type(target["state"])) == ((3, 0.5), Moments)

    def test_a_strict_load_that_differs_touches_nothing_and_carries_its_report(self) -> None:
        """All or nothing."""
        target = self.zeros()
        with pytest.raises(MismatchError) as caught:
            self.backend.load_into(target, self.differing())
        self.check_report(caught.value.report)
        assert all(same_bits(self.array(tensor), np.zeros((3, 4), np.float32)) for tensor in target.values())

    def test_a_lenient_load_takes_what_fits_and_reports_the_rest(self) -> None:
        """With the same report."""
        target = self.zeros()
        self.check_report(self.backend.load_into(target, self.differing(), strict=False))
        assert same_bits(self.array(target["fits"]), samples("float32"))
        for name in ("shape", "dtype", "lost"):
            assert same_bits(self.array(target[name]), np.zeros((3, 4), np.float32))


class ModuleContract(BackendContract):
    """The same, and the promises about modules."""

    def module(self) -> Any:
        """Return a fresh module of at least two parameters with values of its own."""
        raise NotImplementedError

    def _state_dict(self, module: object) -> Mapping[str, Tree]:
        """Return a module's tree."""
        return expect_entries(self.backend.to_tree(module), "module")

    def test_a_module_gives_its_state_dict_and_takes_it_back(self) -> None:
        """In the order and with the names of its state dict."""
        source, target = self.module(), self.module()
        tree = self._state_dict(source)
        assert list(tree) == list(source.state_dict())
        report = self.backend.load_into(target, tree)
        assert report.complete
        assert set(report.loaded) == set(tree)
        for key, tensor in target.state_dict().items():
            assert same_bits(self.array(tensor), expect_tensor(tree[key], key).numpy())

    def test_a_wrapped_modules_prefix_is_recognised(self) -> None:
        """The error says which rename rule removes it."""
        tree = {f"module.{key}": leaf for key, leaf in self._state_dict(self.module()).items()}
        with pytest.raises(MismatchError, match=r"rename=\['module\.\*=\*'\]"):
            self.backend.load_into(self.module(), tree)

    def test_a_module_whose_load_fails_is_untouched(self) -> None:
        """A framework's own loading copies what fits before it raises."""
        module = self.module()
        before = {key: expect_tensor(leaf, key).numpy().copy() for key, leaf in self._state_dict(module).items()}
        tree = {key: LazyTensor.from_array(array + 1) for key, array in before.items()}
        tree.popitem()
        with pytest.raises(MismatchError, match="1 missing"):
            self.backend.load_into(module, tree)
        for key, leaf in self._state_dict(module).items():
            assert same_bits(expect_tensor(leaf, key).numpy(), before[key])

    def test_a_module_is_no_value(self) -> None:
        """The error says by which way it is loaded."""
        module = self.module()
        with pytest.raises(ValueRefusedError, match=r"^model: found .* filled in place, .* use load_into\(\)"):
            self.backend.loaded_like({"model": module}, {"model": self.backend.to_tree(self.module())})


class _Stateful:
    """An object that keeps a state and can only be filled in place."""

    def __init__(self) -> None:
        self.state: dict[str, object] = {"step": 0}

    def state_dict(self) -> dict[str, object]:
        """Return the state."""
        return dict(self.state)

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Take a state."""
        self.state = dict(state)


class LikeBackendContract(CrossingContract):
    """The promises of a backend that makes new values like old ones."""

    def test_new_values_come_in_the_structure_of_the_old_ones(self) -> None:
        """With like's containers and their types, in its order; nothing of it is touched."""
        like: dict[str, Any] = {
            "optimizer": (self.moments(0), [None]),
            "epoch": 0.5,
            "settings": Settings((1,)),
            "none": Moments(0, None),
        }
        before = {**like, "optimizer": copy(like["optimizer"])}
        tree: Tree = {
            "none": (1, {"a": b"b"}),
            "settings": (2,),
            "epoch": True,
            "optimizer": [[7, lazy(samples("float32"))], ["last"]],
        }
        new, report = self.backend.loaded_like(like, tree)
        state, rest = new["optimizer"]
        assert (list(new), type(new["optimizer"]), type(state)) == (list(like), tuple, Moments)
        assert (type(new["settings"]), type(new["none"])) == (Settings, Moments)
        assert (state.step, rest, new["epoch"], new["settings"], new["none"]) == (
            7,
            ["last"],
            True,
            (2,),
            (1, {"a": b"b"}),
        )
        assert (type(state.step), type(new["epoch"])) == (int, bool)
        assert self.backend.owns(state.mean)
        assert same_bits(self.array(state.mean), samples("float32"))
        assert (report.ok, "optimizer/0/1" in report.loaded) == (True, True)
        assert like == before
        assert same_bits(self.array(like["optimizer"][0].mean), np.zeros((3, 4), np.float32))

    def test_new_values_share_no_memory_with_what_they_were_loaded_from(self) -> None:
        """Training on may change the one and not the other."""
        array = samples("float32")
        new, _ = self.backend.loaded_like({"w": self.tensor(np.zeros_like(array))}, {"w": lazy(array)})
        array += 1
        assert same_bits(self.array(new["w"]), samples("float32"))

    def test_new_values_are_made_of_a_read_only_array_without_a_warning(self) -> None:
        """Arrays mapped from a file are read-only."""
        array = samples("float32")
        array.flags.writeable = False
        new, _ = self.backend.loaded_like({"w": self.tensor(np.zeros_like(array))}, {"w": lazy(array)})
        assert same_bits(self.array(new["w"]), array)

    def test_numpy_arrays_among_the_values_stay_arrays(self) -> None:
        """As an array that a program keeps beside its framework's."""
        new, _ = self.backend.loaded_like({"seen": np.zeros(4, np.int64)}, {"seen": lazy(np.arange(4))})
        assert isinstance(new["seen"], np.ndarray)
        assert same_bits(new["seen"], np.arange(4))

    def test_strict_new_values_that_differ_are_refused_with_the_report(self) -> None:
        """All or nothing, with the report that a load in place would give."""
        like = self.zeros()
        with pytest.raises(MismatchError) as caught:
            self.backend.loaded_like(like, self.differing())
        self.check_report(caught.value.report)
        assert all(same_bits(self.array(tensor), np.zeros((3, 4), np.float32)) for tensor in like.values())

    def test_lenient_new_values_are_those_that_fit_and_the_rest_is_the_old(self) -> None:
        """With the same report."""
        like = self.zeros()
        new, report = self.backend.loaded_like(like, self.differing(), strict=False)
        self.check_report(report)
        assert same_bits(self.array(new["fits"]), samples("float32"))
        assert all(new[name] is like[name] for name in ("shape", "dtype", "lost"))
        assert same_bits(self.array(like["fits"]), np.zeros((3, 4), np.float32))

    def test_a_named_tuple_of_another_length_is_a_mismatch(self) -> None:
        """Of plain values, where no element is missed by its key."""
        like = {"state": Moments(0, None), "w": self.tensor(np.zeros(2, np.float32))}
        tree: Tree = {"state": (1, 2, 3), "w": lazy(np.ones(2, np.float32))}
        with pytest.raises(MismatchError, match="state: found 3 elements, expected the 2 of Moments"):
            self.backend.loaded_like(like, tree)
        new, report = self.backend.loaded_like(like, tree, strict=False)
        assert (new["state"], report.loaded) == (Moments(0, None), ("w",))

    def test_an_object_that_keeps_a_state_is_no_value(self) -> None:
        """The error says by which way it is loaded."""
        like = {"w": self.tensor(np.zeros(2, np.float32)), "loop": _Stateful()}
        tree: Tree = {"w": lazy(np.ones(2, np.float32)), "loop": {"step": 3}}
        with pytest.raises(
            ValueRefusedError, match=r"^loop: found .*_Stateful, .* filled in place, .* use load_into\(\)"
        ):
            self.backend.loaded_like(like, tree)
        assert like["loop"].state == {"step": 0}

    def test_a_value_is_filled_or_refused_before_anything_is_touched(self) -> None:
        """Where tensors cannot be filled, the error names one and the other way."""
        target = {"loop": _Stateful(), "epoch": 0, "w": self.tensor(np.zeros(2, np.float32))}
        tree: Tree = {"loop": {"step": 3}, "epoch": 7, "w": lazy(np.ones(2, np.float32))}
        try:
            report = self.backend.load_into(target, tree)
        except ValueRefusedError as refusal:
            assert str(refusal).startswith("w: found ")
            assert "use loaded_like()" in str(refusal)
            expected: tuple[float, int, int] = (0.0, 0, 0)
        else:
            assert report.ok
            expected = (1.0, 3, 7)
        assert (self.array(target["w"])[0], target["loop"].state["step"], target["epoch"]) == expected
