"""Leftovers: what saves that were killed left on the disk. Nobody reads it; it is removed by the next save to the same
target, or on request.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .atomic import STAGE_SUFFIX, is_abandoned, stage_prefix, sweep

__all__ = ["Leftover", "leftovers", "leftovers_below", "remove_leftovers"]


@dataclass(frozen=True, slots=True)
class Leftover:
    """The temporary folder of a save that died, and the bytes that it takes on the disk."""

    path: Path
    nbytes: int


def leftovers(folder: Path, *, target: Path | None = None) -> list[Leftover]:
    """Return what lies directly in a folder, of saves to ``target`` or to any; those of saves under way are not meant."""
    prefix = "." if target is None else stage_prefix(target)
    with suppress(OSError):
        names = sorted(os.listdir(folder))
        stages = [folder / name for name in names if name.startswith(prefix) and name.endswith(STAGE_SUFFIX)]
        return [Leftover(stage, _nbytes_on_disk(stage)) for stage in stages if is_abandoned(stage)]
    return []


def leftovers_below(folder: Path) -> list[Leftover]:
    """Return what lies in a folder and all folders below; no link is followed."""
    return [leftover for path in _folders(folder) for leftover in leftovers(path)]


def remove_leftovers(found: list[Leftover]) -> list[Leftover]:
    """Remove them, and return those that are gone; a checkpoint that stepped aside in one gets its name again."""
    for folder in dict.fromkeys(leftover.path.parent for leftover in found):
        sweep(folder)
    return [leftover for leftover in found if not leftover.path.exists()]


def _folders(top: Path) -> Iterator[Path]:
    for path, folders, _ in os.walk(top):
        yield Path(path)
        folders[:] = sorted(name for name in folders if not name.endswith(STAGE_SUFFIX))


def _nbytes_on_disk(folder: Path) -> int:
    nbytes = 0
    for path, _, files in os.walk(folder):
        for name in files:
            with suppress(OSError):
                nbytes += 512 * os.lstat(os.path.join(path, name)).st_blocks
    return nbytes
