"""Gated saves: the copy is made during the next forward and backward, and no update comes before its end.

The worst case is forced: copying begins when an update waits for it, and after everything that came before the update.
"""

import os
import signal
import subprocess
import sys
from threading import Event, current_thread

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt import CheckpointManager
from multiframe_ckpt.errors import CheckpointWarning, KeyRefusedError, ValueRefusedError
from multiframe_ckpt.runs import gate
from multiframe_ckpt.runs.snapshot import Copying
from multiframe_ckpt.tree import join_key, tied_groups

torch = pytest.importorskip("torch")
nn = torch.nn


@pytest.fixture
def late(monkeypatch):
    """Copying what may wait begins only when an update waits for it, or when this event is set."""
    asked = Event()

    class Asked(Event):
        def wait(self, timeout=None):
            asked.set()
            return super().wait(timeout)

    class Late(Copying):
        def finish(self):
            if current_thread().name == "multiframe-ckpt save":
                assert asked.wait(60)
                asked.clear()
            super().finish()

    monkeypatch.setattr(gate, "Event", Asked)
    monkeypatch.setattr(gate, "Copying", Late)
    yield asked
    asked.set()


class Run:
    """A model with batch norm and tied weights, its optimizer, a scheduler, and an average that is kept of it."""

    def __init__(self, make_optimizer):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4))
        self.model[3].weight = self.model[0].weight
        self.average = torch.optim.swa_utils.AveragedModel(self.model)
        self.optimizer = make_optimizer(self.model)
        self.each = list(self.optimizer.values()) if isinstance(self.optimizer, dict) else [self.optimizer]
        self.schedulers = [torch.optim.lr_scheduler.StepLR(each, 1, gamma=0.9) for each in self.each]
        self.update()

    def epoch(self):
        """Changes everything that may change before an update, then updates."""
        for scheduler in self.schedulers:
            scheduler.step()
        self.average.update_parameters(self.model)
        self.update()

    def update(self):
        def loss():
            for each in self.each:
                each.zero_grad()
            found = (self.model(torch.randn(8, 4)) ** 2).sum()
            found.backward()
            return found

        loss()
        for each in self.each:
            each.step(loss)

    def save(self, keeper, epoch):
        return keeper.save(
            epoch, self.model, self.optimizer, self.schedulers, extra={"average": self.average.state_dict()}
        )


OPTIMIZERS = {
    "Adam": lambda model: torch.optim.Adam(model.parameters(), lr=0.1, amsgrad=True),
    "a learning rate that is a tensor": lambda model: torch.optim.Adam(model.parameters(), lr=torch.tensor(0.1)),
    "SGD": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
    "LBFGS": lambda model: torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2),
    "two": lambda model: {
        "first": torch.optim.AdamW(model[:2].parameters(), lr=0.1),
        "second": torch.optim.RMSprop([model[3].bias], lr=0.1),
    },
}


def facts(path):
    """Everything in a checkpoint but the time of day."""
    tree, table = mfc.partition(mfc.open(path).tree)
    bits = {key: (tensor.dtype.name, tensor.shape, tensor.numpy().tobytes()) for key, tensor in table.items()}
    return tree | {"timestamp": None}, bits, tied_groups(table)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_gated_save_is_that_of_its_moment_whatever_training_does_next(tmp_path, late, name):
    run = Run(OPTIMIZERS[name])
    at_once = CheckpointManager(tmp_path / "at_once")
    pairs = []
    with CheckpointManager(tmp_path / "gated", async_save="gated") as gated:
        for epoch in range(4):
            run.epoch()
            pairs.append((run.save(at_once, epoch), run.save(gated, epoch)))
        late.set()
    for expected, found in pairs:
        assert facts(found) == facts(expected)


@pytest.fixture
def run():
    made = Run(OPTIMIZERS["SGD"])
    made.epoch()
    return made


def weight_of(path):
    return mfc.open(path).tensors()["model_state_dict/0.weight"].numpy().tolist()


