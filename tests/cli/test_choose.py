"""choose, from the command line: every question has its flag, and a person is asked at a real terminal."""

import json
import os
import shlex
import signal
import sys

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.testing.terminal import Terminal

WEIGHTS = {"l1.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "l1.bias": np.zeros(2, np.float32)}
EPOCH_1 = "checkpoint_epoch_0001.pth"


@pytest.fixture
def person(tmp_path):
    """Gives a person at a terminal in front of the command line."""
    opened = []

    def sit_down(*arguments):
        command = [sys.executable, "-m", "multiframe_ckpt", *map(str, arguments)]
        opened.append(Terminal(command, folder=tmp_path))
        return opened[-1]

    yield sit_down
    for terminal in opened:
        terminal.__exit__(None, None, None)


def test_no_name_of_a_file_reaches_the_terminal_raw(run, tmp_path):
    mfc.save(WEIGHTS, tmp_path / "runs" / "\x1b[31mred\x07.pth")
    result = run("choose", "runs")
    assert "\\x1b[31mred" in result.stdout
    assert "\x1b" not in result.output
    assert "\x1b" not in run("choose", "runs", "--load", "\x1b[32mgreen").output


def test_without_a_terminal_the_models_are_listed_and_none_is_loaded(run, runs):
    result = run("choose", "runs")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()[1:4]] == ["1", "2", "3"]
    assert "nothing was loaded" in result.stdout
    assert "multiframe-ckpt choose runs --no-load" in result.stdout


def test_a_folder_without_models_says_so(run, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "empty: no saved model there" in run("choose", "empty").stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--load", "1", "--continue"], "--epochs: found no answer"),
        (["--continue", "--epochs", "2"], "--load: found no answer"),
        (["--use"], "--load: found no answer"),
        (["--epochs", "2"], "--load: found no answer"),
        (["--load", "9"], "--load: found '9', expected a number from 1 to 3"),
        (["--load", "1", "--no-load"], "--no-load: found --load beside it"),
        (["--load", "1", "--use", "--epochs", "2"], "--use: found --epochs beside it"),
        (["--load", "1", "--epochs", "2", "--lr", "nan"], "--lr: found 'nan', expected a number above 0"),
        (["--load", "1", "--epochs", "2", "--lr", "0"], "--lr: found '0.0', expected a number above 0"),
        (["--load", "1", "--epochs", "0"], "--epochs"),
        (["--save", "json"], "--save: found no model to save"),
        (["--load", "1", "--name", "x"], "--save: found no answer"),
        (["--load", "1", "--save", "json", "--name", "a/b"], "--name: found 'a/b'"),
        (["--load", "1", "--save", "tape"], "tape"),
    ],
)
def test_an_answer_that_is_missing_or_wrong_ends_with_one_line_and_status_2(run, runs, flags, message):
    result = run("choose", "runs", "--no-input", *flags)
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert result.stdout == ""


def test_a_folder_that_is_missing_or_a_file_ends_with_status_2(run, runs):
    assert "nowhere: found nothing there" in run("choose", "nowhere").stderr
    assert "found a file in the place of a folder" in run("choose", f"runs/run/{EPOCH_1}").stderr


def test_a_damaged_model_ends_with_status_1(run, runs):
    (runs / "cut.pth").write_bytes((runs / "run" / EPOCH_1).read_bytes()[:400])
    assert run("choose", "runs", "--load", "cut.pth").exit_code == 1


@pytest.mark.parametrize(
    ("kind", "files"),
    [
        ("binary", ["checkpoints/mine.pth"]),
        ("json", ["exports/mine.json"]),
        ("both", ["checkpoints/mine.pth", "exports/mine.json"]),
        ("no", []),
    ],
)
def test_a_model_is_saved_binary_as_json_both_or_not(run, runs, tmp_path, kind, files):
    result = run("choose", "runs", "--load", "best", "--save", kind, "--name", "mine")
    assert result.exit_code == 0, result.output
    written = [file for folder in ("checkpoints", "exports") for file in sorted((tmp_path / folder).glob("*"))]
    assert written == [tmp_path / file for file in files]
    source = mfc.open(runs / "run" / "best_model.pth")
    assert all(mfc.diff(source, mfc.open(path)).equal for path in written)


