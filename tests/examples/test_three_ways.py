"""``examples/three_ways.py``: weights, whole model and in-training checkpoint."""

import re

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("mlxtend")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def played(tmp_path_factory, play_in):
    folder = tmp_path_factory.mktemp("three_ways")
    return folder, play_in(folder, "three_ways.py", "--output_dir", "kept")


def test_each_way_gives_back_the_weights_bit_for_bit(played):
    assert played[1].status == 0, played[1].errors
    assert played[1].output.count("the same, bit for bit") == 4


def test_going_on_from_epoch_0s_file_improves_the_loss(played):
    before, after = (float(re.search(rf"after epoch {epoch}: loss ([\d.]+)", played[1].output)[1]) for epoch in (0, 1))
    assert after < before


def test_plain_torch_load_opens_weights_and_checkpoint_safely(played):
    weights = torch.load(played[0] / "kept" / "weights.pth", weights_only=True)
    checkpoint = torch.load(played[0] / "kept" / "checkpoint_epoch_0000.pth", weights_only=True)
    assert set(weights) == set(checkpoint["model_state_dict"])
    assert checkpoint["epoch"] == 0
    assert {"optimizer_state_dict", "scheduler_state_dict", "rng_state", "metrics"} <= set(checkpoint)


def test_a_loss_that_does_not_improve_ends_with_status_1(tmp_path, play_in, digits, monkeypatch):
    losses = iter([0.5, 0.5, 0.6])
    monkeypatch.setattr(digits, "held_out", lambda *_: (next(losses), 0.9))
    played = play_in(tmp_path, "three_ways.py")
    assert played.status == 1
    assert "found a loss of 0.6000" in played.errors
