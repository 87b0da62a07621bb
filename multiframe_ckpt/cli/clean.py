"""``multiframe-ckpt clean``, and what other verbs say of what there is to clean."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Sequence
from pathlib import Path

import click

from ..errors import CheckpointWarning
from ..operations.clean import clean
from ..storage.leftovers import Leftover, leftovers
from ..terminal.text import human_size, plural
from .output import Output
from .program import NAME, Status, verb

__all__ = ["clean_command", "left_over", "warn_of_leftovers"]


@verb(example=f"{NAME} clean outputs --dry-run")
@click.argument("folder", metavar="DIR")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be removed; remove nothing.")
def clean_command(out: Output, folder: str, dry_run: bool) -> Status:
    """Remove what saves that were killed left below DIR.

    Checkpoints, and saves that are under way, are let be.
    """
    with out.waiting("looking for leftovers"):
        report = clean(folder, dry_run=dry_run)
    out.show(report)
    return Status.DONE if report.ok else Status.DIFFERENT


def left_over(found: Sequence[Leftover], folder: str | Path) -> str:
    """Return what a verb says of leftovers in or below a folder, and what removes them."""
    size = human_size(sum(leftover.nbytes for leftover in found))
    command = shlex.join([NAME, "clean", str(folder)])
    return f"{plural(len(found), 'leftover')} of killed saves, {size}, which nothing reads; remove: {command}"


def warn_of_leftovers(path: str) -> None:
    """Warn of what saves to a path left beside it, or saves to anything in it where it is a folder."""
    target = Path(path)
    for folder, found in (
        (target.parent, leftovers(target.parent, target=target)),
        (target, leftovers(target) if target.is_dir() else []),
    ):
        if found:
            warnings.warn(f"{folder}: found {left_over(found, folder)}", CheckpointWarning, stacklevel=2)
