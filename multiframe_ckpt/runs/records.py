"""CheckpointRecord: what a checkpoint's own headers say of it. No tensor is read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..checkpoint import Checkpoint
from ..checkpoint.position import Position, ended_on
from ..checkpoint.run_state import SAVE_COUNT
from ..errors import MultiframeError
from ..training import Part, TrainingParts, count_parameters, find_parts

__all__ = ["SAVE_COUNT", "CheckpointRecord", "Signature", "numbers_of", "read_record", "signature_of"]


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """One checkpoint; ``epoch`` and ``step`` are what it ended on, and ``within_epoch`` that the epoch was not done.

    ``metrics`` has the loss and every number of the metrics, nested ones as ``val/loss``.

    ``parameters`` is the number of elements of the weights, tied ones counted once; ``nbytes`` are the bytes on disk.
    ``problem`` says why the checkpoint cannot be used: it is damaged, its save never finished, or it holds what is
    refused. ``save_count`` is 0 for one that no manager wrote.
    """

    path: Path
    epoch: int | None
    step: int | None = None
    within_epoch: bool = False
    metrics: Mapping[str, float] = field(default_factory=dict)
    parameters: int = 0
    nbytes: int = 0
    format: str | None = None
    has_optimizer: bool = False
    timestamp: str | None = None
    save_count: int = 0
    modified_ns: int = 0
    problem: str | None = None

    @property
    def complete(self) -> bool:
        """Whether the checkpoint can be used, as far as its headers tell."""
        return self.problem is None

    @property
    def position(self) -> Position:
        """What the checkpoint ended on."""
        return Position(self.epoch, self.step, self.within_epoch)

    @property
    def order(self) -> tuple[object, ...]:
        """Sort records by when they were written: by save, and those of no manager before, by what they ended on."""
        return self.save_count, self.position.order, self.modified_ns


@dataclass(frozen=True, slots=True)
class Signature:
    """Equal for a path that nobody wrote to between two looks."""

    inode: int
    modified_ns: int
    nbytes: int
    files: int = 1


def signature_of(path: Path) -> Signature:
    """Return the signature of a file, or of a folder with all in it."""
    top = path.stat()
    if not path.is_dir():
        return Signature(top.st_ino, top.st_mtime_ns, top.st_size)
    inside = [os.lstat(os.path.join(folder, name)) for folder, _, names in os.walk(path) for name in names]
    newest_ns = max((entry.st_mtime_ns for entry in inside), default=0)
    nbytes = sum(entry.st_size for entry in inside)
    return Signature(top.st_ino, max(newest_ns, top.st_mtime_ns), nbytes, len(inside))


def read_record(path: Path, signature: Signature | None = None, *, named: Position | None = None) -> CheckpointRecord:
    """Return the record of the checkpoint at a path, which may be one that cannot be used: then with its ``problem``.

    ``signature`` is the path's, for a caller who has it; ``named`` is the position in its name, which counts where the
    headers have none. Raise FileNotFoundError where nothing is there.
    """
    signature = signature or signature_of(path)
    bare = _placed(CheckpointRecord(path, None, nbytes=signature.nbytes, modified_ns=signature.modified_ns), named)
    try:
        checkpoint = Checkpoint.open(path)
        parts = find_parts(checkpoint.tree)
        position = ended_on(parts)
    except FileNotFoundError:
        raise
    except (MultiframeError, OSError) as problem:
        return replace(bare, problem=str(problem))
    return _filled(_placed(bare, position), checkpoint, parts)


def _placed(record: CheckpointRecord, position: Position | None) -> CheckpointRecord:
    if position is None or not position.is_known:
        return record
    return replace(record, epoch=position.epoch, step=position.step, within_epoch=position.within_epoch)


def _filled(bare: CheckpointRecord, checkpoint: Checkpoint, parts: TrainingParts) -> CheckpointRecord:
    entries: Mapping[object, object] = checkpoint.tree if isinstance(checkpoint.tree, Mapping) else {}
    timestamp = _value(parts.timestamp)
    return replace(
        bare,
        metrics=numbers_of(_value(parts.metrics), loss=_value(parts.loss)),
        parameters=count_parameters(parts),
        format=str(checkpoint.meta["format"]),
        has_optimizer=bool(parts.optimizers),
        timestamp=timestamp if isinstance(timestamp, str) else None,
        save_count=_integer(entries.get(SAVE_COUNT)),
    )


def _value(part: Part | None) -> object:
    return None if part is None else part.tree


def numbers_of(metrics: object, *, loss: object = None) -> dict[str, float]:
    """Return the loss and every number of the metrics by name; a nested one's names are joined by ``/``."""
    of_loss = dict(_numbers({"loss": loss}))
    return of_loss | dict(_numbers(metrics)) | of_loss  # the loss first, and not that of the metrics


def _numbers(node: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, float]]:
    if isinstance(node, Mapping):
        for name, child in node.items():
            yield from _numbers(child, (*path, str(name)))
    elif isinstance(node, int | float) and not isinstance(node, bool) and path:
        yield "/".join(path), node


def _integer(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
