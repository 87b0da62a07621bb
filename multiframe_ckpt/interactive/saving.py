"""save_by_hand(): a checkpoint as a binary file under ``checkpoints/``, as JSON under ``exports/``, or as both."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..checkpoint import Checkpoint
from ..checkpoint.checkpoint import require_free
from ..errors import AnswerError
from ..terminal.progress import layer_line
from ..terminal.text import human_size
from .answers import KINDS, UNANSWERED, Answers, Kind
from .choosing import one_of
from .dialogue import REQUIRED, Ask, Dialogue, Question, Say, ask_terminal, say_line

__all__ = ["SavedCopies", "save_by_hand", "save_copies"]

#: Kind → format, folder, suffix.
_FILES = {"binary": ("torch", "checkpoints", ".pth"), "json": ("json", "exports", ".json")}
_FILES_OF: Mapping[Kind, tuple[str, ...]] = {
    "binary": ("binary",),
    "json": ("json",),
    "both": ("binary", "json"),
    "no": (),
}


@dataclass(frozen=True, slots=True)
class SavedCopies:
    """What was saved: nothing, a binary file, a JSON file, or both, under one name."""

    kind: Kind = "no"
    name: str | None = None
    paths: tuple[Path, ...] = ()
    overwrite: bool = False

    @property
    def arguments(self) -> tuple[str, ...]:
        """The flags that save the same again."""
        if self.name is None:
            return ()
        name = (f"--name={self.name}",) if self.name.startswith("-") else ("--name", self.name)
        return ("--save", self.kind, *name, *(("--overwrite",) if self.overwrite else ()))


def save_by_hand(
    checkpoint: Checkpoint,
    *,
    name: str = "model",
    kind: Kind = "binary",
    folder: str | os.PathLike[str] = ".",
    answers: Answers = UNANSWERED,
    ask: Ask | None = ask_terminal,
    say: Say = say_line,
) -> SavedCopies:
    """Ask in which form to save a checkpoint and under which name, save it, and say where.

    ``kind`` and ``name`` are the defaults. The files are ``checkpoints/NAME.pth``, which ``torch.load`` reads, and
    ``exports/NAME.json``, which ``json.load`` reads, below ``folder``. A name that is taken is asked for again; where
    nobody can be asked it is a TargetExistsError, unless the answers say to overwrite.
    """
    dialogue = Dialogue(ask, say)
    copies = save_copies(checkpoint, dialogue, name=name, kind=kind, folder=folder, answers=answers)
    for path in copies.paths:
        say(f"saved {path} ({human_size(path.stat().st_size)})")
    return copies


def save_copies(
    checkpoint: Checkpoint,
    dialogue: Dialogue,
    *,
    name: str,
    kind: Kind,
    folder: str | os.PathLike[str] = ".",
    answers: Answers = UNANSWERED,
    quiet: bool = False,
) -> SavedCopies:
    """Save a checkpoint as :func:`save_by_hand` does, in a dialogue that is under way."""
    kind_question = _kind_question(checkpoint, kind)
    if kind == "no" and dialogue.alone and (answers.name is not None or answers.overwrite):
        kind_question = replace(kind_question, default=REQUIRED)
    chosen: Kind = dialogue.answer(kind_question, answers.save)
    if chosen == "no":
        return SavedCopies()
    copies = _named(chosen, Path(folder), name, answers, dialogue)
    for path in copies.paths:
        require_free(path, overwrite=copies.overwrite)
    for path, file in zip(copies.paths, _FILES_OF[chosen], strict=True):
        with layer_line(f"saving {path.name}", len(checkpoint.tensors()), quiet=quiet) as on_progress:
            checkpoint.save(path, format=_FILES[file][0], overwrite=copies.overwrite, on_progress=on_progress)
    return copies


def _kind_question(checkpoint: Checkpoint, default: Kind) -> Question[Kind]:
    nbytes = human_size(sum(tensor.nbytes for tensor in checkpoint.tensors().values()))
    hint = "/".join(kind.upper() if kind == default else kind for kind in KINDS)
    return Question(
        f"Save a copy, binary ({nbytes}) or JSON (some three times that)?",
        "--save",
        "binary, json, both or no",
        one_of({kind: kind for kind in KINDS}),
        default=default,
        hint=hint,
    )


def _named(kind: Kind, folder: Path, name: str, answers: Answers, dialogue: Dialogue) -> SavedCopies:
    """Return what is to be saved; a person is asked again for a name that is taken and is to be kept."""
    answer = answers.name
    while True:
        copies = _copies(kind, folder, dialogue.answer(_name_question(name), answer))
        taken = [path for path in copies.paths if os.path.lexists(path)]
        if answers.overwrite:
            return replace(copies, overwrite=True)
        if not taken or dialogue.alone:
            return copies
        if dialogue.answer(replace(_REPLACE, text=f"{', '.join(map(str, taken))} is there already. Replace it?")):
            return replace(copies, overwrite=True)
        answer = None


def _copies(kind: Kind, folder: Path, name: str) -> SavedCopies:
    files = [_FILES[file] for file in _FILES_OF[kind]]
    return SavedCopies(kind, name, tuple(folder / below / f"{name}{suffix}" for _, below, suffix in files))


_REPLACE: Question[bool] = Question(
    "", "--overwrite", "y or n", one_of({"yes": True, "no": False}), default=False, hint="y/N"
)


def _name_question(default: str) -> Question[str]:
    return Question("Under which name?", "--name", "a name", _read_name, default=default or REQUIRED, hint=default)


def _read_name(text: str) -> str:
    for _, _, suffix in _FILES.values():
        text = text.removesuffix(suffix)
    if not text or text in (".", "..") or "/" in text or "\\" in text or "\0" in text:
        raise AnswerError(f"--name: found {text!r}, expected a name without folder; leave the folder out")
    return text
