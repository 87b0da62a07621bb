"""Two verdicts, exact and resumable, over checkpoints that no framework need make: neither stands for the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.operations.crossing import losses_of_run
from multiframe_ckpt.operations.layout import Layout
from multiframe_ckpt.operations.rules import Rules
from multiframe_ckpt.training import Carried, judge_move
from multiframe_ckpt.tree import LazyTensor, Unknown

SGD = {"lr": 0.1, "momentum": 0.9, "dampening": 0, "weight_decay": 0, "nesterov": False, "maximize": False}
SGD |= {"foreach": None, "differentiable": False, "fused": None}


def tensor(*values: float) -> LazyTensor:
    return LazyTensor.from_array(np.array(values, np.float32))


def run(**more: Any) -> dict[str, Any]:
    """A run of torch's SGD with momentum, and what else is asked for."""
    optimizer = {"state": {0: {"momentum_buffer": tensor(1, 2)}}, "param_groups": [{**SGD, "params": [0]}]}
    return {"model": {"w": tensor(3, 4)}, "optimizer": optimizer, "epoch": 3} | more


def moved(folder: Path, tree: Any, target: str = "there", **options: Any) -> mfc.ConvertReport:
    mfc.Checkpoint(tree).save(folder / "run.pt", overwrite=True)
    return mfc.convert(folder / "run.pt", folder / target, **options)


def fate(report: mfc.ConvertReport, name: str) -> mfc.PartVerdict:
    return next(part for part in report.parts if part.name == name)


def test_weights_alone_are_no_run(tmp_path: Path) -> None:
    report = moved(tmp_path, {"w": tensor(1), "epoch": 3})
    assert (report.exact, report.resumable, report.parts, report.ok) == (True, None, (), True)
    assert "no run" in report.resumable_because


def test_a_run_that_crosses_is_both_and_names_its_parts(tmp_path: Path) -> None:
    report = moved(tmp_path, run())
    assert (report.exact, report.resumable, report.ok) == (True, True, True)
    assert report.resumable_because == "the run goes on in OneFlow with model, optimizer (SGD), progress (epoch 3)"


def test_an_optimizer_that_cannot_cross_is_exact_and_not_resumable(tmp_path: Path) -> None:
    tree = run()
    tree["optimizer"]["param_groups"][0]["max_iter"] = 20
    report = moved(tmp_path, tree)
    assert (report.exact, report.resumable, report.ok) == (True, False, False)
    assert "LBFGS" in fate(report, "optimizer").text
    assert report.resumable_because.startswith("the run does not go on in OneFlow: optimizer: found ")
    assert "what goes on: model, progress (epoch 3)" in report.resumable_because
    assert moved(tmp_path, tree, "stays.safetensors").resumable


def test_an_optimizer_of_no_known_kind_goes_on_at_home_alone(tmp_path: Path) -> None:
    tree = run(optimizer={"odd": tensor(1)})
    assert moved(tmp_path, tree, "home.pt").resumable
    assert moved(tmp_path, tree, "neutral.npz").resumable
    report = moved(tmp_path, tree, "away")
    assert (report.exact, report.resumable) == (True, False)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"model_only": True}, "optimizer"),
        ({"exclude": ["optimizer/*"]}, "optimizer"),
        ({"exclude": ["optimizer/state/0/momentum_buffer"]}, "optimizer"),
        ({"exclude": ["model/w"]}, "model"),
        ({"include": ["model/*"]}, "optimizer"),
        ({"dtype": "float16"}, "model"),
        ({"optimizer_dtype": "float16"}, "optimizer"),
        ({"rename": ["optimizer/state/0/momentum_buffer=elsewhere"]}, "optimizer"),
    ],
    ids=str,
)
def test_a_part_that_rules_took_something_from_does_not_go_on(tmp_path: Path, options: Any, part: str) -> None:
    for target in ("there", "neutral.h5", "home.pt"):
        report = moved(tmp_path, run(), target, **options)
        assert (report.resumable, fate(report, part).goes_on) == (False, False), report.resumable_because


