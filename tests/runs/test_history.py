"""Which checkpoint is chosen, what is passed over, and what is restored. Arrays alone, so that it runs everywhere."""

import os
import shutil

import numpy as np
import pytest
from saved_epochs import epochs_of, save_epochs, weights

import multiframe_ckpt as mfc
from multiframe_ckpt import CheckpointManager
from multiframe_ckpt.errors import (
    CheckpointWarning,
    DamagedError,
)
from multiframe_ckpt.runs import records


def damage(path):
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])


def flip(path, value):
    raw = bytearray(path.read_bytes())
    raw[raw.index(np.full(12, value, np.float32).tobytes()) + 5] ^= 1
    path.write_bytes(raw)


def test_nothing_saved_is_no_latest_and_no_best(tmp_path):
    manager = CheckpointManager(tmp_path)
    assert (manager.latest(), manager.best(), manager.checkpoints()) == (None, None, [])


def test_a_record_says_what_the_header_says(tmp_path):
    manager = CheckpointManager(tmp_path)
    path = manager.save(3, weights(), loss=0.5, step=7, metrics={"val": {"acc": 0.25}, "name": "x", "good": True})
    (record,) = manager.checkpoints()
    assert (record.path, record.epoch, record.step, record.format) == (path, 3, 7, "torch")
    assert record.metrics == {"loss": 0.5, "val/acc": 0.25}
    assert (record.nbytes, record.has_optimizer, record.complete) == (path.stat().st_size, False, True)


def test_a_record_counts_the_parameters_of_the_model_and_tied_ones_once(tmp_path):
    shared = np.zeros((2, 3), np.float32)
    state = {"embed": shared, "head": shared, "bias": np.zeros(2, np.float32)}
    CheckpointManager(tmp_path).save(0, state, extra={"average": np.zeros(5, np.float32)})
    (record,) = CheckpointManager(tmp_path).checkpoints()
    assert record.parameters == 8


def test_a_headers_facts_are_read_once_and_again_where_the_file_changed(tmp_path, monkeypatch):
    manager = CheckpointManager(tmp_path)
    save_epochs(manager, [0.1, 0.2])
    manager.checkpoints()
    opened = []
    real = records.Checkpoint.open
    monkeypatch.setattr(records.Checkpoint, "open", lambda path: opened.append(path.name) or real(path))
    manager.checkpoints()
    assert opened == []
    CheckpointManager(tmp_path / "other").save(1, weights(), loss=0.9).replace(tmp_path / "checkpoint_epoch_0001.pth")
    opened.clear()
    assert manager.checkpoints()[-1].metrics == {"loss": 0.9}
    assert opened == ["checkpoint_epoch_0001.pth"]


@pytest.mark.parametrize("format", ["torch", "oneflow"])
def test_a_checkpoint_that_is_gone_is_not_listed(tmp_path, format):
    manager = CheckpointManager(tmp_path, format=format)
    save_epochs(manager, [0.1, 0.2])
    newest = manager.latest().path
    shutil.rmtree(newest) if newest.is_dir() else newest.unlink()
    assert manager.latest().epoch == 0


def test_a_damaged_checkpoint_is_listed_as_such_and_never_chosen(tmp_path):
    manager = CheckpointManager(tmp_path)
    save_epochs(manager, [0.3, 0.2, 0.1])
    damage(tmp_path / "checkpoint_epoch_0002.pth")
    assert {record.epoch: record.complete for record in manager.checkpoints()} == {0: True, 1: True, 2: False}
    with pytest.warns(CheckpointWarning, match=r"passed over: .*checkpoint_epoch_0002\.pth"):
        assert manager.latest().epoch == 1
    assert manager.best().epoch == 1


def test_an_unfinished_folder_is_listed_as_such_and_never_chosen(tmp_path):
    manager = CheckpointManager(tmp_path, format="oneflow")
    save_epochs(manager, [0.3, 0.2])
    for name in ("snapshot_done", "pickled_data"):  # what a save writes last
        (tmp_path / "checkpoint_epoch_0001" / name).unlink()
    with pytest.warns(CheckpointWarning, match="passed over"):
        assert manager.latest().epoch == 0


def test_a_folder_that_lost_a_variable_is_listed_as_damaged_and_never_chosen(tmp_path):
    manager = CheckpointManager(tmp_path, format="oneflow")
    save_epochs(manager, [0.3, 0.2])
    shutil.rmtree(tmp_path / "checkpoint_epoch_0001" / "model_state_dict" / "l1.bias")
    with pytest.warns(CheckpointWarning, match=r"l1\.bias"):
        assert manager.latest().epoch == 0


CALLS_THAT_PASS_OVER = {
    "latest": lambda manager: manager.latest(),
    "restore": lambda manager: manager.restore(model=weights()),
    "resume": lambda manager: manager.resume(model=weights()),
}


@pytest.mark.parametrize("harm", [damage, lambda path: flip(path, 1)], ids=["cut", "flipped"])
@pytest.mark.parametrize("call", CALLS_THAT_PASS_OVER)
def test_what_is_passed_over_is_said_once_at_the_line_that_asked(tmp_path, call, harm):
    manager = CheckpointManager(tmp_path)
    save_epochs(manager, [0.3, 0.2])
    harm(tmp_path / "checkpoint_epoch_0001.pth")
    if call == "latest" and harm is not damage:
        pytest.skip("latest() reads headers only")
    with pytest.warns(CheckpointWarning, match="passed over") as told:
        CALLS_THAT_PASS_OVER[call](manager)
    assert [warning.filename for warning in told] == [__file__]


