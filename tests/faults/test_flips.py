"""Small checkpoints of every format with each bit flipped, each file cut at each length or missing: none reads wrong.

``make test`` takes every 61st flip and cut; ``make flips`` takes every one (STEP=1), and prints how many each format had.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.dtypes import FLOAT32
from multiframe_ckpt.formats import FORMATS
from multiframe_ckpt.testing import assert_trees_equal
from multiframe_ckpt.tree import Sharing, Strided, Tree, map_leaves

COUNTED = "MULTIFRAME_FLIP_STEP" in os.environ
STEP = int(os.environ.get("MULTIFRAME_FLIP_STEP", 61))  # a prime: each bit of a byte gets its turn
BUILT_IN_FORMATS = FORMATS.names()[:7]
_SHOWN = 100
NOTICED, SAME, WRONG = "noticed", "reads the same", "READS WRONG"


def tensor(array: np.ndarray, alias: str | None = None) -> mfc.LazyTensor:
    return mfc.LazyTensor.from_array(array, alias=alias)


def weights() -> Tree:
    """A state dict: names to tensors, two of them tied."""
    weight = tensor(np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4), alias="weight")
    return {"l1.weight": weight, "l1.bias": tensor(np.arange(3, dtype=np.float32)), "head.weight": weight}


def views() -> Tree:
    """A half and the transpose of one storage: what a format without storages writes as tensors of their own."""
    whole = np.arange(6, dtype=np.float32)
    storage = tensor(whole.view(np.uint8), alias="storage")
    half, turned = Strided(storage, FLOAT32, (3,), 0, (1,)), Strided(storage, FLOAT32, (3, 2), 0, (1, 3))
    return {
        "half": mfc.LazyTensor(FLOAT32, half.shape, half, "storage"),
        "turned": mfc.LazyTensor(FLOAT32, turned.shape, turned, "storage"),
    }


def run() -> Tree:
    """A training run: weights, an optimizer's state, and every kind of plain value."""
    moments = {"step": tensor(np.array(7, np.float32)), "exp_avg": tensor(np.full((3, 4), 0.25, np.float32))}
    group = {"params": [0, 1], "lr": 0.001, "betas": (0.9, 0.999), "foreach": None, "amsgrad": False}
    return {
        "model_state_dict": weights(),
        "optimizer_state_dict": {"state": {0: moments}, "param_groups": [group]},
        "parts": views(),
        "epoch": 3,
        "args": {"name": "häß", "seed": 2**70, "z": 1 + 2j, "raw": b"\x00\xff", "best": float("inf")},
    }


CHECKPOINTS = {"weights": weights, "run": run}


class Study:
    """A checkpoint on disk, what it holds when nothing is wrong with it, and what became of each damage to it."""

    def __init__(self, format: str, tree: Tree, path: Path) -> None:
        metadata = {"metadata": {"who": "a person"}}
        mfc.Checkpoint(tree, metadata).save(path, format=format)
        self.path = path
        self.files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
        self._clean = self._load()
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def _load(self) -> mfc.Checkpoint:
        checkpoint = mfc.open(self.path)
        tree = map_leaves(checkpoint.tree, lambda _, leaf: _read(leaf))
        return mfc.Checkpoint(tree, {name: value for name, value in checkpoint.meta.items() if name != "path"})

    def judge(self, damage: str) -> None:
        """Loads everything, and counts whether the damage was noticed, did not matter, or gave something else."""
        try:
            found = self._load()
        except (mfc.MultiframeError, OSError):
            self.counts[NOTICED] += 1
            return
        problem = _difference(found, self._clean)
        self.counts[SAME if problem is None else WRONG] += 1
        if problem is not None:
            self.wrong.append(f"{damage}: {' '.join(problem.split())}")

    def flip_bits(self, step: int) -> None:
        """Flips every ``step``-th bit of every file, one at a time."""
        start = 0
        for file in self.files:
            raw = file.read_bytes()
            with _descriptor(file) as descriptor:
                for bit in range(start, 8 * len(raw), step):
                    place, mask = bit >> 3, 1 << (bit & 7)
                    os.pwrite(descriptor, bytes([raw[place] ^ mask]), place)
                    self.judge(f"{file.name}: byte {place} {raw[place : place + 1]!r} ^ {mask}")
                    os.pwrite(descriptor, raw[place : place + 1], place)

    def cut_short(self, step: int) -> None:
        """Cuts every file at every ``step``-th length."""
        for file in self.files:
            raw = file.read_bytes()
            with _descriptor(file) as descriptor:
                for length in reversed(range(0, len(raw), step)):
                    os.ftruncate(descriptor, length)
                    self.judge(f"{file.name}: cut to {length} bytes")
                os.pwrite(descriptor, raw, 0)

    def take_away(self) -> None:
        """Removes every file of a folder, one at a time."""
        for file in self.files if self.path.is_dir() else []:
            elsewhere = self.path.with_name("elsewhere")
            file.rename(elsewhere)
            self.judge(f"{file.name}: missing")
            elsewhere.rename(file)


@contextmanager
def _descriptor(file: Path) -> Iterator[int]:
    descriptor = os.open(file, os.O_RDWR)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _read(leaf: Tree) -> Tree:
    if not isinstance(leaf, mfc.LazyTensor):
        return leaf
    read = mfc.LazyTensor.from_array(leaf.numpy().copy(), alias=leaf.alias)
    if not isinstance(leaf.source, Strided):
        return read
    storage = leaf.source.storage  # the ties are those of its view; its elements are the ones that were read
    return read.with_(source=_Read(storage, leaf.dtype, leaf.shape, leaf.source.offset, leaf.source.strides, read))


class _Read(Strided):
    """A view into a storage whose elements were read once."""

    def __init__(self, storage, dtype, shape, offset, strides, read: mfc.LazyTensor) -> None:
        super().__init__(storage, dtype, shape, offset, strides)
        self.read = read

    def array(self) -> np.ndarray:
        return self.read.numpy()


def _difference(found: mfc.Checkpoint, clean: mfc.Checkpoint) -> str | None:
    try:
        assert_trees_equal(found.tree, clean.tree)
    except AssertionError as difference:
        return str(difference)
    if found.meta != clean.meta:
        return f"found {found.meta}, expected {clean.meta}"
    shared = [Sharing(checkpoint.tensors()).storages for checkpoint in (found, clean)]
    return None if shared[0] == shared[1] else f"found storages {shared[0]}, expected {shared[1]}"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """A reader may warn of what it skips; here only what it gives counts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mfc.CheckpointWarning)
        yield


@pytest.mark.parametrize("kind", CHECKPOINTS)
@pytest.mark.parametrize("format", BUILT_IN_FORMATS)
def test_no_flipped_bit_and_no_cut_reads_wrong_unseen(
    format: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = Study(format, CHECKPOINTS[kind](), tmp_path / "checkpoint")
    study.flip_bits(STEP)
    flips, study.counts = study.counts, Counter()
    study.cut_short(STEP)
    study.take_away()
    if COUNTED:
        with capsys.disabled():
            print(f"\n{format}, {kind}: {sum(flips.values()):,} flips {dict(flips)}; cuts {dict(study.counts)}", end="")
    assert flips[NOTICED] and study.counts[NOTICED]
    shown = "\n".join(study.wrong[:_SHOWN])
    assert not study.wrong, f"{len(study.wrong)} read wrong unseen:\n{shown}"
