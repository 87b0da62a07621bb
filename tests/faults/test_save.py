"""Saves that fail or die: the old checkpoint or the new one is there, whole, and nothing else ever goes missing."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.errors import TargetExistsError
from multiframe_ckpt.progress import Progress
from multiframe_ckpt.storage import atomic
from multiframe_ckpt.storage.atomic import STAGE_SUFFIX

NAMES = {"torch": "model.pt", "oneflow": "model"}  # a file and a folder; all formats are written through storage.atomic
IN_EACH_SHAPE = pytest.mark.parametrize("format", NAMES)


def checkpoint(value: float, size: int = 256) -> mfc.Checkpoint:
    tensors = {key: mfc.LazyTensor.from_array(np.full(size, value, np.float32)) for key in ("a", "b", "c")}
    return mfc.Checkpoint(tensors)


def value_at(path: Path) -> float:
    """Gives the one value that every element of the checkpoint has; fails for a mixture, and for damage."""
    assert mfc.verify(path).whole
    tensors = mfc.open(path).tensors()
    assert list(tensors) == ["a", "b", "c"]
    (value,) = {value for tensor in tensors.values() for value in tensor.numpy().tolist()}
    return value


def leftovers(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.endswith(STAGE_SUFFIX)]


# Deaths. One process forks a child for each moment of a save: it kills itself there, and the parent looks.

KILLER = """
import os, shutil, signal, sys
from pathlib import Path
import numpy as np
import multiframe_ckpt as mfc

format, target, over_the_old = sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "over the old"
EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir", "ctypes.dlopen"}

def checkpoint(value):
    return mfc.Checkpoint({key: mfc.LazyTensor.from_array(np.full(256, value, np.float32)) for key in "abc"})

def value_at(path):
    report = mfc.verify(path)
    assert report.whole, report
    (value,) = {v for t in mfc.open(path).tensors().values() for v in t.numpy().tolist()}
    return value

def save(value, **options):
    checkpoint(value).save(target, format=format, overwrite=True, **options)

def at_system_calls(die):
    sys.addaudithook(lambda event, _: event in EVENTS and die())
    save(2)

def at_progress(die):
    save(2, on_progress=lambda _: die())

def dies(way, moment):
    pid = os.fork()
    if pid:
        return os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    left = [moment]
    def die():
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    way(die)
    os._exit(0)

def reset():
    if target.exists():
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    if over_the_old:
        save(1)

precious = target.parent / "precious"
precious.write_text("kept")
reset()
save(3) if over_the_old else None  # everything that a save imports is imported now
found = set()
for way, least in ((at_system_calls, 10), (at_progress, 3)):
    moment = 1
    reset()
    while dies(way, moment):
        assert target.exists() or not over_the_old, "the old one is gone"
        if target.exists():
            found.add(value_at(target))
        save(3)
        assert value_at(target) == 3
        assert set(os.listdir(target.parent)) == {"precious", target.name}, "leftovers were not swept"
        reset()
        moment += 1
    assert moment > least, "the save was not followed"
