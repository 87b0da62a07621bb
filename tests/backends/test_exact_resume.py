"""A run that is interrupted after any epoch and resumed ends with the very weights of the one that was not.

Dropout, a shuffled DataLoader, AdamW and a scheduler: everything that draws random numbers or keeps a state takes part.
The oracle is the uninterrupted run, bit by bit, and the control is a resume that carries the weights alone.
"""

import random
import subprocess
import sys
from inspect import signature

import numpy as np
import pytest

from multiframe_ckpt import CheckpointManager
from multiframe_ckpt.errors import CheckpointWarning

try:
    import torch
except ImportError:
    torch = None
try:
    import oneflow
except Exception:  # absent, or the placeholder wheel, which raises RuntimeError
    oneflow = None

EPOCHS = 5
FRAMEWORKS = [
    pytest.param("torch", marks=pytest.mark.skipif(torch is None, reason="needs torch")),
    pytest.param("oneflow", marks=pytest.mark.skipif(oneflow is None, reason="needs real OneFlow")),
]


class Run:
    """A small training run; every draw comes from the global generators."""

    def __init__(self, name, seed):
        self.flow = torch if name == "torch" else oneflow
        self.flow.manual_seed(seed)
        if self.flow is oneflow:  # its data loaders shuffle with a generator that manual_seed does not reach
            signature(oneflow.utils.data.DataLoader.__init__).parameters["generator"].default.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        nn = self.flow.nn
        self.model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.5), nn.BatchNorm1d(16), nn.Linear(16, 3))
        self.optimizer = self.flow.optim.AdamW(self.model.parameters(), lr=0.02, weight_decay=0.1)
        self.scheduler = self.flow.optim.lr_scheduler.StepLR(self.optimizer, step_size=2, gamma=0.5)
        source = np.random.RandomState(0)
        inputs = self.flow.tensor(source.randn(24, 6).astype(np.float32))
        labels = self.flow.tensor(source.randint(0, 3, 24))
        data = self.flow.utils.data
        self.batches = data.DataLoader(data.TensorDataset(inputs, labels), batch_size=8, shuffle=True)

    def parts(self):
        return {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}

    def train(self, manager, start, stop):
        loss_of = self.flow.nn.CrossEntropyLoss()
        self.model.train()
        for epoch in range(start, stop):
            for inputs, labels in self.batches:
                noise = float(np.random.normal()) + random.random()
                loss = loss_of(self.model(inputs + 0.01 * noise), labels)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
            self.scheduler.step()
            if manager is not None:
                manager.save(epoch, self.model, self.optimizer, self.scheduler, loss=loss)

    def weights(self):
        return {name: tensor.detach().numpy().tobytes() for name, tensor in self.model.state_dict().items()}


def uninterrupted(name):
    run = Run(name, seed=1)
    run.train(None, 0, EPOCHS)
    return run.weights()


@pytest.mark.parametrize("stopped_after", range(1, EPOCHS))
@pytest.mark.parametrize("format", ["torch", "oneflow"])
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_resumed_run_ends_with_the_very_weights_of_one_that_never_stopped(name, format, stopped_after, tmp_path):
    expected = uninterrupted(name)
    with CheckpointManager(tmp_path, format=format) as manager:
        Run(name, seed=1).train(manager, 0, stopped_after)
    random.random(), np.random.normal()  # whatever happened meanwhile
    run = Run(name, seed=99)
    with CheckpointManager(tmp_path, format=format) as manager:
        start = manager.resume(**run.parts()).epoch
        assert start == stopped_after
        run.train(manager, start, EPOCHS)
    assert run.weights() == expected


class Batches:
    """Batches in an order drawn from the global generator, which say where they stand."""

    def __init__(self, flow, count, size):
        self.flow, self.count, self.size = flow, count, size
        self.order, self.taken = None, 0

    def __iter__(self):
        if self.order is None:
            self.order, self.taken = self.flow.randperm(self.count), 0
        while self.taken < self.count:
            self.taken += self.size
            yield self.order[self.taken - self.size : self.taken]
        self.order = None

    def state_dict(self):
        return {"order": self.order, "taken": self.taken}

    def load_state_dict(self, state):
        self.order, self.taken = state["order"], state["taken"]


