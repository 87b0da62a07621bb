"""``examples/resume_within_epoch.py``: a run that is stopped within an epoch goes on at the very next batch."""

import re

import pytest

from multiframe_ckpt import CheckpointManager

torch = pytest.importorskip("torch")
pytest.importorskip("mlxtend")

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("save_freq", "stop_after", "goes_on_at"),
    [
        (25, 60, "epoch 0, step 51"),
        (40, 41, "epoch 0, step 41"),
        (79, 80, "epoch 0, step 80"),  # the last batch of the epoch was taken, and what comes after it is still to do
        (80, 81, "epoch 1, step 81"),
        (50, 159, "epoch 1, step 151"),
    ],
)
def test_a_run_stopped_within_an_epoch_ends_with_the_weights_of_one_that_was_not(
    tmp_path, play_in, save_freq, stop_after, goes_on_at
):
    played = play_in(tmp_path, "resume_within_epoch.py", "--save_freq", save_freq, "--stop_after", stop_after)
    assert played.status == 0, played.errors
    assert played.output.count("the same, bit for bit") == 1
    assert re.findall("going on at (.*), within the epoch", played.output) == [goes_on_at]


def test_batches_that_begin_the_epoch_anew_end_elsewhere_and_that_is_said(tmp_path, play_in, monkeypatch):
    """The control: without the position of the batches the rest is as exact, and not the same."""
    real = CheckpointManager.save
    forgetful = {"batches": {"begun_at": torch.Generator().manual_seed(8).get_state(), "taken": 0}}
    monkeypatch.setattr(
        CheckpointManager,
        "save",
        lambda self, *parts, **options: real(self, *parts, **options | {"extra": forgetful}),
    )
    played = play_in(tmp_path, "resume_within_epoch.py")
    assert (played.status, "found weights that differ" in played.errors) == (1, True)


def test_what_it_keeps_are_ordinary_files_named_by_epoch_and_step(tmp_path, play_in):
    play_in(tmp_path, "resume_within_epoch.py", "--output_dir", "kept")
    names = sorted(path.name for path in (tmp_path / "kept").glob("checkpoint*"))
    assert names[-2:] == ["checkpoint_epoch_0001_step_00000125.pth", "checkpoint_epoch_0001_step_00000150.pth"]
    file = torch.load(tmp_path / "kept" / names[-1], weights_only=True)
    assert (file["epoch"], file["step"], file["within_epoch"], file["batches"]["taken"]) == (1, 150, True, 71)
