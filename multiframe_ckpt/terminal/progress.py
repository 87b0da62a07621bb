"""What is drawn on standard error while a person watches it: a bar, a spinner, or a line that names each layer."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from unicodedata import east_asian_width

from ..progress import OnProgress, Progress, silent
from .text import printable

__all__ = ["is_watched", "layer_line", "progress_bar", "spinner"]


def is_watched() -> bool:
    """Return whether standard error is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


def progress_bar(task: str, *, quiet: bool = False) -> AbstractContextManager[OnProgress]:
    """Return a listener that draws a bar of the bytes moved while a person watches, else a silent one."""
    return nullcontext(silent) if quiet or not is_watched() else _bar(task)


def spinner(task: str, *, quiet: bool = False) -> AbstractContextManager[object]:
    """Draw a spinner while a person watches."""
    return nullcontext() if quiet or not is_watched() else _spinner(task)


@contextmanager
def _bar(task: str) -> Iterator[OnProgress]:
    # rich here: loading it takes longer than a small conversion
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        row = bar.add_task(printable(task), total=None)

        def update(event: Progress) -> None:
            bar.update(row, completed=event.done_bytes, total=event.total_bytes)

        yield update


@contextmanager
def _spinner(task: str) -> Iterator[None]:
    # rich here: as above
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(Text(printable(task))):
        yield


@contextmanager
def layer_line(task: str, layers: int, *, quiet: bool = False) -> Iterator[OnProgress]:
    """Yield a listener that shows each layer on one line while a person watches, else a silent one.

    Not a bar of rich's, which draws ten times a second and so passes over layers.
    """
    if quiet or not is_watched():
        yield silent
        return
    stream, done = sys.stderr, 0

    def show(event: Progress) -> None:
        nonlocal done
        if not event.finished:
            return
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
    for count, char in enumerate(text):
        cells -= 2 if east_asian_width(char) in "WF" else 1
        if cells < 0:
            return text[:count]
    return text
