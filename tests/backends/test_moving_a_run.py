"""A training run that changes its framework after some steps ends where it would have ended without.

The oracles are the real optimizers and schedulers: the run that goes on in the framework it began in, on the same batches.
The control carries the weights alone, and ends elsewhere: without it the tests would not show that the state matters.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from moving import (
    AFTER,
    BEFORE,
    BOTH_WAYS,
    CASES,
    CONTROL,
    TOLERANCE,
    Case,
    Run,
    batches,
    furthest,
    needs_both,
    oneflow,
    torch,
)

from multiframe_ckpt import Checkpoint
from multiframe_ckpt.backend import backend_named
from multiframe_ckpt.training import merged, translate, translate_optimizer
from multiframe_ckpt.tree import tensors


@needs_both
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize(("here", "there"), BOTH_WAYS, ids=["to-oneflow", "to-torch"])
def test_a_run_that_moves_ends_where_it_would_have_ended(here: str, there: str, case: Case) -> None:
    stays = Run(here, case).train(batches(BEFORE, 0))
    moved, report = translate(stays.checkpoint(), to=there)
    moves = Run(there, case).take(moved)
    bare = Run(there, case)
    bare.load(bare.model, moved["model_state_dict"])
    for run in (stays, moves, bare):
        run.train(batches(AFTER, 1))
    assert furthest(stays.weights(), moves.weights()) <= TOLERANCE
    assert furthest(stays.weights(), bare.weights()) > CONTROL
    assert len(report.converted) == (2 if case.scheduler else 1) and not report.left_out


@needs_both
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize(("here", "there"), BOTH_WAYS, ids=["to-oneflow", "to-torch"])
def test_merged_into_an_optimizer_built_with_other_options_a_run_goes_on_as_well(
    here: str, there: str, case: Case
) -> None:
    stays = Run(here, case).train(batches(BEFORE, 0))
    moved, _ = translate(stays.checkpoint(), to=there)
    other = {"lr": 0.7} | {name: value for name, value in case.options.items() if name in ("momentum", "centered")}
    moves = Run(there, replace(case, options=other))
    own = moves.backend.to_tree(moves.optimizer)
    state, _ = merged(own, stays.backend.to_tree(stays.optimizer), class_name=case.optimizer)
    moves.take(moved | {"optimizer_state_dict": state})
    stays.train(batches(AFTER, 1))
    moves.train(batches(AFTER, 1))
    assert furthest(stays.weights(), moves.weights()) <= TOLERANCE


@needs_both
@pytest.mark.parametrize(("here", "there"), BOTH_WAYS, ids=["to-oneflow", "to-torch"])
def test_training_on_in_one_framework_leaves_the_state_of_the_other_alone(here: str, there: str) -> None:
    case = Case("Adam", {"lr": 0.01})
    stays = Run(here, case).train(batches(BEFORE, 0))
    state, _ = translate_optimizer(stays.backend.to_tree(stays.optimizer), to=there)
    before = {key: tensor.numpy() for key, tensor in tensors(state).items()}
    moves = Run(there, case)
    # Unlike load_into, this gives the optimizer the very tensors.
    moves.optimizer.load_state_dict(moves.backend.from_tree(state))
    moves.train(batches(AFTER, 1))
    after = {key: tensor.numpy() for key, tensor in tensors(state).items()}
    assert all(np.array_equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_state_that_goes_to_oneflow_and_back_is_the_same_for_torch(case: Case) -> None:
    stays = Run("torch", case).train(batches(BEFORE, 0))
    there, _ = translate(stays.checkpoint(), to="oneflow")
    back, _ = translate(there, to="torch")
    moves = Run("torch", case).take(back)
    stays.train(batches(AFTER, 1))
    moves.train(batches(AFTER, 1))
    assert furthest(stays.weights(), moves.weights()) == 0


NAMES = ("sgd", "sgd_momentum", "adam", "adamw")
FIXTURES = [f"trajectory-oneflow-{version}/{name}" for version in ("0.8.0", "0.9.0") for name in NAMES]


@pytest.mark.parametrize("there", ["torch", pytest.param("oneflow", marks=needs_both)])
@pytest.mark.parametrize("fixture", FIXTURES)
def test_a_run_of_real_oneflow_ends_where_oneflow_took_it(golden: Path, fixture: str, there: str) -> None:
    folder = golden / fixture
    tree = Checkpoint.open(folder / "ckpt").tree
    moved, _ = translate(tree, to=there)
    case = Case(tree["optimizer_class"], {"lr": 0.7} | ({"momentum": 0.1} if "momentum" in fixture else {}))
    moves, bare = Run(there, case), Run(there, case)
    moves.load(moves.model, moved["model"])
    moves.load(moves.optimizer, moved["optimizer"])
    bare.load(bare.model, moved["model"])
    with np.load(folder / "batches.npz") as data, np.load(folder / "after20.npz") as after:
        next_batches = list(zip(data["x"], data["y"], strict=True))
        expected = dict(after)
    assert furthest(expected, moves.train(next_batches).weights()) <= TOLERANCE
    assert furthest(expected, bare.train(next_batches).weights()) > CONTROL


@needs_both
def test_what_was_loaded_stays_when_the_other_framework_trains_on() -> None:
    source, target = torch.ones(1000, 1000), oneflow.zeros(1000, 1000)
    busy = oneflow.ones(1500, 1500)
    for _ in range(3):  # OneFlow runs operations later, in order: a copy waits behind these
        busy = oneflow.matmul(busy, busy) * 1e-4
    backend_named("oneflow").load_into({"w": target}, backend_named("torch").to_tree({"w": source}))
    source.zero_()
    assert target.numpy().min() == 1.0
