"""The functions for scripts: what a person is asked, what is answered beforehand, and what is loaded and saved then."""

import argparse

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.errors import AnswerError
from multiframe_ckpt.interactive import Answers, Choice, add_answer_arguments, choose, save_by_hand

WEIGHTS = {"l1.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "l1.bias": np.zeros(2, np.float32)}
EPOCH_1 = "checkpoint_epoch_0001.pth"


def answering(*lines):
    """Gives a person who answers these lines, and what that person was asked and told."""
    waiting, heard = list(lines), []

    def ask(prompt):
        heard.append(prompt)
        if not waiting:
            raise EOFError
        return waiting.pop(0)

    return {"ask": ask, "say": heard.append}, heard


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


@pytest.fixture
def by_steps(tmp_path):
    """A run that counts steps alone."""
    manager = mfc.CheckpointManager(tmp_path / "by_steps")
    for step in (100, 200):
        manager.save(step=step, model=WEIGHTS)
    return tmp_path / "by_steps"


def test_of_a_run_that_counts_steps_a_person_is_asked_for_steps(by_steps):
    person, heard = answering("y", "latest", "continue", "50", "")
    choice = choose(by_steps, **person)
    assert (choice.steps, choice.epochs) == (50, None)
    assert "For how many steps? " in heard
    again = choose(by_steps, answers=Answers(load="latest", steps=50), ask=None, say=lambda line: None)
    assert again == choice
    assert choice.arguments == ("--load", "checkpoint_step_00000200.pth", "--continue", "--steps", "50")


def test_epochs_and_steps_are_not_both_answered(by_steps):
    with pytest.raises(AnswerError, match="--epochs: found --steps beside it"):
        choose(by_steps, answers=Answers(load="1", epochs=1, steps=1), ask=None, say=lambda line: None)


@pytest.mark.parametrize(
    ("clock", "flag", "other"), [("epoch", "--epochs", "--steps"), ("step", "--steps", "--epochs")]
)
def test_a_script_offers_the_flag_of_its_own_clock(clock, flag, other):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_answer_arguments(parser, clock=clock)
    assert getattr(Answers.of(parser.parse_args([flag, "3"])), flag.removeprefix("--")) == 3
    assert other not in parser.format_help()


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
