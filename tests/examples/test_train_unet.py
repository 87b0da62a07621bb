"""``examples/train_unet.py`` and ``make_train_h5.py``: a run on real photographs, kept and resumed."""

import re

import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

import h5py
import numpy as np

import multiframe_ckpt as mfc

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory, play_in):
    folder = tmp_path_factory.mktemp("data")
    played = play_in(folder, "make_train_h5.py", "--size", 16)
    assert played.status == 0, played.errors
    return folder / "train_16.h5"


@pytest.fixture
def train(data, tmp_path, play_in):
    def run(folder, *arguments):
        played = play_in(tmp_path, "train_unet.py", "--h5", data, "--output_dir", folder, *arguments)
        assert played.status == 0, played.errors
        return played.output

    return run


def weights(path):
    return mfc.Checkpoint(mfc.open(path).weights())


def test_the_data_set_has_tiles_of_photographs_with_masks_of_both_kinds(data):
    with h5py.File(data) as file:
        for group in (file["train"], file["test"]):
            images, masks = group["images"], group["masks"]
            assert images.dtype == masks.dtype == np.uint8
            assert images.shape == (len(masks), 3, 16, 16) and masks.shape[1:] == (1, 16, 16)
            assert set(np.unique(masks)) == {0, 1}
        assert not set(file["train"].attrs["source"]) & set(file["test"].attrs["source"])


def test_a_run_stopped_and_resumed_ends_with_the_weights_of_one_that_was_not(train, tmp_path):
    train("whole", "--epochs", 2)
    train("parts", "--epochs", 1)
    resumed = train("parts", "--epochs", 2, "--resume")
    assert "epoch 0:" not in resumed
    assert mfc.diff(
        weights(tmp_path / "whole/latest_checkpoint.pth"), weights(tmp_path / "parts/latest_checkpoint.pth")
    ).equal


def test_without_the_optimizer_files_are_a_third_and_a_resume_says_what_it_lacks(train, tmp_path):
    said = train("bare", "--epochs", 1, "--no_save_optimizer")
    kept, bare = (int(size.replace(",", "")) for size in re.findall(r"the optimizer: ([\d,]+) bytes", said))
    assert bare < 0.4 * kept
    with pytest.warns(mfc.CheckpointWarning, match="optimizer"):
        train("bare", "--epochs", 2, "--no_save_optimizer", "--resume")


def test_only_every_nth_epoch_and_the_last_are_saved(train, tmp_path):
    train("some", "--epochs", 4, "--save_freq", 2)
    assert sorted(path.name for path in (tmp_path / "some").glob("checkpoint_*")) == [
        f"checkpoint_epoch_{epoch:04}.pth" for epoch in (0, 2, 3)
    ]


@pytest.mark.parametrize("loss", ["focal", "bce", "hybrid"])
def test_every_loss_falls(train, loss):
    first, second = map(float, re.findall(rf"{loss} loss ([\d.]+)", train(loss, "--epochs", 2, "--loss", loss)))
    assert second < first
