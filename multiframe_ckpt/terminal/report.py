"""Report: what a person reads of a finished job. ``print(report)`` gives the lines that the command line prints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from .text import printable

__all__ = ["Report"]


class Report(ABC):
    """A report that is shown as lines of text, whoever shows it: ``print``, the command line, or a page."""

    __slots__ = ()

    @property
    @abstractmethod
    def headline(self) -> str:
        """What came of the job, on one line."""

    @abstractmethod
    def lines(self, *, columns: int | None = None, more: str = "") -> Iterator[str]:
        """Yield all there is to say, for a terminal of so many columns or of any width.

        ``more`` is said where a list is cut short: where the rest of it stands.
        """

    def __str__(self) -> str:
        return "\n".join(map(printable, self.lines()))

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {printable(self.headline)}>"
