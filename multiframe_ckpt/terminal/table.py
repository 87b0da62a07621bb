"""table(): aligned lines, whose last column is never cut, and in a terminal folds under itself."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from itertools import chain, zip_longest
from typing import TypeVar, cast

from .text import printable

__all__ = ["table", "width"]

R = TypeVar("R")
_NARROWEST_FOLD = 20


def width() -> int | None:
    """Return the columns of the terminal that standard output is, or None where it is none."""
    if sys.stdout is None or not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns


def table(
    rows: Iterable[R],
    *,
    header: Sequence[str] = (),
    right: Container[int] = (),
    spell: Callable[[R], Sequence[str]] = lambda row: cast("Sequence[str]", row),
    columns: int | None = None,
) -> Iterator[str]:
    """Yield aligned lines, the header's and one a row; columns in ``right`` are aligned to the right.

    ``spell`` gives a row's cells. It is asked twice: they may be many, and take much more memory than the rows. Every
    cell passes :func:`printable`. Lines longer than ``columns`` fold in their last column.
    """
    rows = rows if isinstance(rows, Sequence) else list(rows)

    def cells() -> Iterator[list[str]]:
        spelled = ([printable(cell) for cell in spell(row)] for row in rows)
        return chain([list(header)], spelled) if header else spelled

    widths: list[int] = []
    for row in cells():
        widths = [max(pair) for pair in zip_longest(widths, map(len, row[:-1]), fillvalue=0)]
    for *fixed, last in cells():
        padded = [
            cell.rjust(wide) if number in right else cell.ljust(wide)
            for number, (cell, wide) in enumerate(zip(fixed, widths, strict=True))
        ]
        head = "".join(f"{cell}  " for cell in ("", *padded))
        yield from _folded(head, last, columns or sys.maxsize)


def _folded(head: str, last: str, columns: int) -> Iterator[str]:
    left = columns - len(head)
    pieces = [last] if left < _NARROWEST_FOLD or (last.isascii() and len(last) <= left) else _pieces(last, left)
    for piece in pieces:
        yield (head + piece).rstrip()
        head = " " * len(head)


def _pieces(text: str, columns: int) -> list[str]:
    if text.isascii():
        return textwrap.wrap(text, columns, break_on_hyphens=False)
    # rich here: loading it takes longer than a small conversion. It knows how wide a character is.
    from rich.cells import chop_cells

    return chop_cells(text, columns)
