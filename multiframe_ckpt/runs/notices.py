"""Notices: what the next public call of a manager must warn of."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from ..errors import CheckpointWarning

__all__ = ["Notices", "warn_of"]


class Notices:
    """Each text is told once; any thread may add one."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._read = 0

    def add(self, text: str) -> None:
        """Add a text that was not added before."""
        if text not in self._texts:
            self._texts.append(text)

    def new(self) -> list[str]:
        """Return the texts that came since this was called."""
        texts = self._texts[self._read :]
        self._read += len(texts)
        return texts


def warn_of(texts: Iterable[str]) -> None:
    """Warn whoever called the public method that calls this."""
    for text in texts:
        warnings.warn(text, CheckpointWarning, stacklevel=3)
