"""Choosing by hand: what is found and bulleted, every question with its flag, and a real person's terminal."""

import json
import os
import shlex
import signal
import sys

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.errors import AnswerError
from multiframe_ckpt.interactive import Answers, Choice, choose, find_models, finding, listing, pick, save_by_hand
from multiframe_ckpt.runs.manager import CheckpointManager
from multiframe_ckpt.testing.terminal import Terminal

WEIGHTS = {"l1.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "l1.bias": np.zeros(2, np.float32)}
OPTIMIZER = {
    "state": {0: {"momentum_buffer": np.ones((2, 3), np.float32)}},
    "param_groups": [{"lr": 0.125, "momentum": 0.9, "params": [0, 1]}],
}
EPOCH_1 = "checkpoint_epoch_0001.pth"


@pytest.fixture
def runs(tmp_path):
    """A folder with a run of two epochs, of which the first is the best, and a weights file, the oldest."""
    folder = tmp_path / "runs"
    mfc.save(WEIGHTS, folder / "other" / "weights.safetensors")
    with CheckpointManager(folder / "run", rng=False) as manager:
        for epoch, loss in enumerate((1.0, 2.0)):
            extra = {"optimizer": OPTIMIZER, "vocabulary": ["a", "$", "\n"]}
            manager.save(epoch, WEIGHTS, metrics={"loss": loss, "accuracy": 0.5}, extra=extra)
    order = ("run/checkpoint_epoch_0001.pth", "run/checkpoint_epoch_0000.pth", "other/weights.safetensors")
    for age, name in enumerate(order):
        os.utime(folder / name, ns=(10**18 - age * 10**9,) * 2)
    return folder


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


def answering(*lines):
    """Gives a person who answers these lines, and what that person was asked and told."""
    waiting, heard = list(lines), []

    def ask(prompt):
        heard.append(prompt)
        if not waiting:
            raise EOFError
        return waiting.pop(0)

    return {"ask": ask, "say": heard.append}, heard


# Finding


def test_models_of_every_format_are_found_newest_first_and_nothing_else(tmp_path):
    names = ["a.pth", "b.safetensors", "c.h5", "d.npz", "e.json", "folder/of"]
    for age, name in enumerate(names):
        mfc.save(WEIGHTS, tmp_path / name)
        for below in [tmp_path / name, *(tmp_path / name).rglob("*")]:
            os.utime(below, ns=(10**18 - age * 10**9,) * 2)
    (tmp_path / "notes.txt").write_text("no model")
    (tmp_path / "config.json").write_text('{"layers": 2}')
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    assert [model.name for model in find_models(tmp_path)] == names


def test_a_pointer_is_shown_beside_its_checkpoint_and_not_listed_twice(runs):
    found = {model.name: model.pointers for model in find_models(runs)}
    assert found == {
        f"run/{EPOCH_1}": ("run/latest_checkpoint.pth",),
        "run/checkpoint_epoch_0000.pth": ("run/best_model.pth",),
        "other/weights.safetensors": (),
    }
    assert any(line.endswith(f"run/{EPOCH_1} <- latest_checkpoint.pth") for line in listing(find_models(runs)))


def test_a_pointer_that_is_a_hard_link_is_not_listed_twice_either(runs):
    (runs / "run" / "best_model.pth").unlink()
    os.link(runs / "run" / EPOCH_1, runs / "run" / "best_model.pth")
    pointers = {model.name: model.pointers for model in find_models(runs)}
    assert pointers[f"run/{EPOCH_1}"] == ("run/best_model.pth", "run/latest_checkpoint.pth")


def test_what_the_header_says_is_listed(runs):
    model = find_models(runs)[0]
    assert (model.epoch, model.metrics, model.parameters) == (1, {"loss": 2.0, "accuracy": 0.5}, 8)
    assert model.nbytes == (runs / "run" / EPOCH_1).stat().st_size
    now = model.modified_ns / 1e9 + 3 * 3600
    cells = list(listing(find_models(runs), now=now))[1].split()
    assert cells[:8] == ["1", "1", "loss", "2,", "accuracy", "0.5", "8", str(round(model.nbytes / 1000, 1))]
    assert cells[9:11] == ["3", "hours"]


def test_tied_parameters_are_counted_once_and_optimizer_state_not_at_all(tmp_path):
    torch = pytest.importorskip("torch")
    weight = torch.zeros(3, 2)
    mfc.save({"model_state_dict": {"a": weight, "b": weight}, "optimizer": {"m": torch.zeros(50)}}, tmp_path / "x.pth")
    assert find_models(tmp_path)[0].parameters == 6


def test_links_to_folders_are_not_followed_so_that_a_circle_ends(runs):
    (runs / "circle").symlink_to(runs)
    assert len(find_models(runs)) == 3


def test_a_link_to_a_model_elsewhere_is_a_model(runs, tmp_path):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "mine.pth").symlink_to(runs / "run" / EPOCH_1)
    assert [model.name for model in find_models(tmp_path / "links")] == ["mine.pth"]