def test_what_is_passed_over_is_said_although_nothing_is_left(tmp_path):
    manager = CheckpointManager(tmp_path)
    save_epochs(manager, [0.3, 0.2], first=1)
    for epoch in (1, 2):
        flip(tmp_path / f"checkpoint_epoch_000{epoch}.pth", epoch)
    with (
        pytest.warns(CheckpointWarning, match="passed over") as told,
        pytest.raises(FileNotFoundError, match="no checkpoint that is complete"),
    ):
        manager.restore(model=weights())
    assert len(told) == 2


def test_an_old_damaged_checkpoint_is_not_worth_a_warning(tmp_path):
    manager = CheckpointManager(tmp_path)
    save_epochs(manager, [0.3, 0.2])
    damage(tmp_path / "checkpoint_epoch_0000.pth")
    os.utime(tmp_path / "checkpoint_epoch_0000.pth", ns=(0, 0))
    assert manager.latest().epoch == 1


def test_a_damaged_checkpoint_takes_the_place_of_no_whole_one_and_is_not_deleted(tmp_path):
    manager = CheckpointManager(tmp_path, max_to_keep=2, keep_best=0)
    save_epochs(manager, [0.3, 0.2])
    damage(tmp_path / "checkpoint_epoch_0001.pth")
    save_epochs(manager, [0.1], first=2)
    assert sorted(epochs_of(manager)) == [0, 1, 2]


@pytest.mark.parametrize(("which", "value"), [("latest", 2.0), ("best", 1.0), (0, 0.0), ("0", 0.0), (np.int64(2), 2.0)])
def test_the_checkpoint_that_was_asked_for_is_restored(tmp_path, which, value):
    manager = CheckpointManager(tmp_path)
    save_epochs(manager, [0.5, 0.1, 0.3])
    model = weights(9)
    report = manager.restore(model=model, which=which)
    assert (report.epoch, model["l1.bias"].tolist()) == (value, [value] * 3)


def test_any_path_can_be_restored(tmp_path):
    path = CheckpointManager(tmp_path / "a").save(4, weights(4), loss=0.1)
    model = weights()
    manager = CheckpointManager(tmp_path / "b")
    assert manager.restore(model=model, which=path).epoch == 4
    assert manager.resume(model=model, which=str(path)).epoch == 5
    assert model["l1.bias"].tolist() == [4.0] * 3


@pytest.mark.parametrize("which", ["latest", "best", 3])
def test_restoring_what_is_not_there_says_how_to_see_what_is_and_names_no_command(tmp_path, which):
    with pytest.raises(FileNotFoundError, match=r"CheckpointManager\.checkpoints\(\) lists") as refusal:
        CheckpointManager(tmp_path).restore(model=weights(), which=which)
    assert "multiframe-ckpt" not in str(refusal.value)


def test_resuming_begins_at_0_where_nothing_was_saved_and_else_after_the_last(tmp_path):
    manager = CheckpointManager(tmp_path)
    assert manager.resume(model=weights()).epoch == 0
    save_epochs(manager, [0.1] * 3)
    assert manager.resume(model=weights()).epoch == 3


def test_resuming_does_not_begin_anew_where_every_checkpoint_is_damaged(tmp_path):
    manager = CheckpointManager(tmp_path)
    save_epochs(manager, [0.1])
    damage(tmp_path / "checkpoint_epoch_0000.pth")
    with pytest.warns(CheckpointWarning), pytest.raises(FileNotFoundError, match="no checkpoint that is complete"):
        manager.resume(model=weights())


def test_a_bit_that_flipped_in_the_latest_is_found_before_anything_is_loaded(tmp_path):
    manager = CheckpointManager(tmp_path)
    save_epochs(manager, [0.1, 0.2])
    flip(tmp_path / "checkpoint_epoch_0001.pth", 1)
    model = weights(9)
    with pytest.warns(CheckpointWarning, match="passed over"):
        assert manager.restore(model=model).epoch == 0
    assert model["l1.weight"].tolist() == weights(0)["l1.weight"].tolist()


def test_a_bit_that_flipped_in_the_checkpoint_asked_for_is_an_error(tmp_path):
    manager = CheckpointManager(tmp_path)
    save_epochs(manager, [0.1, 0.2])
    flip(tmp_path / "checkpoint_epoch_0001.pth", 1)
    model = weights(9)
    with pytest.raises(DamagedError):
        manager.restore(model=model, which=1)
    assert model["l1.bias"].tolist() == [9.0] * 3


def test_the_random_generators_go_on_where_they_stood(tmp_path):
    manager = CheckpointManager(tmp_path)
    np.random.seed(3)
    manager.save(0, weights(), loss=0.1)
    expected = np.random.rand(5).tolist()
    manager.resume(model=weights())
    assert np.random.rand(5).tolist() == expected


def test_generators_that_were_set_are_not_said_to_be_left_out(tmp_path):
    manager = CheckpointManager(tmp_path)
    manager.save(0, weights(), loss=0.1)
    report = manager.resume(model=weights()).report
    assert (report.restored, report.left_out) == (("model", "rng"), ())


def test_a_run_written_by_hand_is_picked_up(tmp_path):
    mfc.save({"epoch": 7, "model": weights(7), "loss": 0.5}, tmp_path / "checkpoint_epoch_0007.pth")
    manager = CheckpointManager(tmp_path)
    model = weights()
    assert (manager.resume(model=model).epoch, manager.best().epoch) == (8, 7)
