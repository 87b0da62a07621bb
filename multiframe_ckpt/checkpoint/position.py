"""Position: what a checkpoint ended on, by the clocks that its run counts: epochs, steps, or both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ..training import Part, TrainingParts
from ..tree import LazyTensor, Tree

__all__ = ["WITHIN_EPOCH", "Clock", "Position", "ended_on"]

Clock: TypeAlias = Literal["epoch", "step"]

#: The entry of a checkpoint that was saved before its epoch was done: True.
WITHIN_EPOCH = "within_epoch"


@dataclass(frozen=True, slots=True)
class Position:
    """The epoch and the step that a checkpoint ended on, numbered from 0; None for what it does not say.

    ``within_epoch``: the epoch was not done yet.
    """

    epoch: int | None = None
    step: int | None = None
    within_epoch: bool = False

    @property
    def is_known(self) -> bool:
        """Whether anything is said: a number below 0 says that nothing was done."""
        return self.epoch is not None or self.step is not None

    @property
    def clock(self) -> Clock:
        """The clock that this counts by: epochs where one was done, else steps."""
        return "step" if self.epoch is None or self.within_epoch else "epoch"

    @property
    def number(self) -> int | None:
        """The number on that clock."""
        return self.epoch if self.clock == "epoch" else self.step

    @property
    def order(self) -> tuple[int, bool, int]:
        """Sort positions of one run: an epoch that is done comes after those within it."""
        return (-1 if self.epoch is None else self.epoch, not self.within_epoch, -1 if self.step is None else self.step)

    def __str__(self) -> str:
        numbers = {"epoch": self.epoch, "step": self.step}
        return ", ".join(f"{clock} {number}" for clock, number in numbers.items() if number is not None) or "no epoch"


def ended_on(parts: TrainingParts) -> Position:
    """Return what a checkpoint ended on; a part of an epoch (2.5) is within it. A tensor of one element is read."""
    epoch, step = (_count(part) for part in (parts.epoch, parts.step))
    if epoch is None:
        return Position(None, None if step is None else int(step))
    rest = {part.path: part.tree for part in parts.rest}
    is_within = epoch != int(epoch) or rest.get((WITHIN_EPOCH,)) is True or _is_within_lightning(rest.get(("loops",)))
    return Position(int(epoch), None if step is None else int(step), is_within)


def _is_within_lightning(loops: Tree) -> bool:
    """Return whether Lightning's loops (``FitLoop.state_dict``) stand between the batches of an epoch."""
    fit_loop = loops.get("fit_loop") if isinstance(loops, Mapping) else None
    progress = fit_loop.get("epoch_loop.batch_progress") if isinstance(fit_loop, Mapping) else None
    current = progress.get("current") if isinstance(progress, Mapping) else None
    if not isinstance(progress, Mapping) or not isinstance(current, Mapping):
        return False
    return progress.get("is_last_batch") is False and current.get("ready") not in (None, 0)


def _count(part: Part | None) -> float | None:
    value = None if part is None else part.tree
    if isinstance(value, LazyTensor) and value.size == 1:
        value = value.numpy().reshape(()).item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if 0 <= value < math.inf else None
