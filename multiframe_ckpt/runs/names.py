"""The names that a manager gives in its folder: of checkpoints, by what they ended on, and of the pointers to them.

    checkpoint_epoch_0050                      after an epoch
    checkpoint_step_00012000                   after a step, in a run that counts steps
    checkpoint_epoch_0003_step_00001250        after a step within an epoch
    checkpoint_epoch_0050_save_0064            the same epoch once more, as after going back: by the number of the save
    latest_checkpoint, best_model              the pointers

and the suffix of the format. Zeros before the numbers make names sort as they were saved.
"""

from __future__ import annotations

import re
from functools import cache

from ..checkpoint.position import Position
from ..formats import FORMATS, format_named

__all__ = ["BEST", "LATEST", "name_stem", "pointer_stem", "position_named", "suffix_of", "suffixes"]

LATEST, BEST = "latest_checkpoint", "best_model"
_NAME = re.compile(
    r"checkpoint(?:_epoch_(?P<epoch>[0-9]+))?(?:_step_(?P<step>[0-9]+))?(?:_save_(?P<save>[0-9]+))?(?P<suffix>\..+)?"
)
_USUAL_SUFFIX = ".pth"


def name_stem(position: Position, save: int | None = None) -> str:
    """Return a checkpoint's name without suffix; ``save`` tells it from another of the same position."""
    stem = "checkpoint"
    if position.epoch is not None:
        stem += f"_epoch_{position.epoch:04d}"
    if position.step is not None and position.clock == "step":
        stem += f"_step_{position.step:08d}"
    return stem if save is None else f"{stem}_save_{save:04d}"


def position_named(name: str) -> Position | None:
    """Return the position in a checkpoint's name, or None for a name that a manager does not give."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    epoch, step, save = (None if match[part] is None else int(match[part]) for part in ("epoch", "step", "save"))
    position = Position(epoch, step, epoch is not None and step is not None)
    suffix = match["suffix"] or ""
    is_ours = position.is_known and suffix in suffixes() and name == name_stem(position, save) + suffix
    return position if is_ours else None


def pointer_stem(name: str) -> str | None:
    """Return which pointer a name is, ``latest_checkpoint`` or ``best_model``, or None for any other name."""
    stem, dot, rest = name.partition(".")
    return stem if stem in (LATEST, BEST) and dot + rest in suffixes() else None


@cache
def suffixes() -> frozenset[str]:
    """Return every suffix that a checkpoint of ours can have, in whichever format it was written."""
    return frozenset({"", *(suffix for format_class in FORMATS.available() for suffix in format_class().suffixes)})


def suffix_of(format: str) -> str:
    """Return the suffix that a manager's checkpoints have in a format: ``.pth`` for torch, none for folders."""
    known = format_named(format).suffixes
    return _USUAL_SUFFIX if _USUAL_SUFFIX in known else next(iter(known), "")
