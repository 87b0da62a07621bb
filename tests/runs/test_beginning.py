"""What a later save will need is checked when a manager begins, and a checkpoint that was fetched alone is one."""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
from saved_epochs import names_in, save_epochs, weights

import multiframe_ckpt as mfc
from multiframe_ckpt import CheckpointManager
from multiframe_ckpt.errors import CheckpointWarning, LinkRefusedError, TargetExistsError
from multiframe_ckpt.runs.survey import survey
from multiframe_ckpt.storage import links

FORMATS = ["torch", "oneflow", "oneflow-pickle", "safetensors", "hdf5", "npz", "json"]


def run_in(folder, format="torch", losses=(0.3, 0.1, 0.2)):
    """Saves a run whose best is its second epoch, and gives its pointers by their stems."""
    save_epochs(CheckpointManager(folder, format=format), losses)
    return {path.name.partition(".")[0]: path for path in folder.iterdir() if path.is_symlink()}


def fetch(pointer, folder):
    """Copies what a pointer leads to, as fetching it does."""
    folder.mkdir(exist_ok=True)
    target = folder / pointer.name
    shutil.copytree(pointer, target) if pointer.is_dir() else shutil.copyfile(pointer, target)
    return target


def content(path):
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return [(file.relative_to(path), file.read_bytes()) for file in files]


# A checkpoint that was fetched alone


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("stem", "epoch"), [("latest_checkpoint", 2), ("best_model", 1)])
def test_a_pointer_that_was_fetched_alone_resumes_and_no_save_loses_it(tmp_path, format, stem, epoch):
    fetched = fetch(run_in(tmp_path / "there", format)[stem], tmp_path / "here")
    before = content(fetched)
    manager = CheckpointManager(tmp_path / "here", format=format)
    model = weights()
    start = manager.resume(model=model)
    assert (start.epoch, start.path, model["l1.bias"].tolist()) == (epoch + 1, fetched, [epoch] * 3)
    path = manager.save(start.epoch, weights(9), loss=0.9)
    kept = fetched.with_name(fetched.name.replace(stem, f"checkpoint_epoch_{epoch:04d}"))
    assert content(kept) == before
    pointers = {pointer.name.partition(".")[0]: os.readlink(pointer) for pointer in fetched.parent.glob("[bl]*")}
    assert pointers == {"latest_checkpoint": path.name, "best_model": kept.name}
    assert [record.epoch for record in manager.checkpoints()] == [epoch, epoch + 1]


def test_both_pointers_fetched_are_one_checkpoint_where_the_latest_is_the_best(tmp_path):
    for pointer in run_in(tmp_path / "there", losses=(0.3, 0.1)).values():
        fetch(pointer, tmp_path / "here")
    manager = CheckpointManager(tmp_path / "here")
    assert [record.epoch for record in manager.checkpoints()] == [1]
    save_epochs(manager, [0.5], first=manager.resume(model=weights()).epoch)
    assert names_in(tmp_path / "here") == [
        *("best_model.pth", "checkpoint_epoch_0001.pth", "checkpoint_epoch_0002.pth", "latest_checkpoint.pth")
    ]


def test_both_pointers_fetched_are_two_checkpoints_where_they_are(tmp_path):
    for pointer in run_in(tmp_path / "there").values():
        fetch(pointer, tmp_path / "here")
    manager = CheckpointManager(tmp_path / "here")
    assert (manager.best().epoch, manager.latest().epoch) == (1, 2)
    save_epochs(manager, [0.9], first=3)
    assert {os.readlink(path) for path in (tmp_path / "here").glob("[bl]*")} == {
        *("checkpoint_epoch_0001.pth", "checkpoint_epoch_0003.pth")
    }
    assert [record.epoch for record in manager.checkpoints()] == [1, 2, 3]


def test_a_best_model_that_is_a_copy_of_one_that_is_gone_is_kept_under_its_own_name(tmp_path):
    pointers = run_in(tmp_path)
    best = pointers["best_model"].resolve()
    pointers["best_model"].unlink()
    best.rename(pointers["best_model"])
    save_epochs(CheckpointManager(tmp_path, max_to_keep=1), [0.4], first=3)
    assert os.readlink(tmp_path / "best_model.pth") == "checkpoint_epoch_0001.pth"
    assert mfc.open(tmp_path / "checkpoint_epoch_0001.pth").tree["epoch"] == 1


