"""Progress: what a long operation reports while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["OnProgress", "Progress", "silent"]


@dataclass(frozen=True, slots=True)
class Progress:
    """One report: the tensor just moved, the bytes moved so far, and the bytes there are in all.

    ``finished`` is False for a report before the tensor is moved whole: as the job begins, when no byte is done, and in
    the middle of a large one that takes long.
    """

    key: str
    done_bytes: int
    total_bytes: int
    finished: bool = True


OnProgress: TypeAlias = Callable[[Progress], None]


def silent(event: Progress) -> None:
    """Report to nobody."""
