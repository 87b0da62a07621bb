"""CheckpointRecord: what a kept checkpoint's own header says of it. No tensor is read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..checkpoint import Checkpoint
from ..errors import MultiframeError
from ..training import find_parts

__all__ = ["SAVE_COUNT", "CheckpointRecord", "Signature", "numbers_of", "read_record", "signature_of"]

#: The entry that a manager adds: how many saves there were in this folder, this one counted. Clocks may go back.
SAVE_COUNT = "save_count"


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """One kept checkpoint. ``metrics`` has the loss and every number of the metrics, nested ones as ``val/loss``.

    ``problem`` says why the checkpoint cannot be used: it is damaged, its save never finished, or it holds what is
    refused. ``save_count`` is 0 for one that no manager wrote.
    """

    path: Path
    epoch: int | None
    step: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    nbytes: int = 0  # on disk
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
    def order(self) -> tuple[int, int, int]:
        """Sort records by when they were written: by save, and those of no manager before, by epoch."""
        return self.save_count, -1 if self.epoch is None else self.epoch, self.modified_ns


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
    newest = max((entry.st_mtime_ns for entry in inside), default=0)
    return Signature(top.st_ino, max(newest, top.st_mtime_ns), sum(entry.st_size for entry in inside), len(inside))


def read_record(path: Path, seen: Signature, *, epoch: int | None = None) -> CheckpointRecord:
    """Return the record of a checkpoint from its header; ``epoch`` counts where the header has none.

    Raise FileNotFoundError where it is gone.
    """
    bare = CheckpointRecord(path, epoch, nbytes=seen.nbytes, modified_ns=seen.modified_ns)
    try:
        checkpoint = Checkpoint.open(path)
        parts = find_parts(checkpoint.tree)
    except FileNotFoundError:
        raise
    except (MultiframeError, OSError) as problem:
        return replace(bare, problem=str(problem))
    plain = {name: part.tree for name in _PLAIN if (part := getattr(parts, name)) is not None}
    own = checkpoint.tree if isinstance(checkpoint.tree, Mapping) else {}
    return replace(
        bare,
        epoch=_integer(plain.get("epoch"), epoch),
        step=_integer(plain.get("step"), None),
        metrics=numbers_of(plain.get("metrics"), loss=plain.get("loss")),
        format=str(checkpoint.meta["format"]),
        has_optimizer=bool(parts.optimizers),
        timestamp=plain["timestamp"] if isinstance(plain.get("timestamp"), str) else None,
        save_count=_integer(own.get(SAVE_COUNT), None) or 0,
    )


_PLAIN = ("epoch", "step", "metrics", "loss", "timestamp")


def numbers_of(metrics: Any, *, loss: Any = None) -> dict[str, float]:
    """Return the loss and every number of the metrics by name; a nested one's names are joined by ``/``."""
    given = dict(_numbers({"loss": loss}))
    return given | dict(_numbers(metrics)) | given  # the loss first, and not that of the metrics


def _numbers(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, float]]:
    if isinstance(node, Mapping):
        for name, child in node.items():
            yield from _numbers(child, (*path, str(name)))
    elif isinstance(node, int | float) and not isinstance(node, bool) and path:
        yield "/".join(path), node


def _integer(value: Any, default: int | None) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else default
