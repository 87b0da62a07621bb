"""A whole training checkpoint from one framework to the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from multiframe_ckpt.errors import ValueRefusedError
from multiframe_ckpt.training import NeutralState, dialect_named, is_optimizer_state, translate, translate_optimizer
from multiframe_ckpt.training.report import Notes
from multiframe_ckpt.tree import LazyTensor

WEIGHT = LazyTensor.from_array(np.ones(2, np.float32))
GROUP = {"lr": 0.1, "momentum": 0.9, "dampening": 0, "weight_decay": 0, "nesterov": False, "params": [0]}
OPTIMIZER = {"state": {0: {"momentum_buffer": WEIGHT}}, "param_groups": [GROUP]}
SCHEDULER = {"last_epoch": 3, "_step_count": 4, "base_lrs": [0.1], "_last_lr": [0.1], "gamma": 0.9}
LBFGS = {"state": {}, "param_groups": [{"lr": 1, "max_iter": 20, "params": [0]}]}


def checkpoint(**changes: Any) -> dict[str, Any]:
    tree = {
        "epoch": 3,
        "model_state_dict": {"w": WEIGHT},
        "optimizer_state_dict": OPTIMIZER,
        "mine": [1, {"a": WEIGHT}],
    }
    return tree | changes


def test_optimizer_and_scheduler_cross_and_the_rest_is_the_very_same() -> None:
    tree = checkpoint(scheduler_state_dict=SCHEDULER)
    moved, report = translate(tree, to="oneflow")
    assert moved["optimizer_state_dict"]["param_groups"][0]["_options"]["momentum"] == 0.9
    assert moved["scheduler_state_dict"]["last_step"] == 3
    assert moved["model_state_dict"] is tree["model_state_dict"]
    assert moved["mine"] is tree["mine"]
    assert list(moved) == list(tree)
    assert report.converted == (
        "optimizer_state_dict: SGD, from torch to oneflow",
        "scheduler_state_dict: ExponentialLR, from torch to oneflow",
    )
    assert str(report).splitlines()[0] == "converted optimizer_state_dict: SGD, from torch to oneflow"


@pytest.mark.parametrize("tree", [{"w": WEIGHT}, {"model": {"w": WEIGHT}, "rng_state": WEIGHT, "epoch": 1}, WEIGHT, 3])
def test_a_tree_without_an_optimizer_comes_back_unchanged(tree: Any) -> None:
    moved, report = translate(tree, to="oneflow")
    assert moved is tree
    assert str(report) == "nothing to translate"


def test_a_checkpoint_of_the_wanted_framework_comes_back_unchanged_random_state_and_all() -> None:
    tree = checkpoint(rng_state={"torch": WEIGHT})
    assert translate(tree, to="torch")[0] is tree
    there = translate(checkpoint(), to="oneflow")[0] | {"rng_state": WEIGHT}
    assert translate(there, to="oneflow")[0] is there


def test_lists_of_optimizers_cross_item_by_item() -> None:
    tree = {"state_dict": {"w": WEIGHT}, "optimizer_states": [OPTIMIZER, OPTIMIZER], "lr_schedulers": [SCHEDULER]}
    moved, report = translate(tree, to="oneflow")
    assert all("_options" in state["param_groups"][0] for state in moved["optimizer_states"])
    assert moved["lr_schedulers"][0]["last_step"] == 3
    assert len(report.converted) == 3


def test_a_bare_optimizer_state_crosses() -> None:
    moved, _ = translate(OPTIMIZER, to="oneflow")
    assert "_options" in moved["param_groups"][0]


def test_random_state_of_the_framework_and_the_scaler_stay_behind_by_name() -> None:
    rng = {"python": (3, (1, 2), None), "numpy": {"keys": WEIGHT}, "torch": WEIGHT, "cuda": [WEIGHT]}
    tree = checkpoint(rng_state=rng, scaler_state_dict={"scale": 2.0}, numpy_rng_state=WEIGHT, torch_rng_state=WEIGHT)
    moved, report = translate(tree, to="oneflow")
    assert list(moved["rng_state"]) == ["python", "numpy"]
    assert "numpy_rng_state" in moved
    assert not {"scaler_state_dict", "torch_rng_state"} & set(moved)
    left = [entry.partition(":")[0] for entry in report.left_out]
    assert left == ["rng_state/torch", "rng_state/cuda", "torch_rng_state", "scaler_state_dict"]


def test_what_cannot_cross_is_refused_by_its_key() -> None:
    with pytest.raises(ValueRefusedError, match="optimizer_state_dict: found what looks like LBFGS"):
        translate(checkpoint(optimizer_state_dict=LBFGS), to="oneflow")


def test_what_cannot_cross_is_left_out_by_name_when_that_is_allowed() -> None:
    moved, report = translate(checkpoint(optimizer_state_dict=LBFGS), to="oneflow", strict=False)
    assert "optimizer_state_dict" not in moved
    assert report.left_out[0].startswith("optimizer_state_dict: found what looks like LBFGS")


def test_a_bare_state_that_cannot_cross_leaves_an_empty_tree() -> None:
    moved, report = translate(LBFGS, to="oneflow", strict=False)
    assert moved == {}
    assert report.left_out[0].startswith("(top): found what looks like LBFGS")


@pytest.mark.parametrize(
    "state",
    [
        {"state": {}, "param_groups": [{"params": 5, "lr": 0.1}]},
        {"state": {}, "param_groups": [{"params": None, "lr": 0.1}]},
        {"state": {}, "param_groups": [[0, 1]]},
        {"state": [], "param_groups": [GROUP]},
    ],
    ids=["params is a number", "params is nothing", "a group is a list", "state is a list"],
)
def test_what_is_not_laid_out_as_an_optimizer_state_is_none(state: Any) -> None:
    assert not is_optimizer_state(state)
    with pytest.raises(ValueRefusedError, match="found no optimizer state, expected a dict with 'state'"):
        translate_optimizer(state, to="oneflow")


def test_what_is_only_read_is_not_written() -> None:
    dialect = dialect_named("oneflow-1.0")
    with pytest.raises(ValueRefusedError, match=r"found OneFlow 1\.0 as what to write"):
        dialect.write(NeutralState())


def test_what_is_no_state_at_all_is_refused_by_whoever_reads_it() -> None:
    for name in ("torch", "oneflow"):
        with pytest.raises(ValueRefusedError, match="optimizer: found a int, expected the state of"):
            dialect_named(name).read(5, notes=Notes("optimizer"))


def test_what_is_left_out_of_a_list_leaves_its_place() -> None:
    tree = {"state_dict": {"w": WEIGHT}, "optimizer_states": [LBFGS, OPTIMIZER]}
    moved, _ = translate(tree, to="oneflow", strict=False)
    assert moved["optimizer_states"][0] is None
    assert "_options" in moved["optimizer_states"][1]["param_groups"][0]


def test_a_name_given_decides_over_what_is_stored() -> None:
    tree = checkpoint(optimizer_class="Mine", scheduler_state_dict=SCHEDULER, scheduler_class="Mine")
    with pytest.raises(ValueRefusedError, match="found the optimizer Mine"):
        translate(tree, to="oneflow")
    _, report = translate(tree, to="oneflow", optimizer_class="SGD", scheduler_class="ExponentialLR")
    assert len(report.converted) == 2


def test_what_cannot_cross_is_named_and_stays_when_that_is_asked_for() -> None:
    tree = checkpoint(optimizer_states=[LBFGS], rng_state={"torch": WEIGHT})
    moved, report = translate(tree, to="oneflow", strict=False, keep=True)
    assert moved["optimizer_states"][0] is LBFGS
    assert moved["rng_state"] is tree["rng_state"]
    assert [entry.partition(":")[0] for entry in report.left_out] == ["optimizer_states/0", "rng_state/torch"]


def test_an_unknown_state_in_a_checkpoint_that_does_not_cross_stays() -> None:
    tree = checkpoint(scheduler={"warmth": 3})
    moved, report = translate(tree, to="torch")
    assert moved is tree
    assert report.warnings == ("scheduler: found a state of no known dialect; kept as it is",)


def test_an_unknown_state_beside_one_that_crosses_is_refused() -> None:
    with pytest.raises(ValueRefusedError, match="scheduler: found no scheduler state"):
        translate(checkpoint(scheduler={"warmth": 3}), to="oneflow")
