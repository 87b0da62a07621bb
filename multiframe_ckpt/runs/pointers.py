"""Pointers: ``latest_checkpoint`` and ``best_model``, moved to stand for a checkpoint of their folder.

Copied without links, or fetched alone, a pointer is a checkpoint itself. One that is in the folder a second time gives way
to a link; any other gets the name of a checkpoint first, so that nothing is lost.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import TargetExistsError
from ..storage.atomic import discard, move_to_free
from ..storage.links import make_pointer, pointer_target
from .folder import CheckpointFolder
from .names import position_named

__all__ = ["make_way", "point", "require_no_lost_checkpoint", "require_pointers"]


def require_pointers(folder: CheckpointFolder, stems: Iterable[str], format: str) -> None:
    """Raise TargetExistsError where something of another's stands in the place of a pointer."""
    for stem in stems:
        _require_ours(folder, folder.path_of(stem, format))


def _require_ours(folder: CheckpointFolder, pointer: Path) -> None:
    if not os.path.lexists(pointer) or pointer_target(pointer, folder.names()) is not None:
        return
    if pointer.is_symlink():
        is_ours = position_named(os.readlink(pointer)) is not None
    else:
        record = folder.record(pointer.name)
        is_ours = record is None or (record.complete and record.save_count > 0)
    if not is_ours:
        raise TargetExistsError(
            f"{pointer}: found something that is no pointer to a checkpoint of this folder and no checkpoint of a manager, "
            "expected one or a free name; move it away, or choose another output_dir"
        )


def make_way(folder: CheckpointFolder, stems: Iterable[str]) -> None:
    """Give a manager's checkpoint that stands under a pointer's name, and is nowhere else, the name of a checkpoint."""
    alone = set(folder.pointers(*stems))
    for record in folder.records():
        if record.path in alone and record.complete and record.save_count > 0:
            move_to_free(record.path, folder.free_path(record.position, record.path.name, record.save_count))


def point(folder: CheckpointFolder, stem: str, name: str) -> None:
    """Make the pointer stand for a checkpoint, and take away one that it had in another format."""
    pointer = folder.path / f"{stem}{name.removeprefix(name.partition('.')[0])}"
    if pointer_target(pointer, [name]) is None:
        _require_ours(folder, pointer)
        if pointer.is_dir() and not pointer.is_symlink():  # no link can be renamed onto a folder
            discard(pointer)
        make_pointer(pointer, name)
    for other in folder.pointers(stem):
        if other != pointer and pointer_target(other, folder.names()) is not None:
            other.unlink(missing_ok=True)


def require_no_lost_checkpoint(folder: CheckpointFolder) -> None:
    """Raise FileNotFoundError for a pointer to a checkpoint that is not there: a run that was begun must not begin anew."""
    for pointer in folder.pointers():
        if pointer.is_symlink() and not pointer.exists():
            raise FileNotFoundError(
                f"{pointer}: found a pointer to {os.readlink(pointer)}, which is not there, expected a checkpoint; bring "
                "it here too, or remove the pointer to begin anew"
            )
