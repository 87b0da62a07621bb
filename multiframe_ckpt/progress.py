"""Progress: what a long operation reports while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["OnProgress", "Progress", "silent"]


@dataclass(frozen=True, slots=True)
class Progress:
    """One report: the tensor just moved, the bytes moved so far, and the bytes there are in all."""

    key: str
    done_bytes: int
    total_bytes: int


OnProgress: TypeAlias = Callable[[Progress], None]


def silent(event: Progress) -> None:
    """Report to nobody."""
