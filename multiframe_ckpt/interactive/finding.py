"""SavedModel: a model saved below a folder, in whichever format, as its header tells. No tensor is read."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from ..errors import AnswerError, FormatError
from ..formats import format_at
from ..runs.names import BEST, LATEST
from ..runs.records import read_record, signature_of

__all__ = ["SavedModel", "find_models", "pick"]


@dataclass(frozen=True, slots=True)
class SavedModel:
    """One saved model. ``name`` is its path from the folder that was looked through.

    ``pointers`` are the names of the links that lead to it. The rest is as in a
    :class:`~multiframe_ckpt.runs.records.CheckpointRecord`; ``problem`` says why the model cannot be used.
    """

    name: str
    path: Path
    epoch: int | None = None
    step: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    parameters: int = 0
    nbytes: int = 0
    modified_ns: int = 0
    format: str | None = None
    pointers: tuple[str, ...] = ()
    problem: str | None = None


def find_models(directory: str | os.PathLike[str]) -> tuple[SavedModel, ...]:
    """Return every saved model in the folder and its folders, the newest first; a checkpoint's own folder gives itself.

    Those that cannot be used come last. A link to a model that is found anyway is one of its ``pointers``. Links to
    other folders are not followed, and names that begin with a dot are passed over. Raise FileNotFoundError or
    NotADirectoryError where there is no folder.
    """
    top = Path(directory)
    os.listdir(top)  # raises
    if _is_checkpoint(top):
        return (_model(top, top.parent, ()),)
    same: dict[Hashable, list[Path]] = {}
    models: list[SavedModel] = []
    for path in _checkpoints(top):
        with suppress(FileNotFoundError):  # deleted since, by the run that writes here
            status = path.stat()
            same.setdefault((status.st_dev, status.st_ino), []).append(path)
    for paths in same.values():
        first, *others = sorted(paths, key=lambda path: (path.is_symlink(), _is_pointer(path), path))
        with suppress(FileNotFoundError):
            models.append(_model(first, top, tuple(_name(path, top) for path in others)))
    return tuple(sorted(models, key=_newest_first))


def _newest_first(model: SavedModel) -> tuple[bool, int, int, int, str]:
    return model.problem is not None, -model.modified_ns, -(model.epoch or 0), -(model.step or 0), model.name


def _checkpoints(folder: Path) -> Iterator[Path]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        if entry.name.startswith("."):
            continue
        if _is_checkpoint(path):
            yield path
        elif entry.is_dir(follow_symlinks=False) and os.access(path, os.R_OK | os.X_OK):
            yield from _checkpoints(path)


def _is_checkpoint(path: Path) -> bool:
    try:
        format_at(path)
    except (FormatError, OSError):
        return False
    return True


def _is_pointer(path: Path) -> bool:
    return _stem(path.name) in (LATEST, BEST)


def _stem(name: str) -> str:
    return Path(name).stem


def _name(path: Path, top: Path) -> str:
    return path.relative_to(top).as_posix()


def _model(path: Path, top: Path, pointers: tuple[str, ...]) -> SavedModel:
    record = read_record(path, signature_of(path))
    return SavedModel(
        name=_name(path, top),
        path=path,
        epoch=record.epoch,
        step=record.step,
        metrics=record.metrics,
        parameters=record.parameters,
        nbytes=record.nbytes,
        modified_ns=record.modified_ns,
        format=record.format,
        pointers=pointers,
        problem=record.problem and record.problem.removeprefix(f"{path}: "),
    )


def pick(models: Sequence[SavedModel], which: str) -> SavedModel:
    """Return the model that ``which`` means: a name, a pointer's name, a path, a number from 1, ``latest`` or ``best``.

    A name without its folders or its suffix will do where only one model has it. Raise AnswerError for any other.
    """
    exact = [model for model in models if which in (model.name, *model.pointers) or Path(which) == model.path]
    if exact:
        return exact[0]
    if which.isascii() and which.isdecimal() and 1 <= int(which[:9]) <= len(models):
        return models[int(which) - 1]
    if which in ("latest", "best"):
        return _pointed_at(models, LATEST if which == "latest" else BEST)
    short = [model for model in models if which in _short_names(model)]
    if len(short) == 1:
        return short[0]
    if short:
        raise _unclear(which, short)
    close = get_close_matches(which, [model.name for model in models], n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise AnswerError(f"--load: found {which!r}, expected {_expected(models)}{hint}")


def _expected(models: Sequence[SavedModel]) -> str:
    numbers = "1" if len(models) == 1 else f"a number from 1 to {len(models)}"
    return f"{numbers}, a name in the list, latest or best"


def _short_names(model: SavedModel) -> set[str]:
    return {short for name in (model.name, *model.pointers) for short in (Path(name).name, _stem(name))}


def _pointed_at(models: Sequence[SavedModel], stem: str) -> SavedModel:
    """Return the model that a pointer of this name leads to; without pointers, the latest is the newest."""
    pointed_at = [model for model in models if stem in map(_stem, (model.name, *model.pointers))]
    if len(pointed_at) == 1:
        return pointed_at[0]
    if pointed_at:
        raise _unclear(stem, pointed_at)
    if stem == LATEST and models:
        return models[0]
    raise AnswerError(
        f"--load: found no {stem} in the list, expected one, which a CheckpointManager makes; name a model instead"
    )


def _unclear(which: str, models: Sequence[SavedModel]) -> AnswerError:
    names = ", ".join(model.name for model in models)
    return AnswerError(f"--load: found {len(models)} models that {which!r} may mean ({names}), expected one; say which")
