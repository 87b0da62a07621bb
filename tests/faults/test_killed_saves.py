"""A run that is killed at any moment of a save: the latest loads, no pointer dangles, nothing foreign is touched.

The kills of the first tests fall, in turn, on every single step: the process ends itself with SIGKILL at its n-th call to
the file system, for every n that there is. The last test kills from outside, wherever the process happens to be.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt import CheckpointManager

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")

# Forks a child for each n; the child keeps a run and dies at its n-th call to the file system. A process of its own, since
# a test process with a framework in it has threads, and must not fork.
EVERY_STEP = """
import os, shutil, signal, sys, traceback
from pathlib import Path
import numpy as np
from multiframe_ckpt import CheckpointManager

CALLS = {"open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.link", "os.symlink", "os.listdir", "os.scandir",
         "ctypes.dlsym", "tempfile.mkdtemp", "shutil.rmtree", "fcntl.flock"}
format, async_save, top = sys.argv[1], sys.argv[2] == "async", Path(sys.argv[3])

def weights(epoch):
    return {"w": np.full(8, epoch, np.float32)}

def manager_of(folder):
    return CheckpointManager(folder, format=format, max_to_keep=1, async_save=async_save, rng=False)

def child(folder, n):
    calls = 0
    def die(event, arguments):
        nonlocal calls
        if event in CALLS:
            calls += 1
            if calls == n:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(die)
    with manager_of(folder) as manager:
        manager.save(3, weights(3), loss=0.1)  # the new best: both pointers move, and two old ones go

def check(folder, killed):
    pointers = [path for path in folder.iterdir() if path.is_symlink()]
    assert len(pointers) == 2 and all(path.exists() for path in pointers), pointers
    manager = manager_of(folder)
    model = weights(99)
    report = manager.restore(model=model)
    assert set(model["w"].tolist()) == {float(report.epoch)}, model
    assert report.epoch in ((2, 3) if killed else (3,)), report.epoch
    assert all(record.complete for record in manager.checkpoints()), manager.checkpoints()
    assert (folder / "mine.txt").read_text() == "mine" and (folder / ".mine").is_dir()
    manager.save(9, weights(9), loss=0.5)  # and it goes on as if nothing had been
    manager.wait()
    assert manager.latest().epoch == 9
    assert not list(folder.glob(".*.multiframe-tmp")), list(folder.iterdir())

past = top / "past"
with manager_of(past) as manager:
    for epoch in range(3):
        manager.save(epoch, weights(epoch), loss=epoch + 1)
(past / "mine.txt").write_text("mine")
(past / ".mine").mkdir()

n, killed = 0, True
while killed:
    n += 1
    folder = top / f"killed_at_{n}"
    shutil.copytree(past, folder, symlinks=True)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            child(folder, n)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    killed = os.WIFSIGNALED(status)
    assert killed or os.WEXITSTATUS(status) == 0, status
    check(folder, killed)
print(n)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("format", "way"), [("torch", "sync"), ("torch", "async"), ("oneflow", "sync")])
def test_a_kill_at_any_step_of_a_save_leaves_a_run_that_goes_on(format, way, tmp_path):
    command = [sys.executable, "-c", EVERY_STEP, format, way, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20  # steps, or the hook has missed them


ENDLESS = """
import itertools, sys, numpy as np
from multiframe_ckpt import CheckpointManager
manager = CheckpointManager(sys.argv[1], format=sys.argv[2], max_to_keep=2, rng=False)
start = manager.resume(model={"w": np.zeros(1 << 16, np.float32)}).epoch
for epoch in itertools.count(start):
    manager.save(epoch, {"w": np.full(1 << 16, epoch, np.float32)}, loss=epoch % 5)
    print(epoch, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("format", ["torch", "oneflow"])
def test_a_run_that_is_killed_from_outside_again_and_again_always_goes_on(format, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    lines = np.random.RandomState(0).randint(1, 8, size=8)
    last = -1
    for count in lines.tolist():
        command = [sys.executable, "-c", ENDLESS, str(tmp_path), format]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            seen = [int(process.stdout.readline()) for _ in range(count)]
            process.kill()
        assert process.returncode == -signal.SIGKILL
        manager = CheckpointManager(tmp_path, format=format)
        model = {"w": np.zeros(1 << 16, np.float32)}
        epoch = manager.restore(model=model).epoch
        assert epoch >= seen[-1] > last
        assert set(model["w"].tolist()) == {float(epoch)}
        last = seen[-1]
    assert all(path.exists() for path in tmp_path.iterdir())
    assert (tmp_path / "mine.txt").read_text() == "mine"


# What killed saves leave behind


def stage_of(folder, name="checkpoint_epoch_0000.pth"):
    stage = folder / f".{name}.abc123.multiframe-tmp"
    stage.mkdir()
    (stage / name).write_bytes(b"half")
    return stage


def test_the_temporaries_of_a_killed_run_are_gone_when_the_next_begins(tmp_path):
    stages = [stage_of(tmp_path), stage_of(tmp_path, "best_model.pth"), stage_of(tmp_path, "model.safetensors")]
    CheckpointManager(tmp_path)
    assert not any(map(Path.exists, stages))


def test_the_temporary_of_a_save_that_is_under_way_is_left_alone(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    stage = stage_of(tmp_path)
    lock = os.open(stage, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    CheckpointManager(tmp_path)
    assert stage.exists()
    os.close(lock)


def test_what_only_looks_like_a_temporary_is_left_alone(tmp_path):
    mine = [tmp_path / ".cache", tmp_path / "checkpoint.multiframe-tmp", tmp_path / "a.tmp"]
    for path in mine:
        path.mkdir()
    file = tmp_path / ".notes.multiframe-tmp"
    file.write_text("mine")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    link = tmp_path / ".link.multiframe-tmp"
    link.symlink_to(outside)
    CheckpointManager(tmp_path)
    assert all(path.exists() for path in (*mine, file, link, outside / "kept"))


def test_a_folder_that_is_being_deleted_is_never_seen_as_a_checkpoint(tmp_path, monkeypatch):
    manager = CheckpointManager(tmp_path, format="oneflow", max_to_keep=1, keep_best=0)
    manager.save(0, {"w": np.zeros(2, np.float32)}, loss=0.1)
    seen = []
    real = os.unlink

    def unlink(path, **options):
        seen.append([record.epoch for record in CheckpointManager.checkpoints(manager)])
        real(path, **options)

    monkeypatch.setattr(os, "unlink", unlink)
    manager.save(1, {"w": np.zeros(2, np.float32)}, loss=0.1)
    assert seen
    assert [0] not in seen[:-1]
    assert all(len(mfc.open(record.path).tree) for record in manager.checkpoints())
