"""What tests of several folders need: golden files, and a folder with a run and a model beside it."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

import multiframe_ckpt as mfc

ARCHIVE = Path(__file__).parent / "golden" / "oneflow.tar.gz"


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the golden files of tests/golden/oneflow.tar.gz: <group>/<name>/{ckpt,expected.json,…}."""
    folder = tmp_path_factory.mktemp("golden")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data") if hasattr(tarfile, "data_filter") else archive.extractall(folder)
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with a run of two epochs, of which the first is the best, and a weights file, the oldest."""
    folder = tmp_path / "runs"
    weights = {"l1.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "l1.bias": np.zeros(2, np.float32)}
    groups = [{"lr": 0.125, "momentum": 0.9, "params": [0, 1]}]
    optimizer = {"state": {0: {"momentum_buffer": np.ones((2, 3), np.float32)}}, "param_groups": groups}
    mfc.save(weights, folder / "other" / "weights.safetensors")
    with mfc.CheckpointManager(folder / "run", rng=False) as manager:
        for epoch, loss in enumerate((1.0, 2.0)):
            extra = {"optimizer": optimizer, "vocabulary": ["a", "$", "\n"]}
            manager.save(epoch, weights, metrics={"loss": loss, "accuracy": 0.5}, extra=extra)
    order = ("run/checkpoint_epoch_0001.pth", "run/checkpoint_epoch_0000.pth", "other/weights.safetensors")
    for age, name in enumerate(order):
        os.utime(folder / name, ns=(10**18 - age * 10**9,) * 2)
    return folder