def test_what_only_updates_change_is_not_copied_before_save_returns(tmp_path, late, run):
    later = []
    with CheckpointManager(tmp_path, async_save="gated") as keeper:
        close = keeper._writer._gate.close
        keeper._writer._gate.close = lambda copies: (
            later.extend(join_key(copy.path) for copy in copies),
            close(copies),
        )[1]
        run.save(keeper, 0)
        late.set()
    moments = [f"optimizer_state_dict/state/{index}/momentum_buffer" for index in range(5)]
    weights = [f"model_state_dict/{name}" for name, _ in run.model.named_parameters()]
    assert sorted(later) == sorted(weights + moments)


def test_an_update_that_waits_has_the_copies_made_at_its_own_priority(tmp_path, monkeypatch, run):
    made, copied_by = Event(), []

    class Starved(Copying):
        """The thread that saves gets no time until others have made the copies."""

        def help(self):
            if current_thread().name == "multiframe-ckpt save":
                assert made.wait(60)
            super().help()
            copied_by.append(current_thread().name)
            made.set()

    monkeypatch.setattr(gate, "Copying", Starved)
    before = run.model[0].weight.tolist()
    with CheckpointManager(tmp_path, async_save="gated") as keeper:
        path = run.save(keeper, 0)
        run.update()
    assert copied_by[0] == "multiframe-ckpt copy"
    assert weight_of(path) == before


def test_after_scaled_gradients_the_update_waits_too(tmp_path, late, run):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0) if hasattr(torch.amp, "GradScaler") else None
    if scaler is None:
        pytest.skip("needs a GradScaler for the CPU: torch 2.3")
    before = run.model[0].weight.tolist()
    with CheckpointManager(tmp_path, async_save="gated") as keeper:
        path = run.save(keeper, 0)
        scaler.scale((run.model(torch.randn(8, 4)) ** 2).sum()).backward()
        scaler.step(run.optimizer)
        assert run.model[0].weight.tolist() != before
    assert weight_of(path) == before


def test_the_hooks_are_taken_away_when_the_manager_is_closed(tmp_path, run):
    with CheckpointManager(tmp_path, async_save="gated") as keeper:
        for epoch in range(3):
            run.save(keeper, epoch)
            assert len(run.optimizer._optimizer_step_pre_hooks) == 1
    assert len(run.optimizer._optimizer_step_pre_hooks) == 0


def test_an_optimizer_that_is_not_saved_is_held_back_all_the_same(tmp_path, late, run):
    before = run.model[0].weight.tolist()
    with CheckpointManager(tmp_path, async_save="gated", save_optimizer=False) as keeper:
        path = run.save(keeper, 0)
        run.epoch()
    assert weight_of(path) == before


class OwnStep(torch.optim.SGD):
    """An optimizer whose step no hook can reach."""

    def __init__(self, parameters):
        super().__init__(parameters, lr=0.1)
        self.__class__ = Unhooked


class Unhooked(OwnStep):
    def step(self, closure=None):
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                parameter.add_(1)


def test_an_optimizer_that_cannot_be_held_back_is_copied_at_once_and_that_is_said_once(tmp_path):
    run = Run(lambda model: OwnStep(model.parameters()))
    keeper = CheckpointManager(tmp_path, async_save="gated")
    before = run.model[0].weight.tolist()
    with pytest.warns(CheckpointWarning, match=r"found Unhooked, .*expected .*wait_before_update") as said:
        path = run.save(keeper, 0)
        run.optimizer.step()
        run.save(keeper, 1)
    assert len(said) == 1
    assert said[0].filename == __file__
    keeper.close()
    assert weight_of(path) == before


def test_without_an_optimizer_everything_is_copied_at_once_and_that_is_said(tmp_path):
    model = {"w": np.ones(3, np.float32)}
    with CheckpointManager(tmp_path, async_save="gated") as keeper:
        with pytest.warns(CheckpointWarning, match="found no optimizer"):
            path = keeper.save(0, model)
        model["w"][:] = 2
    assert mfc.open(path).tensors()["model_state_dict/w"].numpy().tolist() == [1, 1, 1]


