"""Every way to save that a fault may fall into: ``setup`` writes what was there before, ``save`` the new, ``check`` looks.

``check`` gives ``old`` or ``new``, what one who loads now gets, and raises where nothing loads, or a mixture. A folder is
the only argument, so that a fault injector needs to know nothing of this library.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import multiframe_ckpt as mfc
from multiframe_ckpt import CheckpointManager

FORMATS = ("torch", "oneflow", "oneflow-pickle", "safetensors", "npz", "hdf5", "json")
STATES = {1: "old", 2: "new"}


@dataclass(frozen=True)
class Case:
    """What is there before, a save, and what a reader then gets."""

    setup: Callable[[str], object]
    save: Callable[..., object]
    check: Callable[[str], str]


def weights(value: int) -> dict[str, np.ndarray]:
    """Gives tensors of which every element says which save it is of; one is written in several pieces."""
    return {"w": np.full((64, 64), value, np.float32), "b": np.arange(5000, dtype=np.float32) + value}


def flat(value: int) -> dict[str, Any]:
    """Gives a state dict."""
    return weights(value)


def nested(value: int) -> dict[str, Any]:
    """Gives a training checkpoint, which OneFlow keeps as folders in a folder."""
    moments = {"exp_avg": weights(value)["w"], "step": value}
    return {"model_state_dict": weights(value), "optimizer_state_dict": {"state": {"0": moments}}, "epoch": value}


def large(value: int) -> dict[str, Any]:
    """Gives tensors of several megabytes, which are written in many pieces."""
    return {"big": np.full(700_000, value, np.float32)} | weights(value)


def equal(found: object, expected: object) -> bool:
    """Says whether two trees hold the same."""
    if isinstance(expected, dict):
        keys = isinstance(found, dict) and set(found) == set(expected)
        return keys and all(equal(found[key], expected[key]) for key in expected)
    return np.array_equal(np.asarray(found), np.asarray(expected))


def state_of(found: object, tree: Callable[[int], object]) -> str:
    """Gives old or new; raises ValueError for a tree that is neither, such as a mixture."""
    for value, state in STATES.items():
        if equal(found, tree(value)):
            return state
    raise ValueError("loads, but is neither old nor new")


def one_path(format: str, tree: Callable[[int], dict[str, Any]] = flat, *, over: bool) -> Case:
    """Gives the case of a save over an older checkpoint, or beside it."""
    old, new = ("model", "model") if over else ("old", "new")

    def write(path: Path, value: int) -> None:
        mfc.save(tree(value), path, format=format, backend="numpy", overwrite=True)

    def save(folder: str, value: int = 2) -> None:
        write(Path(folder, new), value)

    def check(folder: str) -> str:
        path = Path(folder, new)
        if not os.path.lexists(path):
            path = Path(folder, old)
        return state_of(mfc.load(path, backend="numpy"), tree)

    return Case(lambda folder: write(Path(folder, old), 1), save, check)


def manager_of(folder: str, format: str, *, async_save: bool) -> CheckpointManager:
    """Gives a manager that keeps two and the best."""
    return CheckpointManager(folder, format=format, max_to_keep=2, async_save=async_save, rng=False)


def restored(manager: CheckpointManager, which: str = "latest") -> tuple[int, str]:
    """Gives the epoch and the state of what is restored; raises where the pointers or the records are not right."""
    model = weights(99)
    epoch = manager.restore(model=model, which=which).epoch
    assert epoch is not None
    return epoch, state_of(model, weights)


def keeping(format: str, *, async_save: bool) -> Case:
    """Gives the case of a save by a manager that makes a new best, moves both pointers, and deletes two old ones."""

    def keep(folder: str, epoch: int, value: int) -> None:
        manager = manager_of(folder, format, async_save=async_save)
        manager.save(epoch, weights(value), loss=10 - epoch)
        manager.wait()

    def setup(folder: str) -> None:
        for epoch in range(4):
            keep(folder, epoch, 1)

    def save(folder: str) -> None:
        keep(folder, restored(manager_of(folder, format, async_save=False))[0] + 1, 2)

    def check(folder: str) -> str:
        manager = manager_of(folder, format, async_save=False)
        epoch, state = restored(manager)
        for which in ("best", str(epoch - 1)):  # the one before is there whatever happens
            restored(manager, which)
        broken = [path for path in Path(folder).iterdir() if path.is_symlink() and not path.exists()]
        incomplete = [record for record in manager.checkpoints() if not record.complete]
        if broken or incomplete or (epoch >= 4) != (state == "new"):
            raise ValueError(f"found {broken}, {incomplete}, {state} at epoch {epoch}")
        return state

    return Case(setup, save, check)


def keeping_on(format: str) -> Case:
    """Gives the case of managers that go on and on in one folder, each save an epoch of its own."""

    def save(folder: str, value: int = 2) -> None:
        manager = manager_of(folder, format, async_save=False)
        latest = manager.latest()
        epoch = 0 if latest is None or latest.epoch is None else latest.epoch + 1
        manager.save(epoch, weights(value), loss=epoch % 7)

    def check(folder: str) -> str:
        manager = manager_of(folder, format, async_save=False)
        restored(manager, "best")
        return restored(manager)[1]

    return Case(lambda folder: save(folder, 1), save, check)


CASES: dict[str, Case] = {
    **{f"{name} over": one_path(name, over=True) for name in FORMATS},
    **{f"{name} fresh": one_path(name, over=False) for name in FORMATS},
    "torch large over": one_path("torch", large, over=True),
    "torch nested over": one_path("torch", nested, over=True),
    "oneflow nested over": one_path("oneflow", nested, over=True),
    "oneflow nested fresh": one_path("oneflow", nested, over=False),
    **{
        f"manager {name} {way}": keeping(name, async_save=way == "async")
        for name in ("torch", "oneflow")
        for way in ("sync", "async")
    },
    **{f"managers {name}": keeping_on(name) for name in ("torch", "oneflow")},
}