def test_the_default_name_is_the_models(run, runs, tmp_path):
    run("choose", "runs", "--load", "best", "--save", "both")
    assert (tmp_path / "checkpoints" / "checkpoint_epoch_0000.pth").is_file()
    assert (tmp_path / "exports" / "checkpoint_epoch_0000.json").is_file()


def test_a_name_that_is_taken_is_refused_before_anything_is_written(run, runs, tmp_path):
    (tmp_path / "exports").mkdir()
    (tmp_path / "exports" / "mine.json").write_text("mine")
    arguments = ["choose", "runs", "--load", "1", "--save", "both", "--name", "mine"]
    result = run(*arguments)
    assert result.exit_code == 2
    assert "exports/mine.json: found something there already" in result.stderr
    assert not (tmp_path / "checkpoints").exists()
    assert run(*arguments, "--overwrite").exit_code == 0
    assert (tmp_path / "exports" / "mine.json").read_text() != "mine"


def test_the_json_export_opens_with_json_load_and_has_layers_values_and_extra_entries(run, runs, tmp_path):
    run("choose", "runs", "--load", "1", "--save", "json", "--name", "mine")
    with (tmp_path / "exports" / "mine.json").open(encoding="utf-8") as file:
        document = json.load(file)
    assert document["format_version"] == 2
    layers = {layer["name"]: layer for layer in document["layers"]}
    weight = layers["model_state_dict/l1.weight"]
    assert (weight["dtype"], weight["shape"]) == ("float32", [2, 3])
    assert weight["values"] == WEIGHTS["l1.weight"].tolist()
    assert document["tree"]["vocabulary"] == ["a", "$", "\n"]
    assert document["tree"]["epoch"] == 1


def test_the_choice_is_a_document_for_a_script(run, runs):
    result = run("choose", "runs", "--load", "best", "--epochs", "2", "--lr", "0.5", "--json")
    document = json.loads(result.stdout)
    assert {name: document[name] for name in ("path", "action", "epochs", "learning_rate", "saved")} == {
        "path": "runs/run/checkpoint_epoch_0000.pth",
        "action": "continue",
        "epochs": 2,
        "learning_rate": 0.5,
        "saved": [],
    }
    assert document["models"][0]["name"] == f"run/{EPOCH_1}"


def test_the_command_that_is_printed_does_the_same_again(run, runs, tmp_path):
    (runs / "odd name").mkdir()
    (runs / "run" / EPOCH_1).rename(runs / "odd name" / "--it's.pth")
    first = ["choose", "runs", "--load", "1", "--epochs", "2", "--lr", "1e-7", "--save", "json", "--name=-x", "--json"]
    before = json.loads(run(*first).stdout)
    again = shlex.split(before["command"])[1:]
    after = json.loads(run(*again, "--overwrite", "--json").stdout)
    assert {**before, "command": ""} == {**after, "command": ""}
    assert after["command"] == f"{before['command']} --overwrite"


def test_quiet_asks_and_says_nothing(run, runs):
    assert run("choose", "runs", "--quiet", "--load", "1", "--save", "binary").output == ""


def test_a_pipe_that_never_ends_is_not_waited_for(spawn, runs):
    read, write = os.pipe()
    try:
        done = spawn("choose", "runs", stdin=read, timeout=120)
    finally:
        os.close(read)
        os.close(write)
    assert done.returncode == 0
    assert "nothing was loaded" in done.stdout


