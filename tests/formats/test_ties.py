"""Ties in safetensors: written under each name, or once on request; the real library's own are read as ties."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.testing import assert_trees_equal
from multiframe_ckpt.tree import LazyTensor

KEEP_ONE = ("torch", "hdf5", "json")


def tied(**others: Any) -> dict[str, Any]:
    shared = LazyTensor.from_array(np.arange(1000, dtype=np.float32), alias="one")
    return {"emb": shared, "w": LazyTensor.from_array(np.ones(3, np.float32)), "head": shared, **others}


def is_tied(tree: Any) -> bool:
    return tree["emb"].identity == tree["head"].identity is not None


@pytest.fixture
def source(tmp_path: Path) -> Path:
    mfc.Checkpoint(tied()).save(tmp_path / "a.pt")
    return tmp_path / "a.pt"


@pytest.mark.parametrize("format", ["safetensors", "npz", "oneflow"])
def test_what_ties_cost_is_said_in_bytes(source: Path, format: str) -> None:
    report = mfc.convert(source, source.with_name("b"), format=format)
    assert (report.duplicated, report.duplicated_nbytes, report.exact) == ((("emb", "head"),), 4000, True)
    assert "tied (1), written under each name, 4.0 kB more; they come back tied:\n  emb = head" in str(report)


def test_ties_are_written_once_on_request_and_come_back(source: Path) -> None:
    each, once = source.with_name("each.safetensors"), source.with_name("once.safetensors")
    mfc.convert(source, each)
    report = mfc.convert(source, once, ties="once")
    assert (report.duplicated, report.named_once, report.exact) == ((), (("emb", "head"),), True)
    assert 3900 < each.stat().st_size - once.stat().st_size < 4100
    checkpoint = mfc.open(once)
    assert is_tied(checkpoint.tree) and list(checkpoint.tree) == ["emb", "w", "head"]
    assert checkpoint.meta["metadata"] == {}
    mfc.convert(once, source.with_name("back.pt"))
    assert source.with_name("back.pt").read_bytes() == source.read_bytes()
    assert mfc.verify(once).whole and mfc.diff(each, once).equal


def test_ties_of_a_nested_tree_and_metadata_beside_them_come_back(tmp_path: Path) -> None:
    tree = {"model": tied(), "epoch": 3, "again/~": tied()["w"]}
    mfc.Checkpoint(tree, {"metadata": {"licence": "CC0", "emb": "mine"}}).save(tmp_path / "a.safetensors")
    report = mfc.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", ties="once")
    opened = mfc.open(tmp_path / "b.safetensors")
    assert opened.meta["metadata"] == {"licence": "CC0", "emb": "mine"}
    assert_trees_equal(opened.tree, mfc.open(tmp_path / "a.safetensors").tree)
    assert is_tied(opened.tree["model"]) and report.exact
    mfc.convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors")
    assert (tmp_path / "c.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()


def test_metadata_by_the_name_of_a_tie_is_refused(tmp_path: Path) -> None:
    mfc.Checkpoint(tied(), {"metadata": {"head": "mine"}}).save(tmp_path / "a.h5")
    with pytest.raises(mfc.KeyRefusedError, match="metadata: found key 'head'"):
        mfc.convert(tmp_path / "a.h5", tmp_path / "b.safetensors", ties="once")


@pytest.mark.parametrize("format", KEEP_ONE)
def test_where_one_tensor_is_kept_anyway_nothing_changes(source: Path, format: str) -> None:
    for ties in ("each", "once"):
        report = mfc.convert(source, source.with_name(ties), format=format, ties=ties)
        assert (report.duplicated, report.named_once, report.duplicated_nbytes) == ((), (), 0)
    each, once = (source.with_name(ties).read_bytes() for ties in ("each", "once"))
    assert each == once


@pytest.mark.parametrize("format", ["npz", "oneflow"])
def test_where_readers_would_miss_a_name_it_is_refused(source: Path, format: str) -> None:
    with pytest.raises(mfc.ValueRefusedError, match="ties='once': found emb = head"):
        mfc.convert(source, source.with_name("b"), format=format, ties="once")
    mfc.Checkpoint({"w": tied()["w"]}).save(source, overwrite=True)
    assert mfc.convert(source, source.with_name("b"), format=format, ties="once").exact


def test_a_way_that_is_none_is_refused(source: Path) -> None:
    with pytest.raises(mfc.UnknownNameError, match="expected 'each' or 'once'"):
        mfc.convert(source, source.with_name("b.h5"), ties="never")


def test_the_real_library_reads_what_was_written_once(source: Path) -> None:
    numpy = pytest.importorskip("safetensors.numpy")
    mfc.convert(source, source.with_name("once.safetensors"), ties="once")
    read = numpy.load_file(source.with_name("once.safetensors"))
    assert sorted(read) == ["emb", "w"]


def test_ties_that_the_real_library_names_are_read_as_ties(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("safetensors.torch")

    def network() -> Any:
        net = torch.nn.ModuleDict({"emb": torch.nn.Embedding(5, 3), "head": torch.nn.Linear(3, 5, bias=False)})
        net["head"].weight = net["emb"].weight
        return net

    net = network()
    library.save_model(net, str(tmp_path / "real.safetensors"))
    checkpoint = mfc.open(tmp_path / "real.safetensors")
    assert sorted(checkpoint.tree) == ["emb.weight", "head.weight"]
    assert checkpoint.tree["emb.weight"].identity == checkpoint.tree["head.weight"].identity is not None
    assert checkpoint.meta["metadata"] == {}
    assert mfc.convert(tmp_path / "real.safetensors", tmp_path / "a.pt").exact
    state = torch.load(tmp_path / "a.pt", weights_only=True)
    network().load_state_dict(state)
    assert state["emb.weight"].data_ptr() == state["head.weight"].data_ptr()
    mfc.convert(tmp_path / "a.pt", tmp_path / "ours.safetensors", ties="once")
    library.load_model(network(), str(tmp_path / "ours.safetensors"))


def test_metadata_that_only_look_like_a_tie_stay_metadata(tmp_path: Path) -> None:
    mfc.Checkpoint(tied(), {"metadata": {"best": "emb", "w": "emb"}}).save(tmp_path / "a.safetensors")
    checkpoint = mfc.open(tmp_path / "a.safetensors")
    assert checkpoint.meta["metadata"] == {"best": "emb", "w": "emb"}
    assert list(checkpoint.tree) == ["emb", "w", "head"]