def test_new_names_of_weights_are_no_loss_and_stop_no_run(tmp_path: Path) -> None:
    report = moved(tmp_path, run(), rename=["model/w=model/weight"])
    assert (report.exact, report.resumable) == (True, True)


def test_what_was_not_the_runs_own_does_not_decide(tmp_path: Path) -> None:
    report = moved(tmp_path, run(ema={"w": tensor(1)}), exclude=["ema/*"])
    assert (report.exact, report.resumable) == (False, True)


def test_a_random_state_that_cannot_cross_is_told_and_does_not_decide(tmp_path: Path) -> None:
    tree = run(rng_state={"python": {"words": tensor(1)}, "torch": {"cpu": tensor(1)}})
    report = moved(tmp_path, tree)
    assert (report.exact, report.resumable) == (True, True)
    assert not fate(report, "random state").goes_on and not fate(report, "random state").decides
    assert "not decisive: random state" in report.resumable_because
    assert fate(moved(tmp_path, tree, "home.h5"), "random state").goes_on


def test_a_gradient_scaler_decides_unless_it_was_off(tmp_path: Path) -> None:
    report = moved(tmp_path, run(scaler={"scale": 2.0}), "a")
    assert (report.exact, report.resumable) == (True, False)
    assert "scaler" in report.resumable_because
    assert moved(tmp_path, run(scaler={}), "b").resumable
    assert moved(tmp_path, run(scaler={"scale": 2.0}), "home.npz").resumable


def test_an_epoch_of_minus_one_is_no_progress(tmp_path: Path) -> None:
    report = moved(tmp_path, run(epoch=-1))
    assert report.resumable and not [part for part in report.parts if part.name == "progress"]


def test_an_object_in_a_state_that_is_now_a_dict_stops_the_run() -> None:
    scheduler = {"lr_lambdas": [Unknown("mine.Warmup")], "last_epoch": 3, "base_lrs": [0.1], "_last_lr": [0.1]}
    tree = run(scheduler=scheduler, note=Unknown("mine.Note"))
    plain, edits = Rules().apply(tree)
    verdict = judge_move(tree, plain, Carried(losses=losses_of_run(tree, edits, Layout())))
    assert verdict.resumable is False
    assert "scheduler: 1 of unknown type" in verdict.because


def test_states_of_two_frameworks_go_on_in_neither(tmp_path: Path) -> None:
    tree = run(scheduler={"gamma": 0.9, "last_step": 3, "base_lrs": [0.1], "_last_lr": [0.1]})
    assert moved(tmp_path, tree, "neutral.h5").resumable is False
    assert moved(tmp_path, tree, "home.pt").resumable is True  # the scheduler becomes PyTorch's


@pytest.mark.parametrize("step", [{0: 2.0, 1: 5.0}])
def test_a_count_that_one_step_for_all_swallows_is_a_loss(tmp_path: Path, step: dict[int, float]) -> None:
    options = {"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0, "maximize": False}
    options |= {"capturable": False, "foreach": None, "differentiable": False}
    moments = {"square_avg": tensor(1), "acc_delta": tensor(1)}
    state = {i: {"step": LazyTensor.from_array(np.array(count, np.float32)), **moments} for i, count in step.items()}
    tree = run(optimizer={"state": state, "param_groups": [{**options, "params": [0, 1]}]})
    report = moved(tmp_path, tree)
    assert (report.exact, report.inexact, report.resumable) == (False, ("optimizer/state/0/step",), True)


def test_a_choice_that_does_not_come_back_is_a_loss_and_a_default_that_does_is_none(tmp_path: Path) -> None:
    tree = run()
    tree["optimizer"]["param_groups"][0]["foreach"] = True
    assert moved(tmp_path, tree, "a").inexact == ("optimizer/param_groups/0/foreach",)
    del tree["optimizer"]["param_groups"][0]["foreach"]
    assert moved(tmp_path, tree, "b").exact
