"""CheckpointManager: what it writes, points to, keeps, deletes and gives back. Arrays alone, so that it runs everywhere."""

import errno
import os
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt import CheckpointManager
from multiframe_ckpt.errors import (
    CheckpointWarning,
    DamagedError,
    LinkRefusedError,
    NoSpaceError,
    TargetExistsError,
    ValueRefusedError,
)
from multiframe_ckpt.formats import FORMATS
from multiframe_ckpt.runs import records
from multiframe_ckpt.storage import links as pointers


def weights(value=0.0):
    return {"l1.weight": np.full((3, 4), value, np.float32), "l1.bias": np.full(3, value, np.float32)}


def save_epochs(manager, losses, first=0):
    """Saves an epoch for each loss; its weights are the epoch's number."""
    for epoch, loss in enumerate(losses, first):
        manager.save(epoch, weights(epoch), loss=loss)


def epochs_of(manager):
    return [record.epoch for record in manager.checkpoints()]


def names_in(folder):
    return sorted(os.listdir(folder))


def damage(path):
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])


def flip(path, value):
    raw = bytearray(path.read_bytes())
    raw[raw.index(np.full(12, value, np.float32).tobytes()) + 5] ^= 1
    path.write_bytes(raw)


# Names and pointers


def test_the_torch_format_has_files_of_the_usual_names_and_the_pointers_are_links(tmp_path):
    save_epochs(CheckpointManager(tmp_path), [0.5, 0.1, 0.3])
    assert names_in(tmp_path) == [
        "best_model.pth",
        *(f"checkpoint_epoch_000{epoch}.pth" for epoch in range(3)),
        "latest_checkpoint.pth",
    ]
    assert os.readlink(tmp_path / "latest_checkpoint.pth") == "checkpoint_epoch_0002.pth"
    assert os.readlink(tmp_path / "best_model.pth") == "checkpoint_epoch_0001.pth"


@pytest.mark.parametrize("format", FORMATS.names())
def test_every_format_can_keep_a_run(tmp_path, format):
    save_epochs(CheckpointManager(tmp_path, format=format, max_to_keep=2), [0.1, 0.2, 0.3, 0.4])
    manager = CheckpointManager(tmp_path, format=format)
    model = weights()
    assert manager.resume(model=model) == 4
    assert model["l1.bias"].tolist() == [3.0] * 3
    assert epochs_of(manager) == [0, 2, 3]
    assert mfc.open(next(tmp_path.glob("best_model*"))).tree["epoch"] == 0


def test_formats_of_folders_have_folders_of_the_same_stems(tmp_path):
    save_epochs(CheckpointManager(tmp_path, format="oneflow"), [0.1])
    assert names_in(tmp_path) == ["best_model", "checkpoint_epoch_0000", "latest_checkpoint"]
    assert (tmp_path / "latest_checkpoint" / "snapshot_done").exists()


def test_a_kept_run_can_be_moved_with_its_pointers(tmp_path):
    save_epochs(CheckpointManager(tmp_path / "here"), [0.1])
    (tmp_path / "here").rename(tmp_path / "there")
    assert mfc.open(tmp_path / "there" / "latest_checkpoint.pth").tree["epoch"] == 0


def test_a_pointer_is_a_second_name_where_the_disk_has_no_symbolic_links(tmp_path, monkeypatch):
    monkeypatch.setattr(pointers.os, "symlink", refuse_links)
    manager = CheckpointManager(tmp_path, max_to_keep=1)
    save_epochs(manager, [0.1, 0.3, 0.2])
    assert (tmp_path / "best_model.pth").samefile(tmp_path / "checkpoint_epoch_0000.pth")
    assert (tmp_path / "latest_checkpoint.pth").samefile(tmp_path / "checkpoint_epoch_0002.pth")
    assert epochs_of(manager) == [0, 2]


def refuse_links(*_, **__):
    raise OSError(errno.EPERM, "Operation not permitted")


def test_a_disk_without_links_is_said_and_the_checkpoint_is_there_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(pointers.os, "symlink", refuse_links)
    manager = CheckpointManager(tmp_path, format="oneflow")
    with pytest.raises(LinkRefusedError, match="which is saved") as refusal:
        manager.save(0, weights(), loss=0.1)
    assert refusal.value.errno == errno.ENOTSUP
    assert manager.latest().epoch == 0


def test_a_model_of_the_users_own_in_the_place_of_a_pointer_is_not_replaced(tmp_path):
    (tmp_path / "best_model.pth").write_bytes(b"mine")
    with pytest.raises(TargetExistsError, match=r"best_model\.pth: found something that is no pointer"):
        CheckpointManager(tmp_path).save(0, weights(), loss=0.1)
    assert names_in(tmp_path) == ["best_model.pth"]


@pytest.mark.parametrize("format", ["torch", "oneflow"])
def test_pointers_that_became_copies_on_the_way_from_another_disk_become_pointers_again(tmp_path, format):
    save_epochs(CheckpointManager(tmp_path / "a", format=format), [0.1, 0.2])
    shutil.copytree(tmp_path / "a", tmp_path / "b", symlinks=False)
    save_epochs(CheckpointManager(tmp_path / "b", format=format), [0.3], first=2)
    assert all(path.is_symlink() for path in (tmp_path / "b").glob("[bl]*"))


