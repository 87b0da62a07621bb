"""Optimizer states between dialects, rule by rule, on trees of NumPy arrays; no framework is needed.

What makes each rule true is shown with the real optimizers in tests/backends/test_moving_a_run.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multiframe_ckpt.errors import MismatchError, ValueRefusedError
from multiframe_ckpt.training import merged, optimizer_dialect, translate_optimizer
from multiframe_ckpt.tree import LazyTensor, map_leaves

TORCH = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "dampening": 0, "weight_decay": 0, "nesterov": False, "maximize": False}
    | {"foreach": None, "differentiable": False, "fused": None},
    "Adam": {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False, "maximize": False}
    | {"foreach": None, "capturable": False, "differentiable": False, "fused": None},
    "Adagrad": {"lr": 0.1, "lr_decay": 0, "eps": 1e-10, "weight_decay": 0, "initial_accumulator_value": 0}
    | {"foreach": None, "maximize": False, "differentiable": False},
    "RMSprop": {"lr": 0.1, "momentum": 0, "alpha": 0.99, "eps": 1e-8, "centered": False, "weight_decay": 0}
    | {"foreach": None, "maximize": False, "differentiable": False},
    "Adadelta": {"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0, "maximize": False, "foreach": None},
}
TENSORS = {
    "SGD": ("momentum_buffer",),
    "Adam": ("exp_avg", "exp_avg_sq"),
    "Adagrad": ("sum",),
    "RMSprop": ("square_avg",),
    "Adadelta": ("square_avg", "acc_delta"),
}
#: What the optimizers of real OneFlow 0.9 hold in a group, in their order.
ONEFLOW = {
    "SGD": "lr momentum dampening weight_decay nesterov maximize fused",
    "Adam": "lr eps betas weight_decay amsgrad bias_correction1 bias_correction2 do_bias_correction fused",
    "Adagrad": "lr initial_accumulator_value lr_decay weight_decay eps",
    "RMSprop": "lr alpha eps weight_decay centered",
    "Adadelta": "lr rho eps maximize weight_decay",
}


def tensor(*values: float, dtype: type = np.float32) -> LazyTensor:
    return LazyTensor.from_array(np.array(values, dtype))


def counter(step: float) -> LazyTensor:
    return LazyTensor.from_array(np.array(step, np.float32))


def torch_state(name: str, *, steps: tuple[int, ...] = (5, 5), **options: Any) -> dict[str, Any]:
    """A state of torch's optimizer with two parameters, or as many as there are steps."""
    entries = {}
    for i, step in enumerate(steps):
        tensors = {part: tensor(1.0 + i, 2.0) for part in TENSORS[name]}
        entries[i] = tensors if name == "SGD" else {"step": counter(step), **tensors}
    return {"state": entries, "param_groups": [TORCH[name] | options | {"params": list(range(len(steps)))}]}


def oneflow_state(name: str, **options: Any) -> dict[str, Any]:
    state, _ = translate_optimizer(torch_state(name), to="oneflow", class_name=name)
    state["param_groups"][0]["_options"] |= options
    return state


def arrays(tree: Any) -> Any:
    return map_leaves(tree, lambda _, leaf: leaf.numpy().tolist() if isinstance(leaf, LazyTensor) else leaf)


def lazy(read: list[str]) -> LazyTensor:
    row = tensor(0.0).dtype

    def source() -> np.ndarray:
        read.append("read")
        return np.array([1.0, 2.0], np.float32)

    return LazyTensor.from_function(row, (2,), source)


@pytest.mark.parametrize("name", ["SGD", "Adam", "Adagrad", "Adadelta"])
def test_oneflow_gets_every_option_of_its_own_in_its_own_place(name: str) -> None:
    state, _ = translate_optimizer(torch_state(name), to="oneflow")
    group = state["param_groups"][0]
    assert set(group) == {"_options", "_enable_clip_grad", "params"}
    assert [option for option in group["_options"] if option != "decoupled_weight_decay"] == ONEFLOW[name].split()


@pytest.mark.parametrize("name", ["SGD", "Adam", "Adagrad", "Adadelta"])
def test_torch_gets_back_what_it_gave(name: str) -> None:
    given = torch_state(name)
    there, _ = translate_optimizer(given, to="oneflow")
    back, _ = translate_optimizer(there, to="torch")
    assert arrays(back["state"]) == arrays(given["state"])
    assert back["param_groups"][0].items() >= given["param_groups"][0].items()


