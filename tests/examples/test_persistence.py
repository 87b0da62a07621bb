"""``examples/persistence.py``: a small language model that is saved, loaded, trained on and talked to."""

import io
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch

import multiframe_ckpt as mfc
from multiframe_ckpt.testing.terminal import Terminal

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:TypedStorage is deprecated"),  # torch 2.0 warns of its own reading
]

EXAMPLE = str(Path(__file__).resolve().parents[2] / "examples" / "persistence.py")
COMMAND = [sys.executable, EXAMPLE]
SAVED = Path("outputs", "persistence")


@pytest.fixture
def play(models, monkeypatch, capsys):
    """Runs the example in this process, which has torch already; gives its status, output and errors."""

    def run(*arguments):
        threads = torch.get_num_threads()
        monkeypatch.chdir(models)
        monkeypatch.setattr(sys, "argv", [EXAMPLE, *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(EXAMPLE, run_name="__main__")
        torch.set_num_threads(threads)
        return ended.value.code, *capsys.readouterr()

    return run


def losses(output):
    return {int(epoch): float(loss) for epoch, loss in re.findall(r"epoch (\d+): loss ([0-9.]+)", output)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder in which two epochs were trained and saved in both forms, and what was printed; not to be changed."""
    folder = tmp_path_factory.mktemp("persistence")
    command = [*COMMAND, "save", "--epochs", "2", "--save", "both", "--name", "two"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture
def models(saved, tmp_path):
    """A folder of this test's own with the binary file in it."""
    (tmp_path / SAVED).mkdir(parents=True)
    (tmp_path / SAVED / "two.pth").write_bytes((saved[0] / SAVED / "checkpoints" / "two.pth").read_bytes())
    return tmp_path


def test_the_binary_file_is_one_that_torch_loads_with_weights_only(saved):
    loaded = torch.load(saved[0] / SAVED / "checkpoints" / "two.pth", weights_only=True)
    assert loaded["epoch"] == 2
    assert loaded["model_state_dict"]["letter.weight"].shape == (len(loaded["vocabulary"]), 64)


def test_the_json_export_opens_with_json_load_and_has_the_vocabulary_and_every_layers_values(saved):
    with (saved[0] / SAVED / "exports" / "two.json").open(encoding="utf-8") as file:
        document = json.load(file)
    assert document["format_version"] == 2
    vocabulary = document["tree"]["vocabulary"]
    assert {"\n", " ", "e", "#"} <= set(vocabulary)
    tensors = torch.load(saved[0] / SAVED / "checkpoints" / "two.pth", weights_only=True)["model_state_dict"]
    layers = {layer["name"]: layer for layer in document["layers"]}
    for name, tensor in tensors.items():
        layer = layers[f"model_state_dict/{name}"]
        assert layer["shape"] == list(tensor.shape)
        assert torch.equal(torch.tensor(layer["values"], dtype=tensor.dtype), tensor)


def test_both_forms_hold_the_same_and_write_the_same(saved, play):
    forms = [saved[0] / SAVED / form for form in ("checkpoints/two.pth", "exports/two.json")]
    assert mfc.diff(*map(mfc.open, forms)).equal
    written = []
    for form in forms:
        status, output, _ = play("load", "--output_dir", str(form.parent), "--load", "1", "--use", "--length", "40")
        assert status == 0
        written.append(output.partition("--use\n")[2])
    assert written[0] == written[1]
    assert written[0].startswith("The ")


def test_training_goes_on_as_if_it_had_never_stopped(saved, play):
    first = losses(saved[1])
    status, more, _ = play("continue", "--load", "latest", "--epochs", "1", "--save", "no")
    assert status == 0
    assert f"going on from epoch 2, where the loss was {first[2]:.4f}" in more
    _, whole, _ = play("save", "--epochs", "3", "--save", "no")
    assert losses(more) == {3: losses(whole)[3]}
    assert losses(more)[3] < first[2] < first[1]


def test_another_learning_rate_is_the_one_that_is_saved(models, play):
    play("continue", "--load", "1", "--epochs", "1", "--lr", "0.0001", "--save", "binary", "--name", "slow")
    groups = mfc.open(models / SAVED / "checkpoints" / "slow.pth").tree["optimizer_state_dict"]["param_groups"]
    assert [group["lr"] for group in groups] == [0.0001]


def test_chat_goes_on_from_a_line_and_its_save_command_saves_all_that_was_loaded(models, play):
    status, output, _ = play(
        "chat", "--load", "1", "--length", "10", "--say", "The function", "--say", "save both mine"
    )
    assert status == 0
    assert "\nThe function" in output
    for path in (models / SAVED / "checkpoints" / "mine.pth", models / SAVED / "exports" / "mine.json"):
        report = mfc.diff(mfc.open(models / SAVED / "two.pth"), mfc.open(path))
        assert {change.key for change in report.changed} <= {"timestamp"}
        assert not report.added
        assert not report.removed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["continue", "--load", "1"], "--epochs: found no answer"),
        (["continue"], "--load: found no answer"),
        (["chat", "--load", "1"], "--say: found no line"),
        (["chat", "--load", "1", "--say", "save tape"], "--save: found 'tape'"),
        (["load", "--load", "nothing"], "--load: found 'nothing'"),
        (["load", "--use", "--output_dir", "empty"], "empty: found no saved model"),
    ],
)
def test_an_answer_that_is_missing_or_wrong_ends_with_one_line_and_status_2(play, arguments, message):
    status, _, errors = play(*arguments)
    assert status == 2
    assert message in errors
    assert errors.count("\n") == 1


def test_a_model_of_something_else_is_refused_by_name(models, play):
    mfc.save({"w": torch.zeros(2)}, models / SAVED / "other.pth")
    status, _, errors = play("load", "--load", "other", "--use")
    assert status == 2
    assert "other.pth: found no vocabulary" in errors


def test_a_person_chats_and_saves_at_a_terminal(models):
    with Terminal([*COMMAND, "chat", "--length", "10"], folder=models) as at:
        at.expect("two.pth")
        at.expect("Which one?")
        at.type("1")
        at.expect("loading layer 1/")
        at.expect("'quit' leaves")
        at.expect("> ")
        at.type("The function")
        at.expect("The function")
        at.expect("> ")
        at.type("save")
        at.expect("[BINARY/json/both/no]")
        at.type("floppy")
        at.expect("found 'floppy', expected binary, json, both or no")
        at.type("json")
        at.expect("Under which name? [gpt_epoch_0002]")
        at.type("talk")
        at.expect("saving talk.json layer 1/")
        at.expect("saved outputs/persistence/exports/talk.json")
        at.expect("> ")
        at.type("save json talk")
        at.expect("Replace it? [y/N]")
        at.press("\x04")
        at.expect("not saved")
        at.expect("> ")
        at.press("\x04")
        assert at.finished() == 0
    assert mfc.open(models / SAVED / "exports" / "talk.json").tree["epoch"] == 2


def test_a_person_who_continues_from_load_trains_on(models):
    with Terminal([*COMMAND, "load", "--save", "no"], folder=models) as at:
        for question, answer in (
            ("Load", "y"),
            ("Which", "1"),
            ("Use it", "continue"),
            ("epochs?", "1"),
            ("rate?", ""),
        ):
            at.expect(question)
            at.type(answer)
        at.expect("going on from epoch 2")
        at.expect("epoch 3: loss")
        assert at.finished() == 0
