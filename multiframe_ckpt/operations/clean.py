"""clean: what saves that were killed left on the disk, removed on request."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..storage.leftovers import leftovers_below, remove_leftovers
from ..terminal.report import Report
from ..terminal.text import bulleted, human_size, plural

__all__ = ["CleanReport", "clean"]

_MOST_LISTED = 10


@dataclass(frozen=True, slots=True, repr=False)
class CleanReport(Report):
    """What killed saves left below a folder: what is removed by now, and what could not be, with the bytes of each."""

    folder: str
    removed: tuple[str, ...]
    kept: tuple[str, ...]
    removed_bytes: int
    kept_bytes: int
    dry_run: bool = False

    @property
    def ok(self) -> bool:
        """Whether nothing is left, or nothing was to be removed yet."""
        return self.dry_run or not self.kept

    @property
    def headline(self) -> str:
        """How much was removed, or would be."""
        if not (self.removed or self.kept):
            return f"{self.folder}: nothing is left over from saves that were killed"
        paths, nbytes = (self.kept, self.kept_bytes) if self.dry_run else (self.removed, self.removed_bytes)
        done = "would remove" if self.dry_run else "removed"
        return f"{self.folder}: {done} {plural(len(paths), 'leftover')} of killed saves, {human_size(nbytes)}"

    def lines(self, *, columns: int | None = None, more: str = "") -> Iterator[str]:
        """Yield each, and what could not be removed."""
        yield self.headline
        yield from bulleted(self.kept if self.dry_run else self.removed, most=_MOST_LISTED, hint=more)
        if self.kept and not self.dry_run:
            yield f"not removed ({len(self.kept):,}), {human_size(self.kept_bytes)}; see their owner and mode:"
            yield from bulleted(self.kept, most=_MOST_LISTED, hint=more)


def clean(folder: str | os.PathLike[str], *, dry_run: bool = False) -> CleanReport:
    """Remove what saves that were killed left below a folder; saves that are under way, here or elsewhere, are let be.

    With ``dry_run`` say what would be removed. Raise FileNotFoundError for no folder.
    """
    top = Path(folder)
    if not top.is_dir():
        raise FileNotFoundError(f"{top}: found no folder, expected one with checkpoints below it; check the path")
    found = leftovers_below(top)
    removed = [] if dry_run else remove_leftovers(found)
    gone = {leftover.path for leftover in removed}
    kept = [leftover for leftover in found if leftover.path not in gone]
    return CleanReport(
        folder=str(folder),
        removed=tuple(str(leftover.path) for leftover in removed),
        kept=tuple(str(leftover.path) for leftover in kept),
        removed_bytes=sum(leftover.nbytes for leftover in removed),
        kept_bytes=sum(leftover.nbytes for leftover in kept),
        dry_run=dry_run,
    )