def test_one_that_was_fetched_from_a_run_of_another_format_is_taken_up_and_gets_a_name(tmp_path):
    fetch(run_in(tmp_path / "there", "safetensors")["latest_checkpoint"], tmp_path / "here")
    manager = CheckpointManager(tmp_path / "here", format="oneflow", keep_best=0)
    save_epochs(manager, [0.5], first=manager.resume(model=weights()).epoch)
    assert names_in(tmp_path / "here") == [
        *("checkpoint_epoch_0002.safetensors", "checkpoint_epoch_0003", "latest_checkpoint")
    ]


def test_one_whose_name_is_taken_by_another_run_replaces_nothing(tmp_path):
    fetched = fetch(run_in(tmp_path / "there")["latest_checkpoint"], tmp_path / "here")
    CheckpointManager(tmp_path / "other").save(2, weights(7), loss=1.0).rename(
        tmp_path / "here" / "checkpoint_epoch_0002.pth"
    )
    before = content(fetched), content(tmp_path / "here" / "checkpoint_epoch_0002.pth")
    save_epochs(CheckpointManager(tmp_path / "here"), [0.9], first=3)
    kept = ("checkpoint_epoch_0002_save_0003.pth", "checkpoint_epoch_0002.pth")
    assert tuple(content(tmp_path / "here" / name) for name in kept) == before


def test_one_of_a_step_within_an_epoch_goes_on_within_it(tmp_path):
    CheckpointManager(tmp_path / "there").save(4, weights(), step=77)
    fetch(tmp_path / "there" / "latest_checkpoint.pth", tmp_path / "here")
    manager = CheckpointManager(tmp_path / "here")
    start = manager.resume(model=weights())
    assert (start.epoch, start.step, start.within_epoch) == (4, 78, True)
    manager.save(4, weights(), step=78)
    assert "checkpoint_epoch_0004_step_00000077.pth" in names_in(tmp_path / "here")


def test_a_fetched_one_is_listed_as_the_latest_of_its_run(tmp_path):
    fetched = fetch(run_in(tmp_path / "there")["latest_checkpoint"], tmp_path / "here")
    (run,) = survey(tmp_path / "here")
    assert ([record.epoch for record in run.checkpoints], run.latest) == ([2], fetched)


def test_what_another_program_calls_its_best_model_is_no_run(tmp_path):
    mfc.save(weights(), tmp_path / "best_model.pth")
    (tmp_path / "best_model").mkdir()
    assert survey(tmp_path) == []


@pytest.mark.parametrize("harm", ["damaged", "a pointer to what is not here"])
def test_resuming_from_one_that_cannot_be_used_is_no_beginning_at_0(tmp_path, harm):
    fetched = run_in(tmp_path)["latest_checkpoint"]
    raw = fetched.read_bytes()
    for path in tmp_path.glob("checkpoint*"):
        path.unlink()
    if harm == "damaged":
        for path in tmp_path.iterdir():
            path.unlink()
        fetched.write_bytes(raw[:500])
        with pytest.raises(TargetExistsError, match=r"latest_checkpoint\.pth: found something that is no pointer"):
            CheckpointManager(tmp_path)
    else:
        with pytest.raises(FileNotFoundError, match=r"a pointer to checkpoint_epoch_000[12]\.pth, which is not there"):
            CheckpointManager(tmp_path).resume(model=weights())