def test_a_run_that_changes_its_format_has_one_latest(tmp_path):
    save_epochs(CheckpointManager(tmp_path), [0.1])
    model = weights(9)
    manager = CheckpointManager(tmp_path, format="oneflow")
    save_epochs(manager, [0.2], first=manager.resume(model=model))
    assert names_in(tmp_path) == [
        "best_model.pth",
        "checkpoint_epoch_0000.pth",
        "checkpoint_epoch_0001",
        "latest_checkpoint",
    ]


# What a save takes, and when it happens


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
    real, seen = mfc.Checkpoint.save, []

    def save(self, path, **options):
        seen.append(options[option])
        return real(self, path, **options)

    monkeypatch.setattr(mfc.Checkpoint, "save", save)
    for given in ({}, {option: False}):
        with CheckpointManager(tmp_path, async_save=async_save, **given) as manager:
            save_epochs(manager, [0.1])
    assert seen == [True, False]


def test_a_manager_that_saves_nothing_makes_no_folder(tmp_path):
    CheckpointManager(tmp_path / "run").checkpoints()
    assert names_in(tmp_path) == []


# Retention

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
    assert manager.resume(model=weights(), which=4) == 5
    manager.save(1, weights(), loss=0.1)
    assert manager.latest().epoch == 1
    assert epochs_of(manager) == [5, 1]


@pytest.mark.parametrize("format", ["torch", "oneflow"])
def test_a_save_that_fails_deletes_nothing_and_points_where_it_did(tmp_path, format, monkeypatch):
    manager = CheckpointManager(tmp_path, format=format, max_to_keep=1, keep_best=0)
    manager.save(0, weights(), loss=0.2)
    before = names_in(tmp_path)
    layout = FORMATS.get(format)

    def fail(self, tree, path, options, **_):
        path.mkdir()
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(layout, "write", fail)
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
        save_epochs(manager, [0.1, 0.1, 0.1], first=1)
        manager.wait()
    assert epochs_of(manager) == [0, 3]
    (warning,) = told
    assert str(warning.message).startswith("kept beyond max_to_keep: ")
    assert "checkpoint_epoch_0000/notes.txt, expected nothing but a checkpoint" in str(warning.message)
    assert warning.filename == __file__


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


# Room


@pytest.fixture
def full_disk(monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1 << 40, 1 << 40, 100))


@pytest.mark.parametrize("async_save", [False, True])
def test_a_disk_without_room_is_said_before_anything_is_written(tmp_path, full_disk, async_save):
    manager = CheckpointManager(tmp_path / "run", async_save=async_save, rng=False)
    with pytest.raises(
        NoSpaceError, match=r"0\.pth: found 100 bytes free on its disk, expected 400 or more"
    ) as refusal:
        manager.save(0, {"w": np.zeros(100, np.float32)}, loss=0.1)
    assert refusal.value.errno == errno.ENOSPC
    assert isinstance(refusal.value, OSError)
    assert names_in(tmp_path) == []


def test_a_tied_tensor_needs_room_once(tmp_path, full_disk):
    shared = np.zeros(20, np.float32)
    CheckpointManager(tmp_path, rng=False).save(0, {"a": shared, "b": shared}, loss=0.1)


def test_a_layout_that_writes_a_tied_tensor_twice_needs_room_twice(tmp_path, full_disk):
    shared = np.zeros(20, np.float32)
    with pytest.raises(NoSpaceError, match="expected 160 or more"):
        CheckpointManager(tmp_path, rng=False, format="oneflow").save(0, {"a": shared, "b": shared}, loss=0.1)


def test_room_is_asked_of_the_disk_that_the_folder_will_be_on(tmp_path, monkeypatch):
    asked = []
    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(Path(path)) or real(path))
    CheckpointManager(tmp_path / "a" / "b").save(0, weights(), loss=0.1)
    assert asked == [tmp_path]


# Looking


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
    save_epochs(manager, [0.3, 0.2])
    for epoch in range(2):
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


# Restoring


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
    assert manager.resume(model=model, which=str(path)) == 5
    assert model["l1.bias"].tolist() == [4.0] * 3


@pytest.mark.parametrize("which", ["latest", "best", 3])
def test_restoring_what_is_not_there_says_how_to_see_what_is(tmp_path, which):
    with pytest.raises(FileNotFoundError, match="multiframe-ckpt list"):
        CheckpointManager(tmp_path).restore(model=weights(), which=which)


def test_resuming_begins_at_0_where_nothing_was_saved_and_else_after_the_last(tmp_path):
    manager = CheckpointManager(tmp_path)
    assert manager.resume(model=weights()) == 0
    save_epochs(manager, [0.1] * 3)
    assert manager.resume(model=weights()) == 3


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


def test_a_run_written_by_hand_is_picked_up(tmp_path):
    mfc.save({"epoch": 7, "model": weights(7), "loss": 0.5}, tmp_path / "checkpoint_epoch_0007.pth")
    manager = CheckpointManager(tmp_path)
    model = weights()
    assert (manager.resume(model=model), manager.best().epoch) == (8, 7)


def test_saving_what_a_format_cannot_hold_is_refused_before_anything_is_written(tmp_path):
    manager = CheckpointManager(tmp_path / "run", format="oneflow")
    with pytest.raises(mfc.KeyRefusedError):
        manager.save(0, {"a/b": np.zeros(1, np.float32)}, loss=0.1)
    assert names_in(tmp_path) == []
