"""SIGTERM: the machine is wanted back, and the run leaves with a checkpoint."""

import os
import signal
import subprocess
import sys
from threading import Thread

import numpy as np
import pytest

from multiframe_ckpt import CheckpointManager
from multiframe_ckpt.errors import CheckpointWarning, ValueRefusedError
from multiframe_ckpt.formats.torch.zip_write import TorchPlan

WEIGHTS = {"w": np.zeros(4, np.float32)}


@pytest.fixture
def before():
    """A handler of the program's own, and the signals that it got."""
    got = []
    own = signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
    yield got
    signal.signal(signal.SIGTERM, own)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("async_save", [False, True])
def test_the_next_save_after_a_sigterm_is_made_in_any_case_and_is_the_last(tmp_path, before, async_save):
    with CheckpointManager(tmp_path, save_freq=100, save_on_sigterm=True, async_save=async_save) as manager:
        assert (manager.save(1, WEIGHTS, loss=0.1), manager.preempted) == (None, False)
        terminate()
        assert manager.preempted
        with pytest.raises(SystemExit) as leaving:
            manager.save(2, WEIGHTS, loss=0.1)
        assert leaving.value.code == 143
        assert manager.latest().epoch == 2


def test_a_run_that_saves_by_steps_leaves_within_its_epoch_and_goes_on_there(tmp_path, before):
    with CheckpointManager(tmp_path, save_freq=100, save_on_sigterm=True) as manager, pytest.raises(SystemExit):
        for step in range(200, 300):
            if step == 217:
                terminate()
            manager.save(2, WEIGHTS, step=step)
    start = CheckpointManager(tmp_path).resume(model=WEIGHTS)
    assert (start.epoch, start.step, start.within_epoch) == (2, 218, True)


def test_a_sigterm_during_a_save_ends_the_run_with_that_save(tmp_path, before, monkeypatch):
    real = TorchPlan.write

    def write(self, target, on_progress):
        terminate()
        real(self, target, on_progress)

    monkeypatch.setattr(TorchPlan, "write", write)
    with CheckpointManager(tmp_path, save_on_sigterm=True) as manager:
        with pytest.raises(SystemExit):
            manager.save(0, WEIGHTS, loss=0.1)
        assert manager.latest().epoch == 0


def test_the_handler_that_was_there_before_is_called_too_and_comes_back(tmp_path, before):
    own = signal.getsignal(signal.SIGTERM)
    with CheckpointManager(tmp_path, save_on_sigterm=True):
        terminate()
    assert before == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is own


def test_the_handler_comes_back_before_the_program_leaves(tmp_path, before):
    own = signal.getsignal(signal.SIGTERM)
    manager = CheckpointManager(tmp_path, save_on_sigterm=True)
    terminate()
    with pytest.raises(SystemExit):
        manager.save(0, WEIGHTS, loss=0.1)
    assert signal.getsignal(signal.SIGTERM) is own


def test_without_being_asked_for_sigterm_is_left_alone(tmp_path, before):
    own = signal.getsignal(signal.SIGTERM)
    CheckpointManager(tmp_path)
    assert signal.getsignal(signal.SIGTERM) is own


def test_a_manager_made_in_another_thread_cannot_watch_for_signals(tmp_path):
    problems = []

    def make():
        try:
            CheckpointManager(tmp_path, save_on_sigterm=True)
        except ValueRefusedError as problem:
            problems.append(str(problem))

    thread = Thread(target=make)
    thread.start()
    thread.join()
    assert problems[0].startswith("save_on_sigterm: found a thread of its own, expected the main thread")


def test_a_save_that_failed_before_does_not_cost_the_last_one(tmp_path, before, monkeypatch):
    manager = CheckpointManager(tmp_path, save_on_sigterm=True, async_save=True)
    with monkeypatch.context() as patch:
        patch.setattr(TorchPlan, "write", lambda *_: 1 // 0)
        manager.save(0, WEIGHTS, loss=0.1)
        manager._writer._worker._thread.join()
    terminate()
    with pytest.warns(CheckpointWarning, match="the last save failed"), pytest.raises(SystemExit):
        manager.save(1, WEIGHTS, loss=0.1)
    assert manager.latest().epoch == 1


PROGRAM = """
import os, signal, sys, numpy as np
from multiframe_ckpt import CheckpointManager
with CheckpointManager(sys.argv[1], save_freq=100, save_on_sigterm=True, async_save=True) as manager:
    for epoch in range(1, 1000):
        if epoch == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        manager.save(epoch, {"w": np.zeros(4, np.float32)}, loss=0.1)
"""


def test_a_program_that_is_terminated_leaves_with_the_status_of_one_and_a_checkpoint(tmp_path):
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (143, "")
    assert [record.epoch for record in CheckpointManager(tmp_path).checkpoints()] == [7]


STOPPED = """
import os, signal, sys
from multiframe_ckpt import CheckpointManager
manager = CheckpointManager(sys.argv[1], save_on_sigterm=True)
ours = signal.getsignal(signal.SIGTERM)
signal.signal(signal.SIGTERM, lambda number, frame: ours(number, frame))  # set after ours, and calls it
manager.close()
os.kill(os.getpid(), signal.SIGTERM)
print("still there")
"""


def test_a_closed_manager_whose_handler_is_still_called_does_not_swallow_the_signal(tmp_path):
    done = subprocess.run([sys.executable, "-c", STOPPED, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "")