def test_killed_between_naming_a_fetched_one_and_pointing_the_run_goes_on(tmp_path, monkeypatch):
    fetch(run_in(tmp_path / "there")["latest_checkpoint"], tmp_path / "here")
    manager = CheckpointManager(tmp_path / "here")
    with monkeypatch.context() as patch:
        patch.setattr("multiframe_ckpt.runs.manager.point", lambda *_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            manager.save(3, weights(3), loss=0.1)
    assert names_in(tmp_path / "here") == ["checkpoint_epoch_0002.pth", "checkpoint_epoch_0003.pth"]
    assert CheckpointManager(tmp_path / "here").resume(model=weights()).epoch == 4


# What stands in the way


def in_the_place_of(pointer: Path, what: str) -> None:
    if what == "a file":
        pointer.write_bytes(b"mine")
    elif what == "weights":
        mfc.save(weights(), pointer)
    elif what == "a checkpoint of another program":
        mfc.save({"model": weights(), "epoch": 3}, pointer)
    elif what == "a folder":
        pointer.mkdir()
    else:
        pointer.symlink_to("../elsewhere.pth")


@pytest.mark.parametrize("name", ["latest_checkpoint.pth", "best_model.pth"])
@pytest.mark.parametrize("what", ["a file", "weights", "a checkpoint of another program", "a folder", "a link"])
def test_something_of_anothers_in_the_place_of_a_pointer_is_said_at_once(tmp_path, name, what):
    in_the_place_of(tmp_path / name, what)
    with pytest.raises(TargetExistsError, match=f"{name}: found something that is no pointer .* move it away"):
        CheckpointManager(tmp_path)
    assert names_in(tmp_path) == [name]


def test_a_best_model_of_the_users_own_is_in_nobodys_way_where_there_is_no_best(tmp_path):
    mine = tmp_path / "best_model.pth"
    mine.write_bytes(b"mine")
    save_epochs(CheckpointManager(tmp_path, keep_best=0, max_to_keep=1), [0.1, 0.2])
    assert mine.read_bytes() == b"mine"


def refuse_links(*_, **__):
    raise OSError(errno.EPERM, "Operation not permitted")


def test_a_disk_without_links_is_said_before_the_first_save(tmp_path, monkeypatch):
    monkeypatch.setattr(links.os, "symlink", refuse_links)
    with pytest.raises(LinkRefusedError, match=r"run: found a file system without symbolic links"):
        CheckpointManager(tmp_path / "run", format="oneflow")
    CheckpointManager(tmp_path / "run")  # a file can have a second name
    monkeypatch.setattr(links.os, "link", refuse_links)
    with pytest.raises(LinkRefusedError, match=r"run: found a file system without any links"):
        CheckpointManager(tmp_path / "run")
    assert names_in(tmp_path) == []


def test_a_file_in_the_place_of_the_folder_is_said_at_once(tmp_path):
    (tmp_path / "run").write_text("mine")
    for path in (tmp_path / "run", tmp_path / "run" / "below"):
        with pytest.raises(NotADirectoryError, match="run: found a file, expected a folder"):
            CheckpointManager(path)


def test_a_name_that_no_disk_takes_is_said_at_once(tmp_path):
    for path in (tmp_path / ("n" * 300), tmp_path / "run" / ("n" * 300)):
        with pytest.raises(OSError, match="File name too long"):
            CheckpointManager(path)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that nobody can write to")
def test_where_nothing_can_be_written_is_said_at_once_at_the_line_that_asked():
    with pytest.warns(CheckpointWarning, match="/proc/self/run: found that nothing can be written there") as told:
        CheckpointManager("/proc/self/run")
    assert [warning.filename for warning in told] == [__file__]


READ_ONLY = """
import os, sys, warnings
import numpy as np
from multiframe_ckpt import CheckpointManager
run, empty = sys.argv[1:]
model = {"l1.weight": np.zeros((3, 4), "f4"), "l1.bias": np.zeros(3, "f4")}
CheckpointManager(run).resume(model=model)  # imports, while it may
os.setresuid(65534, 65534, 65534)
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    manager = CheckpointManager(run)
    print(len(told), manager.latest().epoch, len(told))
    print(manager.resume(model=model).epoch, [str(warning.message).partition(" (")[0] for warning in told])
    CheckpointManager(empty)
    print(str(told[-1].message).partition(" (")[0])
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may become another user")
def test_who_may_not_write_is_told_when_the_run_begins_or_goes_on_and_not_when_it_is_read():
    with tempfile.TemporaryDirectory() as folder:  # tmp_path has parents that others may not enter
        run, empty = Path(folder, "run"), Path(folder, "empty")
        run_in(run)
        empty.mkdir()
        Path(folder).chmod(0o755)
        command = [sys.executable, "-c", READ_ONLY, run, empty]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.stderr, done.stdout.splitlines()) == (
            "",
            [
                "0 2 0",
                f"3 ['{run}: found that nothing can be written there']",
                f"{empty}: found that nothing can be written there",
            ],
        )


def test_a_manager_that_looks_at_a_run_writes_nothing(tmp_path):
    run_in(tmp_path)
    before = tmp_path.stat().st_mtime_ns
    CheckpointManager(tmp_path).resume(model=weights())
    assert tmp_path.stat().st_mtime_ns == before


def test_a_manager_that_begins_leaves_nothing_and_warns_of_nothing(tmp_path):
    run_in(tmp_path)
    before = names_in(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for format in FORMATS:
            CheckpointManager(tmp_path, format=format)
    assert names_in(tmp_path) == before
