"""``examples/intent.py``: train once, test many."""

import json
import re
import shlex
import subprocess
import sys

import pytest

pytest.importorskip("torch")
pytest.importorskip("chatterbot_corpus")

from multiframe_ckpt.cli import main as command_line

pytestmark = pytest.mark.slow


def accuracy(output):
    return float(re.search(r"accuracy on .*: ([\d.]+)%", output)[1])


@pytest.fixture(scope="module")
def trained(tmp_path_factory, play_in):
    """A folder with the saved models of two seeds, and what the first training printed."""
    folder = tmp_path_factory.mktemp("intent")
    played = [
        play_in(folder, "intent.py", "--epochs", 6, "--train", "--save_model", "--save_results", "--seed", seed)
        for seed in (0, 1)
    ]
    assert [each.status for each in played] == [0, 0], played
    return folder, played[0].output


def test_a_test_without_training_answers_the_same_and_says_the_seconds_saved(trained, play_in):
    played = play_in(trained[0], "intent.py")
    assert played.status == 0, played.errors
    assert accuracy(played.output) == accuracy(trained[1])
    assert re.search(r"that saved -?[\d.]+ s of training", played.output)


def test_the_classifier_learns_more_than_the_commonest_intent(trained):
    assert accuracy(trained[1]) > 60  # trivia, the commonest, is 40 of 100 sentences


def test_without_a_saved_model_it_prints_the_command_that_makes_one(tmp_path, play_in, examples):
    example = [sys.executable, str(examples / "intent.py"), "--epochs", "1"]
    refused = subprocess.run(example, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    command = shlex.split(refused.stderr.partition("make it with: ")[2])
    assert command[-2:] == ["--train", "--save_model"]
    made = subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    assert play_in(tmp_path, "intent.py").status == 0


def test_a_resumed_training_goes_on_to_the_same_model(tmp_path, trained, play_in):
    arguments = ("--train", "--save_model", "--seed", 0)
    play_in(tmp_path, "intent.py", "--epochs", 3, *arguments)
    resumed = play_in(tmp_path, "intent.py", "--epochs", 6, "--resume", *arguments)
    assert resumed.status == 0, resumed.errors
    assert accuracy(resumed.output) == accuracy(trained[1])


def test_the_command_line_compares_the_seeds(trained, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["multiframe-ckpt", "list", str(trained[0] / "outputs"), "--json"])
    with pytest.raises(SystemExit):
        command_line()
    rows = json.loads(capsys.readouterr().out)["seeds"]
    assert next(row for row in rows if row["metric"] == "accuracy")["seeds"] == [0, 1]
