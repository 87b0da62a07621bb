"""``multiframe-ckpt choose``: choosing a saved model by hand, and saving it in other forms."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import click

from ..checkpoint import Checkpoint
from ..errors import AnswerError
from ..interactive import (
    Answers,
    Choice,
    Dialogue,
    SavedCopies,
    SavedModel,
    ask_terminal,
    choose_among,
    find_models,
    listing,
    read_whole,
    save_copies,
)
from ..interactive.answers import KINDS
from ..terminal.progress import layer_line
from ..terminal.text import human_size, plural, printable
from .output import Output
from .program import NAME, Status, verb

__all__ = ["choose_command"]


@verb(example=f"{NAME} choose outputs --load best --use --save json")
@click.argument("directory", metavar="DIR")
@click.option("--load", metavar="WHICH", help="Load this one: a name or number of the list, latest, or best.")
@click.option("--no-load", is_flag=True, help="Load none: list only.")
@click.option("--use", "action", flag_value="use", default=None, help="Use the model as it is; the default.")
@click.option("--continue", "action", flag_value="continue", default=None, help="Continue training it.")
@click.option("--epochs", type=click.IntRange(min=1), metavar="N", help="How many epochs to continue for.")
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="How many steps, where the run counts those.")
@click.option("--lr", type=float, metavar="X", help="The learning rate to continue at; default: the saved one.")
@click.option("--save", type=click.Choice(KINDS), help="Save a copy in this form; default: no.")
@click.option("--name", help="Name of the copies, without folder; default: the model's own.")
@click.option("--overwrite", is_flag=True, help="Replace copies of that name.")
@click.option("--no-input", is_flag=True, help="Ask nothing, as where there is no terminal.")
def choose_command(out: Output, directory: str, no_input: bool, **flags: Any) -> Status:
    """Choose a saved model, load it, save it in other forms.

    Lists what is saved below DIR, whichever the format, and asks; each question has an option that answers it. Loading
    reads every layer and compares it with its digest. Copies go to checkpoints/NAME.pth and exports/NAME.json. What was
    chosen is printed, as --json for a script, with the command that does the same again.
    """
    answers = Answers(**flags)
    dialogue = Dialogue(None if no_input or out.quiet else ask_terminal, _tell)
    with out.waiting("looking for saved models"):
        models = find_models(directory)
    choice, copies = Choice(), SavedCopies()
    with suppress(EOFError):  # Ctrl-D: what was not answered yet is not done
        choice = choose_among(models, answers, dialogue, directory)
        copies = _loaded_and_saved(out, choice, answers, dialogue)
    command = shlex.join([NAME, "choose", directory, *choice.arguments, *copies.arguments])
    document = {name: getattr(choice, name) for name in ("path", "action", "epochs", "steps", "learning_rate")}
    document |= {"saved": copies.paths, "command": command, "models": models}
    seen = choice.path is not None or (models and not dialogue.alone)
    lines = [] if seen else _models_lines(models, directory)
    out.report(document, [*lines, *_lines(choice, copies), f"the same as a command: {command}"])
    return Status.DONE


def _tell(line: str) -> None:
    """Talk on standard error, which a person sees even where the report goes into a file."""
    click.echo(printable(line), err=True)


def _loaded_and_saved(out: Output, choice: Choice, answers: Answers, dialogue: Dialogue) -> SavedCopies:
    if choice.path is None:
        if answers.save not in (None, "no"):
            raise AnswerError("--save: found no model to save, expected one; name it with --load")
        return SavedCopies()
    checkpoint = Checkpoint.open(choice.path)
    layers = len(checkpoint.tensors())
    with layer_line("loading", layers, quiet=out.quiet) as on_progress:
        read_whole(checkpoint, on_progress=on_progress)
    if not dialogue.alone:
        dialogue.say(f"loaded {plural(layers, 'layer')} of {choice.name}, each of them whole")
    name = choice.path.name if choice.path.is_dir() else choice.path.stem
    return save_copies(checkpoint, dialogue, name=name, kind="no", answers=answers, quiet=out.quiet)


def _models_lines(models: Sequence[SavedModel], directory: str) -> Iterator[str]:
    yield from listing(models) if models else (f"{directory}: no saved model there",)


def _lines(choice: Choice, copies: SavedCopies) -> Iterator[str]:
    if choice.path is None:
        yield "nothing was loaded"
    if choice.action == "use":
        yield f"use {choice.path}"
    if choice.action == "continue":
        rate = "the saved learning rate" if choice.learning_rate is None else f"learning rate {choice.learning_rate}"
        length = plural(choice.epochs or 0, "epoch") if choice.steps is None else plural(choice.steps, "step")
        yield f"continue {choice.path} for {length} at {rate}"
    for path in copies.paths:
        yield f"saved {path} ({human_size(path.stat().st_size)})"
