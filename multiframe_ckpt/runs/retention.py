"""Retention: which checkpoints of a run to keep, and which of them is the best."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..checkpoint.position import Position
from ..errors import ValueRefusedError
from .clocks import Every, falls_on, require_at_least, require_every
from .records import CheckpointRecord

__all__ = ["Retention"]


@dataclass(frozen=True, slots=True)
class Retention:
    """Keeps the last ``max_to_keep`` written (None: all), and the ``keep_best`` best by ``monitor``.

    Those that fall on ``keep_every``, by their epoch or step, are kept too. ``mode`` is ``min`` where less is better, or
    ``max``.
    Raise ValueRefusedError for a number that is too small, and for a mode that is neither ``min`` nor ``max``.
    """

    max_to_keep: int | None = None
    keep_best: int = 1
    keep_every: Every | None = None
    monitor: str = "loss"
    mode: str = "min"

    def __post_init__(self) -> None:
        require_at_least("max_to_keep", self.max_to_keep, 1)
        require_at_least("keep_best", self.keep_best, 0)
        require_every("keep_every", self.keep_every)
        if self.mode not in ("min", "max"):
            raise ValueRefusedError(
                f"mode: found {self.mode!r}, expected 'min' (as for a loss) or 'max' (as for an accuracy)"
            )

    def best_first(self, records: Iterable[CheckpointRecord]) -> list[CheckpointRecord]:
        """Return the complete records with a finite value of the monitor, the best first; of equals the earlier."""
        sign = 1 if self.mode == "min" else -1
        comparable = [record for record in records if record.complete and math.isfinite(self._value(record))]
        return sorted(comparable, key=lambda record: (sign * self._value(record), record.order))

    def _value(self, record: CheckpointRecord) -> float:
        """Return the record's value of the monitor, NaN where it has none."""
        return record.metrics.get(self.monitor, math.nan)

    def surplus(self, records: Sequence[CheckpointRecord]) -> list[CheckpointRecord]:
        """Return the complete records that no rule keeps, the oldest first; others are nobody's to delete."""
        if self.max_to_keep is None:
            return []
        complete = sorted((record for record in records if record.complete), key=lambda record: record.order)
        kept = (*complete[-self.max_to_keep :], *self.best_first(complete)[: self.keep_best])
        paths = {record.path for record in kept}
        return [record for record in complete if record.path not in paths and not self._is_due(record)]

    def _is_due(self, record: CheckpointRecord) -> bool:
        return self.keep_every is not None and falls_on(self.keep_every, record.position, unnamed=False)

    def why_never_best(self, metrics: Mapping[str, float], position: Position) -> str | None:
        """Return why a checkpoint with these numbers cannot be the best; None where it can, or nobody asks for a best."""
        value = metrics.get(self.monitor)
        if not metrics or self.keep_best == 0 or (value is not None and not math.isnan(value)):
            return None
        names = f"nothing of that name, but {', '.join(sorted(metrics))}"
        return (
            f"monitor {self.monitor!r}: found {names if value is None else f'NaN at {position}'}, expected a number; "
            "such a checkpoint cannot be the best (keep_best=0 to have none)"
        )
