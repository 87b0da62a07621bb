"""Printing: reports for a person or as JSON, warnings, progress.

Keys and values come from files that nobody vouches for. Every line passes :func:`printable`, so that no control
character or terminal escape of a file reaches the terminal.
"""

from __future__ import annotations

import json
import math
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, fields, is_dataclass
from io import TextIOWrapper
from typing import Any, TextIO

from ..progress import OnProgress
from ..terminal.progress import progress_bar, spinner
from ..terminal.report import Report
from ..terminal.table import width
from ..terminal.text import is_too_long, printable
from .flags import as_flags

__all__ = ["Output", "document_of", "json_pieces", "prepare_streams", "print_error", "write"]


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

    def show(self, report: Report, **more: object) -> None:
        """Print a report, as JSON with ``more`` beside; its advice as the options of this command."""
        lines = report.lines(columns=width(), more="; --json lists them all")
        self.report({**document_of(report), **more}, map(as_flags, lines))

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
        return progress_bar(task, quiet=self.quiet)

    def waiting(self, task: str) -> AbstractContextManager[object]:
        """Draw a spinner while a person watches standard error."""
        return spinner(task, quiet=self.quiet)


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
    """Return a report as a document: its fields and properties, but no part of it that these show, nor its headline."""
    shown = [field for field in fields(report) if field.repr]
    names = [field.name for field in shown if not is_dataclass(getattr(report, field.name))]
    properties = {
        name: None for kind in type(report).__mro__ for name in vars(kind) if isinstance(vars(kind)[name], property)
    }
    names += [name for name in properties if name != "headline"]
    return {name: getattr(report, name) for name in names}


def _entries(record: Any) -> object:
    """Return a record as an object of JSON, when its turn has come: there may be many."""
    return {field.name: _strict(getattr(record, field.name)) for field in fields(record)}


def _strict(value: object) -> object:
    if is_dataclass(value):
        return value
    if isinstance(value, Mapping):
        return {_whole_text(str(name)): _strict(part) for name, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_strict(part) for part in value]
    if value is None or isinstance(value, bool) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, int):
        return hex(value) if is_too_long(value) else value
    return _whole_text(str(value))


def _whole_text(text: str) -> str:
    """Return text without lone surrogates, which many JSON readers refuse."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
