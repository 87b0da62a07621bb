"""Saves in the background: what the training thread waits for, and where errors come out."""

import os
import subprocess
import sys
from threading import Event, current_thread, get_native_id

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt import CheckpointManager
from multiframe_ckpt.errors import CheckpointWarning, KeyRefusedError
from multiframe_ckpt.formats.torch.zip_write import TorchPlan
from multiframe_ckpt.runs.names import position_named


def weights(value=0.0):
    return {"w": np.full(4, value, np.float32)}


@pytest.fixture
def held(monkeypatch):
    """Writing waits for the event, once it has begun; gives the event and what was written by then."""
    go, begun = Event(), []
    real = TorchPlan.write

    def write(self, target, on_progress):
        begun.append((position_named(target.name).epoch, current_thread().name))
        assert go.wait(60)
        real(self, target, on_progress)

    monkeypatch.setattr(TorchPlan, "write", write)
    yield go, begun
    go.set()


@pytest.fixture
def broken(monkeypatch):
    """Writing fails."""

    def write(self, target, on_progress):
        raise OSError(5, f"no disk at epoch {position_named(target.name).epoch}")

    monkeypatch.setattr(TorchPlan, "write", write)


def test_saving_returns_before_anything_is_written_and_waiting_makes_it_durable(tmp_path, held):
    go, _ = held
    manager = CheckpointManager(tmp_path, async_save=True)
    path = manager.save(0, weights(), loss=0.1)
    assert not path.exists()
    go.set()
    manager.wait()
    assert mfc.open(path).tree["epoch"] == 0
    assert manager.latest().path == path


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a priority of their own on Linux alone")
def test_the_writing_thread_lets_training_go_first(tmp_path, monkeypatch):
    real, seen = TorchPlan.write, []

    def write(self, *args, **options):
        seen.append(os.getpriority(os.PRIO_PROCESS, get_native_id()))
        real(self, *args, **options)

    monkeypatch.setattr(TorchPlan, "write", write)
    before = os.getpriority(os.PRIO_PROCESS, get_native_id())
    manager = CheckpointManager(tmp_path, async_save=True)
    manager.save(0, weights(), loss=0.1)
    manager.wait()
    assert seen == [max(15, before)]
    assert os.getpriority(os.PRIO_PROCESS, get_native_id()) == before


def test_what_training_changes_meanwhile_does_not_reach_the_file(tmp_path, held):
    go, _ = held
    manager = CheckpointManager(tmp_path, async_save=True)
    model = weights(1.0)
    path = manager.save(0, model, loss=0.1)
    model["w"][:] = 2.0
    go.set()
    manager.wait()
    assert mfc.load(path)["model_state_dict"]["w"].tolist() == [1.0] * 4


def test_a_second_save_waits_for_the_first(tmp_path, held):
    go, begun = held
    manager = CheckpointManager(tmp_path, async_save=True)
    manager.save(0, weights(), loss=0.1)
    go.set()
    manager.save(1, weights(), loss=0.1)
    manager.wait()
    assert [epoch for epoch, _ in begun] == [0, 1]
    assert [record.epoch for record in manager.checkpoints()] == [0, 1]


def test_the_writing_is_done_in_a_thread_of_its_own(tmp_path, held):
    go, begun = held
    go.set()
    with CheckpointManager(tmp_path, async_save=True) as manager:
        manager.save(0, weights(), loss=0.1)
    assert begun == [(0, "multiframe-ckpt save")]


@pytest.mark.parametrize("call", ["save", "save_passed_over", "wait", "restore", "close"])
def test_an_error_in_the_background_comes_out_of_the_next_call_once(tmp_path, broken, call):
    manager = CheckpointManager(tmp_path, async_save=True, save_freq=2)
    manager.save(0, weights(), loss=0.1)
    manager._writer._worker._thread.join()
    calls = {
        "save": lambda: manager.save(2, weights(), loss=0.1),
        "save_passed_over": lambda: manager.save(1, weights(), loss=0.1),
        "wait": manager.wait,
        "restore": lambda: manager.restore(model=weights()),
        "close": manager.close,
    }
    with pytest.raises(OSError, match="no disk at epoch 0"):
        calls[call]()
    manager.wait()


def test_an_error_in_the_background_comes_out_of_the_with_block(tmp_path, broken):
    with pytest.raises(OSError, match="no disk"), CheckpointManager(tmp_path, async_save=True) as manager:
        manager.save(0, weights(), loss=0.1)


def test_what_ended_the_with_block_is_what_the_caller_sees_and_the_lost_save_is_said(tmp_path, broken):
    with (
        pytest.warns(CheckpointWarning, match="the last save failed: .*no disk"),
        pytest.raises(KeyError, match="mine"),
        CheckpointManager(tmp_path, async_save=True) as manager,
    ):
        manager.save(0, weights(), loss=0.1)
        raise KeyError("mine")


