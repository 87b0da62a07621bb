"""Disks that fill up in the middle of a save, for real: the old checkpoint stays, and nothing is left behind."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt import CheckpointManager

FORMATS = ["torch", "oneflow", "oneflow-pickle", "safetensors", "npz", "hdf5", "json"]


def tensors(value: int) -> dict[str, np.ndarray]:
    return {"w": np.full((64, 64), value, np.float32), "b": np.arange(5000, dtype=np.float32) + value}


def save(path: Path, value: int, format: str) -> None:
    mfc.save(tensors(value), path, format=format, backend="numpy", overwrite=True)


def value_at(path: Path) -> int:
    assert mfc.verify(path).whole
    found = mfc.load(path, backend="numpy")
    value = int(found["w"][0, 0])
    assert all(np.array_equal(found[key], expected) for key, expected in tensors(value).items())
    return value


# A limit on the size of a file stands in for a full disk where nothing may be mounted.

LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
import multiframe_ckpt as mfc

format, path = sys.argv[1], Path(sys.argv[2])

def save(value):
    tensors = {"w": np.full((64, 64), value, np.float32), "b": np.arange(5000, dtype=np.float32) + value}
    mfc.save(tensors, path, format=format, backend="numpy", overwrite=True)

save(1)
largest = max(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
failed = 0
for limit in [*range(0, largest, largest // 40), largest - 1]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        save(2)
    except OSError:
        failed += 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert mfc.verify(path).whole and mfc.load(path, backend="numpy")["b"][0] == 1
print(failed)
"""


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_cannot_grow_at_any_size_is_one_error_and_keeps_the_old(format: str, tmp_path: Path) -> None:
    pytest.importorskip("resource")
    command = [sys.executable, "-c", LIMITED, format, str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")  # a crash at the end of the process would be seen here
    assert int(done.stdout) >= 40


# Disks of our own.


@contextmanager
def disk(folder: Path, options: str) -> Iterator[Path]:
    """Gives a small disk in memory; skips where this process may not mount one."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, *, leaving: int) -> None:
    """Fills the disk but for so many bytes."""
    ballast = folder / "ballast"
    ballast.unlink(missing_ok=True)
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    ballast.write_bytes(bytes(max(0, free - leaving)))


def saved_or_full(path: Path, format: str) -> bool:
    """Saves the new one; says whether there was room, and checks what is there in either case."""
    try:
        save(path, 2, format)
    except OSError as problem:
        assert problem.errno == errno.ENOSPC
        assert value_at(path) == 1
        return False
    assert value_at(path) == 2
    return True


@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_keeps_the_old_and_the_first_that_has_room_the_new(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "multiframe_ckpt.checkpoint.checkpoint.require_free_space", lambda *_: None
    )  # it would refuse before any write
    with disk(tmp_path / "disk", "size=2m") as folder:
        save(folder / "model", 1, format)
        outcomes = []
        for pages in range(0, 200, 3):
            fill(folder, leaving=pages * 4096)
            outcomes.append(saved_or_full(folder / "model", format))
            assert sorted(os.listdir(folder)) == ["ballast", "model"]
            if outcomes[-1]:
                break
        assert outcomes[0] is False
        assert outcomes[-1] is True


@pytest.mark.parametrize("format", FORMATS)
def test_a_disk_without_room_for_another_file_keeps_the_old(format: str, tmp_path: Path) -> None:
    with disk(tmp_path / "disk", "size=8m,nr_inodes=60") as folder:
        save(folder / "model", 1, format)
        outcomes = []
        taken = [folder / f"file_{number}" for number in range(60)]
        for file in taken:
            try:
                file.touch()
            except OSError:
                break
        for file in taken:
            outcomes.append(saved_or_full(folder / "model", format))
            if outcomes[-1]:
                break
            file.unlink()
        assert outcomes[0] is False
        assert outcomes[-1] is True


@pytest.mark.parametrize("format", ["torch", "oneflow"])
def test_a_run_on_a_full_disk_stays_and_goes_on_when_there_is_room_again(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multiframe_ckpt.checkpoint.checkpoint.require_free_space", lambda *_: None)
    with disk(tmp_path / "disk", "size=2m") as folder:
        manager = CheckpointManager(folder, format=format, max_to_keep=2, rng=False)
        for epoch in range(3):
            manager.save(epoch, tensors(epoch), loss=3 - epoch)
        for pages in (0, 2, 5):
            fill(folder, leaving=pages * 4096)
            with pytest.raises(OSError, match="No space left"):
                manager.save(3, tensors(3), loss=0.1)
            assert [record.epoch for record in manager.checkpoints()] == [1, 2]
            assert all(record.complete for record in manager.checkpoints())
        fill(folder, leaving=1 << 20)
        manager.save(3, tensors(3), loss=0.1)
        assert CheckpointManager(folder).resume(model=tensors(9)).epoch == 4
