"""What a save takes, when it happens, and what it refuses. Arrays alone, so that it runs everywhere."""

import errno
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from saved_epochs import names_in, save_epochs, weights

import multiframe_ckpt as mfc
from multiframe_ckpt import CheckpointManager
from multiframe_ckpt.checkpoint import PlannedSave
from multiframe_ckpt.errors import (
    NoSpaceError,
    ValueRefusedError,
)
from multiframe_ckpt.progress import silent


def test_epochs_that_are_no_multiple_of_save_freq_are_passed_over(tmp_path):
    manager = CheckpointManager(tmp_path, save_freq=3)
    given = [manager.save(epoch, weights(), loss=0.1) for epoch in range(5)]
    assert [path and path.name for path in given] == [
        *("checkpoint_epoch_0000.pth", None, None),
        *("checkpoint_epoch_0003.pth", None),
    ]


def test_force_saves_an_epoch_that_save_freq_would_pass_over(tmp_path):
    assert CheckpointManager(tmp_path, save_freq=10).save(7, weights(), loss=0.1, force=True).exists()


def test_a_checkpoint_holds_the_usual_keys_and_the_users_own(tmp_path):
    manager = CheckpointManager(tmp_path)
    path = manager.save(
        *(3, weights()),
        **{"loss": np.float32(0.5), "step": 12, "metrics": {"val": {"acc": np.float64(0.25)}}},
        **{"train_args": {"lr": 0.1}, "extra": {"vocabulary": ["a", "b"]}},
    )
    tree = mfc.open(path).tree
    assert (tree["epoch"], tree["step"], tree["loss"]) == (3, 12, 0.5)
    assert (tree["metrics"], tree["train_args"]) == ({"val": {"acc": 0.25}}, {"lr": 0.1})
    assert (tree["vocabulary"], sorted(tree["rng_state"])) == (["a", "b"], ["numpy", "python"])


def test_without_rng_no_generator_is_kept(tmp_path):
    assert "rng_state" not in mfc.open(CheckpointManager(tmp_path, rng=False).save(0, weights())).tree


def test_the_entry_that_the_manager_counts_with_cannot_be_taken(tmp_path):
    with pytest.raises(ValueRefusedError, match="save_count"):
        CheckpointManager(tmp_path).save(0, weights(), extra={"save_count": 1})


@pytest.mark.parametrize(
    "options",
    [
        *({"save_freq": 0}, {"max_to_keep": 0}, {"keep_best": -1}, {"keep_every": 0}, {"mode": "least"}),
        *({"format": "pytorch"}, {"async_save": "later"}),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(tmp_path, options):
    with pytest.raises(mfc.MultiframeError, match="expected"):
        CheckpointManager(tmp_path, **options)


@pytest.mark.parametrize("async_save", [False, True])
@pytest.mark.parametrize("option", ["digest", "durable"])
def test_what_a_save_may_leave_out_is_handed_on(tmp_path, monkeypatch, option, async_save):
    real, seen = PlannedSave.write, []

    def write(self, on_progress=silent):
        seen.append(getattr(self.options, option))
        real(self, on_progress)

    monkeypatch.setattr(PlannedSave, "write", write)
    for given in ({}, {option: False}):
        with CheckpointManager(tmp_path, async_save=async_save, **given) as manager:
            save_epochs(manager, [0.1])
    assert seen == [True, False]


def test_a_manager_that_saves_nothing_makes_no_folder(tmp_path):
    CheckpointManager(tmp_path / "run").checkpoints()
    assert names_in(tmp_path) == []


@pytest.fixture
def full_disk(monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1 << 40, 1 << 40, 100))


@pytest.mark.parametrize("async_save", [False, True])
def test_a_disk_without_space_is_said_before_anything_is_written(tmp_path, full_disk, async_save):
    manager = CheckpointManager(tmp_path / "run", async_save=async_save, rng=False)
    with pytest.raises(
        NoSpaceError, match=r"0\.pth: found 100 bytes free on its disk, expected 400 or more"
    ) as refusal:
        manager.save(0, {"w": np.zeros(100, np.float32)}, loss=0.1)
    assert refusal.value.errno == errno.ENOSPC
    assert isinstance(refusal.value, OSError)
    assert names_in(tmp_path) == []


def test_a_tied_tensor_needs_space_once(tmp_path, full_disk):
    shared = np.zeros(20, np.float32)
    CheckpointManager(tmp_path, rng=False).save(0, {"a": shared, "b": shared}, loss=0.1)


def test_a_format_that_writes_a_tied_tensor_twice_needs_space_twice(tmp_path, full_disk):
    shared = np.zeros(20, np.float32)
    with pytest.raises(NoSpaceError, match="expected 160 or more"):
        CheckpointManager(tmp_path, rng=False, format="oneflow").save(0, {"a": shared, "b": shared}, loss=0.1)


def test_space_is_asked_of_the_disk_that_the_folder_will_be_on(tmp_path, monkeypatch):
    asked = []
    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(Path(path)) or real(path))
    CheckpointManager(tmp_path / "a" / "b").save(0, weights(), loss=0.1)
    assert asked == [tmp_path]


def test_saving_what_a_format_cannot_hold_is_refused_before_anything_is_written(tmp_path):
    manager = CheckpointManager(tmp_path / "run", format="oneflow")
    with pytest.raises(mfc.KeyRefusedError):
        manager.save(0, {"a/b": np.zeros(1, np.float32)}, loss=0.1)
    assert names_in(tmp_path) == []
