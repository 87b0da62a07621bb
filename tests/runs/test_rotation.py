"""What a run survives: damage to its newest checkpoint, faults while it rotates, and copies that lost a part on the way."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from saved_epochs import weights

from multiframe_ckpt import CheckpointManager
from multiframe_ckpt.errors import CheckpointWarning


def run_of(folder: Path, format: str, epochs: int = 3, keep_best: int = 1) -> Path:
    """Saves epochs and gives the newest checkpoint."""
    manager = CheckpointManager(folder, format=format, keep_best=keep_best, rng=False)
    for epoch in range(epochs):
        manager.save(epoch, weights(epoch), loss=3.0 - epoch)
    return manager.checkpoints()[-1].path


def flip(file: Path) -> None:
    """Flips a bit of a value where the file has values as they are, else in its middle."""
    raw = bytearray(file.read_bytes())
    values = raw.find(weights(2)["l1.bias"].tobytes())
    raw[values + 5 if values >= 0 else len(raw) // 2] ^= 0x10
    file.write_bytes(raw)


def cut(file: Path) -> None:
    raw = file.read_bytes()
    file.write_bytes(raw[: len(raw) // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


DAMAGES: dict[str, Callable[[Path], object]] = {"flipped": flip, "cut": cut, "emptied": empty, "deleted": Path.unlink}


def files_of(checkpoint: Path) -> list[Path]:
    return sorted(path for path in (checkpoint, *checkpoint.rglob("*")) if path.is_file())


def damaged_copies(run: Path, newest: Path, damage: str, top: Path) -> Iterator[tuple[Path, Path]]:
    """Gives (copy of the run, the file that is damaged in it) for each file of its newest checkpoint."""
    for number, file in enumerate(files_of(newest)):
        if damage != "deleted" and file.stat().st_size == 0:  # a marker has nothing to damage
            continue
        copy = top / f"copy_{number}"
        shutil.copytree(run, copy, symlinks=True)
        DAMAGES[damage](copy / file.relative_to(run))
        yield copy, copy / file.relative_to(run)


#: Of a variable's meta, the comment; of the markers, those of the folders inside.
_DISPENSABLE = {"meta", "snapshot_done"}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("format", ["torch", "oneflow", "oneflow-pickle", "safetensors", "hdf5", "npz", "json"])
def test_resuming_takes_the_newest_whole_one_and_says_which_it_passed_over_and_why(
    format: str, damage: str, tmp_path: Path
) -> None:
    newest = run_of(tmp_path / "run", format)
    passed_over = 0
    for run, file in damaged_copies(tmp_path / "run", newest, damage, tmp_path):
        model = weights(9)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            epoch = CheckpointManager(run).resume(model=model).epoch - 1
        assert model["l1.bias"].tolist() == [epoch] * 3
        if epoch == 2:  # it is whole all the same
            assert file.name in _DISPENSABLE, file
            continue
        assert epoch == 1
        passed_over += 1
        if (run / newest.name).exists():
            (warning,) = {str(warning.message) for warning in said if warning.category is CheckpointWarning}
            assert warning.startswith("passed over: ")
            assert all(part in warning for part in (newest.name, "found", "expected"))
    assert passed_over >= (3 if newest.is_dir() else 1)


@pytest.mark.parametrize("format", ["torch", "oneflow", "safetensors"])
def test_a_damaged_newest_one_is_neither_deleted_nor_counted_by_the_run_that_goes_on(
    format: str, tmp_path: Path
) -> None:
    newest = run_of(tmp_path, format)
    cut(max(files_of(newest), key=lambda file: file.stat().st_size))
    manager = CheckpointManager(tmp_path, format=format, max_to_keep=2, keep_best=0, rng=False)
    for epoch in range(3, 6):
        manager.save(epoch, weights(epoch), loss=0.1)
    assert newest.exists()
    assert [record.epoch for record in manager.checkpoints() if record.complete] == [4, 5]


@pytest.mark.parametrize("lost", ["its marker", "all markers"])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_checkpoint_that_lost_its_marker_when_it_was_copied_is_never_deleted_which_is_said_once(
    lost: str, which: int, tmp_path: Path
) -> None:
    run_of(tmp_path / "run", "oneflow")
    shutil.copytree(tmp_path / "run", tmp_path / "copy", symlinks=True)
    kept = tmp_path / "copy" / f"checkpoint_epoch_{which:04d}"
    for marker in kept.rglob("snapshot_done") if lost == "all markers" else [kept / "snapshot_done"]:
        marker.unlink()
    before = {file.relative_to(kept): file.read_bytes() for file in files_of(kept)}
    for _ in range(2):
        manager = CheckpointManager(tmp_path / "copy", format="oneflow", max_to_keep=1, keep_best=0, rng=False)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for epoch in range(3, 6):
                manager.save(epoch, weights(epoch), loss=0.1)
        is_told = lost == "all markers" and which != 2  # without its own it is unfinished; 2 is what best_model names
        assert [str(warning.message).partition(": found ")[0] for warning in told] == (
            [f"kept beyond max_to_keep: {kept}"] if is_told else []
        )
    assert {file.relative_to(kept): file.read_bytes() for file in files_of(kept)} == before
    assert not list((tmp_path / "copy").glob(".*"))


CALLS = [
    "fsync",
    "fdatasync",
    "rename",
    "replace",
    "mkdir",
    "symlink",
    "unlink",
    "rmdir",
    "open",
    "pwrite",
    "pwritev",
    "write",
]


class Faults:
    """Counts calls of the system, and lets the ``at``-th fail; ``after`` says what is there at each."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int, code: int, *, sticky: bool) -> None:
        self.count = 0
        self._at, self._code, self._sticky = at, code, sticky
        for name in CALLS:
            if hasattr(os, name):
                patch.setattr(os, name, self._standing_in(getattr(os, name)))

    def _standing_in(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def stand_in(*args: Any, **options: Any) -> Any:
            self.count += 1
            if self.count == self._at or (self._sticky and self.count > self._at):
                raise OSError(self._code, os.strerror(self._code))
            return call(*args, **options)

        return stand_in


@pytest.mark.parametrize(
    ("code", "sticky"), [(errno.EIO, False), (errno.ENOSPC, True)], ids=["EIO once", "ENOSPC from then on"]
)
@pytest.mark.parametrize("format", ["torch", "oneflow"])
def test_a_rotation_that_fails_at_any_call_leaves_the_older_ones_until_the_newer_is_durable(
    format: str, code: int, sticky: bool, tmp_path: Path
) -> None:
    run_of(tmp_path / "run", format, epochs=2, keep_best=0)
    raised, at = 0, 0
    while True:
        at += 1
        copy = tmp_path / f"at_{at}"
        shutil.copytree(tmp_path / "run", copy, symlinks=True)
        manager = CheckpointManager(copy, format=format, max_to_keep=1, keep_best=0, rng=False)
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, at, code, sticky=sticky)
            try:
                manager.save(2, weights(2), loss=0.5)
                failed = False
            except OSError as problem:
                assert problem.errno == code
                failed = True
        if faults.count < at:
            break
        raised += failed
        model = weights(9)
        epoch = CheckpointManager(copy).restore(model=model).epoch
        assert model["l1.bias"].tolist() == [epoch] * 3
        assert epoch == 2 if not failed else epoch in (1, 2)
        if epoch == 1:
            assert [record.epoch for record in manager.checkpoints()] == [0, 1]
        manager.save(3, weights(3), loss=0.5)
        assert [record.epoch for record in manager.checkpoints()] == [3]
        assert not list(copy.glob(".*"))
        shutil.rmtree(copy)
    assert raised > 8  # or the calls were not seen