@settings(max_examples=60)
@given(
    lr=st.floats(1e-6, 10),
    momentum=st.floats(0.1, 1),
    decay=st.floats(0, 1),
    dampening=st.floats(0, 1),
    nesterov=st.booleans(),
    values=st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=4),
)
def test_any_sgd_comes_back_as_it_was(
    lr: float, momentum: float, decay: float, dampening: float, nesterov: bool, values: list[float]
) -> None:
    options = {"lr": lr, "momentum": momentum, "weight_decay": decay, "dampening": dampening, "nesterov": nesterov}
    given_state = torch_state("SGD", **options)
    given_state["state"][0]["momentum_buffer"] = tensor(*values)
    there, _ = translate_optimizer(given_state, to="oneflow")
    back, _ = translate_optimizer(there, to="torch")
    assert arrays(back["state"]) == arrays(given_state["state"])
    assert back["param_groups"][0].items() >= options.items()


def test_one_step_counts_for_all_in_oneflow_and_each_has_its_own_in_torch() -> None:
    there, _ = translate_optimizer(torch_state("Adam", steps=(7, 7)), to="oneflow")
    assert there["state"]["step"] == 7 and type(there["state"]["step"]) is int
    back, _ = translate_optimizer(there, to="torch")
    steps = [back["state"][i]["step"] for i in (0, 1)]
    assert [step.dtype.name for step in steps] == ["float32", "float32"]
    assert [step.shape for step in steps] == [(), ()]
    assert steps[0].numpy() is not steps[0].numpy()


def test_tensors_are_not_read_until_asked_for_and_are_copies_then() -> None:
    read: list[str] = []
    array = np.ones(2, np.float32)
    state = torch_state("SGD")
    state["state"] = {0: {"momentum_buffer": lazy(read)}, 1: {"momentum_buffer": LazyTensor.from_array(array)}}
    there, _ = translate_optimizer(state, to="oneflow")
    assert not read
    copy = there["state"][1]["momentum_buf"].numpy()
    copy += 1
    assert array.tolist() == [1, 1]


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_different_steps_under_adam_are_refused_by_parameter(name: str) -> None:
    with pytest.raises(ValueRefusedError, match=r"different steps \(1: 2, 0: 4\)"):
        translate_optimizer(torch_state("Adam", steps=(4, 2)), to="oneflow", class_name=name)


def test_different_steps_under_adagrad_are_refused_only_where_lr_decay_counts_them() -> None:
    state, _ = translate_optimizer(torch_state("Adagrad", steps=(4, 0)), to="oneflow")
    assert state["state"]["step"] == 4
    with pytest.raises(ValueRefusedError, match="different steps"):
        translate_optimizer(torch_state("Adagrad", steps=(4, 2), lr_decay=0.1), to="oneflow")


def test_different_steps_under_adadelta_do_not_matter() -> None:
    state, _ = translate_optimizer(torch_state("Adadelta", steps=(4, 2)), to="oneflow")
    assert state["state"]["step"] == 4


def test_a_parameter_without_a_state_yet_is_empty_in_oneflow_absent_in_torch_and_warned_of() -> None:
    state = torch_state("Adam")
    del state["state"][1]
    there, report = translate_optimizer(state, to="oneflow")
    assert there["state"][1] == {}
    assert "parameters 1 have no state yet" in report.warnings[0]
    back, report = translate_optimizer(there, to="torch")
    assert list(back["state"]) == [0]
    assert "parameters 1 have no state yet" in report.warnings[0]


def test_fresh_optimizers_cross_without_a_warning() -> None:
    state = torch_state("Adam") | {"state": {}}
    there, report = translate_optimizer(state, to="oneflow")
    assert there["state"] == {"step": 0, 0: {}, 1: {}}
    assert not report.warnings


def test_momentum_of_oneflow_08_is_minus_lr_times_the_buffer_and_warned_of() -> None:
    group = {"_options": {"lr": 0.5, "momentum": 0.9, "weight_decay": 0.0}, "_enable_clip_grad": False, "params": [0]}
    state = {"state": {"step": 3, 0: {"momentum_buf": tensor(-1.0, 2.0)}}, "param_groups": [group]}
    assert optimizer_dialect(state).name == "oneflow-0.8"  # type: ignore[union-attr]
    there, report = translate_optimizer(state, to="torch")
    # The count goes along, for the way back: torch's SGD leaves it alone.
    assert arrays(there["state"]) == {0: {"step": 3.0, "momentum_buffer": [2.0, -4.0]}}
    assert "where the learning rate changes" in report.warnings[0]
    newer, _ = translate_optimizer(state, to="oneflow")
    assert arrays(newer["state"][0]) == {"momentum_buf": [2.0, -4.0]}
    assert list(newer["param_groups"][0]["_options"]) == ONEFLOW["SGD"].split()
    back, _ = translate_optimizer(newer, to="oneflow-0.8")
    assert arrays(back) == arrays(state)


