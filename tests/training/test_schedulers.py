"""Scheduler states between dialects; tests/backends/test_moving_a_schedule.py compares the learning rates they give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from multiframe_ckpt.errors import ValueRefusedError
from multiframe_ckpt.training import is_scheduler_state, scheduler_dialect, translate_scheduler
from multiframe_ckpt.tree import LazyTensor

#: What the state dicts of real torch 2.13 hold beside their own attributes.
TORCH = {
    "base_lrs": [0.1],
    "last_epoch": 4,
    "_step_count": 5,
    "_is_initial": False,
    "_get_lr_called_within_step": False,
}
TORCH |= {"_last_lr": [0.05]}
ONEFLOW = {"base_lrs": [0.1], "last_step": 4, "verbose": False, "_last_lr": [0.05]}
#: Each scheduler's own attributes in real torch, and in real OneFlow 0.9.
OWN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "StepLR": ({"step_size": 3, "gamma": 0.5}, {"step_size": 3, "gamma": 0.5}),
    "MultiStepLR": ({"milestones": {5: 1, 2: 2}, "gamma": 0.1}, {"milestones": [2, 2, 5], "gamma": 0.1}),
    "ExponentialLR": ({"gamma": 0.9}, {"gamma": 0.9}),
    "CosineAnnealingLR": ({"T_max": 10, "eta_min": 0.001}, {"T_max": 10, "eta_min": 0.001}),
    "CosineAnnealingWarmRestarts": (
        {"T_0": 2, "T_mult": 2, "eta_min": 0.0, "T_cur": 2, "T_i": 4, "_step_count": 0},  # its step() never counts
        {"T_0": 2, "T_mult": 2, "eta_min": 0.0, "decay_rate": 1.0, "restart_limit": 0},
    ),
    "LambdaLR": ({"lr_lambdas": [None]}, {"lr_lambdas": [None]}),
    "LinearLR": ({"start_factor": 0.5, "end_factor": 1.0, "total_iters": 5},) * 2,
    "ConstantLR": ({"factor": 0.5, "total_iters": 5},) * 2,
    "PolynomialLR": (
        {"total_iters": 5, "power": 2.0},
        {"max_decay_steps": 5, "power": 2.0, "end_learning_rate": 0.0, "cycle": False},
    ),
}
PLATEAU = {"factor": 0.1, "min_lrs": [0], "patience": 2, "cooldown": 0, "cooldown_counter": 0, "mode": "min"}
PLATEAU |= {"threshold": 1e-4, "threshold_mode": "rel", "best": 1.0, "mode_worse": float("inf"), "eps": 1e-8}
PLATEAU |= {"_last_lr": [0.05]}


def torch_state(name: str, **changes: Any) -> dict[str, Any]:
    return TORCH | OWN[name][0] | changes


def oneflow_state(name: str, **changes: Any) -> dict[str, Any]:
    return OWN[name][1] | ONEFLOW | changes


@pytest.mark.parametrize("name", OWN)
def test_oneflow_gets_its_own_attributes(name: str) -> None:
    state, report = translate_scheduler(torch_state(name, verbose=False), to="oneflow")
    assert state == oneflow_state(name, _is_initial=False)  # OneFlow keeps it, so that the way back is exact
    assert f"{name}, from torch to oneflow" in report.converted[0]


@pytest.mark.parametrize("name", OWN)
def test_torch_gets_its_own_attributes(name: str) -> None:
    state, _ = translate_scheduler(oneflow_state(name), to="torch")
    expected = torch_state(name, verbose=False)
    del expected["_is_initial"]
    assert state == expected


def test_plateau_counts_bad_steps_for_bad_epochs() -> None:
    there, _ = translate_scheduler(PLATEAU | {"num_bad_epochs": 1, "last_epoch": 4}, to="oneflow")
    assert there == PLATEAU | {"num_bad_steps": 1, "last_step": 4}
    back, _ = translate_scheduler(there, to="torch")
    assert back == PLATEAU | {"num_bad_epochs": 1, "last_epoch": 4}


def sequence(**changes: Any) -> dict[str, Any]:
    """SequentialLR of OneFlow at step 4, one step into the second of three parts."""
    parts = [
        oneflow_state("ConstantLR", last_step=2),
        oneflow_state("ExponentialLR", last_step=1, _last_lr=[9.0]),
        oneflow_state("StepLR", last_step=0),
    ]
    return ONEFLOW | {"milestones": [3, 8], "interval_rescaling": [True, True], "schedulers": parts} | changes


def test_a_sequence_crosses_with_its_parts_each_at_its_own_step() -> None:
    there, _ = translate_scheduler(sequence(), to="torch")
    assert there["_milestones"] == [3, 8]
    assert [part["last_epoch"] for part in there["_schedulers"]] == [2, 1, -1]
    assert there["_schedulers"][1]["_last_lr"] == there["_last_lr"]
    back, _ = translate_scheduler(there, to="oneflow")
    assert [part["last_step"] for part in back["schedulers"]] == [2, 1, 0]
    assert (back["milestones"], back["interval_rescaling"], back["base_lrs"]) == ([3, 8], [True, True], [0.1])


def test_a_sequence_without_interval_rescaling_is_refused() -> None:
    with pytest.raises(ValueRefusedError, match="interval_rescaling"):
        translate_scheduler(sequence(interval_rescaling=[True, False]), to="torch")


def test_a_sequence_with_a_part_that_oneflow_cannot_run_is_refused_by_its_place() -> None:
    state = {"_milestones": [3], "last_epoch": 1, "_last_lr": [0.1]}
    state["_schedulers"] = [torch_state("StepLR"), torch_state("LambdaLR")]
    with pytest.raises(ValueRefusedError, match="scheduler/schedulers/1: found LambdaLR"):
        translate_scheduler(state, to="oneflow")


@pytest.mark.parametrize("name", ["_schedulers", "schedulers"])
def test_schedulers_that_are_no_list_are_refused(name: str) -> None:
    own = {"_milestones": [3], "last_epoch": 1} if name == "_schedulers" else ONEFLOW | {"milestones": [3]}
    state = own | {"_last_lr": [0.1], "interval_rescaling": [True], name: {"0": torch_state("StepLR")}}
    with pytest.raises(ValueRefusedError, match="scheduler: found a dict of schedulers, expected a list"):
        translate_scheduler(state, to="oneflow" if name == "_schedulers" else "torch", class_name="SequentialLR")


def chain(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"_schedulers": list(parts), "_last_lr": [0.05]}


def test_a_chain_crosses_at_the_step_of_its_parts() -> None:
    there, _ = translate_scheduler(chain(torch_state("ConstantLR"), torch_state("ExponentialLR")), to="oneflow")
    assert (there["last_step"], there["base_lrs"]) == (4, [0.1])
    back, _ = translate_scheduler(there, to="torch")
    assert set(back) == {"_schedulers", "_last_lr"}
    assert [part["last_epoch"] for part in back["_schedulers"]] == [4, 4]


@pytest.mark.parametrize(
    "part",
    [
        torch_state("CosineAnnealingWarmRestarts"),
        torch_state("CosineAnnealingLR"),
        torch_state("CosineAnnealingLR", eta_min=0, T_max=3),
        torch_state("LambdaLR"),
    ],
    ids=["restarts", "cosine above 0", "cosine past its end", "lambda"],
)
def test_a_chain_of_what_does_not_scale_is_refused(part: dict[str, Any]) -> None:
    with pytest.raises(ValueRefusedError, match="scheduler/schedulers/1"):
        translate_scheduler(chain(torch_state("ConstantLR"), part), to="oneflow")


def test_a_chained_cosine_is_warned_of() -> None:
    _, report = translate_scheduler(chain(torch_state("CosineAnnealingLR", eta_min=0)), to="oneflow")
    assert "up to T_max = 10" in report.warnings[-1]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("PolynomialLR", {"end_learning_rate": 0.1}),
        ("PolynomialLR", {"cycle": True}),
        ("CosineAnnealingWarmRestarts", {"decay_rate": 0.5}),
        ("CosineAnnealingWarmRestarts", {"restart_limit": 3}),
    ],
)
def test_what_torch_cannot_do_is_refused_with_the_attribute(name: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueRefusedError, match=f"found {name} with {next(iter(changes))}"):
        translate_scheduler(oneflow_state(name, **changes), to="torch")


def test_warm_restarts_within_a_step_are_refused() -> None:
    with pytest.raises(ValueRefusedError, match=r"T_cur = 2\.5, expected 2"):
        translate_scheduler(torch_state("CosineAnnealingWarmRestarts", T_cur=2.5), to="oneflow")


@pytest.mark.parametrize(
    ("state", "name"),
    [
        (TORCH | {"max_lrs": [1.0], "gamma": 1.0}, "CyclicLR"),
        (TORCH | {"total_steps": 10, "_schedule_phases": []}, "OneCycleLR"),
        (ONEFLOW | {"decay_steps": 10, "alpha": 0.1}, "CosineDecayLR"),
        (sequence(warmup_iters=3, warmup_factor=0.1), "WarmupLR"),
    ],
)
def test_a_scheduler_of_one_framework_is_refused_by_name(state: dict[str, Any], name: str) -> None:
    to = "torch" if "last_step" in state else "oneflow"
    with pytest.raises(ValueRefusedError, match=f"what looks like {name}.*build a new one"):
        translate_scheduler(state, to=to)


def test_attributes_of_an_unknown_scheduler_are_named() -> None:
    with pytest.raises(ValueRefusedError, match="a scheduler with gamma, warmth"):
        translate_scheduler(TORCH | {"gamma": 0.1, "warmth": 3}, to="oneflow")


def test_lambda_and_multiplicative_need_the_name_to_be_told_apart() -> None:
    _, report = translate_scheduler(torch_state("LambdaLR"), to="oneflow")
    assert "LambdaLR or a MultiplicativeLR" in report.warnings[0]
    _, report = translate_scheduler(torch_state("LambdaLR"), to="oneflow", class_name="LambdaLR")
    assert not report.warnings
    with pytest.raises(ValueRefusedError, match="found the scheduler MultiplicativeLR"):
        translate_scheduler(torch_state("LambdaLR"), to="oneflow", class_name="MultiplicativeLR")


def test_a_named_subclass_crosses_and_its_own_attributes_are_left_out_by_name() -> None:
    _, report = translate_scheduler(torch_state("StepLR", mine=1), to="oneflow", class_name="StepLR")
    assert "scheduler: mine" in report.left_out[0]


def test_a_state_without_an_attribute_is_damaged() -> None:
    with pytest.raises(ValueRefusedError, match="StepLR without step_size"):
        translate_scheduler(torch_state("ExponentialLR"), to="oneflow", class_name="StepLR")


def test_learning_rates_kept_as_tensors_become_numbers() -> None:
    lrs = [LazyTensor.from_array(np.array(0.25))]
    state, _ = translate_scheduler(torch_state("StepLR", base_lrs=lrs), to="oneflow")
    assert state["base_lrs"] == [0.25]


def test_a_state_of_the_same_dialect_comes_back_as_it_is() -> None:
    state = torch_state("StepLR")
    assert translate_scheduler(state, to="torch")[0] is state
    assert scheduler_dialect(state).name == "torch"  # type: ignore[union-attr]
    assert is_scheduler_state(state)


@pytest.mark.parametrize("tree", [{}, {"last_epoch": 3}, [1], {"_last_lr": [1]}])
def test_other_trees_are_no_scheduler_states(tree: Any) -> None:
    assert not is_scheduler_state(tree)