@pytest.mark.parametrize("format", ["torch", "oneflow"])
def test_nothing_is_deleted_before_what_replaces_it_is_flushed(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = CheckpointManager(tmp_path, format=format, max_to_keep=1, keep_best=0, rng=False)
    manager.save(0, weights(0), loss=0.5)
    happened: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        if os.fstat(descriptor).st_ino == tmp_path.stat().st_ino:
            happened.append(f"flushed {sorted(name for name in os.listdir(tmp_path) if name[0] != '.')}")

    monkeypatch.setattr(os, "fsync", fsync)
    sys.addaudithook(lambda event, arguments: _note(happened, event, arguments, tmp_path))
    manager.save(1, weights(1), loss=0.4)
    happened.append("done")
    old, new = (manager._folder.path_of(f"checkpoint_epoch_{epoch:04d}", format).name for epoch in (0, 1))
    first_gone = happened.index(f"gone {old}")
    flushed = [at for at, event in enumerate(happened) if event.startswith("flushed") and new in event]
    assert len([at for at in flushed if at < first_gone]) >= 2  # the checkpoint, then the pointer to it


def _note(happened: list[str], event: str, arguments: tuple[Any, ...], folder: Path) -> None:
    if happened[-1:] != ["done"] and event in ("os.remove", "os.rename") and str(arguments[0]).startswith(str(folder)):
        path = Path(str(arguments[0]))
        if path.parent == folder:
            happened.append(f"gone {path.name}")


@pytest.mark.parametrize("format", ["torch", "oneflow"])
def test_a_file_whose_flush_failed_is_never_flushed_again(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed fsync the system may have dropped the pages: a second one would say yes to bytes that are gone."""
    manager = CheckpointManager(tmp_path, format=format, max_to_keep=2, rng=False)
    manager.save(0, weights(0), loss=0.5)
    refused: list[int] = []
    held: list[int] = []  # a number of a file that is deleted goes to the next one, unless somebody holds it
    real = os.fsync

    def fsync(descriptor: int) -> None:
        inode = os.fstat(descriptor).st_ino
        assert inode not in refused
        if not refused:
            refused.append(inode)
            held.append(os.dup(descriptor))
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="Input/output error"):
        manager.save(1, weights(1), loss=0.4)
    manager.save(1, weights(1), loss=0.4)
    os.close(held[0])
    assert CheckpointManager(tmp_path).resume(model=weights(9)).epoch == 2
