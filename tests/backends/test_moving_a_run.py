"""A training run that changes its framework after some steps ends where it would have ended without.

The oracles are the real optimizers and schedulers: the run that goes on in the framework it began in, on the same batches.
The control carries the weights alone, and ends elsewhere: without it the tests would not show that the state matters.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multiframe_ckpt import Checkpoint
from multiframe_ckpt.backend import backend_named
from multiframe_ckpt.training import merged, translate, translate_optimizer
from multiframe_ckpt.tree import tensors

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
