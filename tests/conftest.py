"""What tests of several folders need: golden files, and the tensors that their expectations name."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

ARCHIVE = Path(__file__).parent / "golden" / "oneflow.tar.gz"


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the golden files of tests/golden/oneflow.tar.gz: <group>/<name>/{ckpt,expected.json,…}."""
    folder = tmp_path_factory.mktemp("golden")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data") if hasattr(tarfile, "data_filter") else archive.extractall(folder)
    return folder
