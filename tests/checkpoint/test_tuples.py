"""A tuple of a type of its own is named wherever it becomes a plain one, whichever way it comes into a checkpoint."""

from __future__ import annotations

from argparse import Namespace
from collections import namedtuple
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest

import multiframe_ckpt as mfc


class Pair(NamedTuple):
    first: object
    second: object


class Version(tuple):
    pass


Point = namedtuple("Point", "x y")
W = np.ones(2, np.float32)


@dataclass
class Arguments:
    size: Pair


def lazy() -> mfc.LazyTensor:
    return mfc.LazyTensor.from_array(W)


def written_by_hand(path) -> None:
    mfc.Checkpoint({"a": Pair(1, 2), "b": [{"c": Version([lazy()])}], "d": (1, 2)}, {}).save(path)


def planned_by_hand(path) -> None:
    mfc.Checkpoint({"a": Pair(1, 2), "b": [{"c": Version([lazy()])}], "d": (1, 2)}, {}).plan(path)


def built_by_hand(_) -> None:
    mfc.Checkpoint({"a": Pair(1, 2), "b": [{"c": Version([lazy()])}], "d": (1, 2)}, {}).to_backend("numpy")


def run_with(**facts):
    return lambda path: mfc.Checkpoint.from_run(model={"w": W}, **facts).save(path)


WAYS = {
    "a tree written by hand": (written_by_hand, "a (test_tuples.Pair), b/0/c (test_tuples.Version)", 2),
    "a tree planned by hand": (planned_by_hand, "a (test_tuples.Pair), b/0/c (test_tuples.Version)", 2),
    "a tree made live by hand": (built_by_hand, "a (test_tuples.Pair), b/0/c (test_tuples.Version)", 2),
    "a tree that is one": (lambda at: mfc.Checkpoint(Pair(lazy(), 1), {}).save(at), "(top) (test_tuples.Pair)", 1),
    "metrics": (run_with(metrics={"at": Point(1, 2)}), "metrics/at (test_tuples.Point)", 1),
    "train_args of a Namespace": (run_with(train_args=Namespace(a=Pair(1, 2))), "train_args/a (test_tuples.Pair)", 1),
    "train_args of a dataclass": (run_with(train_args=Arguments(Pair(1, 2))), "train_args/size (test_tuples.Pair)", 1),
    "train_args that are one": (run_with(train_args=Pair(1, 2)), "train_args (test_tuples.Pair)", 1),
    "a loss": (run_with(loss=Pair(1.0, W[:1])), "loss (test_tuples.Pair)", 1),
    "extra": (run_with(extra={"state": [Pair(1, 2)]}), "state/0 (test_tuples.Pair)", 1),
    "objects": (lambda at: mfc.save({"a": [Pair(W, 2)]}, at), "a/0 (test_tuples.Pair)", 1),
}


@pytest.mark.parametrize("way", WAYS)
def test_it_is_named_once_by_key_and_type(way, tmp_path):
    make, places, number = WAYS[way]
    with pytest.warns(mfc.CheckpointWarning) as caught:
        make(tmp_path / "x.pth")
    (message,) = [str(warning.message) for warning in caught]
    message = message.replace(f"{__name__}.", "test_tuples.")
    assert message.startswith(f"{places}: found {number} tuples of types of their own, kept as plain ones")


@pytest.mark.parametrize("name", ["x.pth", "x.json", "x.safetensors"])
def test_plain_tuples_and_a_checkpoint_that_was_read_are_saved_without_a_word(name, tmp_path):
    mfc.Checkpoint({"a": (1, [lazy()]), "b": {}}, {}).save(tmp_path / name)
    mfc.open(tmp_path / name).save(tmp_path / f"again_{name}")
    mfc.Checkpoint.from_run(model={"w": W}, metrics={"at": (1, 2)}, train_args={"a": (3,)}).save(
        tmp_path / f"run_{name}"
    )


def test_torchs_sizes_are_nothing_but_their_numbers(tmp_path):
    torch = pytest.importorskip("torch")
    run = {"model": {"w": torch.ones(2)}, "train_args": {"shape": torch.Size([1, 2])}}
    mfc.Checkpoint.from_run(**run).save(tmp_path / "x.pth")
    assert mfc.open(tmp_path / "x.pth")["train_args"] == {"shape": (1, 2)}


def test_a_tree_that_is_too_deep_is_refused_as_such(tmp_path):
    deep: object = 1
    for _ in range(3000):
        deep = Pair(deep, 1)
    with pytest.raises(mfc.ValueRefusedError, match="nest deeper"):
        mfc.Checkpoint(deep, {}).save(tmp_path / "x.pth")