def test_a_person_at_a_terminal_chooses_continues_and_saves(person, runs, tmp_path):
    at = person("choose", "runs")
    at.expect(f"{EPOCH_1} <- latest_checkpoint.pth")
    at.expect("Load a saved model? [y/N]")
    at.type("y")
    at.expect("Which one? (1-3, a name, latest, best) [1]")
    at.type("none of them")
    at.expect("found 'none of them', expected")
    at.expect("Which one?")
    at.type("best")
    at.expect("[USE/continue]")
    at.type("c")
    at.expect("For how many epochs?")
    at.type("5")
    at.expect("Learning rate? [0.125, as saved]")
    at.type("")
    at.expect("loading layer 1/3")
    at.expect("model_state_dict/l1.weight")
    at.expect("loading layer 3/3 100%")
    at.expect("[binary/json/both/NO]")
    at.type("both")
    at.expect("Under which name? [checkpoint_epoch_0000]")
    at.type("mine")
    at.expect("saving mine.pth layer 1/3")
    at.expect("saving mine.json layer 3/3 100%")
    at.expect("continue runs/run/checkpoint_epoch_0000.pth for 5 epochs at the saved learning rate")
    at.expect("multiframe-ckpt choose runs --load run/checkpoint_epoch_0000.pth --continue --epochs 5")
    assert at.finished() == 0
    assert mfc.diff(mfc.open(tmp_path / "exports" / "mine.json"), mfc.open(tmp_path / "checkpoints" / "mine.pth")).equal


def test_a_person_is_asked_before_a_copy_is_replaced_and_may_name_another(person, runs, tmp_path):
    (tmp_path / "exports").mkdir()
    (tmp_path / "exports" / "a.json").write_text("mine")
    at = person("choose", "runs", "--load", "1", "--use", "--save", "json", "--name", "a")
    at.expect("exports/a.json is there already. Replace it? [y/N]")
    at.type("")
    at.expect("Under which name?")
    at.type("b")
    at.expect("saved exports/b.json")
    assert at.finished() == 0
    assert (tmp_path / "exports" / "a.json").read_text() == "mine"


def test_with_every_question_answered_nothing_is_asked_at_a_terminal(person, runs):
    at = person("choose", "runs", "--load", "1", "--use", "--save", "no")
    assert at.finished() == 0
    assert "?" not in at.screen


def test_no_input_asks_nothing_at_a_terminal(person, runs):
    at = person("choose", "runs", "--no-input")
    assert at.finished() == 0
    assert "?" not in at.screen


@pytest.mark.parametrize("answers", [[], ["y"], ["y", "1", "c", "5"]])
def test_ctrl_d_leaves_with_nothing_changed(person, runs, answers):
    at = person("choose", "runs")
    for answer in answers:
        at.expect("?")
        at.type(answer)
    at.expect("?")
    at.press("\x04")
    at.expect("nothing was loaded")
    assert at.finished() == 0


def test_ctrl_d_at_the_last_question_saves_nothing(person, runs, tmp_path):
    at = person("choose", "runs", "--load", "1", "--use")
    at.expect("[binary/json/both/NO]")
    at.press("\x04")
    assert at.finished() == 0
    assert not (tmp_path / "checkpoints").exists()


def test_ctrl_c_leaves_with_status_130_and_one_line(person, runs):
    at = person("choose", "runs")
    at.expect("Load a saved model?")
    at.interrupt()
    at.expect("error: interrupted")
    assert at.finished() == 128 + signal.SIGINT
    assert "Traceback" not in at.screen


def test_the_report_may_go_into_a_file_while_the_questions_stay_on_the_screen(tmp_path, runs):
    program = shlex.join([sys.executable, "-m", "multiframe_ckpt", "choose", "runs", "--json"])
    with Terminal(["sh", "-c", f"{program} > choice.json"], folder=tmp_path) as at:
        for answer in ("y", "2", "use", "no"):
            at.expect("?")
            at.type(answer)
        assert at.finished() == 0
    assert json.loads((tmp_path / "choice.json").read_text())["path"] == "runs/run/checkpoint_epoch_0000.pth"