def test_momentum_of_oneflow_08_under_no_learning_rate_is_refused() -> None:
    group = {"_options": {"lr": 0.0, "momentum": 0.9, "weight_decay": 0.0}, "_enable_clip_grad": False, "params": [0]}
    with pytest.raises(ValueRefusedError, match="lr = 0"):
        translate_optimizer({"state": {"step": 3, 0: {}}, "param_groups": [group]}, to="torch")


def test_options_that_08_lacks_are_refused_by_name() -> None:
    with pytest.raises(ValueRefusedError, match="with nesterov, which OneFlow has since"):
        translate_optimizer(torch_state("SGD", nesterov=True), to="oneflow-0.8")
    with pytest.raises(ValueRefusedError, match="Adadelta, which OneFlow has since"):
        translate_optimizer(torch_state("Adadelta"), to="oneflow-0.8")


def test_oneflow_1_0_is_read_and_its_fused_buffers_are_refused() -> None:
    nested = oneflow_state("Adam")
    group = nested["param_groups"][0]
    flat = group["_options"] | {"_enable_clip_grad": False, "contiguous_params": False, "params": [0, 1]}
    state = {"state": nested["state"], "param_groups": [flat]}
    assert optimizer_dialect(state).name == "oneflow-1.0"  # type: ignore[union-attr]
    assert arrays(translate_optimizer(state, to="torch")[0]) == arrays(translate_optimizer(nested, to="torch")[0])
    flat["contiguous_params"] = True
    with pytest.raises(ValueRefusedError, match="fused buffers"):
        translate_optimizer(state, to="torch")


def test_maximize_turns_the_sign_of_oneflows_buffer() -> None:
    there, _ = translate_optimizer(torch_state("SGD", maximize=True), to="oneflow")
    assert arrays(there["state"][0]) == {"momentum_buf": [-1.0, -2.0]}


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("SGD", {"maximize": True, "momentum": 0}, "maximize and no momentum"),
        ("SGD", {"maximize": True, "weight_decay": 0.1}, "maximize and weight decay"),
        ("Adam", {"maximize": True}, "Adam with maximize = True"),
        ("Adagrad", {"maximize": True}, "Adagrad with maximize = True"),
        ("Adadelta", {"maximize": True}, "Adadelta with maximize = True"),
        ("RMSprop", {"momentum": 0.9, "eps": 1e-30}, "RMSprop with momentum = 0.9"),
    ],
)
def test_what_oneflow_cannot_do_is_refused_with_the_reason(name: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueRefusedError, match=reason):
        translate_optimizer(torch_state(name, **options), to="oneflow")


def test_adam_without_bias_correction_is_refused_for_torch() -> None:
    with pytest.raises(ValueRefusedError, match="do_bias_correction = False"):
        translate_optimizer(oneflow_state("Adam", do_bias_correction=False), to="torch")


def test_clipping_and_lr_scale_are_left_out_by_name_with_what_to_call_instead() -> None:
    state = oneflow_state("SGD", clip_grad_max_norm=1.0, clip_grad_norm_type=2.0, lr_scale=0.5)
    there, report = translate_optimizer(state, to="torch")
    assert not {"clip_grad_max_norm", "lr_scale"} & set(there["param_groups"][0])
    assert len(report.left_out) == 3
    assert "optimizer/param_groups/0: clip_grad_max_norm = 1.0" in report.left_out[0]
    assert "torch.nn.utils.clip_grad_norm_" in report.left_out[0]


def test_how_a_step_is_run_stays_behind_by_name() -> None:
    _, report = translate_optimizer(torch_state("Adam", fused=True), to="oneflow")
    assert "fused = True" in report.left_out[0]


def test_options_of_the_users_own_and_initial_lr_go_along() -> None:
    state = torch_state("Adam", initial_lr=0.5, layer="head")
    there, _ = translate_optimizer(state, to="oneflow", class_name="torch.optim.Adam")
    assert there["param_groups"][0]["_options"].items() >= {"initial_lr": 0.5, "layer": "head"}.items()


