"""The pause of Python's cycle collector: it ends, whatever happens, and leaves things as they were."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.tree.gc_pause import gc_paused


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    gc.enable()


def test_a_pause_ends_with_its_block_also_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), gc_paused():
        assert not gc.isenabled()
        raise ZeroDivisionError
    assert gc.isenabled()


def test_a_pause_within_a_pause_ends_with_the_outer_one() -> None:
    with gc_paused():
        with gc_paused():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    with gc_paused():
        pass
    assert not gc.isenabled()


@pytest.mark.parametrize("name", ["x.pth", "x", "x.safetensors", "x.npz", "x.json", "x.h5"])
def test_the_collector_works_while_a_checkpoint_is_written(tmp_path: Path, name: str) -> None:
    seen: list[bool] = []
    state = {"w": np.zeros((3, 4), np.float32)}
    mfc.save(state, tmp_path / name, on_progress=lambda _: seen.append(gc.isenabled()))
    assert seen and all(seen)
