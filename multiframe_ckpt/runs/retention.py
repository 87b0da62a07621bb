"""Retention: which checkpoints of a run to keep, and which of them is the best."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .records import CheckpointRecord

__all__ = ["Retention"]


@dataclass(frozen=True, slots=True)
class Retention:
    """Keeps the ``last`` n written (None: all), the ``best`` k by ``monitor``, and those of ``every`` n epochs."""

    last: int | None = None
    best: int = 1
    every: int | None = None
    monitor: str = "loss"
    mode: str = "min"

    def best_first(self, records: Iterable[CheckpointRecord]) -> list[CheckpointRecord]:
        """Return the complete records with a finite value of the monitor, the best first; of equals the earlier."""
        sign = 1 if self.mode == "min" else -1
        known = [record for record in records if record.complete and math.isfinite(self.value(record))]
        return sorted(known, key=lambda record: (sign * self.value(record), record.order))

    def value(self, record: CheckpointRecord) -> float:
        """Return the record's value of the monitor, NaN where it has none."""
        return record.metrics.get(self.monitor, math.nan)

    def surplus(self, records: Sequence[CheckpointRecord]) -> list[CheckpointRecord]:
        """Return the complete records that no rule keeps, the oldest first; others are nobody's to delete."""
        complete = sorted((record for record in records if record.complete), key=lambda record: record.order)
        if self.last is None:
            return []
        kept = {record.path for record in (*complete[-self.last :], *self.best_first(complete)[: self.best])}
        return [record for record in complete if record.path not in kept and not self._in_step(record)]

    def _in_step(self, record: CheckpointRecord) -> bool:
        return self.every is not None and record.epoch is not None and record.epoch % self.every == 0
