"""Pickles of NumPy arrays, as detectron2's zoo has them: read from the file, whatever their protocol."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import multiframe_ckpt as mfc

MODEL = {f"layer{n}.weight": np.random.default_rng(n).normal(size=(600, 500)).astype(np.float32) for n in range(3)}


def zoo() -> dict[str, Any]:
    return {"model": MODEL, "__author__": "Caffe2", "matching_heuristics": True, "names": np.array(["cat", "dog"])}


def require_model(path: Path) -> mfc.Checkpoint:
    checkpoint = mfc.open(path)
    assert checkpoint.meta["format"] == "pickle"
    assert list(checkpoint.weights()) == list(MODEL)
    for key, array in MODEL.items():
        np.testing.assert_array_equal(checkpoint.tree["model"][key].numpy(), array)
    return checkpoint


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_of_arrays_is_read(protocol: int, tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(zoo(), protocol))
    checkpoint = require_model(tmp_path / "x.pkl")
    assert (checkpoint.tree["names"], checkpoint.tree["matching_heuristics"]) == (["cat", "dog"], True)
    mfc.convert(tmp_path / "x.pkl", tmp_path / "x.safetensors", model_only=True)
    assert list(mfc.open(tmp_path / "x.safetensors").tensors()) == list(MODEL)


def test_the_strings_of_python_2_are_the_bytes_of_arrays(tmp_path: Path) -> None:
    raw = pickle.dumps(zoo(), 3)
    for array in MODEL.values():
        data = array.tobytes()
        raw = raw.replace(b"B" + struct.pack("<I", len(data)) + data, b"T" + struct.pack("<I", len(data)) + data)
    assert raw.count(b"T" + struct.pack("<I", 1_200_000)) == 3
    (tmp_path / "x.pkl").write_bytes(raw)
    require_model(tmp_path / "x.pkl")


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_large_arrays_stay_in_the_file(protocol: int, tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(zoo(), protocol))
    array = mfc.open(tmp_path / "x.pkl").tree["model"]["layer0.weight"].numpy()
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    assert type(base.obj if isinstance(base, memoryview) else base).__name__ == "mmap"


def test_code_in_a_pickle_is_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return exec, ("1 / 0",)

    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"w": np.ones(2), "x": Trap()}))
    with pytest.raises(mfc.UnsafeError, match=r"builtins\.exec"):
        mfc.open(tmp_path / "x.pkl")


def test_bytes_alone_come_out_as_bytes(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"raw": bytes(2_000_000), "w": np.ones(2)}))
    assert mfc.open(tmp_path / "x.pkl").tree["raw"] == bytes(2_000_000)
