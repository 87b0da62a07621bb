"""Targets that are odd, shared or not ours: what is there is replaced whole where that was asked for, or not touched."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.storage.atomic import STAGE_SUFFIX


def checkpoint(value: float) -> mfc.Checkpoint:
    return mfc.Checkpoint({key: mfc.LazyTensor.from_array(np.full(256, value, np.float32)) for key in "abc"})


def value_at(path: Path) -> float:
    (value,) = {value for tensor in mfc.open(path).tensors().values() for value in tensor.numpy().tolist()}
    return value


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("foreign", ["notes.txt", "a/notes.txt", "deep/er/model.pt", "pickled_data.bak", ".git"])
def test_a_folder_with_anything_foreign_is_never_replaced(foreign: str, tmp_path: Path) -> None:
    target = tmp_path / "model"
    checkpoint(1).save(target)
    (target / foreign).parent.mkdir(parents=True, exist_ok=True)
    (target / foreign).write_text("precious")
    before = contents(tmp_path)
    for format in ("oneflow", "torch"):
        with pytest.raises(mfc.FormatError, match="nothing but a checkpoint"):
            checkpoint(2).save(target, format=format, overwrite=True)
    assert contents(tmp_path) == before


def test_a_folder_that_is_no_checkpoint_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.tex").write_text("years")
    with pytest.raises(mfc.FormatError):
        checkpoint(2).save(tmp_path / "model", overwrite=True)
    assert contents(tmp_path) == {"model": None, "model/thesis.tex": b"years"}


@pytest.mark.parametrize(("old", "new"), [("torch", "oneflow"), ("oneflow", "torch"), ("oneflow", "oneflow-pickle")])
def test_a_file_is_replaced_by_a_folder_and_a_folder_by_a_file(old: str, new: str, tmp_path: Path) -> None:
    checkpoint(1).save(tmp_path / "model", format=old)
    checkpoint(2).save(tmp_path / "model", format=new, overwrite=True)
    assert (value_at(tmp_path / "model"), mfc.open(tmp_path / "model").meta["format"]) == (2, new)
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("format", ["torch", "oneflow", "oneflow-pickle", "safetensors", "npz", "hdf5", "json"])
def test_a_checkpoint_may_be_converted_over_itself(format: str, tmp_path: Path) -> None:
    path = tmp_path / "model"
    checkpoint(1).save(path, format=format)
    for to in (format, "oneflow", "torch"):
        mfc.convert(path, path, format=to, overwrite=True)
        assert (value_at(path), mfc.open(path).meta["format"]) == (1, to)
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("format", ["torch", "oneflow"])
def test_a_link_is_replaced_and_what_it_points_to_is_kept(format: str, tmp_path: Path) -> None:
    checkpoint(1).save(tmp_path / "kept", format=format)
    (tmp_path / "link").symlink_to("kept")
    with pytest.raises(FileExistsError):
        checkpoint(2).save(tmp_path / "link", format=format)
    checkpoint(2).save(tmp_path / "link", format=format, overwrite=True)
    assert (value_at(tmp_path / "kept"), value_at(tmp_path / "link")) == (1, 2)
    assert sorted(os.listdir(tmp_path)) == ["kept", "link"]


@pytest.mark.parametrize("format", ["torch", "oneflow"])
def test_a_link_to_nothing_is_something(format: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(FileExistsError):
        checkpoint(1).save(tmp_path / "link", format=format)
    checkpoint(1).save(tmp_path / "link", format=format, overwrite=True)
    assert value_at(tmp_path / "link") == 1
    assert os.listdir(tmp_path) == ["link"]


@pytest.mark.parametrize("format", ["torch", "oneflow"])
@pytest.mark.parametrize(
    "name", ["x" * 255, "é" * 127, "☃" * 85, ".hidden", " ", "-rf", "a\nb", ".replaced.x", "x" + STAGE_SUFFIX]
)
def test_any_name_that_the_disk_can_hold_can_be_saved_to_twice(format: str, name: str, tmp_path: Path) -> None:
    for value in (1, 2):
        checkpoint(value).save(tmp_path / name, format=format, overwrite=True)
        assert value_at(tmp_path / name) == value
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("format", ["torch", "oneflow"])
def test_a_name_that_no_disk_can_hold_is_an_error_of_the_systems_and_leaves_nothing(
    format: str, tmp_path: Path
) -> None:
    for name in ("x" * 256, "a\0b"):
        with pytest.raises((OSError, ValueError)):
            checkpoint(1).save(tmp_path / name, format=format)
    assert os.listdir(tmp_path) == []


def test_only_leftovers_of_dead_saves_of_the_same_target_are_swept(tmp_path: Path) -> None:
    for name in (f".model.pt.dead{STAGE_SUFFIX}", f".other.pt.dead{STAGE_SUFFIX}", ".model.pt.mine", "model.pt.bak"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "inside").write_text("x")
    (tmp_path / f".model.pt.file{STAGE_SUFFIX}").write_text("a file, and no stage")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "x").write_text("x")
    (tmp_path / f".model.pt.link{STAGE_SUFFIX}").symlink_to("precious")
    checkpoint(1).save(tmp_path / "model.pt")
    assert sorted(os.listdir(tmp_path)) == sorted(
        [
            f".model.pt.file{STAGE_SUFFIX}",
            f".model.pt.link{STAGE_SUFFIX}",
            ".model.pt.mine",
            f".other.pt.dead{STAGE_SUFFIX}",
            "model.pt",
            "model.pt.bak",
            "precious",
        ]
    )
    assert (tmp_path / "precious" / "x").exists()


def test_a_save_that_is_refused_leaves_no_file_and_no_folder_behind(tmp_path: Path) -> None:
    tree = {"a/b": mfc.LazyTensor.from_array(np.zeros(2))}
    with pytest.raises(mfc.RefusedError):
        mfc.Checkpoint(tree).save(tmp_path / "new" / "model", format="oneflow")
    assert os.listdir(tmp_path) == []


UNPRIVILEGED = """
import os, sys
import numpy as np
import multiframe_ckpt as mfc
import multiframe_ckpt.formats.oneflow.folder, multiframe_ckpt.formats.torch.format
mfc.Checkpoint, mfc.LazyTensor  # loaded while they can be: another user may not find them
if os.geteuid() == 0:
    os.setgroups([])
    os.setresuid(65534, 65534, 65534)
