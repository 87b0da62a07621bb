"""What a conversion says of a run is what really happens: its values come back, and it goes on in the other framework.

The oracles are the real optimizers and schedulers of the other framework, their own ``load_state_dict`` and ``step``, and
the run that stays where it began; and for what comes back, the values of the source, one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moving import (
    AFTER,
    BEFORE,
    BOTH_WAYS,
    CASES,
    SCHEDULERS,
    TOLERANCE,
    Case,
    Run,
    Schedule,
    batches,
    built,
    chained,
    furthest,
    needs_both,
    sequential,
    torch,
)

import multiframe_ckpt as mfc
from multiframe_ckpt.tree import LazyTensor, leaves

pytestmark = [
    pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step"),
    pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step"),
]
SUFFIX = {"torch": ".pt", "oneflow": ""}
#: Optimizers that one framework has alone, or whose options the other lacks, by the framework they are of.
ALONE = {
    "torch": [
        *(Case(name, {"lr": 0.01}) for name in ("NAdam", "RAdam", "Adamax", "ASGD", "Rprop")),
        Case("Adam", {"lr": 0.01, "maximize": True}, loss_scale=-1.0),
        Case("RMSprop", {"lr": 0.002, "alpha": 0.9, "momentum": 0.5}),
        Case("RMSprop", {"lr": 0.002, "eps": 1e-4}),
        Case("SGD", {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1, "maximize": True}, loss_scale=-1.0),
        Case("SGD", {"lr": 0.01}, "CyclicLR", {"base_lr": 0.01, "max_lr": 0.1}),
        Case("SGD", {"lr": 0.01}, "OneCycleLR", {"max_lr": 0.1, "total_steps": 60}),
        Case("SGD", {"lr": 0.01}, "MultiplicativeLR", {"lr_lambda": lambda _: 0.95}),
    ],
    "oneflow": [
        Case("LAMB", {"lr": 0.01}),
        Case("Adam", {"lr": 0.01, "do_bias_correction": False}),
        Case("RMSprop", {"lr": 0.002, "centered": True, "eps": 1e-4}),
        Case("SGD", {"lr": 0.01}, "CosineDecayLR", {"decay_steps": 40}),
    ],
}
EVERY = [(here, there, case) for here, there in BOTH_WAYS for case in [*CASES, *ALONE[here]]]
SCHEDULERS_ALONE = {
    "torch": {
        "SequentialLR": sequential(
            built("LambdaLR", lr_lambda=lambda step: 0.9**step), built("ExponentialLR", gamma=0.9), milestones=[3]
        ),
        "ChainedScheduler": chained(built("ExponentialLR", gamma=0.9), built("LambdaLR", lr_lambda=lambda _: 0.9)),
    },
    "oneflow": {
        "PolynomialLR": built("PolynomialLR", decay_batch=12, end_learning_rate=0.01),
        "CosineAnnealingWarmRestarts": built("CosineAnnealingWarmRestarts", T_0=4, decay_rate=0.5),
    },
}


def converted(tree: Any, here: str, there: str, folder: Path) -> tuple[mfc.ConvertReport, Any]:
    """Gives the report of a conversion of a tree from one framework's format to the other's, and the tree of the target."""
    source, target = folder / f"a{SUFFIX[here]}", folder / f"b{SUFFIX[there]}"
    mfc.Checkpoint(tree).save(source)
    return mfc.convert(source, target), mfc.open(target).tree


def values(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Gives the path of each value in a tree, and its bits; a moment that is None is none."""
    for path, leaf in leaves(tree):
        if isinstance(leaf, LazyTensor):
            yield path, (leaf.dtype.name, leaf.shape, leaf.numpy().tobytes())
        elif leaf is not None:
            yield path, repr(leaf)


def come_back(folder: Path, here: str, there: str) -> bool:
    source, back = folder / f"a{SUFFIX[here]}", folder / f"back{SUFFIX[here]}"
    mfc.convert(folder / f"b{SUFFIX[there]}", back)
    returned = dict(values(mfc.open(back).tree))
    return all(returned.get(path) == value for path, value in values(mfc.open(source).tree))


def own_load(run: Run, tree: Any) -> None:
    """Loads a tree as a program does that knows nothing of this library."""
    run.load(run.model, tree["model_state_dict"])
    run.optimizer.load_state_dict(run.backend.from_tree(tree["optimizer_state_dict"]))
    if run.scheduler is not None:
        run.scheduler.load_state_dict(run.backend.from_tree(tree["scheduler_state_dict"]))


def goes_on(there: str, case: Case, tree: Any, stays: Run) -> bool:
    """Whether the run trains on in the other framework, and ends where the run that stays does."""
    try:
        moves = Run(there, case)
        own_load(moves, tree)
        moves.train(batches(AFTER, 1))
    except Exception:
        return False
    return furthest(stays.weights(), moves.weights()) <= TOLERANCE


