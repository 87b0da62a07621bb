"""Hostile OneFlow folders: links, pipes, devices and lies about sizes are refused, and nothing waits or leads outside."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from catalogue.folders import snapshot

import multiframe_ckpt as mfc


def replaced(path: Path, by: Callable[[Path], object]) -> None:
    path.unlink()
    by(path)


def read_all(path: Path) -> list[np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mfc.CheckpointWarning)
        return [tensor.numpy() for tensor in mfc.open(path).tensors().values()]


@pytest.mark.parametrize("part", ["w/out", "w/meta"])
@pytest.mark.parametrize("kind", ["absolute", "relative", "loop", "pipe", "folder", "device"])
def test_a_part_that_is_no_file_of_its_own_is_refused_or_skipped_as_oneflow_does(
    part: str, kind: str, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(bytes(8))
    path = snapshot(tmp_path / "ckpt")
    makers: dict[str, Callable[[Path], object]] = {
        "absolute": lambda place: place.symlink_to(tmp_path / "secret"),
        "relative": lambda place: place.symlink_to("../../secret"),
        "loop": lambda place: place.symlink_to(place.name),
        "pipe": os.mkfifo,
        "folder": Path.mkdir,
        "device": lambda place: place.symlink_to("/dev/zero"),
    }
    replaced(path / part, makers[kind])
    try:
        assert read_all(path) == []
    except mfc.FormatError:
        return
    assert part == "w/out"  # without which a folder is no variable


def test_a_variable_that_is_a_link_out_of_the_checkpoint_is_refused(tmp_path: Path) -> None:
    elsewhere = snapshot(tmp_path / "elsewhere")
    path = snapshot(tmp_path / "ckpt")
    (path / "v").symlink_to(elsewhere / "w")
    with pytest.raises(mfc.UnsafeError, match="leads out"):
        mfc.open(path)


def test_a_link_within_the_checkpoint_is_followed(tmp_path: Path) -> None:
    path = snapshot(tmp_path / "ckpt", out=np.array([1.5, -2.5], np.float32).tobytes())
    (path / "v").symlink_to("w")
    assert [array.tolist() for array in read_all(path)] == [[1.5, -2.5], [1.5, -2.5]]


def test_a_checkpoint_that_is_itself_reached_by_a_link_is_read(tmp_path: Path) -> None:
    snapshot(tmp_path / "ckpt")
    (tmp_path / "latest").symlink_to("ckpt")
    assert len(read_all(tmp_path / "latest")) == 1


@pytest.mark.parametrize("kind", ["a link outside", "a pipe", "a folder", "a hole of a terabyte"])
def test_a_pickle_of_a_folder_that_is_not_one_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "ckpt"
    path.mkdir()
    (tmp_path / "outside").write_bytes(b"\x80\x02}(X\x10\x00\x00\x00protocol_versionK\x01X\x04\x00\x00\x00data}u.")
    pickled = path / "pickled_data"
    if kind == "a link outside":
        pickled.symlink_to(tmp_path / "outside")
    elif kind == "a pipe":
        os.mkfifo(pickled)
    elif kind == "a folder":
        pickled.mkdir()
    else:
        with pickled.open("wb") as file:
            file.truncate(1 << 40)
    with pytest.raises((mfc.FormatError, OSError)):  # OSError: more than the test may map
        mfc.open(path)


def test_a_note_cannot_tie_variables_whose_values_differ(tmp_path: Path) -> None:
    path = tmp_path / "ckpt"
    weight = np.arange(4, dtype=np.float32)
    state = {"a": mfc.LazyTensor.from_array(weight, alias="w")}
    mfc.Checkpoint(state | {"b": state["a"]}).save(path, format="oneflow")
    (path / "b" / "out").write_bytes(bytes(16))
    mfc.Checkpoint({"b": mfc.LazyTensor.from_array(np.zeros(4, np.float32))}).save(tmp_path / "other", format="oneflow")
    note = (tmp_path / "other" / "b" / "meta").read_bytes().partition(b', "seal"')[0] + b"}\n"
    (path / "b" / "meta").write_bytes(
        note.replace(b'"count": 1', b'"count": 2, "tied": "a"').replace(b'"index": 0', b'"index": 1')
    )
    mfc.convert(path, tmp_path / "x.pt")
    tensors = mfc.open(tmp_path / "x.pt").tensors()
    assert [tensors[key].numpy().tolist() for key in "ab"] == [[0, 1, 2, 3], [0, 0, 0, 0]]


@pytest.mark.parametrize("format", [None, "torch", "oneflow-pickle", "safetensors", "npz", "hdf5", "json"])
def test_a_pipe_is_refused_rather_than_waited_for(format: str | None, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(mfc.FormatError):
        mfc.open(tmp_path / "pipe", format=format)


@pytest.mark.parametrize("format", [None, "torch", "oneflow", "oneflow-pickle", "safetensors", "npz", "hdf5", "json"])
def test_a_device_is_refused_rather_than_read_without_end(format: str | None) -> None:
    with pytest.raises(mfc.FormatError):
        mfc.open("/dev/zero", format=format)


@pytest.mark.parametrize("format", ["torch", "safetensors", "npz", "hdf5", "json"])
def test_a_folder_where_a_file_is_expected_is_an_error_of_ours_or_the_systems(format: str, tmp_path: Path) -> None:
    with pytest.raises((mfc.FormatError, OSError)):
        mfc.open(tmp_path, format=format)


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("part", ["w/out", "w/meta", "w", "."])
def test_what_may_not_be_read_is_an_error_of_the_system_or_ours(part: str, tmp_path: Path) -> None:
    path = snapshot(tmp_path / "ckpt")
    (path / part).chmod(0)
    try:
        with pytest.raises((mfc.FormatError, OSError)):
            read_all(path)
    finally:
        (path / part).chmod(0o700)
