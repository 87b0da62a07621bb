"""choose(): which saved model to load, and what to do with it; asked of a person, or answered beforehand."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from ..checkpoint import Checkpoint
from ..checkpoint.restore import resume_parts
from ..errors import AnswerError
from ..progress import OnProgress, Progress, silent
from ..storage.transfer import read_through
from ..terminal.progress import layer_line
from ..training import find_parts
from ..tree import Tree
from .answers import UNANSWERED, Action, Answers
from .dialogue import Ask, Dialogue, Question, Say, ask_terminal, say_line
from .finding import SavedModel, find_models, pick
from .showing import listing

T = TypeVar("T")

__all__ = ["Choice", "choose", "choose_among", "positive", "read_whole", "whole_number"]


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen: the model at ``path``, to ``use`` or to ``continue`` training; or none, to start ``fresh``.

    ``epochs`` is how many more to train, or ``steps`` where the run counts those alone; ``learning_rate`` is None where the
    saved one stays. ``name`` is the model's in the list.
    """

    path: Path | None = None
    action: Action = "fresh"
    epochs: int | None = None
    learning_rate: float | None = None
    name: str | None = None
    steps: int | None = None

    @property
    def arguments(self) -> tuple[str, ...]:
        """The flags that choose the same again."""
        if self.name is None:
            return ("--no-load",)
        load = (f"--load={self.name}",) if self.name.startswith("-") else ("--load", self.name)
        numbers = {"--epochs": self.epochs, "--steps": self.steps, "--lr": self.learning_rate}
        flags = [text for flag, value in numbers.items() if value is not None for text in (flag, str(value))]
        return (*load, f"--{self.action}", *flags)


def choose(
    directory: str | os.PathLike[str],
    *,
    load: Callable[[Checkpoint, Choice], object] | None = None,
    answers: Answers = UNANSWERED,
    ask: Ask | None = ask_terminal,
    say: Say = say_line,
) -> Choice:
    """List the models saved in a folder, ask which to load and what for, load it, and return the choice.

    ``load`` gets the opened checkpoint and the choice, and restores what the script has; every layer has been read and
    compared with its digest before. ``answers`` are not asked for. ``ask`` shows a prompt and gives a line; with None, and
    at a terminal that is none, nobody is asked: the default is that no model is loaded.

    Raise AnswerError for an answer that is wrong, or is needed and missing; EOFError and KeyboardInterrupt where the
    person leaves by Ctrl-D or Ctrl-C, before anything is loaded. A damaged model is a DamagedError; ``load`` is not called.
    """
    dialogue = Dialogue(ask, say)
    models = find_models(directory) if Path(directory).exists() else ()
    if not models:
        say(f"{directory}: no saved model there yet")
    choice = choose_among(models, answers, dialogue, str(directory))
    if choice.path is None:
        return choice
    checkpoint = Checkpoint.open(choice.path)
    layers = len(checkpoint.tensors())
    with layer_line("loading", layers) as on_progress:
        read_whole(checkpoint, on_progress=on_progress)
    if load is not None:
        load(checkpoint, choice)
    say(f"loaded {choice.name}: {layers} layers")
    return choice


def choose_among(models: Sequence[SavedModel], answers: Answers, dialogue: Dialogue, directory: str) -> Choice:
    """Return the choice among the models of a folder; nothing is loaded yet."""
    answers.require_consistent()
    if not models and answers.load is None:
        return _without_model(answers, directory)
    if answers.load is None and not dialogue.alone:
        for line in listing(models):
            dialogue.say(line)
    if answers.no_load or not _wanted(answers, dialogue):
        return Choice()
    model = _model(models, answers, dialogue, directory)
    action = dialogue.answer(_ACTION, answers.goal)
    if action == "use":
        return Choice(model.path, "use", name=model.name)
    tree = Checkpoint.open(model.path).tree
    lost = [part for part, there in resume_parts(tree).items() if not there]
    if lost and not dialogue.alone:
        dialogue.say(f"note: {model.name} holds no {', '.join(lost)} to go on with")
    counts_steps = answers.steps is not None or (
        answers.epochs is None and model.epoch is None and model.step is not None
    )
    epochs = None if counts_steps else dialogue.answer(_EPOCHS, answers.epochs)
    steps = dialogue.answer(_STEPS, answers.steps) if counts_steps else None
    rate = dialogue.answer(_rate_question(learning_rate_of(tree)), answers.lr)
    return Choice(model.path, "continue", epochs, rate, model.name, steps)


