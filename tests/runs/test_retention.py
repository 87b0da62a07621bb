"""What of a run is kept, what is best, and what is never deleted. Arrays alone, so that it runs everywhere."""

import errno

import pytest
from saved_epochs import epochs_of, names_in, save_epochs, weights

import multiframe_ckpt as mfc
from multiframe_ckpt import CheckpointManager
from multiframe_ckpt.errors import (
    CheckpointWarning,
)
from multiframe_ckpt.formats import WriteOptions, writable_format

LOSSES = [0.9, 0.2, 0.8, 0.3, 0.7, 0.4, 0.6]


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({}, [0, 1, 2, 3, 4, 5, 6]),
        ({"max_to_keep": 2}, [1, 5, 6]),
        ({"max_to_keep": 2, "keep_best": 0}, [5, 6]),
        ({"max_to_keep": 1, "keep_best": 3}, [1, 3, 5, 6]),
        ({"max_to_keep": 1, "mode": "max"}, [0, 6]),
        ({"max_to_keep": 1, "keep_every": 3}, [0, 1, 3, 6]),
        ({"max_to_keep": 2, "keep_best": 2, "keep_every": 4}, [0, 1, 3, 4, 5, 6]),
    ],
    ids=str,
)
def test_the_last_the_best_and_those_of_every_n_epochs_are_kept(tmp_path, options, left):
    manager = CheckpointManager(tmp_path, **options)
    save_epochs(manager, LOSSES)
    assert epochs_of(manager) == left


@pytest.mark.parametrize("metrics", [{"val": {"acc": 0.5}}, {"val/acc": 0.5}], ids=["nested", "flat"])
def test_a_monitor_may_name_a_nested_metric(tmp_path, metrics):
    manager = CheckpointManager(tmp_path, monitor="val/acc", mode="max")
    manager.save(0, weights(), metrics=metrics)
    manager.save(1, weights(), metrics={"val": {"acc": 0.25}})
    assert manager.best().epoch == 0


def test_of_equally_good_checkpoints_the_earlier_is_the_best(tmp_path):
    manager = CheckpointManager(tmp_path)
    save_epochs(manager, [0.5, 0.2, 0.2])
    assert manager.best().epoch == 1


def test_a_loss_that_is_nan_is_said_and_never_the_best(tmp_path):
    manager = CheckpointManager(tmp_path, max_to_keep=1)
    manager.save(0, weights(), loss=0.7)
    with pytest.warns(CheckpointWarning, match="'loss': found NaN at epoch 1") as told:
        manager.save(1, weights(), loss=float("nan"))
    assert [warning.filename for warning in told] == [__file__]
    manager.save(2, weights(), loss=0.9)
    assert (manager.best().epoch, epochs_of(manager)) == (0, [0, 2])


def test_an_infinite_loss_is_never_the_best(tmp_path):
    manager = CheckpointManager(tmp_path)
    save_epochs(manager, [float("-inf"), 0.5])
    assert manager.best().epoch == 1


def test_a_monitor_that_is_not_among_the_metrics_is_said_with_those_that_are(tmp_path):
    manager = CheckpointManager(tmp_path, monitor="val/loss")
    with pytest.warns(CheckpointWarning, match="found nothing of that name, but acc, loss"):
        manager.save(0, weights(), loss=1.0, metrics={"acc": 0.5})
    assert manager.best() is None
    assert not (tmp_path / "best_model.pth").is_symlink()


def test_saving_neither_loss_nor_metrics_needs_no_warning(tmp_path):
    manager = CheckpointManager(tmp_path)
    manager.save(0, weights())
    assert (manager.best(), manager.latest().epoch) == (None, 0)


def test_what_a_pointer_names_is_never_deleted(tmp_path):
    save_epochs(CheckpointManager(tmp_path), [0.1, 0.5])
    manager = CheckpointManager(tmp_path, max_to_keep=1, keep_best=0)
    save_epochs(manager, [0.4, 0.3], first=2)
    assert epochs_of(manager) == [0, 3]
    assert mfc.open(tmp_path / "best_model.pth").tree["epoch"] == 0


def test_after_going_back_to_an_epoch_the_branch_that_goes_on_is_the_latest(tmp_path):
    manager = CheckpointManager(tmp_path, max_to_keep=2, keep_best=0)
    save_epochs(manager, [0.1] * 6)
    assert manager.resume(model=weights(), which=4).epoch == 5
    manager.save(1, weights(), loss=0.1)
    assert manager.latest().epoch == 1
    assert epochs_of(manager) == [5, 1]


