"""Printing: reports for a person or as JSON, tables, warnings, progress.

Keys and values come from files that nobody vouches for. Every line passes :func:`shown`, so that no control character
or terminal escape of a file reaches the terminal. A table's last column is the one that grows: it is never cut, and in
a terminal it folds under itself.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import textwrap
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, fields, is_dataclass
from io import TextIOWrapper
from itertools import zip_longest
from typing import Any, TextIO, TypeVar, cast

from ..progress import OnProgress, Progress, silent
from ..terminal.text import printable
from .flags import as_flags

__all__ = [
    "Output",
    "bulleted",
    "document_of",
    "json_pieces",
    "plural",
    "prepare_streams",
    "print_error",
    "said",
    "table",
    "width",
    "write",
]

R = TypeVar("R")
_NARROWEST_FOLD = 20
_LONGEST_DECIMAL = 2_000  # bits: Python may refuse to spell integers of more than 640 digits (int_info)


@dataclass(frozen=True, slots=True)
class Output:
    """Where a verb's words go."""

    as_json: bool = False
    quiet: bool = False

    def report(self, document: Mapping[str, Any], lines: Iterable[str]) -> None:
        """Print the document as JSON if that was asked for, else the lines, else nothing."""
        if self.as_json:
            write(json_pieces(document))
        elif not self.quiet:
            write(f"{printable(line)}\n" for line in lines)

    @contextmanager
    def one_line_warnings(self) -> Iterator[None]:
        """Show each warning as one line on standard error, the same one once."""
        seen: set[str] = set()

        def show(message: Warning | str, *_: object, **__: object) -> None:
            text = as_flags(str(message))
            if not self.quiet and text not in seen:
                seen.add(text)
                print_error("warning", text)

        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = show
            yield

    def progress(self, task: str) -> AbstractContextManager[OnProgress]:
        """Return a listener that draws a bar while a person watches standard error, else a silent one."""
        return nullcontext(silent) if self.quiet or not _watched() else _bar(task)

    def waiting(self, task: str) -> AbstractContextManager[object]:
        """Draw a spinner while a person watches standard error."""
        return nullcontext() if self.quiet or not _watched() else _spinner(task)


def _watched() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


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


def prepare_streams() -> None:
    """Let both streams escape what their encoding cannot hold, rather than raise."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def write(pieces: Iterable[str]) -> None:
    """Print text that comes in pieces, line ends included. A reader that went away (``| head``) changes no exit status."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.writelines(pieces)
        sys.stdout.flush()
    except BrokenPipeError:
        _discard(sys.stdout)
    except OSError as problem:
        _discard(sys.stdout)
        raise OSError(problem.errno, problem.strerror, "standard output") from problem


def _discard(stream: TextIO) -> None:
    """Send what is still buffered to nowhere, or Python would fail on it once more when it exits."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def print_error(kind: str, message: str) -> None:
    """Print one line, ``kind: message``, to standard error, if there is one to hear it."""
    if sys.stderr is not None:
        with suppress(OSError):
            sys.stderr.write(f"{kind}: {printable(message)}\n")
            sys.stderr.flush()


def json_pieces(value: object) -> Iterator[str]:
    """Yield strict JSON, which any reader takes, piece by piece: NaN, infinities, complex numbers and bytes as strings."""
    yield from json.JSONEncoder(indent=2, allow_nan=False, default=_entries).iterencode(_strict(value))
    yield "\n"


def document_of(report: Any) -> dict[str, object]:
    """Return a report as a document: its fields and properties, but no part of it that properties show."""
    names = [field.name for field in fields(report) if not is_dataclass(getattr(report, field.name))]
    names += [name for name, value in vars(type(report)).items() if isinstance(value, property)]
    return {name: getattr(report, name) for name in names}


def _entries(record: Any) -> object:
    """Return a record as an object of JSON, when its turn has come: there may be many."""
    return {field.name: _strict(getattr(record, field.name)) for field in fields(record)}


def _strict(value: object) -> object:
    if is_dataclass(value):
        return value
    if isinstance(value, Mapping):
        return {_whole_text(str(name)): _strict(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(part) for part in value]
    if value is None or isinstance(value, bool) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, int):
        return value if value.bit_length() <= _LONGEST_DECIMAL else hex(value)
    return _whole_text(str(value))


def _whole_text(text: str) -> str:
    """Return text without lone surrogates, which many JSON readers refuse."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def said(value: object) -> str:
    """Return a plain value, or a list of such, as Python spells it."""
    if isinstance(value, list | tuple):
        inside = ", ".join(map(said, value))
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    if isinstance(value, int) and value.bit_length() > _LONGEST_DECIMAL:
        return hex(value)
    return repr(value)


def plural(number: int, noun: str) -> str:
    """Return ``1 tensor``, ``1,234 tensors``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def width() -> int | None:
    """Return the columns of the terminal that standard output is, or None where it is none."""
    if sys.stdout is None or not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns


def bulleted(items: Sequence[str], *, most: int | None = None) -> Iterator[str]:
    """Yield indented lines, and past ``most`` of them how many more there are."""
    first = items if most is None or len(items) <= most + 1 else items[:most]
    yield from (f"  {item}" for item in first)
    if len(first) < len(items):
        yield f"  ... and {len(items) - len(first):,} more; --json lists them all"


def table(
    rows: Iterable[R], *, right: Container[int] = (), spell: Callable[[R], Sequence[str]] = lambda row: cast(Any, row)
) -> Iterator[str]:
    """Yield aligned lines, one a row, the header being the first; columns in ``right`` are aligned to the right.

    ``spell`` gives a row's cells. It is asked twice: they may be many, and take much more memory than the rows.
    """
    rows = list(rows)

    def cells() -> Iterator[list[str]]:
        return ([printable(cell) for cell in spell(row)] for row in rows)

    widths: list[int] = []
    for row in cells():
        widths = [max(pair) for pair in zip_longest(widths, map(len, row[:-1]), fillvalue=0)]
    for *fixed, last in cells():
        padded = [
            cell.rjust(wide) if at in right else cell.ljust(wide)
            for at, (cell, wide) in enumerate(zip(fixed, widths, strict=True))
        ]
        head = "".join(f"{cell}  " for cell in ("", *padded))
        yield from _folded(head, last)


def _folded(head: str, last: str) -> Iterator[str]:
    room = (width() or sys.maxsize) - len(head)
    pieces = [last] if room < _NARROWEST_FOLD or (last.isascii() and len(last) <= room) else _pieces(last, room)
    for piece in pieces:
        yield (head + piece).rstrip()
        head = " " * len(head)


def _pieces(text: str, room: int) -> list[str]:
    if text.isascii():
        return textwrap.wrap(text, room, break_on_hyphens=False)
    # rich here: as above. It knows how wide a character is.
    from rich.cells import chop_cells

    return chop_cells(text, room)
