"""A scheduler that changes its framework gives the learning rates that it would have given without.

The oracle is the real scheduler that stays; handed over before its first step, in between, and at its milestones.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.backend import backend_named
from multiframe_ckpt.training import translate_optimizer, translate_scheduler

torch = pytest.importorskip("torch")
try:
    import oneflow
except Exception:  # absent, or the placeholder wheel, which raises RuntimeError
    oneflow = None

# torch 2.0's SequentialLR calls its parts in a way that torch 2.0 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")
FRAMEWORKS = {"torch": torch, "oneflow": oneflow}
BOTH_WAYS = [("torch", "oneflow"), ("oneflow", "torch")]
needs_both = pytest.mark.skipif(oneflow is None, reason="needs real OneFlow beside torch")


def built(name: str, **arguments: Any) -> Callable[[Any, Any], Any]:
    return lambda flow, optimizer: getattr(flow.optim.lr_scheduler, name)(optimizer, **arguments)


def polynomial(flow: Any, optimizer: Any) -> Any:
    own = {"total_iters": 12} if flow is torch else {"decay_batch": 12, "end_learning_rate": 0.0}
    return flow.optim.lr_scheduler.PolynomialLR(optimizer, power=2.0, **own)


def sequential(*parts: Callable[[Any, Any], Any], milestones: list[int]) -> Callable[[Any, Any], Any]:
    def build(flow: Any, optimizer: Any) -> Any:
        own = {} if flow is torch else {"interval_rescaling": True}
        made = [part(flow, optimizer) for part in parts]
        return flow.optim.lr_scheduler.SequentialLR(optimizer, made, list(milestones), **own)

    return build


def chained(*parts: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda flow, optimizer: flow.optim.lr_scheduler.ChainedScheduler([part(flow, optimizer) for part in parts])


SCHEDULERS = {
    "StepLR": built("StepLR", step_size=3, gamma=0.5),
    "MultiStepLR": built("MultiStepLR", milestones=[2, 5, 11], gamma=0.4),
    "ExponentialLR": built("ExponentialLR", gamma=0.9),
    "CosineAnnealingLR": built("CosineAnnealingLR", T_max=7, eta_min=0.001),
    "CosineAnnealingWarmRestarts": built("CosineAnnealingWarmRestarts", T_0=4),
    "CosineAnnealingWarmRestarts growing": built("CosineAnnealingWarmRestarts", T_0=3, T_mult=2, eta_min=0.01),
    "LambdaLR": built("LambdaLR", lr_lambda=lambda step: 0.9**step),
    "LinearLR": built("LinearLR", start_factor=0.1, total_iters=8),
    "ConstantLR": built("ConstantLR", factor=0.2, total_iters=6),
    "PolynomialLR": polynomial,
    "ReduceLROnPlateau": built("ReduceLROnPlateau", patience=2, factor=0.5, cooldown=1),
    "SequentialLR": sequential(
        built("LinearLR", start_factor=0.1, total_iters=3),
        built("CosineAnnealingWarmRestarts", T_0=3, T_mult=2),
        built("MultiStepLR", milestones=[2, 4], gamma=0.5),
        milestones=[4, 9],
    ),
    "ChainedScheduler": chained(
        built("ConstantLR", factor=0.1, total_iters=4),
        built("ExponentialLR", gamma=0.9),
        built("CosineAnnealingLR", T_max=40),
    ),
}


class Schedule:
    """An optimizer of two groups under a scheduler, which says the learning rates that it gives."""

    def __init__(self, framework: str, scheduler: str) -> None:
        self.backend, flow = backend_named(framework), FRAMEWORKS[framework]
        self.weights = [flow.nn.Parameter(flow.ones(2)), flow.nn.Parameter(flow.ones(2))]
        groups = [{"params": [self.weights[0]]}, {"params": [self.weights[1]], "lr": 0.3}]
        self.optimizer = flow.optim.SGD(groups, lr=0.1, momentum=0.9)
        self.scheduler = SCHEDULERS[scheduler](flow, self.optimizer)
        self.gradient, self.count = flow.ones(2), 0

    def hand_over(self, other: Schedule, framework: str) -> None:
        optimizer, _ = translate_optimizer(self.backend.to_tree(self.optimizer), to=framework)
        scheduler, _ = translate_scheduler(self.backend.to_tree(self.scheduler), to=framework)
        other.backend.load_into(other.scheduler, scheduler)
        other.backend.load_into(other.optimizer, optimizer)
        other.count = self.count

    def rates(self, steps: int) -> list[list[float]]:
        return [self.step() for _ in range(steps)]

    def step(self) -> list[float]:
        for weight in self.weights:
            weight.grad = self.gradient
        self.optimizer.step()
        self.count += 1
        loss = max(3, 10 - self.count // 2)
        self.scheduler.step(*([loss] if hasattr(self.scheduler, "patience") else []))
        return [group["lr"] for group in self.optimizer.param_groups]


@needs_both
@pytest.mark.parametrize("before", [0, 3, 4, 5, 9, 12])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize(("here", "there"), BOTH_WAYS, ids=["to-oneflow", "to-torch"])
def test_a_scheduler_that_moves_gives_the_learning_rates_it_would_have_given(
    here: str, there: str, scheduler: str, before: int
) -> None:
    stays, moves = Schedule(here, scheduler), Schedule(there, scheduler)
    stays.rates(before)
    stays.hand_over(moves, there)
    np.testing.assert_allclose(moves.rates(15), stays.rates(15), rtol=0, atol=1e-14)


@pytest.mark.parametrize("before", [0, 4, 9])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_scheduler_that_goes_to_oneflow_and_back_gives_the_same_learning_rates(scheduler: str, before: int) -> None:
    stays, moves = Schedule("torch", scheduler), Schedule("torch", scheduler)
    stays.rates(before)
    there, _ = translate_scheduler(stays.backend.to_tree(stays.scheduler), to="oneflow")
    back, _ = translate_scheduler(there, to="torch")
    stays.hand_over(moves, "torch")
    moves.backend.load_into(moves.scheduler, back)
    assert moves.rates(15) == stays.rates(15)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_a_run_comes_back_from_oneflow_to_the_byte_where_the_report_says_lossless(
    tmp_path: Path, scheduler: str, optimizer: str
) -> None:
    trained = getattr(torch.optim, optimizer)([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    schedule = SCHEDULERS[scheduler](torch, trained)
    mfc.Checkpoint.from_run(optimizer=trained, scheduler=schedule).save(tmp_path / "a.pt")
    report = mfc.convert(tmp_path / "a.pt", tmp_path / "b")
    mfc.convert(tmp_path / "b", tmp_path / "c.pt")
    assert report.lossless is ((tmp_path / "c.pt").read_bytes() == (tmp_path / "a.pt").read_bytes())
    is_new = "decoupled_weight_decay" in torch.optim.AdamW(trained.param_groups[0]["params"]).param_groups[0]
    if is_new and scheduler.partition(" ")[0] in ("StepLR", "CosineAnnealingLR", "LambdaLR", "ChainedScheduler"):
        assert report.lossless, report
