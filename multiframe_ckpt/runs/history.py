"""History: the checkpoints of a run as they were written, and which of them ``latest``, ``best`` or a number means.

What cannot be used is passed over. The methods that pass over something add to ``passed_over`` what it was and why, for
the public method to warn of.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import SupportsIndex, TypeAlias

from ..checkpoint import Checkpoint
from ..checkpoint.position import Clock
from ..checkpoint.restore import RestoreReport, restore
from ..checkpoint.run_state import RunState
from ..errors import DamagedError, ReplacedError, ValueRefusedError
from ..storage.transfer import read_through
from .folder import CheckpointFolder
from .records import CheckpointRecord, read_record
from .resume_point import ResumePoint
from .retention import Retention

__all__ = ["Chosen", "History", "Which"]

#: ``latest``, ``best``, an epoch or step as a number or its digits, the name of a checkpoint in the folder, or a path.
Which: TypeAlias = "str | SupportsIndex | os.PathLike[str]"


@dataclass(frozen=True, slots=True)
class Chosen:
    """A checkpoint that was opened, all of its bytes compared with their digests, and what its headers say."""

    record: CheckpointRecord
    checkpoint: Checkpoint

    def restore(self, live: RunState, *, rename: Sequence[str] = (), strict: bool) -> RestoreReport:
        """Load the parts of the run that are named; see ``Checkpoint.restore``."""
        return restore(self.checkpoint.tree, live, rename=rename, strict=strict, where=str(self.record.path))

    def resume(self, live: RunState, *, rename: Sequence[str] = (), strict: bool) -> ResumePoint:
        """Restore, and return where to go on; touch nothing where the headers do not say where that is."""
        ended = self.record.position
        if not ended.is_known:
            raise ValueRefusedError(
                f"{self.record.path}: found no epoch and no step, expected one to go on from; use restore(), and say where "
                "to begin"
            )
        return ResumePoint(self.record.path, ended, self.restore(live, rename=rename, strict=strict))


@dataclass(frozen=True, slots=True)
class History:
    """The checkpoints in a folder, by when they were written and by how good they are."""

    folder: CheckpointFolder
    retention: Retention

    def newest_first(self, passed_over: list[str]) -> list[CheckpointRecord]:
        """Return the complete ones, the last written first; newer ones that cannot be used are passed over."""
        records = self.folder.records()
        complete = [record for record in reversed(records) if record.complete]
        unusable = [record for record in records if not record.complete]
        newer = [record for record in unusable if not complete or _may_be_newer(record, complete[0])]
        passed_over += [f"passed over: {record.problem}" for record in newer]
        return complete

    def best_first(self) -> list[CheckpointRecord]:
        """Return the complete ones with a finite value of the monitor, the best first; of equals the earlier."""
        return self.retention.best_first(self.folder.records())

    def choose(self, which: Which, passed_over: list[str]) -> Chosen:
        """Open the checkpoint that is meant; a latest or best one that is damaged is passed over.

        Raise FileNotFoundError where there is none, DamagedError where the one of a number, name or path is damaged, and
        ReplacedError where another run deleted it meanwhile: choose again.
        """
        if which == "latest":
            return self._first_undamaged(self.newest_first(passed_over), "that is complete", passed_over)
        if which == "best":
            kind = f"with a value of {self.retention.monitor!r}"
            return self._first_undamaged(self.best_first(), kind, passed_over)
        if isinstance(which, SupportsIndex) or (isinstance(which, str) and which.isdecimal()):
            return _chosen(self._numbered(int(which)))
        if isinstance(which, str) and (named := self._named(which)) is not None:
            return _chosen(named)
        checkpoint = _verified(Path(which))
        return Chosen(read_record(Path(which)), checkpoint)

    def _numbered(self, number: int) -> CheckpointRecord:
        """Return the record of an epoch, the one after it before those within it; in a run that counts none, of a step."""
        records = self.folder.records()
        clock: Clock = "epoch" if not records or any(record.epoch is not None for record in records) else "step"
        matching = [record for record in records if getattr(record, clock) == number]
        after = [record for record in matching if record.position.clock == clock]
        if not matching:
            raise self._none(f"of {clock} {number}")
        return (after or matching)[-1]

    def _named(self, name: str) -> CheckpointRecord | None:
        names = ((record.path.name, record) for record in self.folder.records())
        return next((record for full, record in names if name in (full, full.partition(".")[0])), None)

    def _first_undamaged(self, records: Sequence[CheckpointRecord], kind: str, passed_over: list[str]) -> Chosen:
        for record in records:
            try:
                return _chosen(record)
            except ReplacedError:
                raise
            except DamagedError as problem:
                passed_over.append(f"passed over: {record.path}: {problem}")
        raise self._none(kind)

    def _none(self, kind: str) -> FileNotFoundError:
        return FileNotFoundError(
            f"{self.folder.path}: found no checkpoint {kind}, expected one; CheckpointManager.checkpoints() lists what is "
            "there: choose another, or check the folder"
        )


def _chosen(record: CheckpointRecord) -> Chosen:
    try:
        return Chosen(record, _verified(record.path))
    except FileNotFoundError as problem:
        raise ReplacedError(f"{record.path}: found it deleted by another run, expected it") from problem


def _verified(path: Path) -> Checkpoint:
    """Open a checkpoint after comparing all its bytes with their digests."""
    checkpoint = Checkpoint.open(path)
    for _ in read_through(checkpoint.tensors()):
        pass
    return checkpoint


def _may_be_newer(unusable: CheckpointRecord, complete: CheckpointRecord) -> bool:
    """Return whether a checkpoint that cannot be read may be newer than one that can: by its name, or by its time."""
    return unusable.position.order > complete.position.order or unusable.modified_ns > complete.modified_ns