def test_a_learning_rate_kept_as_a_tensor_becomes_a_number() -> None:
    lr = LazyTensor.from_array(np.array(0.25, np.float64))
    there, _ = translate_optimizer(torch_state("Adam", lr=lr), to="oneflow")
    assert there["param_groups"][0]["_options"]["lr"] == 0.25


def test_dampening_with_a_parameter_that_has_no_momentum_is_warned_of() -> None:
    state = torch_state("SGD", dampening=0.1)
    state["state"][1] = {"momentum_buffer": None}
    _, report = translate_optimizer(state, to="oneflow")
    assert "parameters 1 have no momentum yet" in report.warnings[0]


def test_rmsprop_crosses_where_eps_is_small_beside_its_mean_square() -> None:
    state = torch_state("RMSprop", eps=1e-8)
    there, report = translate_optimizer(state, to="oneflow")
    assert list(there["param_groups"][0]["_options"]) == ONEFLOW["RMSprop"].split()
    assert "they agree as long as" in report.warnings[0]


@pytest.mark.parametrize("lowest", [1e-6, 0.0])
def test_rmsprop_is_refused_where_eps_is_felt(lowest: float) -> None:
    state = torch_state("RMSprop", eps=1e-8)
    state["state"][1]["square_avg"] = tensor(1.0, lowest)
    with pytest.raises(ValueRefusedError, match=r"optimizer/state/1: found RMSprop .*leave the optimizer out"):
        translate_optimizer(state, to="oneflow")


def test_rmsprop_is_judged_by_every_element_not_by_the_smallest() -> None:
    state = torch_state("RMSprop", eps=1e-3, steps=(5,))
    state["state"][0]["square_avg"] = tensor(0.25, 1.0)  # the two algorithms meet near 1/4, whatever eps is
    with pytest.raises(ValueRefusedError, match=r"where the mean square is 1\.0e\+00"):
        translate_optimizer(state, to="oneflow")


def test_centered_rmsprop_is_judged_by_the_variance() -> None:
    state = torch_state("RMSprop", eps=1e-8, centered=True, steps=(5,))
    state["state"][0] |= {"square_avg": tensor(1.0, 1.0), "grad_avg": tensor(0.0, 1.0)}
    with pytest.raises(ValueRefusedError, match="differ by"):
        translate_optimizer(state, to="oneflow")


def test_a_fresh_rmsprop_is_refused_unless_eps_is_next_to_nothing() -> None:
    fresh = torch_state("RMSprop") | {"state": {}}
    with pytest.raises(ValueRefusedError, match="where no gradient came yet"):
        translate_optimizer(fresh, to="oneflow")
    fresh["param_groups"][0]["eps"] = 1e-20
    translate_optimizer(fresh, to="oneflow")


@pytest.mark.parametrize(
    ("option", "name"),
    [("max_iter", "LBFGS"), ("momentum_decay", "NAdam"), ("lambd", "ASGD"), ("etas", "Rprop"), ("ns_steps", "Muon")],
)
def test_an_optimizer_that_oneflow_lacks_is_refused_by_name(option: str, name: str) -> None:
    state = {"state": {}, "param_groups": [{"lr": 0.1, option: 1, "params": [0]}]}
    with pytest.raises(ValueRefusedError, match=f"what looks like {name}, expected one of SGD, Adam, AdamW"):
        translate_optimizer(state, to="oneflow")


def test_lamb_is_refused_for_torch_and_untouched_within_oneflow() -> None:
    state = oneflow_state("Adam", adam_w_mode=True)
    with pytest.raises(ValueRefusedError, match="what looks like LAMB"):
        translate_optimizer(state, to="torch")
    assert translate_optimizer(state, to="oneflow")[0] is state


@pytest.mark.parametrize("name", ["RAdam", "Adamax"])
def test_a_class_name_that_oneflow_lacks_is_refused_whatever_the_state_looks_like(name: str) -> None:
    with pytest.raises(ValueRefusedError, match=f"found the optimizer {name}"):
        translate_optimizer(torch_state("Adam"), to="oneflow", class_name=name)


def test_options_of_an_unknown_optimizer_are_named() -> None:
    with pytest.raises(ValueRefusedError, match=r"an optimizer with options .*wd_ratio"):
        translate_optimizer(torch_state("Adam", wd_ratio=0.1), to="oneflow")


def test_adam_and_adamw_are_told_apart_by_what_torch_says() -> None:
    state = torch_state("Adam", weight_decay=0.1, decoupled_weight_decay=True)
    there, report = translate_optimizer(state, to="oneflow")
    assert "AdamW, from torch to oneflow" in report.converted[0]
    assert not report.warnings
    _, report = translate_optimizer(there, to="torch")
    assert "AdamW, from oneflow to torch" in report.converted[0]