def test_a_model_that_its_run_deletes_while_we_look_is_passed_over(runs, monkeypatch):
    def deleting(path, *arguments, **options):
        (runs / "run" / EPOCH_1).unlink(missing_ok=True)
        return signature_of(path, *arguments, **options)

    signature_of = finding.signature_of
    monkeypatch.setattr(finding, "signature_of", deleting)
    assert [model.epoch for model in find_models(runs)] == [0, None]


def test_a_checkpoint_folder_gives_itself(tmp_path):
    mfc.save(WEIGHTS, tmp_path / "of")
    assert [(model.name, model.path) for model in find_models(tmp_path / "of")] == [("of", tmp_path / "of")]


def test_a_damaged_model_is_listed_last_with_the_reason(runs):
    whole = (runs / "run" / EPOCH_1).read_bytes()
    (runs / "run" / "cut.pth").write_bytes(whole[:400])
    model = find_models(runs)[-1]
    assert model.name == "run/cut.pth"
    assert "cut short or damaged" in model.problem
    assert "not usable" in list(listing([model]))[1]


def test_no_name_of_a_file_reaches_the_terminal_raw(run, tmp_path):
    mfc.save(WEIGHTS, tmp_path / "runs" / "\x1b[31mred\x07.pth")
    result = run("choose", "runs")
    assert "\\x1b[31mred" in result.stdout
    assert "\x1b" not in result.output
    assert "\x1b" not in run("choose", "runs", "--load", "\x1b[32mgreen").output


# Naming a model


@pytest.mark.parametrize(
    ("which", "name"),
    [
        (f"run/{EPOCH_1}", f"run/{EPOCH_1}"),
        (EPOCH_1, f"run/{EPOCH_1}"),
        ("checkpoint_epoch_0001", f"run/{EPOCH_1}"),
        ("run/best_model.pth", "run/checkpoint_epoch_0000.pth"),
        ("weights", "other/weights.safetensors"),
        ("1", f"run/{EPOCH_1}"),
        ("3", "other/weights.safetensors"),
        ("latest", f"run/{EPOCH_1}"),
        ("best", "run/checkpoint_epoch_0000.pth"),
    ],
)
def test_a_model_is_named_by_path_name_number_or_pointer(runs, which, name):
    assert pick(find_models(runs), which).name == name


def test_a_model_is_named_by_its_path_from_here(runs):
    assert pick(find_models(runs), str(runs / "run" / EPOCH_1)).name == f"run/{EPOCH_1}"


def test_a_name_comes_before_a_number(tmp_path):
    for name in ("1", "2", "3"):
        mfc.save(WEIGHTS, tmp_path / name)
    assert [pick(find_models(tmp_path), name).name for name in "123"] == ["1", "2", "3"]


@pytest.mark.parametrize("which", ["0", "4", "9" * 5000, "-1", "", "nothing", "²"])
def test_what_names_no_model_is_refused(runs, which):
    with pytest.raises(AnswerError, match="expected a number from 1 to 3, a name in the list, latest or best"):
        pick(find_models(runs), which)


def test_what_may_mean_several_models_is_refused_with_their_names(runs):
    mfc.save(WEIGHTS, runs / "another" / EPOCH_1)
    with pytest.raises(AnswerError, match=f"another/{EPOCH_1}.*say which"):
        pick(find_models(runs), EPOCH_1)


def test_without_pointers_the_latest_is_the_newest_and_there_is_no_best(tmp_path):
    mfc.save(WEIGHTS, tmp_path / "a.pth")
    assert pick(find_models(tmp_path), "latest").name == "a.pth"
    with pytest.raises(AnswerError, match="found no best_model"):
        pick(find_models(tmp_path), "best")


# The function for scripts


def test_a_script_is_given_the_choice_and_its_loader_the_checkpoint(runs):
    given = []
    answers = Answers(load="best", action="continue", epochs=3, lr=0.01)
    choice = choose(runs, load=lambda *both: given.append(both), answers=answers, ask=None, say=lambda line: None)
    path = runs / "run" / "checkpoint_epoch_0000.pth"
    assert choice == Choice(path, "continue", 3, 0.01, "run/checkpoint_epoch_0000.pth")
    ((checkpoint, seen),) = given
    assert seen is choice
    assert mfc.diff(checkpoint, mfc.open(path)).equal


def test_a_person_is_asked_everything_in_turn(runs):
    person, heard = answering("y", "best", "continue", "3", "0.01")
    choice = choose(runs, **person)
    assert (choice.action, choice.epochs, choice.learning_rate) == ("continue", 3, 0.01)
    prompts = [line for line in heard if line.endswith(" ")]
    assert [prompt.partition("?")[0] for prompt in prompts] == [
        "Load a saved model",
        "Which one",
        "Use it as it is, or continue training it",
        "For how many epochs",
        "Learning rate",
    ]
    assert "[0.125, as saved]" in prompts[-1]


