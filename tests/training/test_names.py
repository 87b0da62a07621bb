"""What parameters are called where a state only numbers them: by the weights' order, checked by shape, never by a guess."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from multiframe_ckpt.errors import MismatchError, ValueRefusedError
from multiframe_ckpt.training import merged, translate_optimizer
from multiframe_ckpt.training.dialects import Names
from multiframe_ckpt.tree import LazyTensor

MODEL = {"a.weight": (3, 2), "a.bias": (3,), "b.weight": (3, 3), "b.bias": (3,)}


def weights(**shapes: tuple[int, ...]) -> dict[str, LazyTensor]:
    table = {name.replace("__", "."): shape for name, shape in shapes.items()} or MODEL
    return {name: LazyTensor.from_array(np.zeros(shape, np.float32)) for name, shape in table.items()}


def label(shapes: list[list[Any]], model: dict[str, LazyTensor] | None = None) -> Any:
    return Names(weights=weights() if model is None else model).label(shapes, "optimizer")


def test_a_state_in_the_weights_order_is_named_by_it() -> None:
    assert label([[(3, 2), (3,), (3, 3), (3,)]]) == [list(MODEL)]
    assert label([[(3, 2), (3,)], [(3, 3), None]]) == [["a.weight", "a.bias"], ["b.weight", "b.bias"]]


def test_buffers_integers_and_second_names_of_tied_weights_are_no_parameters() -> None:
    model = weights() | weights(n__running_mean=(3,), n__running_var=(3,))
    model["n.num_batches_tracked"] = LazyTensor.from_array(np.array(1, np.int64))
    model["tied"] = model["tied.again"] = LazyTensor.from_array(np.zeros((9, 9), np.float32), alias="tied")
    assert label([[(3, 2), (3,), (3, 3), (3,), (9, 9)]], model) == [[*MODEL, "tied"]]


def test_groups_by_kind_are_named_by_shape_where_each_shape_is_in_one_group() -> None:
    assert label([[(3, 2), (3, 3)], [(3,), (3,)]]) == [["a.weight", "b.weight"], ["a.bias", "b.bias"]]


@pytest.mark.parametrize("shapes", [[[(3, 3), (3,)], [(3, 2), (3,)]], [[(3, 3), (3,), (3, 2), (3,)]]])
def test_layers_in_reverse_are_refused_since_their_biases_could_be_swapped(shapes: Any) -> None:
    with pytest.raises(ValueRefusedError, match=r"optimizer: found .*a\.bias, b\.bias\), so that two could be swapped"):
        label(shapes)


def test_parameters_in_any_order_are_named_where_no_two_are_of_one_shape() -> None:
    assert label([[(3, 3), (3, 2)]]) == [["b.weight", "a.weight"]]


def test_a_part_of_the_weights_is_refused_only_where_more_than_one_could_be_meant() -> None:
    assert label([[(3, 2)]]) == [["a.weight"]]
    with pytest.raises(ValueRefusedError, match="param_names"):
        label([[(3, 2), (3,)]])
    with pytest.raises(ValueRefusedError, match="one without a state"):
        label([[None]])


def test_a_state_of_another_model_is_refused() -> None:
    with pytest.raises(MismatchError, match=r"found 1 parameters of shape \(7,\), expected 0"):
        label([[(3, 2), (7,)]])


def test_without_names_and_weights_there_is_nothing_to_go_by() -> None:
    assert Names().label([[(3,)]], "optimizer") is None
    assert Names().order(["b", "a"]) == ["b", "a"]


def test_names_are_ordered_as_the_weights_are() -> None:
    assert Names(weights=weights()).order(["b.bias", "a.weight"]) == ["a.weight", "b.bias"]
    assert Names(("b", "a")).order(["a", "b"]) == ["b", "a"]
    with pytest.raises(ValueRefusedError, match=r"parameter 'c', expected one of the weights' names \('b', …\)"):
        Names(("b", "a")).order(["c"])


def state(names: list[str] | None = None) -> dict[str, Any]:
    group = {"lr": 0.1, "momentum": 0.9, "dampening": 0, "weight_decay": 0, "nesterov": False, "params": [0, 1]}
    entries = {i: {"momentum_buffer": LazyTensor.from_array(np.float32([i, i]))} for i in (0, 1)}
    return {"state": entries, "param_groups": [group | ({} if names is None else {"param_names": names})]}


def test_a_live_optimizer_of_another_framework_takes_a_state_by_its_stored_names() -> None:
    live, _ = translate_optimizer(state(), to="oneflow")
    crossed, _ = merged(live, state(["a", "b"]), names=["b", "a"])
    assert [crossed["state"][i]["momentum_buf"].numpy()[0] for i in (0, 1)] == [1, 0]
    crossed, _ = merged(live, state(["module.a", "module.b"]), names=["b", "a"])  # names of another making
    assert [crossed["state"][i]["momentum_buf"].numpy()[0] for i in (0, 1)] == [0, 1]


def test_a_live_optimizer_that_lacks_a_stored_name_is_refused() -> None:
    live, _ = translate_optimizer(state(), to="oneflow")
    with pytest.raises(MismatchError, match="optimizer: found the state of parameter 'b', expected one of a, c"):
        merged(live, state(["a", "b"]), names=["a", "c"])


@pytest.mark.parametrize("names", [["a"], ["a", "a"]])
def test_stored_names_that_are_not_one_for_each_parameter_are_damage(names: list[str]) -> None:
    with pytest.raises(ValueRefusedError, match="not one for each parameter"):
        translate_optimizer(state(names), to="oneflow")


def test_numbers_that_read_alike_are_damage() -> None:
    tree = state()
    tree["param_groups"][0]["params"] = [1, "1"]
    with pytest.raises(ValueRefusedError, match="read alike"):
        translate_optimizer(tree, to="oneflow")


def test_names_stored_with_a_state_stay_with_it() -> None:
    there, _ = translate_optimizer(state(["a", "b"]), to="oneflow")
    back, _ = translate_optimizer(there, to="torch")
    assert list(back["param_groups"][0]["param_names"]) == ["a", "b"]
    assert list(back["state"]) == [0, 1]
