"""The names of checkpoints, and the pointers to the latest and the best. Arrays alone, so that it runs everywhere."""

import errno
import os
import shutil

import pytest
from saved_epochs import epochs_of, names_in, save_epochs, weights

import multiframe_ckpt as mfc
from multiframe_ckpt import CheckpointManager
from multiframe_ckpt.errors import (
    LinkRefusedError,
    TargetExistsError,
)
from multiframe_ckpt.formats import FORMATS
from multiframe_ckpt.formats.base import WritableFormat
from multiframe_ckpt.storage import links


def test_the_torch_format_has_files_of_the_usual_names_and_the_pointers_are_links(tmp_path):
    save_epochs(CheckpointManager(tmp_path), [0.5, 0.1, 0.3])
    assert names_in(tmp_path) == [
        "best_model.pth",
        *(f"checkpoint_epoch_000{epoch}.pth" for epoch in range(3)),
        "latest_checkpoint.pth",
    ]
    assert os.readlink(tmp_path / "latest_checkpoint.pth") == "checkpoint_epoch_0002.pth"
    assert os.readlink(tmp_path / "best_model.pth") == "checkpoint_epoch_0001.pth"


@pytest.mark.parametrize("format", [kind.name for kind in FORMATS.available() if issubclass(kind, WritableFormat)])
def test_every_format_can_keep_a_run(tmp_path, format):
    save_epochs(CheckpointManager(tmp_path, format=format, max_to_keep=2), [0.1, 0.2, 0.3, 0.4])
    manager = CheckpointManager(tmp_path, format=format)
    model = weights()
    assert manager.resume(model=model).epoch == 4
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
    monkeypatch.setattr(links.os, "symlink", refuse_links)
    manager = CheckpointManager(tmp_path, max_to_keep=1)
    save_epochs(manager, [0.1, 0.3, 0.2])
    assert (tmp_path / "best_model.pth").samefile(tmp_path / "checkpoint_epoch_0000.pth")
    assert (tmp_path / "latest_checkpoint.pth").samefile(tmp_path / "checkpoint_epoch_0002.pth")
    assert epochs_of(manager) == [0, 2]


def refuse_links(*_, **__):
    raise OSError(errno.EPERM, "Operation not permitted")


def test_a_disk_that_lost_its_links_is_said_and_the_checkpoint_is_there_all_the_same(tmp_path, monkeypatch):
    manager = CheckpointManager(tmp_path, format="oneflow")
    monkeypatch.setattr(links.os, "symlink", refuse_links)
    with pytest.raises(LinkRefusedError, match="which is saved") as refusal:
        manager.save(0, weights(), loss=0.1)
    assert refusal.value.errno == errno.ENOTSUP
    assert manager.latest().epoch == 0


def test_a_model_of_the_users_own_in_the_place_of_a_pointer_is_not_replaced(tmp_path):
    (tmp_path / "best_model.pth").write_bytes(b"mine")
    with pytest.raises(TargetExistsError, match=r"best_model\.pth: found something that is no pointer"):
        CheckpointManager(tmp_path)
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
    save_epochs(manager, [0.2], first=manager.resume(model=model).epoch)
    assert names_in(tmp_path) == [
        "best_model.pth",
        "checkpoint_epoch_0000.pth",
        "checkpoint_epoch_0001",
        "latest_checkpoint",
    ]
