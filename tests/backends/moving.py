"""Runs and schedules in either framework, which tests hand over to the other: what several tests here stand on."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from multiframe_ckpt.backend import backend_named
from multiframe_ckpt.training import translate_optimizer, translate_scheduler

torch = pytest.importorskip("torch")
try:
    import oneflow
except Exception:  # absent, or the placeholder wheel, which raises RuntimeError
    oneflow = None

FRAMEWORKS = {"torch": torch, "oneflow": oneflow}
BEFORE, AFTER = 15, 20
TOLERANCE, CONTROL = 5e-6, 1e-3
BOTH_WAYS = [("torch", "oneflow"), ("oneflow", "torch")]
needs_both = pytest.mark.skipif(oneflow is None, reason="needs real OneFlow beside torch")


@dataclass
class Case:
    """An optimizer with its options, and a scheduler with its own in each framework."""

    optimizer: str
    options: dict[str, Any]
    scheduler: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    loss_scale: float = 1.0

    def __str__(self) -> str:
        shown = "-".join(f"{name}={value}" for name, value in self.options.items() if name != "lr")
        return "-".join(part for part in (self.optimizer, shown, self.scheduler) if part)


CASES = [
    Case("SGD", {"lr": 0.05}, "StepLR", {"step_size": 4, "gamma": 0.5}),
    Case("SGD", {"lr": 0.05, "momentum": 0.9}),
    Case("SGD", {"lr": 0.05, "momentum": 0.9}, "CosineAnnealingLR", {"T_max": 30}),
    Case("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True}, "ExponentialLR", {"gamma": 0.97}),
    Case("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    Case("SGD", {"lr": 0.005, "momentum": 0.5, "maximize": True}, loss_scale=-1.0),
    Case("Adam", {"lr": 0.01, "weight_decay": 0.0}, "MultiStepLR", {"milestones": [5, 20], "gamma": 0.3}),
    Case("Adam", {"lr": 0.01, "weight_decay": 0.01, "amsgrad": True}),
    Case("Adam", {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-4}, "LambdaLR", {"lr_lambda": lambda step: 0.95**step}),
    Case("AdamW", {"lr": 0.01, "weight_decay": 0.05}, "CosineAnnealingWarmRestarts", {"T_0": 6, "T_mult": 2}),
    Case("AdamW", {"lr": 0.005, "weight_decay": 0.05, "amsgrad": True}),
    Case("Adagrad", {"lr": 0.05, "initial_accumulator_value": 0.1}),
    Case("Adagrad", {"lr": 0.05, "lr_decay": 0.05, "weight_decay": 0.01, "eps": 1e-8}),
    Case("Adadelta", {"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0.01}),
    Case("RMSprop", {"lr": 0.002, "alpha": 0.9, "eps": 1e-12}, "LinearLR", {"start_factor": 0.2, "total_iters": 25}),
    Case("RMSprop", {"lr": 0.002, "alpha": 0.9, "eps": 1e-12, "centered": True}),
    Case("RMSprop", {"lr": 0.002, "alpha": 0.99, "eps": 1e-8}, loss_scale=10.0),
]


class Run:
    """A tiny network in one framework, with its optimizer and scheduler."""

    def __init__(self, framework: str, case: Case) -> None:
        self.name, self.case = framework, case
        self.backend = backend_named(framework)
        self.flow = flow = FRAMEWORKS[framework]
        nn = flow.nn
        self.model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
        self.load(self.model, initial_weights())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # OneFlow says that maximize needs momentum
            self.optimizer = getattr(flow.optim, case.optimizer)(self.model.parameters(), **case.options)
        self.scheduler = None
        if case.scheduler is not None:
            self.scheduler = getattr(flow.optim.lr_scheduler, case.scheduler)(self.optimizer, **case.arguments)

    def load(self, target: Any, tree: Any) -> None:
        self.backend.load_into(target, tree)

    def train(self, batches: list[tuple[np.ndarray, np.ndarray]]) -> Run:
        for x, y in batches:
            self.optimizer.zero_grad()
            loss = ((self.model(self.flow.tensor(x)) - self.flow.tensor(y)) ** 2).mean() * self.case.loss_scale
            loss.backward()
            self.optimizer.step()
            if self.scheduler is not None:
                self.scheduler.step()
        return self

    def weights(self) -> dict[str, np.ndarray]:
        return {name: p.detach().numpy().copy() for name, p in self.model.named_parameters()}

    def checkpoint(self) -> dict[str, Any]:
        """The tree of this run, as a training checkpoint holds it."""
        tree = {
            "epoch": 3,
            "model_state_dict": self.backend.to_tree(self.model),
            "optimizer_state_dict": self.backend.to_tree(self.optimizer),
            "optimizer_class": self.case.optimizer,
        }
        if self.scheduler is not None:
            tree["scheduler_state_dict"] = self.backend.to_tree(self.scheduler)
            tree["scheduler_class"] = self.case.scheduler
        return tree

    def take(self, tree: dict[str, Any]) -> Run:
        """Loads the parts of a tree in this run's own dialect."""
        self.load(self.model, tree["model_state_dict"])
        self.load(self.optimizer, tree["optimizer_state_dict"])
        if self.scheduler is not None:
            self.load(self.scheduler, tree["scheduler_state_dict"])
        return self


def initial_weights() -> dict[str, Any]:
    rng = np.random.default_rng(3)
    shapes = {"0.weight": (5, 4), "0.bias": (5,), "2.weight": (3, 5), "2.bias": (3,)}
    return backend_named("numpy").to_tree({k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()})


def batches(count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [
        (rng.normal(size=(16, 4)).astype(np.float32), 3 * rng.normal(size=(16, 3)).astype(np.float32))
        for _ in range(count)
    ]


def furthest(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    return max(float(np.abs(a[name] - b[name]).max()) for name in a)


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

    def __init__(self, framework: str, scheduler: str | Callable[[Any, Any], Any]) -> None:
        self.backend, flow = backend_named(framework), FRAMEWORKS[framework]
        self.weights = [flow.nn.Parameter(flow.ones(2)), flow.nn.Parameter(flow.ones(2))]
        groups = [{"params": [self.weights[0]]}, {"params": [self.weights[1]], "lr": 0.3}]
        self.optimizer = flow.optim.SGD(groups, lr=0.1, momentum=0.9)
        build = SCHEDULERS[scheduler] if isinstance(scheduler, str) else scheduler
        self.scheduler = build(flow, self.optimizer)
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