weights = mfc.Checkpoint({"a": mfc.LazyTensor.from_array(np.zeros(4))})
for format in ("torch", "oneflow"):
    try:
        weights.save(os.path.join(sys.argv[1], "model"), format=format, overwrite=True)
    except PermissionError:
        continue
    sys.exit(f"{format}: found a save into a folder that may not be written")
"""


def test_a_folder_that_may_not_be_written_is_an_error_of_the_systems_and_keeps_what_it_holds() -> None:
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path, whose parents other users may not enter
        checkpoint(1).save(Path(folder) / "model")
        Path(folder).chmod(0o555)
        try:
            found = subprocess.run(
                [sys.executable, "-c", UNPRIVILEGED, folder], capture_output=True, text=True, check=False, cwd="/"
            )
        finally:
            Path(folder).chmod(0o755)
        assert found.returncode == 0, found.stderr
        assert value_at(Path(folder) / "model") == 1
        assert os.listdir(folder) == ["model"]


SAVER = """
import sys
import numpy as np
import multiframe_ckpt as mfc
format, target, value = sys.argv[1], sys.argv[2], float(sys.argv[3])
for turn in range(25):
    tensors = {key: mfc.LazyTensor.from_array(np.full(256, value + turn, np.float32)) for key in "abc"}
    mfc.Checkpoint(tensors).save(target, format=format, overwrite=True)
"""


@pytest.mark.parametrize("format", ["torch", "oneflow"])
def test_saves_at_the_same_time_to_one_target_give_every_reader_one_of_them_whole(format: str, tmp_path: Path) -> None:
    target = tmp_path / "model"
    savers = [
        subprocess.Popen(
            [sys.executable, "-c", SAVER, format, str(target), str(start)], stderr=subprocess.PIPE, text=True
        )
        for start in (100, 200, 300)
    ]
    read = set()
    while any(saver.poll() is None for saver in savers):
        try:
            read.add(value_at(target))  # fails for a mixture of two
        except FileNotFoundError:
            assert not read  # before the first
        except mfc.DamagedError as problem:
            assert "replaced since" in str(problem)  # between the headers and the values of a folder
    problems = [saver.communicate()[1] for saver in savers]
    assert [saver.returncode for saver in savers] == [0, 0, 0], problems
    assert value_at(target) in (124, 224, 324)
    assert os.listdir(tmp_path) == ["model"]
