"""What a row of the catalogue is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

__all__ = ["Benign", "Hostile", "outside"]


class Hostile(NamedTuple):
    """A file to be refused: when its ``headers`` are read, also by those who asked for leniency (else ``strict``); when
    its ``values`` are read; when the ``whole`` of it is built; or ``never``: it may be read as well, and what it wants to
    happen does not.
    """

    make: Callable[[Path], object]
    refused: Literal["headers", "strict", "values", "whole", "never"] = "headers"
    room: int = 0  # the bytes that a listing of very many tiny tensors may take


class Benign(NamedTuple):
    """A file that must be read; its maker gives the arrays that it holds, by key."""

    make: Callable[[Path], Mapping[str, np.ndarray]]
    has_unknown: bool = False  # objects that nothing builds, and that only those who ask for all of it are refused for
    needs: str | None = None  # a library without which it cannot be made


def outside(place: Path) -> Path:
    """Gives the folder that nothing may open; it is there."""
    return place.parent.parent / "outside"