@needs_both
@pytest.mark.parametrize(("here", "there", "case"), EVERY, ids=lambda value: str(value))
def test_a_run_is_called_resumable_where_it_trains_on_and_exact_where_its_values_come_back(
    here: str, there: str, case: Case, tmp_path: Path
) -> None:
    stays = Run(here, case).train(batches(BEFORE, 0))
    report, tree = converted(stays.checkpoint(), here, there, tmp_path)
    stays.train(batches(AFTER, 1))
    assert report.resumable is goes_on(there, case, tree, stays), report.resumable_because
    assert report.resumable is (case in CASES)
    assert report.exact is come_back(tmp_path, here, there), report.inexact
    assert report.ok is (report.exact and report.resumable)


@needs_both
@pytest.mark.parametrize("before", [0, 5])
@pytest.mark.parametrize(
    ("here", "there", "name", "build"),
    [(*way, name, SCHEDULERS[name]) for way in BOTH_WAYS for name in SCHEDULERS]
    + [(*way, name, build) for way in BOTH_WAYS for name, build in SCHEDULERS_ALONE[way[0]].items()],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_schedule_is_called_resumable_where_it_gives_the_same_rates_there(
    here: str, there: str, name: str, build: Callable[[Any, Any], Any], before: int, tmp_path: Path
) -> None:
    crosses = build is SCHEDULERS.get(name)
    stays = Schedule(here, build)
    stays.rates(before)
    stored = {
        "optimizer_state_dict": stays.backend.to_tree(stays.optimizer),
        "scheduler_state_dict": stays.backend.to_tree(stays.scheduler),
        "scheduler_class": type(stays.scheduler).__name__,
    }
    report, tree = converted(stored, here, there, tmp_path)
    moves = Schedule(there, build if crosses else built("ExponentialLR", gamma=0.9))
    moves.count = stays.count
    try:
        # Not its own loader alone: torch's MultiStepLR wants a Counter, which no file of plain values holds.
        moves.backend.load_into(moves.scheduler, tree["scheduler_state_dict"])
        moves.optimizer.load_state_dict(moves.backend.from_tree(tree["optimizer_state_dict"]))
        same = np.allclose(moves.rates(15), stays.rates(15), rtol=0, atol=1e-14)
    except Exception:
        same = False
    assert report.resumable is same is crosses, report.resumable_because
    assert report.exact is come_back(tmp_path, here, there), report.inexact


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_torch_has_kept_comes_back_from_oneflow_where_the_report_says_exact(case: Case, tmp_path: Path) -> None:
    run = Run("torch", case).train(batches(BEFORE, 0))
    report, _ = converted(run.checkpoint(), "torch", "oneflow", tmp_path)
    assert report.exact is come_back(tmp_path, "torch", "oneflow"), report.inexact
    assert report.resumable


@pytest.mark.parametrize("framework", ["torch", pytest.param("oneflow", marks=needs_both)])
def test_a_run_that_stays_in_its_framework_goes_on_whatever_its_optimizer_is(framework: str, tmp_path: Path) -> None:
    for case in ALONE[framework][:3]:
        run = Run(framework, case).train(batches(3, 0))
        source, target = tmp_path / f"{case.optimizer}{SUFFIX[framework]}", tmp_path / f"{case.optimizer}.safetensors"
        mfc.Checkpoint(run.checkpoint()).save(source)
        report = mfc.convert(source, target)
        assert (report.exact, report.resumable) == (True, True), report.resumable_because
        other = Run(framework, case)
        own_load(other, mfc.open(target).tree)
        assert furthest(run.train(batches(3, 1)).weights(), other.train(batches(3, 1)).weights()) == 0


@pytest.mark.parametrize("target", ["there", "there.pt", "there.safetensors", "there.h5", "there.npz", "there.json"])
def test_pieces_of_one_storage_that_do_not_overlap_are_no_tie(tmp_path: Path, target: str) -> None:
    parameters = dict(torch.nn.LSTM(3, 4, 2).named_parameters())
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in parameters.values()])  # as cuDNN keeps them
    pieces = flat.split([parameter.numel() for parameter in parameters.values()])
    shaped = {name: piece.view(parameters[name].shape) for name, piece in zip(parameters, pieces, strict=True)}
    columns = dict(zip("ab", torch.arange(24.0).view(4, 6).split(3, dim=1), strict=True))
    torch.save({"lstm": shaped, "columns": columns}, tmp_path / "run.pt")
    report = mfc.convert(tmp_path / "run.pt", tmp_path / target)
    assert (report.exact, report.lost_ties) == (True, ())
    assert mfc.diff(tmp_path / "run.pt", tmp_path / target).equal
