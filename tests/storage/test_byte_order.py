"""Arrays of the other byte order: what is written of them, whatever holds them and however large they are."""

from pathlib import Path

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.tree import LazyTensor

h5py = pytest.importorskip("h5py")

SUFFIXES = {
    "safetensors": ".safetensors",
    "torch": ".pth",
    "npz": ".npz",
    "oneflow": "",
    "hdf5": ".h5",
    "json": ".json",
}
ARRAY = np.arange(300_001, dtype=">f4")  # past what is moved at once


def npz(path: Path) -> Path:
    np.savez(path / "a.npz", w=ARRAY)
    return path / "a.npz"


def npz_compressed(path: Path) -> Path:
    np.savez_compressed(path / "a.npz", w=ARRAY)
    return path / "a.npz"


def npz_fortran(path: Path) -> Path:
    np.savez(path / "a.npz", w=np.asfortranarray(ARRAY[:-1].reshape(2, -1)))
    return path / "a.npz"


def hdf5(path: Path, **options: object) -> Path:
    with h5py.File(path / "a.h5", "w") as file:
        file.create_dataset("w", data=ARRAY, dtype=">f4", **options)
    return path / "a.h5"


def hdf5_compressed(path: Path) -> Path:
    return hdf5(path, compression="gzip")


@pytest.mark.parametrize("make", [npz, npz_compressed, npz_fortran, hdf5, hdf5_compressed])
@pytest.mark.parametrize("format", sorted(SUFFIXES))
def test_a_file_of_the_other_byte_order_is_converted_with_its_values(tmp_path: Path, make, format: str) -> None:
    source, target = make(tmp_path), tmp_path / f"out{SUFFIXES[format]}"
    if source == target:
        return
    mfc.convert(source, target, format=format)
    expected = ARRAY[:-1].reshape(2, -1) if make is npz_fortran else ARRAY
    np.testing.assert_array_equal(mfc.open(target).tensors()["w"].numpy(), expected)


@pytest.mark.parametrize("format", sorted(SUFFIXES))
@pytest.mark.parametrize("async_save", [False, True])
def test_a_live_array_of_the_other_byte_order_is_saved_with_its_values(tmp_path: Path, format: str, async_save) -> None:
    with mfc.CheckpointManager(tmp_path / "run", format=format, async_save=async_save) as manager:
        manager.save(1, {"w": ARRAY})
    saved = mfc.open(manager.latest().path).tensors()["model_state_dict/w"]
    np.testing.assert_array_equal(saved.numpy(), ARRAY)


def test_the_pieces_and_views_of_such_an_array_are_in_this_machines_order() -> None:
    tensor = LazyTensor.from_array(ARRAY)
    assert b"".join(map(bytes, tensor.pieces(memoryview(bytearray(1 << 16))))) == ARRAY.astype("<f4").tobytes()
    words = tensor.view_as(LazyTensor.from_array(np.zeros(1, np.uint32)).dtype, None)
    np.testing.assert_array_equal(words.numpy(), ARRAY.astype("<f4").view("<u4"))
    assert b"".join(map(bytes, tensor[3:9:2].pieces(memoryview(bytearray(64))))) == ARRAY[3:9:2].astype("<f4").tobytes()


def test_damage_of_such_an_array_is_noticed(tmp_path: Path) -> None:
    path = npz(tmp_path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    report = mfc.verify(path)
    assert report.damaged == ("w",)
    with pytest.raises(mfc.DamagedError):
        mfc.convert(path, tmp_path / "out.pth")