def _without_model(answers: Answers, directory: str) -> Choice:
    if answers.goal is not None:
        raise AnswerError(
            f"{directory}: found no saved model, expected one to {answers.goal}; save one, or name another folder"
        )
    return Choice()


def _wanted(answers: Answers, dialogue: Dialogue) -> bool:
    if answers.load is not None or answers.goal is not None:
        return True
    return dialogue.answer(_WANTED)


def _model(models: Sequence[SavedModel], answers: Answers, dialogue: Dialogue, directory: str) -> SavedModel:
    if answers.load is not None:
        if not models:
            raise AnswerError(f"{directory}: found no saved model, expected {answers.load!r} there; check the folder")
        return pick(models, answers.load)

    def read(text: str) -> SavedModel:
        model = pick(models, text)
        if model.problem:
            raise AnswerError(f"{model.name} cannot be used: {model.problem}")
        return model

    numbers = "1" if len(models) == 1 else f"1-{len(models)}"
    usable = next((model for model in models if not model.problem), None)
    question = Question(f"Which one? ({numbers}, a name, latest, best)", "--load", "a model in the list", read)
    if usable is not None and not dialogue.alone:
        question = replace(question, default=usable, hint=str(models.index(usable) + 1))
    return dialogue.answer(question)


def whole_number(text: str) -> int:
    """Read a whole number above 0; ValueError for anything else."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def positive(text: str) -> float:
    """Read a finite number above 0; ValueError for anything else."""
    number = float(text)
    if not 0 < number < math.inf:
        raise ValueError(text)
    return number


def one_of(words: Mapping[str, T]) -> Callable[[str], T]:
    """Return a reader of one of these words, or of the beginning of one, in either case; ValueError for any other."""

    def read(text: str) -> T:
        values = [value for word, value in words.items() if text and word.startswith(text.lower())]
        if len(values) != 1:
            raise ValueError(text)
        return values[0]

    return read


_WANTED: Question[bool] = Question(
    "Load a saved model?", "--load", "y or n", one_of({"yes": True, "no": False}), default=False, hint="y/N"
)
_ACTION: Question[Action] = Question(
    "Use it as it is, or continue training it?",
    "--use or --continue",
    "use or continue",
    one_of({"use": "use", "continue": "continue"}),
    default="use",
    hint="USE/continue",
)
_EPOCHS = Question("For how many epochs?", "--epochs", "a whole number above 0", whole_number)
_STEPS = Question("For how many steps?", "--steps", "a whole number above 0", whole_number)


def _rate_question(saved: float | None) -> Question[float | None]:
    hint = "as it is" if saved is None else f"{saved:g}, as saved"
    return Question("Learning rate?", "--lr", "a number above 0", positive, default=None, hint=hint)


def learning_rate_of(tree: Tree) -> float | None:
    """Return the learning rate that a checkpoint's optimizer had, in either framework's dialect, or None."""
    for optimizer in find_parts(tree).optimizers:
        groups = optimizer.tree.get("param_groups") if isinstance(optimizer.tree, Mapping) else None
        for group in groups if isinstance(groups, list | tuple) else ():
            options = group.get("_options", group) if isinstance(group, Mapping) else {}
            rate = options.get("lr") if isinstance(options, Mapping) else None
            if isinstance(rate, float | int):
                return float(rate)
    return None


def read_whole(checkpoint: Checkpoint, *, on_progress: OnProgress = silent) -> None:
    """Read every layer and compare it with its digest; raise DamagedError for one that is not what was saved."""
    table = checkpoint.tensors()
    total, done = sum(tensor.nbytes for tensor in table.values()), 0
    for key in read_through(table):
        done += table[key].nbytes
        on_progress(Progress(key, done, total))
