"""Where training checkpoints keep their parts: our own, Lightning's, and those of programs written by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from multiframe_ckpt.training import WEIGHT_KEYS, Part, TrainingParts, find_parts
from multiframe_ckpt.tree import LazyTensor

WEIGHT = LazyTensor.from_array(np.ones(2, np.float32))
MODEL = {"l.weight": WEIGHT}
OPTIMIZER = {"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]}
SCHEDULER = {"last_epoch": 3, "_last_lr": [0.1], "gamma": 0.9}

OURS = {
    "format_version": 1,
    "framework": "torch",
    "timestamp": "2024-01-01T00:00:00+00:00",
    "epoch": 3,
    "step": 90,
    "loss": 0.25,
    "metrics": {"accuracy": 0.9},
    "train_args": {"lr": 0.1},
    "model_state_dict": MODEL,
    "optimizer_state_dict": OPTIMIZER,
    "optimizer_class": "SGD",
    "scheduler_state_dict": SCHEDULER,
    "scheduler_class": "ExponentialLR",
    "scaler_state_dict": {"scale": 2.0},
    "rng_state": {"python": (1,), "torch": WEIGHT},
}
LIGHTNING = {
    "epoch": 3,
    "global_step": 90,
    "pytorch-lightning_version": "2.0",
    "state_dict": MODEL,
    "optimizer_states": [OPTIMIZER, OPTIMIZER],
    "lr_schedulers": [SCHEDULER],
    "hyper_parameters": {"lr": 0.1},
    "loops": {"fit_loop": {"epoch_progress": {"total": 3}}},
}


def keys(parts: tuple[Part, ...]) -> list[str]:
    return [part.key for part in parts]


def test_every_part_of_our_own_layout_is_found() -> None:
    parts = find_parts(OURS)
    assert parts.model == Part(("model_state_dict",), MODEL)
    assert parts.optimizers == (Part(("optimizer_state_dict",), OPTIMIZER, "SGD"),)
    assert parts.schedulers == (Part(("scheduler_state_dict",), SCHEDULER, "ExponentialLR"),)
    plain = {"epoch": 3, "step": 90, "loss": 0.25, "train_args": {"lr": 0.1}, "metrics": {"accuracy": 0.9}}
    assert {name: getattr(parts, name).tree for name in plain} == plain
    assert parts.scaler == Part(("scaler_state_dict",), {"scale": 2.0})
    assert keys(parts.rng) == ["rng_state"]
    assert keys(parts.rest) == ["format_version", "framework", "optimizer_class", "scheduler_class"]


def test_lightnings_lists_are_found_item_by_item() -> None:
    parts = find_parts(LIGHTNING)
    assert parts.model is not None and parts.model.key == "state_dict"
    assert keys(parts.optimizers) == ["optimizer_states/0", "optimizer_states/1"]
    assert keys(parts.schedulers) == ["lr_schedulers/0"]
    assert (parts.epoch, parts.step) == (Part(("epoch",), 3), Part(("global_step",), 90))
    assert keys(parts.rest) == ["pytorch-lightning_version", "loops"]


@pytest.mark.parametrize("model", WEIGHT_KEYS)
@pytest.mark.parametrize("optimizer", ["optimizer", "optimizer_state", "optim", "opt_G"])
@pytest.mark.parametrize("scheduler", ["scheduler", "lr_scheduler", "sched"])
def test_names_of_programs_written_by_hand_are_known(model: str, optimizer: str, scheduler: str) -> None:
    parts = find_parts({model: MODEL, optimizer: OPTIMIZER, scheduler: SCHEDULER, "epoch": 0, "note": "x"})
    assert parts.model is not None and parts.model.key == model
    assert (keys(parts.optimizers), keys(parts.schedulers)) == ([optimizer], [scheduler])
    assert parts.epoch == Part(("epoch",), 0)
    assert keys(parts.rest) == ["note"]


def test_a_bare_state_dict_is_all_model() -> None:
    assert find_parts(MODEL) == TrainingParts(models=(Part((), MODEL),))
    assert find_parts(MODEL).model.key == "(top)"  # type: ignore[union-attr]


def test_a_bare_optimizer_or_scheduler_state_is_known() -> None:
    assert find_parts(OPTIMIZER).optimizers == (Part((), OPTIMIZER),)
    assert find_parts(SCHEDULER).schedulers == (Part((), SCHEDULER),)


def test_training_state_without_weights_is_found() -> None:
    parts = find_parts({"optimizer": OPTIMIZER, "epoch": 3})
    assert parts.model is None
    assert keys(parts.optimizers) == ["optimizer"]


@pytest.mark.parametrize(
    ("tree", "names"),
    [
        ({"optimizer": OPTIMIZER, "optimizer_class": "Adam"}, ["Adam"]),
        ({"optimizer_G": OPTIMIZER, "optimizer_G_class": "Adam"}, ["Adam"]),
        ({"optimizer_states": [OPTIMIZER] * 2, "optimizer_class": ["Adam", "SGD"]}, ["Adam", "SGD"]),
        ({"optimizers": {"G": OPTIMIZER, "D": OPTIMIZER}, "optimizer_class": {"D": "SGD"}}, [None, "SGD"]),
        ({"optimizer": OPTIMIZER}, [None]),
    ],
)
def test_the_class_is_read_from_beside_the_state(tree: Any, names: list[str | None]) -> None:
    assert [part.class_name for part in find_parts(tree | {"model": MODEL}).optimizers] == names


def test_a_known_name_with_unknown_content_is_found_all_the_same() -> None:
    parts = find_parts({"model": MODEL, "optimizer": {"mine": 1}, "scheduler": {"mine": 2}})
    assert (keys(parts.optimizers), keys(parts.schedulers)) == (["optimizer"], ["scheduler"])


def test_an_absent_part_may_be_none() -> None:
    parts = find_parts({"model": MODEL, "optimizer": None, "scheduler": {}, "epoch": None})
    assert (parts.optimizers, parts.schedulers, parts.epoch) == ((), (), None)
    assert keys(parts.rest) == ["optimizer", "scheduler", "epoch"]


@pytest.mark.parametrize("name", ["rng_state", "torch_rng_state", "cuda_rng_states", "random_state", "rng"])
def test_random_states_are_found_by_name(name: str) -> None:
    assert keys(find_parts({"model": MODEL, name: WEIGHT}).rng) == [name]