print(sorted(found))
"""


@IN_EACH_SHAPE
@pytest.mark.parametrize("before", ["over the old", "where nothing is"])
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_save_killed_at_any_moment_leaves_the_old_or_the_new_whole(format: str, before: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLER, format, str(tmp_path / NAMES[format]), before]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == ("[1.0, 2.0]" if before == "over the old" else "[2.0]")


# Faults that the system reports.


def failing(code: int, *, at: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Gives a stand-in for a system call that fails the ``at``-th time."""

    def around(call: Callable[..., Any]) -> Callable[..., Any]:
        left = [at]

        def stand_in(*args: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise OSError(code, os.strerror(code))
            return call(*args, **options)

        return stand_in

    return around


@IN_EACH_SHAPE
@pytest.mark.parametrize("call", ["fsync", "mkdir", "open", "rename", "replace", "scandir", "listdir"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_save_that_raises_leaves_the_old_or_the_new_and_one_that_returns_the_new(
    format: str, call: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / NAMES[format]
    for at in range(1, 40):
        checkpoint(1).save(target, format=format, overwrite=True)
        with monkeypatch.context() as patch:
            stand_in = failing(code, at=at)(getattr(os, call))
            patch.setattr(os, call, stand_in)
            try:
                checkpoint(2).save(target, format=format, overwrite=True)
                raised = False
            except OSError as problem:
                raised = True
                assert problem.errno == code
        assert value_at(target) in ((1, 2) if raised else (2,))
        checkpoint(3).save(target, format=format, overwrite=True)
        assert os.listdir(tmp_path) == [target.name]
        if not raised:
            break


@IN_EACH_SHAPE
@pytest.mark.parametrize("limit", [0, 1, 100, 1000, 2500])
def test_a_write_that_does_not_fit_leaves_the_old_checkpoint_and_no_litter(
    format: str, limit: int, tmp_path: Path
) -> None:
    resource = pytest.importorskip("resource")
    target = tmp_path / NAMES[format]
    checkpoint(1).save(target, format=format)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            checkpoint(2, 1000).save(target, format=format, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert value_at(target) == 1
    assert os.listdir(tmp_path) == [target.name]


@IN_EACH_SHAPE
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError, RuntimeError])
def test_a_save_that_is_interrupted_leaves_the_old_checkpoint_and_no_litter(
    format: str, error: type[BaseException], tmp_path: Path
) -> None:
    target = tmp_path / NAMES[format]
    checkpoint(1).save(target, format=format)
    events: list[Progress] = []

    def interrupt(event: Progress) -> None:
        events.append(event)
        if len(events) == 2:
            raise error

    with pytest.raises(error):
        checkpoint(2).save(target, format=format, overwrite=True, on_progress=interrupt)
    assert value_at(target) == 1
    assert os.listdir(tmp_path) == [target.name]


@IN_EACH_SHAPE
def test_a_tensor_that_cannot_be_read_leaves_the_old_checkpoint_and_no_litter(format: str, tmp_path: Path) -> None:
    target = tmp_path / NAMES[format]
    checkpoint(1).save(target, format=format)
    bad = checkpoint(2).tree

    def broken() -> np.ndarray:
        raise mfc.DamagedError("b: found nothing, expected values")

    bad["b"] = mfc.LazyTensor.from_function(bad["b"].dtype, bad["b"].shape, broken)
    with pytest.raises(mfc.DamagedError):
        mfc.Checkpoint(bad).save(target, format=format, overwrite=True)
    assert value_at(target) == 1
    assert os.listdir(tmp_path) == [target.name]


def test_a_folder_that_cannot_be_listed_is_not_taken_for_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model" / "w").mkdir(parents=True)
    monkeypatch.setattr(os, "scandir", failing(errno.EIO, at=2)(os.scandir))
    with pytest.raises(OSError, match="Input/output error"):
        atomic.flush_tree(tmp_path / "model")


# Where the system cannot swap two names.


@pytest.fixture
def no_swap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without renameat2."""
    monkeypatch.setattr(atomic, "_renameat2", lambda *_: False)


@pytest.mark.usefixtures("no_swap")
@IN_EACH_SHAPE
def test_a_checkpoint_is_replaced_without_a_swap_too(format: str, tmp_path: Path) -> None:
    target = tmp_path / NAMES[format]
    checkpoint(1).save(target, format=format)
    with pytest.raises(TargetExistsError):
        checkpoint(2).save(target, format=format)
    checkpoint(2).save(target, format=format, overwrite=True)
    assert value_at(target) == 2
    assert os.listdir(tmp_path) == [target.name]


@pytest.mark.usefixtures("no_swap")
def test_a_folder_that_stepped_aside_comes_back_where_the_rename_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(1).save(tmp_path / "model")
    monkeypatch.setattr(os, "rename", failing(errno.EIO, at=2)(os.rename))
    with pytest.raises(OSError, match="Input/output error"):
        checkpoint(2).save(tmp_path / "model", overwrite=True)
    assert value_at(tmp_path / "model") == 1
    assert os.listdir(tmp_path) == ["model"]


def test_a_folder_that_stepped_aside_for_a_save_that_died_comes_back_with_the_next(tmp_path: Path) -> None:
    checkpoint(1).save(tmp_path / "model")
    stage = tmp_path / f".model.x{STAGE_SUFFIX}"
    (stage / ".replaced").mkdir(parents=True)
    (tmp_path / "model").rename(stage / ".replaced" / "model")
    with pytest.raises(TargetExistsError):
        checkpoint(2).save(tmp_path / "model")
    assert value_at(tmp_path / "model") == 1
    assert os.listdir(tmp_path) == ["model"]


def test_a_folder_that_stepped_aside_for_a_save_that_died_is_read_where_it_waits_and_nothing_is_written(
    tmp_path: Path,
) -> None:
    checkpoint(1).save(tmp_path / "model")
    aside = tmp_path / f".model.x{STAGE_SUFFIX}" / ".replaced"
    aside.mkdir(parents=True)
    (tmp_path / "model").rename(aside / "model")
    assert value_at(tmp_path / "model") == 1
    assert mfc.open(tmp_path / "model").meta["path"] == str(tmp_path / "model")
    assert (aside / "model").is_dir()
    with pytest.raises(FileNotFoundError, match="other: found nothing there"):
        mfc.open(tmp_path / "other")


@pytest.mark.usefixtures("no_swap")
def test_a_reader_between_the_two_renames_gets_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint(1).save(tmp_path / "model")
    real, seen = os.rename, []

    def rename(source: Path, target: Path) -> None:
        real(source, target)
        seen.append(value_at(tmp_path / "model"))

    monkeypatch.setattr(os, "rename", rename)
    checkpoint(2).save(tmp_path / "model", overwrite=True)
    assert seen == [1, 2]
