"""verify: everything that is damaged, missing, extra or without a digest is named, and every byte is read once."""

from __future__ import annotations

import errno
import os
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.dtypes import FLOAT32, dtype_named
from multiframe_ckpt.errors import DamagedError
from multiframe_ckpt.formats.oneflow.folder import OneFlowFormat
from multiframe_ckpt.operations.verify import check_all
from multiframe_ckpt.testing import MemoryFile, flat_tree
from multiframe_ckpt.testing.formats import open_at
from multiframe_ckpt.tree import LazyTensor, Tree

KEYS = ("a", "b", "c")


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    return {key: np.full(40, number + 0.5, np.float32) for number, key in enumerate(KEYS)}


def damage(path: Path, array: np.ndarray) -> None:
    """Flips a bit of an array's bytes."""
    raw = bytearray(path.read_bytes())
    raw[raw.index(array.tobytes())] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz", ".h5"])
def test_every_damaged_tensor_is_named_not_only_the_first(
    suffix: str, arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    path = tmp_path / f"x{suffix}"
    mfc.save(arrays, path)
    for key in ("a", "c"):
        damage(path, arrays[key])
    report = mfc.verify(path)
    assert (report.damaged, report.checked, len(report.problems), report.whole) == (("a", "c"), 1, 2, False)


def test_what_hdf5_lacks_and_what_was_put_in_are_both_named(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    mfc.save(arrays, tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        del file["b"]
        file["new/one"] = file["new/two"] = 1.0
    report = mfc.verify(tmp_path / "x.h5")
    assert (report.missing, report.extra, report.whole) == (("b",), ("new/one", "new/two"), False)


def test_tensors_without_a_digest_are_named_and_still_read(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    mfc.save(arrays, tmp_path / "x.safetensors", digest=False)
    report = mfc.verify(tmp_path / "x.safetensors")
    assert (report.unchecked, report.checked, report.whole) == (KEYS, 0, True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_without_digests_the_checksums_of_a_zip_file_are_compared(dtype: str, suffix: str, tmp_path: Path) -> None:
    row = dtype_named(dtype)
    assert row is not None
    array = np.arange(500).astype(row.numpy)
    mfc.save({"w": array}, tmp_path / f"x{suffix}", digest=False)
    assert mfc.verify(tmp_path / f"x{suffix}").checked == 1
    damage(tmp_path / f"x{suffix}", array)
    assert mfc.verify(tmp_path / f"x{suffix}").damaged == ("w",)
    with pytest.raises(DamagedError):
        mfc.load(tmp_path / f"x{suffix}")
    with pytest.raises(DamagedError):
        mfc.open(tmp_path / f"x{suffix}").tensors()["w"].numpy()


def test_a_save_that_never_finished_is_a_problem_and_what_is_there_is_checked(
    arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    mfc.save(arrays, tmp_path / "x", format="oneflow")
    (tmp_path / "x" / "snapshot_done").unlink()
    damage(tmp_path / "x" / "b" / "out", arrays["b"])
    report = mfc.verify(tmp_path / "x")
    assert (report.damaged, report.checked, len(report.problems)) == (("b",), 2, 2)


def test_a_whole_checkpoint_has_every_tensor_checked(tmp_path: Path) -> None:
    mfc.Checkpoint({"net": flat_tree(), "lr": 0.5}).save(tmp_path / "x.json")
    report = mfc.verify(tmp_path / "x.json")
    assert (report.whole, report.format, report.tensors, report.checked) == (True, "json", 3, 3)


def counted(reads: list[str], name: str) -> LazyTensor:
    def read() -> np.ndarray:
        reads.append(name)
        return np.zeros(2, np.float32)

    return LazyTensor.from_function(FLOAT32, (2,), read)


def test_bytes_that_several_tensors_share_are_read_once(tmp_path: Path) -> None:
    reads: list[str] = []

    class Counting(MemoryFile):
        def read_into(self, offset: int, buffer: memoryview) -> None:
            reads.append("x")
            super().read_into(offset, buffer)

    file = Counting(bytes(16))
    places = (("a", 0), ("b", 0), ("c", 8))
    table = {name: LazyTensor.in_file(file, FLOAT32, (2,), offset, what=name) for name, offset in places}
    results = check_all(table | {"d": counted(reads, "d")})
    assert (reads, results) == (["x", "x", "d"], dict.fromkeys("abcd"))


def test_a_disk_that_cannot_read_is_damage_like_any_other() -> None:
    def broken() -> np.ndarray:
        raise OSError(errno.EIO, "Input/output error")

    table = {"a": LazyTensor.from_function(FLOAT32, (4,), broken), "b": flat_tree()["z.bias"]}
    results = check_all(table)
    assert isinstance(results["a"], OSError)
    assert results["b"] is None


def test_verify_reads_the_second_folder_of_a_tied_tensor_of_a_nested_checkpoint_too(tmp_path: Path) -> None:
    path = tmp_path / "run"
    mfc.Checkpoint({"model": flat_tree(), "epoch": 1}).save(path, format="oneflow")
    assert mfc.verify(path).whole
    copies = open_at(OneFlowFormat(), path).unread().copies
    assert copies
    for name in copies:
        raw = bytearray((path / name).read_bytes())
        raw[0] ^= 1
        (path / name).write_bytes(raw)
    assert mfc.verify(path).damaged == tuple(copies)


def test_a_pipe_in_the_place_of_a_tied_tensors_second_folder_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "run"
    mfc.Checkpoint({"model": flat_tree(), "epoch": 1}).save(path, format="oneflow")
    name = next(iter(open_at(OneFlowFormat(), path).unread().copies))
    (path / name).unlink()
    os.mkfifo(path / name)
    assert "found a pipe" in mfc.verify(path).problems[0]


@pytest.mark.parametrize("tree", [flat_tree(), {"model": flat_tree(), "epoch": 1}], ids=["flat", "nested"])
def test_verify_walks_a_folder_once_at_most(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mfc.Checkpoint(tree).save(tmp_path / "run", format="oneflow")
    walked: list[int] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda number: [walked.append(os.stat(number).st_ino), scandir(number)][1])
    assert mfc.verify(tmp_path / "run").whole
    assert (tmp_path / "run").stat().st_ino in walked
    assert len(walked) == len(set(walked))


@pytest.mark.parametrize(("format", "extra"), [("oneflow", "z.bias/notes.txt"), ("torch", "archive/notes.txt")])
def test_verify_names_what_nothing_asks_for(format: str, extra: str, tmp_path: Path) -> None:
    path = tmp_path / "model"
    mfc.Checkpoint(flat_tree()).save(path, format=format)
    assert mfc.verify(path).extra == ()
    if path.is_dir():
        (path / extra).write_text("by hand")
    else:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(extra, "by hand")
    report = mfc.verify(path)
    assert (report.whole, report.extra) == (True, (extra,))


def test_tensors_without_a_digest_beside_others_are_counted_and_not_listed() -> None:
    report = mfc.VerifyReport("x", "oneflow", 3, 1, ("b", "c"), (), (), (), ())
    assert list(report.lines()) == [
        "x (oneflow): whole",
        "1 of 3 tensors match their digest; 2 have none, and were read all the same",
    ]


#: What may lie in the place of a variable's file.
INSTEAD: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: None,
    "a dangling link": lambda path: path.symlink_to("nowhere"),
    "a pipe": os.mkfifo,
    "a folder": lambda path: path.mkdir(),
    "a link to its folder": lambda path: path.symlink_to("."),
}


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder as OneFlow itself writes it: without comments, that tell how many variables there are."""
    mfc.save({"a": np.ones(3, np.float32), "b": np.ones(4, np.float32)}, tmp_path / "x")
    for meta in (tmp_path / "x").glob("*/meta"):
        meta.write_text("".join(line for line in meta.read_text().splitlines(True) if not line.startswith("#")))
    assert mfc.verify(tmp_path / "x").whole
    return tmp_path / "x"


@pytest.mark.parametrize("instead", INSTEAD)
@pytest.mark.parametrize("part", ["out", "meta"])
def test_a_variable_without_one_of_its_files_is_damage_and_reading_passes_over_it(
    foreign: Path, part: str, instead: str
) -> None:
    (foreign / "a" / part).unlink()
    INSTEAD[instead](foreign / "a" / part)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mfc.CheckpointWarning)
        report = mfc.verify(foreign)
    assert not report.whole and "a" in report.problems[0]
    if part == "out":
        assert report.missing == ("a/out",)
        with pytest.warns(mfc.CheckpointWarning, match="found no variable"):
            assert list(mfc.open(foreign).tensors()) == ["b"]


def test_every_variable_that_lost_its_files_is_named(foreign: Path) -> None:
    for name in "ab":
        (foreign / name / "out").unlink()
    (foreign / "a" / "meta").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mfc.CheckpointWarning)
        assert mfc.verify(foreign).missing == ("a/out", "b/out")


def test_what_never_was_a_variable_is_extra_and_no_damage(foreign: Path) -> None:
    (foreign / "notes.txt").write_text("mine")
    (foreign / ".ipynb_checkpoints").mkdir()
    (foreign / ".ipynb_checkpoints" / "a.ipynb").write_text("{}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mfc.CheckpointWarning)
        report = mfc.verify(foreign)
    assert (report.whole, report.extra) == (True, (".ipynb_checkpoints/a.ipynb", "notes.txt"))


def test_damage_says_whether_the_run_goes_on(tmp_path: Path) -> None:
    arrays = {name: LazyTensor.from_array(np.full(300, number + 0.5, np.float32)) for number, name in enumerate("wmes")}
    optimizer = {"state": {0: {"momentum_buffer": arrays["m"]}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    tree: Tree = {"model": {"w": arrays["w"]}, "optimizer": optimizer, "ema": {"w": arrays["e"]}}
    mfc.Checkpoint(tree).save(tmp_path / "run.pt")
    whole = mfc.verify(tmp_path / "run.pt")
    assert (whole.exact, whole.resumable) == (True, True)
    for name, goes_on in {"m": False, "e": True, "w": False}.items():
        raw = bytearray((tmp_path / "run.pt").read_bytes())
        raw[raw.index(arrays[name].numpy().tobytes()) + 5] ^= 1
        (tmp_path / "damaged.pt").write_bytes(raw)
        report = mfc.verify(tmp_path / "damaged.pt")
        assert (report.whole, report.exact, report.resumable) == (False, False, goes_on)
    assert "model: 1 damaged" in report.resumable_because
    assert "not resumable: the run does not go on" in str(report)


def test_what_has_no_digest_is_not_called_exact(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    mfc.save(arrays, tmp_path / "x.safetensors", digest=False)
    report = mfc.verify(tmp_path / "x.safetensors")
    assert (report.whole, report.exact, report.resumable) == (True, False, None)
    assert report.exact_because == "3 without a digest to compare with"