def trained_by_steps(name, seed, manager, stop=None):
    """Trains a run that saves after every step, up to a step or to its end, and gives its weights."""
    run = Run(name, seed)
    inputs, labels = run.batches.dataset.tensors
    batches, loss_of = Batches(run.flow, len(labels), 8), run.flow.nn.CrossEntropyLoss()
    start = manager.resume(**run.parts())
    if start.within_epoch:
        batches.load_state_dict(start.extra["batches"])
    step = start.step
    for epoch in range(start.epoch, 3):
        for batch in batches:
            loss = loss_of(run.model(inputs[batch] + 0.01 * float(np.random.normal())), labels[batch])
            run.optimizer.zero_grad()
            loss.backward()
            run.optimizer.step()
            run.scheduler.step()
            extra = {"batches": batches.state_dict()}
            manager.save(epoch, *run.parts().values(), step=step, loss=loss, extra=extra)
            step += 1
            if step == stop:
                return run.weights()
    return run.weights()


@pytest.mark.parametrize("stopped_after", [3, 5], ids="{} steps".format)
@pytest.mark.parametrize(("format", "async_save"), [("torch", False), ("torch", True), ("oneflow", False)])
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_run_stopped_within_an_epoch_ends_with_the_very_weights_of_one_that_never_stopped(
    name, format, async_save, stopped_after, tmp_path
):
    with CheckpointManager(tmp_path / "whole") as manager:
        expected = trained_by_steps(name, 1, manager)
    with CheckpointManager(tmp_path / "run", format=format, async_save=async_save) as manager:
        trained_by_steps(name, 1, manager, stop=stopped_after)
    with CheckpointManager(tmp_path / "run", format=format, async_save=async_save) as manager:
        assert trained_by_steps(name, 99, manager) == expected


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_saves_in_the_background_resume_as_exactly(name, tmp_path):
    expected = uninterrupted(name)
    with CheckpointManager(tmp_path, async_save=True) as manager:
        Run(name, seed=1).train(manager, 0, 3)
    run = Run(name, seed=99)
    run.train(None, CheckpointManager(tmp_path).resume(**run.parts()).epoch, EPOCHS)
    assert run.weights() == expected


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_keeping_a_run_does_not_change_it(name, tmp_path):
    expected = uninterrupted(name)
    run = Run(name, seed=1)
    run.train(CheckpointManager(tmp_path), 0, EPOCHS)
    assert run.weights() == expected


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_the_control_that_carries_the_weights_alone_ends_elsewhere(name, tmp_path):
    expected = uninterrupted(name)
    with CheckpointManager(tmp_path, save_optimizer=False, rng=False) as manager:
        Run(name, seed=1).train(manager, 0, 3)
    run = Run(name, seed=99)
    with pytest.warns(CheckpointWarning, match="fresh"):
        start = CheckpointManager(tmp_path).resume(**run.parts()).epoch
    run.train(None, start, EPOCHS)
    assert run.weights() != expected


@pytest.mark.skipif(oneflow is None, reason="needs real OneFlow")
@pytest.mark.parametrize("drawn", [0, 1, 300, 623, 624, 625, 2000])
def test_a_generator_of_oneflow_goes_on_where_it_was_however_much_was_drawn(drawn):
    from multiframe_ckpt_oneflow.generators import generator_state, set_generator_state  # only where OneFlow is

    def draw(generator, count):
        return oneflow.rand(count, generator=generator).numpy().tolist() if count else []

    one, same, other = (oneflow.Generator("cpu") for _ in range(3))
    for generator, seed in ((one, 5), (same, 5), (other, 6)):
        generator.manual_seed(seed)
    draw(one, drawn), draw(same, drawn), draw(other, 77)
    kept = generator_state(oneflow, one)
    set_generator_state(oneflow, other, kept)
    expected = draw(same, 1500)
    assert draw(one, 1500) == expected  # asking changed nothing
    assert draw(other, 1500) == expected


IN_A_FRESH_PROCESS = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("exact", sys.argv[1])
exact = importlib.util.module_from_spec(spec)
spec.loader.exec_module(exact)
name, folder, stop = sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
run = exact.Run(name, seed=int(sys.argv[5]))
with exact.CheckpointManager(folder) as manager:
    run.train(manager, manager.resume(**run.parts()).epoch, stop)
print(sorted((key, raw.hex()) for key, raw in run.weights().items()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_run_goes_on_exactly_in_a_fresh_process(name, tmp_path):
    def process(folder, stop, seed):
        command = [
            sys.executable,
            "-c",
            IN_A_FRESH_PROCESS,
            __file__,
            name,
            str(tmp_path / folder),
            str(stop),
            str(seed),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    process("stopped", 2, seed=1)
    assert process("stopped", EPOCHS, seed=7) == process("whole", EPOCHS, seed=1)