@pytest.mark.parametrize("format", ["torch", "oneflow"])
def test_a_save_that_fails_deletes_nothing_and_points_where_it_did(tmp_path, format, monkeypatch):
    manager = CheckpointManager(tmp_path, format=format, max_to_keep=1, keep_best=0)
    manager.save(0, weights(), loss=0.2)
    before = names_in(tmp_path)
    plan_class = type(writable_format(format).plan({}, WriteOptions()))

    def fail(self, target, on_progress):
        target.mkdir()
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(plan_class, "write", fail)
    with pytest.raises(OSError, match="Input/output error"):
        manager.save(1, weights(), loss=0.1)
    assert names_in(tmp_path) == before
    assert manager.restore(model=weights()).epoch == 0


def test_nothing_that_is_not_ours_is_ever_deleted(tmp_path):
    foreign = ["notes.txt", "checkpoint_epoch_1.pth", "checkpoint_epoch_0001.pth.bak", "model.pth", ".hidden"]
    for name in foreign:
        (tmp_path / name).write_bytes(b"mine")
    mfc.save({"epoch": 0, "model_state_dict": weights()}, tmp_path / "checkpoint_epoch_0000.pth")  # by another program
    (tmp_path / ".run.multiframe").mkdir()
    manager = CheckpointManager(tmp_path, max_to_keep=1, keep_best=0)
    save_epochs(manager, [0.1] * 4, first=1)
    assert {*foreign, ".run.multiframe", "checkpoint_epoch_0000.pth"} <= set(names_in(tmp_path))
    assert epochs_of(manager) == [0, 4]


@pytest.mark.parametrize("async_save", [False, True])
def test_a_checkpoint_folder_in_which_the_user_put_a_file_is_left_alone_and_said_once(tmp_path, async_save):
    manager = CheckpointManager(tmp_path, format="oneflow", max_to_keep=1, keep_best=0, async_save=async_save)
    manager.save(0, weights(), loss=0.1)
    manager.wait()
    (tmp_path / "checkpoint_epoch_0000" / "notes.txt").write_text("mine")
    with pytest.warns(CheckpointWarning) as told:
        for epoch in (1, 2, 3):  # here, since the warning is to name this file
            manager.save(epoch, weights(epoch), loss=0.1)
        manager.wait()
    assert epochs_of(manager) == [0, 3]
    (warning,) = told
    assert str(warning.message).startswith("kept beyond max_to_keep: ")
    assert "checkpoint_epoch_0000/notes.txt, expected nothing but a checkpoint" in str(warning.message)
    assert warning.filename == __file__


def test_a_save_that_is_passed_over_says_what_the_one_before_could_not_delete(tmp_path):
    options = {"format": "oneflow", "max_to_keep": 1, "keep_best": 0, "save_freq": 2}
    CheckpointManager(tmp_path, **options).save(0, weights(), loss=0.1)
    (tmp_path / "checkpoint_epoch_0000" / "notes.txt").write_text("mine")
    manager = CheckpointManager(tmp_path, async_save=True, **options)
    manager.save(2, weights(), loss=0.1)
    manager._writer._worker._thread.join()
    with pytest.warns(CheckpointWarning, match=r"notes\.txt"):
        assert manager.save(3, weights(), loss=0.1) is None
    manager.close()


def test_a_with_block_says_what_its_last_save_could_not_delete(tmp_path):
    with CheckpointManager(tmp_path, format="oneflow", max_to_keep=1, keep_best=0) as manager:
        manager.save(0, weights(), loss=0.1)
    (tmp_path / "checkpoint_epoch_0000" / "notes.txt").write_text("mine")
    options = {"format": "oneflow", "max_to_keep": 1, "keep_best": 0, "async_save": True}
    with (
        pytest.warns(CheckpointWarning, match=r"kept beyond max_to_keep: .*notes\.txt"),
        CheckpointManager(tmp_path, **options) as manager,
    ):
        manager.save(1, weights(), loss=0.1)


def test_the_last_save_before_leaving_says_what_it_could_not_delete(tmp_path, monkeypatch):
    manager = CheckpointManager(tmp_path, format="oneflow", max_to_keep=1, keep_best=0, async_save=True)
    manager.save(0, weights(), loss=0.1)
    manager.wait()
    (tmp_path / "checkpoint_epoch_0000" / "notes.txt").write_text("mine")
    monkeypatch.setattr(CheckpointManager, "preempted", True)
    with pytest.warns(CheckpointWarning, match=r"notes\.txt"), pytest.raises(SystemExit):
        manager.save(1, weights(), loss=0.1)


def test_a_link_that_has_a_checkpoints_name_is_left_alone(tmp_path):
    elsewhere = CheckpointManager(tmp_path / "elsewhere").save(0, weights(), loss=0.5)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint_epoch_0000.pth").symlink_to(elsewhere)
    save_epochs(CheckpointManager(tmp_path / "run", max_to_keep=1, keep_best=0), [0.1, 0.1], first=1)
    assert elsewhere.exists()
    assert (tmp_path / "run" / "checkpoint_epoch_0000.pth").is_symlink()
