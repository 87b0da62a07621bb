"""Why hostile archives are refused, in so many words; the catalogue has many more of them."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from catalogue.archives import central, honest, npy, one_deflated, patched
from catalogue.opcodes import RECORDS, legacy_of, storage, tensor, zip_of, zipped

import multiframe_ckpt as mfc


def read_all(path: Path) -> dict[str, np.ndarray]:
    return {key: found.numpy() for key, found in mfc.open(path).tensors().items()}


@pytest.mark.parametrize("make", [zip_of, legacy_of])
def test_the_makers_make_files_that_are_read_where_nothing_is_forged(
    make: Callable[[bytes, Path], Path], tmp_path: Path
) -> None:
    ops = tensor(over=storage(more=b"" if make is zip_of else b"N"))
    expected = np.frombuffer(bytes(range(24)), np.float32).reshape(2, 3)
    np.testing.assert_array_equal(read_all(make(ops, tmp_path / "x.pt"))["w"], expected)


def test_the_honest_archive_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(honest())
    assert read_all(tmp_path / "x.pt")["w"].tobytes() == RECORDS["x/data/0"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        for name, raw in (*RECORDS.items(), ("x/data/0", bytes(64))):
            archive.writestr(name, raw)
    with pytest.raises(mfc.FormatError, match="two members of one name"):
        mfc.open(tmp_path / "x.pt", format="torch")


def test_two_pickles_are_refused_since_readers_differ_over_which_is_meant(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.pt", RECORDS | {"y/data.pkl": b"\x80\x02}."})
    with pytest.raises(mfc.UnsafeError, match=r"2 records called data\.pkl"):
        mfc.open(path)


def test_members_whose_names_lead_outside_are_never_unpacked(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    path = zipped(inside / "x.pt", RECORDS | {"../escaped": b"x", "/tmp/escaped": b"x", "x/../../escaped": b"x"})
    mfc.convert(path, inside / "y.pt")
    assert sorted(place.name for place in tmp_path.rglob("*")) == ["inside", "x.pt", "y.pt"]


def test_a_pickle_that_inflates_past_any_use_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    squeezed = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = bytes(1 << 24)
    raw = b"".join(squeezed.compress(piece) for _ in range(20)) + squeezed.flush()
    crc = 0
    for _ in range(20):
        crc = zlib.crc32(piece, crc)
    (tmp_path / "x.pt").write_bytes(one_deflated(b"x/data.pkl", raw, crc, 20 << 24))
    with pytest.raises(mfc.UnsafeError, match="inflate from"):
        mfc.open(tmp_path / "x.pt")


def test_a_member_that_inflates_to_more_than_it_says_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.npz", {"a.npy": npy(np.zeros(5000))}, zipfile.ZIP_DEFLATED)
    raw = path.read_bytes()
    path.write_bytes(patched(raw, central(raw, b"a.npy") + 24, "<I", 4000))
    with pytest.raises(mfc.FormatError):
        read_all(path)


@pytest.mark.parametrize("format", ["torch", "safetensors", "npz", "json"])
def test_a_file_that_holds_the_signature_of_another_format_is_still_its_own(format: str, tmp_path: Path) -> None:
    signature = np.frombuffer(b"\x89HDF\r\n\x1a\n" * 1024, np.uint8)
    weights = {"a": mfc.LazyTensor.from_array(signature)}
    for shift in range(0, 512, 8):  # HDF5's may stand at any power of two from 512 on
        weights["b"] = mfc.LazyTensor.from_array(signature[: 1 + shift])
        mfc.Checkpoint(weights).save(tmp_path / "x", format=format, overwrite=True)
        assert mfc.open(tmp_path / "x").meta["format"] == format


class _Runs:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


def test_an_npz_of_a_pickle_is_read_as_data_and_one_that_would_run_something_is_refused(tmp_path: Path) -> None:
    objects = np.empty(1, object)
    np.savez(tmp_path / "x.npz", a=objects)
    assert mfc.open(tmp_path / "x.npz")["a"] == [None]
    objects[0] = _Runs()
    np.savez(tmp_path / "y.npz", a=objects)
    with pytest.raises(mfc.UnsafeError, match="system"):
        mfc.open(tmp_path / "y.npz")
