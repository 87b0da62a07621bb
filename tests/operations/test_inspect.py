"""inspect(): parameters are those of the models, and what a resume would get is what is there for it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.tree import LazyTensor, Unknown


def tensor(*shape: int, dtype: str = "float32") -> LazyTensor:
    return LazyTensor.from_array(np.ones(shape, dtype))


NET = {
    "l1.weight": tensor(3, 4),
    "l1.bias": tensor(3),
    "bn.running_mean": tensor(3),
    "bn.num_batches_tracked": tensor(),
}
STATE = {0: {"step": tensor(), "exp_avg": tensor(3, 4), "exp_avg_sq": tensor(3, 4)}}
ADAM = {"state": STATE, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}
TORCH_STATE = tensor(5056, dtype="uint8")
GENERATORS = {"python": random.getstate(), "numpy": {"key": tensor(624, dtype="int64"), "pos": 3}}


@pytest.mark.parametrize(
    ("tree", "count"),
    [
        (NET, 15),
        ({"model": NET, "optimizer": ADAM, "rng_state": {"torch": TORCH_STATE}}, 15),
        ({"g": NET, "d": NET | {"l1.weight": tensor(9)}, "optimizer": ADAM}, 27),
        ({"net": NET, "ema": {"l1.weight": tensor(3, 4)}}, 15),
        (ADAM, 0),
        ({**GENERATORS, "cpu": TORCH_STATE, "cuda": [tensor(16, dtype="uint8")]}, 0),
        (TORCH_STATE, 0),
    ],
)
def test_parameters_are_those_of_the_models_alone(tree: Any, count: int) -> None:
    assert mfc.inspect(mfc.Checkpoint(tree)).parameters == count


def test_tied_parameters_are_counted_once() -> None:
    tied = tensor(5).with_(alias="one")
    assert mfc.inspect(mfc.Checkpoint({"a.weight": tied, "b.weight": tied, "b.bias": tensor(2)})).parameters == 7


@pytest.mark.parametrize(
    "tree",
    [
        {**GENERATORS, "cpu": TORCH_STATE, "cuda": [tensor(16, dtype="uint8")]},
        {"step": 3, "random_state": random.getstate(), "torch_manual_seed": TORCH_STATE},
        {"rng_state": TORCH_STATE},
        TORCH_STATE,
    ],
    ids=["Trainer", "Accelerate", "ours", "alone"],
)
def test_a_file_of_random_states_has_no_weights(tree: Any) -> None:
    report = mfc.inspect(mfc.Checkpoint(tree))
    assert (report.resume["weights"], report.resume["rng"], report.resumable) == (False, True, None)


def test_weights_of_integers_are_weights() -> None:
    tree = {"torch_layer.qweight": tensor(4, 4, dtype="int32"), "numpy_scale": tensor(4)}
    assert mfc.inspect(mfc.Checkpoint(tree)).resume["weights"]


def test_a_moved_run_has_not_the_random_state_of_its_new_framework(tmp_path: Path) -> None:
    group = {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False, "params": [0]}
    adam = {"state": STATE, "param_groups": [group]}
    rng = {"python": {"words": tensor(625, dtype="int64")}, "torch": {"cpu": TORCH_STATE}}
    tree = {"model": NET, "optimizer": adam, "rng_state": rng, "epoch": 3}
    mfc.Checkpoint(tree).save(tmp_path / "run.pt")
    assert mfc.inspect(tmp_path / "run.pt").resume["rng"]
    mfc.convert(tmp_path / "run.pt", tmp_path / "moved")
    report = mfc.inspect(tmp_path / "moved")
    assert (report.resume["rng"], report.resumable) == (False, True)
    assert "not decisive: random state: none of OneFlow's in it" in report.resumable_because


def test_an_epoch_before_the_first_is_no_progress() -> None:
    report = mfc.inspect(mfc.Checkpoint({"model": NET, "optimizer": ADAM, "epoch": -1}))
    assert not report.resume["progress"]
    assert "progress: none in it" in report.resumable_because


def test_a_run_without_its_weights_or_its_optimizer_does_not_go_on() -> None:
    scheduler = {"last_epoch": 3, "base_lrs": [0.1], "_last_lr": [0.1], "gamma": 0.9}
    assert mfc.inspect(mfc.Checkpoint(ADAM)).resumable is False
    report = mfc.inspect(mfc.Checkpoint({"model": NET, "scheduler": scheduler}))
    assert report.resumable is False
    assert "optimizer: none in it" in report.resumable_because


def test_objects_that_were_not_built_are_named_and_not_exact() -> None:
    tree = {"model": NET, "callbacks": [Unknown("mine.Callback", state={"inner": Unknown("mine.Other")})]}
    report = mfc.inspect(mfc.Checkpoint(tree))
    assert (report.exact, report.unknown) == (False, ("callbacks/0: mine.Callback",))
    assert report.exact_because == "1 of unknown type"
    assert "exact       no: 1 of unknown type" in str(report)
    assert mfc.inspect(mfc.Checkpoint({"model": NET})).exact