def test_a_person_who_only_says_yes_gets_the_newest_as_it_is(runs):
    person, _ = answering("y", "", "")
    assert choose(runs, **person) == Choice(runs / "run" / EPOCH_1, "use", name=f"run/{EPOCH_1}")


def test_the_saved_learning_rate_stays_where_nobody_gives_another(runs):
    person, _ = answering("3", "")
    assert choose(runs, answers=Answers(load="1", action="continue"), **person).learning_rate is None


@pytest.mark.parametrize("answer", ["", "n", "no", "NO"])
def test_a_person_who_wants_none_loads_none(runs, answer):
    person, _ = answering(answer)
    assert choose(runs, load=pytest.fail, **person) == Choice()


def test_a_wrong_answer_is_asked_again_with_what_was_expected(runs):
    person, heard = answering("perhaps", "y", "17", "1", "x", "c", "many", "0", "2", "-1", "nan", "inf", "1e-3")
    choice = choose(runs, **person)
    assert (choice.epochs, choice.learning_rate) == (2, 0.001)
    told = [line for line in heard if line.startswith("found ")]
    assert told == [
        "found 'perhaps', expected y or n",
        "found '17', expected a number from 1 to 3, a name in the list, latest or best",
        "found 'x', expected use or continue",
        "found 'many', expected a whole number above 0",
        "found '0', expected a whole number above 0",
        "found '-1', expected a number above 0",
        "found 'nan', expected a number above 0",
        "found 'inf', expected a number above 0",
    ]


def test_a_damaged_model_is_not_taken_and_asked_again(runs):
    (runs / "cut.pth").write_bytes((runs / "run" / EPOCH_1).read_bytes()[:400])
    person, heard = answering("y", "cut.pth", "1", "use")
    assert choose(runs, **person).name == f"run/{EPOCH_1}"
    assert any("cut.pth cannot be used" in line for line in heard)


def test_bytes_that_are_no_text_are_asked_again(runs):
    answers = iter(["no text", "n"])

    def ask(prompt):
        answer = next(answers)
        if answer == "no text":
            b"\xff".decode()
        return answer

    assert choose(runs, ask=ask, say=lambda line: None) == Choice()


def test_a_person_who_leaves_raises_and_loads_nothing(runs):
    person, _ = answering("y")
    with pytest.raises(EOFError):
        choose(runs, load=pytest.fail, **person)


def test_a_flipped_bit_is_found_before_the_loader_is_called(runs):
    path = runs / "run" / EPOCH_1
    raw = bytearray(path.read_bytes())
    raw[raw.index(WEIGHTS["l1.weight"].tobytes()) + 5] ^= 1
    path.write_bytes(raw)
    with pytest.raises(mfc.DamagedError, match=r"l1\.weight"):
        choose(runs, load=pytest.fail, answers=Answers(load="latest"), ask=None, say=lambda line: None)


def test_a_folder_that_is_not_there_yet_starts_fresh(tmp_path):
    assert choose(tmp_path / "none", ask=None, say=lambda line: None) == Choice()


def test_the_learning_rate_of_oneflows_dialect_is_offered(tmp_path):
    groups = [{"params": [0], "_options": {"lr": 0.25}}]
    mfc.save({"model": WEIGHTS, "optimizer": {"state": {}, "param_groups": groups}}, tmp_path / "x.pth")
    person, heard = answering("y", "1", "c", "1", "")
    choose(tmp_path, **person)
    assert "0.25, as saved" in heard[-2]


# Flags


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


# At a real terminal


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


# Saving from a script


def test_a_script_saves_by_hand_with_its_own_defaults(tmp_path):
    checkpoint = mfc.Checkpoint.from_objects({"model": WEIGHTS, "vocabulary": ["a"]})
    person, heard = answering("", "")
    copies = save_by_hand(checkpoint, name="talk", kind="both", folder=tmp_path, **person)
    assert copies.paths == (tmp_path / "checkpoints" / "talk.pth", tmp_path / "exports" / "talk.json")
    assert copies.arguments == ("--save", "both", "--name", "talk")
    assert "[binary/json/BOTH/no]" in heard[0]
    assert all(path.is_file() for path in copies.paths)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a\0b", ".pth"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path, name):
    with pytest.raises(AnswerError, match="expected a name without folder"):
        save_by_hand(
            mfc.Checkpoint.from_objects(WEIGHTS),
            folder=tmp_path,
            answers=Answers(name=name),
            ask=None,
            say=lambda line: None,
        )
    assert list(tmp_path.iterdir()) == []


def test_a_suffix_in_the_name_is_not_doubled(tmp_path):
    answers = Answers(save="both", name="x.json")
    copies = save_by_hand(
        mfc.Checkpoint.from_objects(WEIGHTS), folder=tmp_path, answers=answers, ask=None, say=lambda line: None
    )
    assert [path.name for path in copies.paths] == ["x.pth", "x.json"]
