"""ResumePoint: where a run goes on after ``resume``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoint.position import Clock, Position
from ..checkpoint.restore import RestoreReport
from ..errors import ValueRefusedError

__all__ = ["ResumePoint"]


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where a run goes on: at ``epoch`` and ``step``, the next ones to do, and ``within_epoch`` where that has begun.

    ``path`` is the checkpoint that was restored, ``ended`` what it ended on, and ``report`` what was restored; where
    nothing was saved both are None, and the run begins at 0.
    """

    path: Path | None = None
    ended: Position | None = None
    report: RestoreReport = field(default_factory=RestoreReport, repr=False)

    @property
    def epoch(self) -> int:
        """The epoch to go on with; raise ValueRefusedError where the run counts steps alone."""
        if self.ended is None:
            return 0
        return self._known("epoch", self.ended.epoch) + (0 if self.ended.within_epoch else 1)

    @property
    def step(self) -> int:
        """The step to go on with; raise ValueRefusedError where the checkpoint was saved without one, as after an epoch."""
        return 0 if self.ended is None else self._known("step", self.ended.step) + 1

    @property
    def within_epoch(self) -> bool:
        """Whether a part of the epoch is done: go on where its batches stood, and not at its beginning."""
        return self.ended is not None and self.ended.within_epoch

    @property
    def extra(self) -> Mapping[str, Any]:
        """The entries that ``save`` was given as ``extra``, such as where a loader stood; tensors are live ones."""
        return self.report.extra

    def _known(self, clock: Clock, number: int | None) -> int:
        if number is None:
            raise ValueRefusedError(
                f"{self.path}: found no {clock} in it but {self.ended}, expected one to go on from; "
                f"a run that counts both saves with both"
            )
        return number

    def __str__(self) -> str:
        if self.ended is None:
            return "the beginning"
        clocks = {"epoch": self.ended.epoch, "step": self.ended.step}
        texts = [f"{name} {getattr(self, name)}" for name, number in clocks.items() if number is not None]
        return ", ".join([*texts, *(["within the epoch"] if self.within_epoch else [])])
