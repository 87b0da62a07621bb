"""What is opened or walked over is let go of with its last reference, not when the cycle collector comes by."""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.tree import LazyTensor, edit, map_leaves, unknown_as_dicts


@pytest.fixture(autouse=True)
def collector_is_off() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Held:
    """Something that a function refers to."""


def tree() -> dict[str, object]:
    return {"a": {"w": LazyTensor.from_array(np.zeros(3, np.float32))}, "step": 3}


def test_a_function_that_leaves_were_mapped_with_is_let_go_of() -> None:
    held = Held()
    alive = weakref.ref(held)
    map_leaves(tree(), lambda _, leaf, held=held: leaf)
    del held
    assert alive() is None


@pytest.mark.parametrize("walk", [unknown_as_dicts, lambda tree: edit(tree, {"a/w": ()}, what="drop")])
def test_a_tree_that_was_walked_over_is_let_go_of(walk) -> None:
    one = tree()
    array = one["a"]["w"].numpy()
    one["a"]["w"] = LazyTensor.from_array(array)
    alive = weakref.ref(array)
    del array
    walk(one)
    del one
    assert alive() is None


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz", ".h5", ".json", ""])
def test_a_checkpoint_that_was_opened_closes_its_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"c{suffix}"
    mfc.save({"w": np.zeros(3, np.float32)}, path)
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("this system does not list descriptors")
    before = len(list(descriptors.iterdir()))
    for _ in range(5):
        mfc.load(path)
        mfc.open(path).tensors()
    assert len(list(descriptors.iterdir())) == before