def test_a_with_block_that_raises_still_finishes_its_save(tmp_path, held):
    go, _ = held
    with pytest.raises(KeyError), CheckpointManager(tmp_path, async_save=True) as manager:
        manager.save(0, weights(), loss=0.1)
        go.set()
        raise KeyError
    assert CheckpointManager(tmp_path).latest().epoch == 0


def test_what_a_format_cannot_hold_is_refused_by_save_itself(tmp_path):
    manager = CheckpointManager(tmp_path, async_save=True, format="oneflow")
    with pytest.raises(KeyRefusedError):
        manager.save(0, {"a/b": np.zeros(1, np.float32)}, loss=0.1)
    manager.wait()


AT_EXIT = """
import sys, numpy as np
from multiframe_ckpt import CheckpointManager
from multiframe_ckpt.formats.torch.zip_write import TorchPlan
if sys.argv[2] == "broken":
    def fail(self, target, on_progress): raise OSError(5, "no disk")
    TorchPlan.write = fail
CheckpointManager(sys.argv[1], async_save=True).save(0, {"w": np.zeros(1 << 20, np.float32)}, loss=0.1)
"""


def test_a_program_that_ends_without_waiting_loses_no_save(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", AT_EXIT, str(tmp_path), "whole"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert CheckpointManager(tmp_path).latest().epoch == 0


def test_a_program_that_ends_without_waiting_is_told_of_a_save_that_failed(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", AT_EXIT, str(tmp_path), "broken"], capture_output=True, text=True, check=False
    )
    assert "a save in the background failed: [Errno 5] no disk" in done.stderr


#: In a process of its own, whose memory nothing else takes meanwhile.
MANY_SAVES = """
import gc, os, sys, tracemalloc, numpy as np
from multiframe_ckpt import CheckpointManager
model = {"w": np.zeros(1 << 16, np.float32)}
with CheckpointManager(sys.argv[1], async_save=True, max_to_keep=2, keep_best=0, durable=False) as manager:
    tracemalloc.start()
    for epoch in range(60):
        manager.save(epoch, model, loss=0.1)
        if epoch in (19, 59):
            manager.wait()
            gc.collect()
            print(len(os.listdir("/proc/self/fd")), tracemalloc.get_traced_memory()[0])
"""


def test_many_saves_hold_no_more_memory_and_no_more_files_than_a_few(tmp_path):
    done = subprocess.run([sys.executable, "-c", MANY_SAVES, str(tmp_path)], capture_output=True, text=True, check=True)
    few_files, few_bytes, files, nbytes = map(int, done.stdout.split())
    assert files == few_files
    assert nbytes - few_bytes < 1 << 17  # half of the model


def test_closing_frees_the_memory_of_the_copy_and_saving_again_takes_it_anew(tmp_path):
    manager = CheckpointManager(tmp_path, async_save=True)
    for epoch in range(2):
        manager.save(epoch, weights(), loss=0.1)
        assert manager._writer._memory.nbytes > 0
        manager.close()
        assert manager._writer._memory.nbytes == 0
    assert [record.epoch for record in manager.checkpoints()] == [0, 1]


def test_a_save_that_failed_leaves_the_memory_to_the_next(tmp_path, monkeypatch):
    manager = CheckpointManager(tmp_path, async_save=True)
    with monkeypatch.context() as patch:
        patch.setattr(TorchPlan, "write", lambda *_, **__: 1 // 0)
        manager.save(0, weights(1), loss=0.1)
        with pytest.raises(ZeroDivisionError):
            manager.wait()
    path = manager.save(1, weights(2), loss=0.1)
    manager.wait()
    assert mfc.load(path)["model_state_dict"]["w"].tolist() == [2.0] * 4


LATE = """
import sys, threading, numpy as np
from multiframe_ckpt import CheckpointManager
from multiframe_ckpt.formats.torch.zip_write import TorchPlan
real = TorchPlan.write

def late(self, *arguments, **options):
    threading.main_thread().join()  # returns once the interpreter has begun to shut down
    return real(self, *arguments, **options)

TorchPlan.write = late
weights = {name: np.full(1 << 20, 7, np.float32) for name in "abc"}
CheckpointManager(sys.argv[1], async_save=True).save(0, weights, loss=0.1)
"""


def test_a_save_that_goes_on_while_the_interpreter_shuts_down_is_not_lost(tmp_path):
    done = subprocess.run([sys.executable, "-c", LATE, tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    state = mfc.load(tmp_path / "latest_checkpoint.pth")["model_state_dict"]
    assert [float(state[name].min()) for name in "abc"] == [7.0] * 3