def test_adam_and_adamw_without_a_name_are_told_apart_by_order_with_a_warning() -> None:
    options = oneflow_state("Adam", weight_decay=0.1)["param_groups"][0]["_options"]
    del options["decoupled_weight_decay"]
    adamw = {name: options[name] for name in sorted(options, key=lambda name: name == "amsgrad")}
    for expected, own in (("Adam", options), ("AdamW", adamw)):
        group = {"_options": own, "_enable_clip_grad": False, "params": [0, 1]}
        there, report = translate_optimizer({"state": {"step": 0}, "param_groups": [group]}, to="torch")
        assert f"read as {expected} by the order" in report.warnings[0]
        assert "decoupled_weight_decay" not in there["param_groups"][0]  # so that the optimizer loading it decides


def test_a_state_without_its_step_is_damaged() -> None:
    state = oneflow_state("Adam")
    del state["state"]["step"]
    with pytest.raises(ValueRefusedError, match="no step of parameter 0"):
        translate_optimizer(state, to="torch")


def test_a_state_without_an_option_is_damaged() -> None:
    state = torch_state("Adam")
    del state["param_groups"][0]["betas"]
    with pytest.raises(ValueRefusedError, match="no option 'betas'"):
        translate_optimizer(state, to="oneflow", class_name="Adam")


def test_what_is_no_optimizer_state_is_refused() -> None:
    with pytest.raises(ValueRefusedError, match="no optimizer state"):
        translate_optimizer({"lr": 1}, to="torch")


def test_an_unknown_dialect_is_refused() -> None:
    with pytest.raises(ValueRefusedError, match="as the dialect to write"):
        translate_optimizer(torch_state("SGD"), to="oneflow-1.0")


def test_a_state_of_the_same_dialect_comes_back_as_it_is() -> None:
    state = torch_state("SGD")
    assert translate_optimizer(state, to="torch")[0] is state


def test_merged_keeps_how_the_target_runs_and_takes_what_was_trained() -> None:
    own = oneflow_state("Adam", fused=True, bias_correction1=0.5, lr=9.0)
    state, _ = merged(own, torch_state("Adam", lr=0.25), class_name="Adam")
    options = state["param_groups"][0]["_options"]
    assert (options["fused"], options["bias_correction1"], options["lr"]) == (True, 0.5, 0.25)
    own = torch_state("Adam", foreach=True, capturable=True, lr=9.0)
    state, _ = merged(own, oneflow_state("Adam", lr=0.25), class_name="Adam")
    group = state["param_groups"][0]
    assert (group["foreach"], group["capturable"], group["lr"]) == (True, True, 0.25)


def test_merged_speaks_the_dialect_of_an_old_target() -> None:
    group = {"_options": {"lr": 0.5, "momentum": 0.9, "weight_decay": 0.0}, "_enable_clip_grad": False}
    own = {"state": {"step": 0, 0: {}, 1: {}}, "param_groups": [group | {"params": [0, 1]}]}
    state, _ = merged(own, torch_state("SGD", lr=0.5))
    assert arrays(state["state"][0]) == {"momentum_buf": [-0.5, -1.0]}
    assert list(state["param_groups"][0]["_options"]) == ["lr", "momentum", "weight_decay"]


def test_merged_follows_the_targets_parameter_ids() -> None:
    own = oneflow_state("SGD")
    own["param_groups"][0]["params"] = [10, 11]
    state, _ = merged(own, torch_state("SGD"))
    assert list(state["state"]) == ["step", 10, 11]


@pytest.mark.parametrize(
    ("own", "given", "reason"),
    [
        (oneflow_state("SGD"), torch_state("Adam"), "state of Adam, expected that of SGD"),
        (oneflow_state("SGD"), torch_state("SGD", steps=(1, 1, 1)), r"sizes \[3\], expected \[2\]"),
    ],
)
def test_merged_refuses_another_class_or_other_groups(own: Any, given: Any, reason: str) -> None:
    with pytest.raises(MismatchError, match=reason):
        merged(own, given)


def test_merged_takes_adam_for_adamw_only_where_no_weight_decays() -> None:
    own = oneflow_state("Adam")
    merged(own, torch_state("Adam"), class_name="Adam", target_class="AdamW")
    with pytest.raises(MismatchError, match="state of Adam, expected that of AdamW"):
        merged(own, torch_state("Adam", weight_decay=0.1), class_name="Adam", target_class="AdamW")