def test_a_program_that_waits_before_its_updates_needs_no_hook(tmp_path, late):
    run = Run(lambda model: OwnStep(model.parameters()))
    with CheckpointManager(tmp_path, async_save="gated") as keeper:
        for epoch in range(3):
            keeper.wait_before_update()
            run.optimizer.step()
            before = run.model[0].weight.tolist()
            path = run.save(keeper, epoch)
        late.set()
    assert weight_of(path) == before


def test_a_weight_that_changed_before_its_update_fails_the_save_rather_than_being_written(tmp_path, late, run):
    keeper = CheckpointManager(tmp_path, async_save="gated")
    path = run.save(keeper, 0)
    with torch.no_grad():
        run.model[0].weight.mul_(2)
    late.set()
    with pytest.raises(ValueRefusedError, match=r"model_state_dict/0\.weight: found it changed while it was copied"):
        keeper.wait()
    assert not path.exists()


def test_an_error_in_the_copy_stops_no_update_and_comes_out_of_the_next_call(tmp_path, monkeypatch, run):
    class Failing(Copying):
        def _next(self):
            raise MemoryError("no memory")

    monkeypatch.setattr(gate, "Copying", Failing)
    keeper = CheckpointManager(tmp_path, async_save="gated")
    run.save(keeper, 0)
    run.epoch()
    with pytest.raises(MemoryError, match="no memory"):
        keeper.save(1, run.model)


def test_where_no_thread_can_be_started_the_error_is_told_and_updates_go_on(tmp_path, monkeypatch, run):
    keeper = CheckpointManager(tmp_path, async_save="gated")

    def refuse(work):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(keeper._writer._worker, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start"):
        run.save(keeper, 0)
    run.epoch()


def test_what_a_format_cannot_hold_is_refused_by_the_first_save_itself(tmp_path, run):
    keeper = CheckpointManager(tmp_path, async_save="gated", format="oneflow")
    with pytest.raises(KeyRefusedError):
        keeper.save(0, {"a/b": torch.zeros(1)}, run.optimizer)
    run.epoch()


def test_closing_and_restoring_wait_for_the_copy_and_the_writing(tmp_path, run):
    keeper = CheckpointManager(tmp_path, async_save="gated")
    run.save(keeper, 0)
    before = run.model[0].weight.tolist()
    keeper.restore(model=run.model, optimizer=run.optimizer)
    assert run.model[0].weight.tolist() == before
    path = run.save(keeper, 1)
    keeper.close()
    assert weight_of(path) == before


def test_a_sigterm_leaves_with_a_gated_save_that_is_complete(tmp_path, run):
    own = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with CheckpointManager(tmp_path, async_save="gated", save_on_sigterm=True) as keeper:
            run.save(keeper, 0)
            os.kill(os.getpid(), signal.SIGTERM)
            run.epoch()
            with pytest.raises(SystemExit):
                run.save(keeper, 1)
            assert weight_of(keeper.latest().path) == run.model[0].weight.tolist()
            assert [record.epoch for record in keeper.checkpoints()] == [0, 1]
    finally:
        signal.signal(signal.SIGTERM, own)


AT_EXIT = """
import sys, torch
from multiframe_ckpt import CheckpointManager
model = torch.nn.Linear(1000, 1000)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
CheckpointManager(sys.argv[1], async_save="gated").save(0, model, optimizer, loss=model.weight[7, 7].item())
"""


def test_a_program_that_ends_after_a_gated_save_loses_nothing_of_it(tmp_path):
    done = subprocess.run([sys.executable, "-c", AT_EXIT, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    record = CheckpointManager(tmp_path).latest()
    weight = mfc.load(record.path, backend="torch")["model_state_dict"]["weight"]
    assert float(weight[7, 7]) == record.metrics["loss"]
