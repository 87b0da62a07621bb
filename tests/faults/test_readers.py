"""Readers write nothing: what they look at may be mounted read-only, or belong to somebody else."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt import CheckpointManager
from multiframe_ckpt.storage.atomic import STAGE_SUFFIX

FORMATS = ["torch", "oneflow", "oneflow-pickle", "safetensors", "hdf5", "npz", "json"]

# All ways to read, in a process of their own; with "nobody" as another user.
READER = """
import os, sys
from pathlib import Path
import numpy as np
import multiframe_ckpt as mfc
from multiframe_ckpt import CheckpointManager
from multiframe_ckpt.cli import program
from click.testing import CliRunner

def read(run):
    manager = CheckpointManager(run)
    assert [record.epoch for record in manager.checkpoints() if record.complete] == [0, 1], manager.checkpoints()
    model = {"w": np.zeros(64, np.float32)}
    assert manager.resume(model=model).epoch == 2 and model["w"][0] == 1
    assert manager.best().epoch == manager.latest().epoch == 1
    for path in sorted(run.iterdir()):
        if path.name.startswith("."):
            continue
        assert mfc.verify(path).whole
        mfc.load(path, backend="numpy")
        for command in (["inspect", path], ["verify", path], ["list", run], ["diff", path, path]):
            done = CliRunner().invoke(program, [str(part) for part in command])
            assert done.exit_code == 0, done.output

everyone = sorted(Path(sys.argv[1]).iterdir())
if "nobody" in sys.argv[2:]:
    for run in everyone[:-1]:  # imports what is imported on first use: another user may not find it
        read(run)
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
for run in everyone:
    read(run)
"""


def read_all(folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-c", READER, str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr + done.stdout


@pytest.fixture
def runs() -> Iterator[Path]:
    """A run in each format, one with what a killed save left. Not in tmp_path, whose parents others may not enter."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        for format in FORMATS:
            manager = CheckpointManager(Path(folder) / format, format=format, rng=False)
            for epoch in range(2):
                manager.save(epoch, {"w": np.full(64, epoch, np.float32)}, loss=1 - epoch)
        yield Path(folder)


def state_of(folder: Path) -> dict[str, tuple[int, ...]]:
    """Gives all that writing would change; not when it was last read."""
    found = {}
    for path in sorted([folder, *folder.rglob("*")]):
        status = path.lstat()
        found[str(path)] = (status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return found


def test_reading_in_any_way_changes_nothing(runs: Path) -> None:
    before = state_of(runs)
    read_all(runs)
    assert state_of(runs) == before


def as_root(command: list[str]) -> None:
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root may mount")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")


def leave_a_stage(run: Path) -> None:
    stage = run / f".checkpoint_epoch_0007.pth.dead{STAGE_SUFFIX}"
    stage.mkdir()
    (stage / "checkpoint_epoch_0007.pth").write_text("half")


def test_all_can_be_read_on_a_disk_that_is_mounted_read_only(runs: Path) -> None:
    leave_a_stage(runs / "torch")
    before = state_of(runs)
    as_root(["mount", "--bind", str(runs), str(runs)])
    try:
        as_root(["mount", "-o", "remount,bind,ro", str(runs)])
        with pytest.raises(OSError, match="Read-only"):
            (runs / "file").touch()
        read_all(runs)
        with pytest.raises(OSError, match="Read-only"):
            mfc.save({"w": np.zeros(2)}, runs / "torch" / "new.pth", backend="numpy")
    finally:
        subprocess.run(["umount", "-l", str(runs)], check=True)
    assert state_of(runs) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may become another user")
def test_all_can_be_read_as_another_user(runs: Path) -> None:
    leave_a_stage(runs / "torch")
    before = state_of(runs)
    read_all(runs, "nobody")
    assert state_of(runs) == before


def test_all_can_be_read_where_nothing_may_be_written(runs: Path) -> None:
    for path in [runs, *runs.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o555 if path.is_dir() else 0o444)
    before = state_of(runs)
    try:
        read_all(runs)
        assert state_of(runs) == before
    finally:
        for path in [runs, *runs.rglob("*")]:
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)
