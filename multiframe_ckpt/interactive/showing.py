"""What a person sees: the list of models, and the layers as they are read or written.

Names come from disks and files that nobody vouches for: all text passes :func:`printable`.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unicodedata import east_asian_width

from ..progress import OnProgress, Progress, silent
from ..terminal.text import human_size, printable
from .finding import SavedModel

__all__ = ["layer_line", "listing"]

_AGES = ((86_400, "day"), (3_600, "hour"), (60, "minute"))
_HEAD = ("", "epoch", "metric", "parameters", "size", "age", "name")
_RIGHT = {0, 1, 3, 4, 5}
_MOST_METRICS = 2


def age_text(seconds: float) -> str:
    """Return how long ago something was, in the unit that reads best."""
    length, unit = next(((length, unit) for length, unit in _AGES if seconds >= length), (0, ""))
    if not length:
        return "just now"
    count = int(seconds // length)
    return f"{count:,} {unit}{'' if count == 1 else 's'}"


def listing(models: Sequence[SavedModel], *, now: float | None = None) -> Iterator[str]:
    """Yield the models as a table, numbered from 1, with what points to each; one that cannot be used says why."""
    now = time.time() if now is None else now
    rows = [_HEAD, *(_cells(number, model, now) for number, model in enumerate(models, 1))]
    rows = [tuple(map(printable, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    for *fixed, name in rows:
        padded = [
            cell.rjust(wide) if at in _RIGHT else cell.ljust(wide)
            for at, (cell, wide) in enumerate(zip(fixed, widths, strict=True))
        ]
        yield "  ".join(["", *padded, name])


def _cells(number: int, model: SavedModel, now: float) -> tuple[str, ...]:
    metrics = [f"{name} {value:.4g}" for name, value in list(model.metrics.items())[:_MOST_METRICS]]
    beside = model.name.removesuffix(model.path.name)
    pointers = [pointer.removeprefix(beside) for pointer in model.pointers]
    name = model.name + (f" <- {', '.join(pointers)}" if pointers else "")
    return (
        str(number),
        "-" if model.epoch is None else str(model.epoch),
        ", ".join(metrics) or "-",
        "-" if model.problem else f"{model.parameters:,}",
        human_size(model.nbytes),
        age_text(now - model.modified_ns / 1e9),
        f"{name}  (not usable: {model.problem.partition(', expected')[0]})" if model.problem else name,
    )


@contextmanager
def layer_line(task: str, layers: int, *, quiet: bool = False) -> Iterator[OnProgress]:
    """Yield a listener that shows each layer on one line while a person watches standard error, else a silent one."""
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield silent
        return
    stream, done = sys.stderr, 0

    def show(event: Progress) -> None:
        nonlocal done
        done += 1
        share = f"{event.done_bytes / event.total_bytes:4.0%}" if event.total_bytes else "100%"
        text = f"{task} layer {done}/{layers} {share} {printable(event.key)}"
        stream.write(f"\r{_clipped(text, shutil.get_terminal_size().columns - 1)}\x1b[K")
        stream.flush()

    try:
        yield show
    finally:
        if done:
            stream.write("\r\x1b[K")
            stream.flush()


def _clipped(text: str, cells: int) -> str:
    """Return as much of the text as fits: a line that wraps could not be written over."""
    for at, char in enumerate(text):
        cells -= 2 if east_asian_width(char) in "WF" else 1
        if cells < 0:
            return text[:at]
    return text
