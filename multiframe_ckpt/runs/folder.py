"""CheckpointFolder: the folder of a run's checkpoints, by the names that a manager gives them.

    checkpoint_epoch_0050.pth     a checkpoint; in a format of folders, a folder checkpoint_epoch_0050
    latest_checkpoint.pth         points to the one that was written last
    best_model.pth                points to the best

There is no index that could go stale: what a checkpoint is, its own header says. Headers are read once and again only
where name, inode, size or time have changed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from ..errors import FormatError, ReplacedError, TargetExistsError
from ..formats import FORMATS, format_named, require_replaceable
from ..storage.atomic import discard, sweep
from ..storage.consistency import retry_if_replaced
from ..storage.links import make_pointer, pointer_target
from .records import CheckpointRecord, Signature, read_record, signature_of

__all__ = ["BEST", "LATEST", "CheckpointFolder", "epoch_of"]

LATEST, BEST = "latest_checkpoint", "best_model"
_NAME = re.compile(r"checkpoint_epoch_([0-9]{4,})(\..+)?")
_USUAL_SUFFIX = ".pth"


@cache
def _suffixes() -> frozenset[str]:
    """Return every suffix that a checkpoint of ours can have, in whichever format it was written."""
    return frozenset({"", *(suffix for format_class in FORMATS.available() for suffix in format_class().suffixes)})


def epoch_of(name: str) -> int | None:
    """Return the epoch in a checkpoint's name, or None for a name that a manager does not give."""
    match = _NAME.fullmatch(name)
    if match is None or (match[2] or "") not in _suffixes():
        return None
    epoch = int(match[1])
    return epoch if match[1] == f"{epoch:04d}" else None


class CheckpointFolder:
    """The checkpoints in ``path``, which may not exist yet. Nothing is held but what headers said."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, tuple[Signature, CheckpointRecord]] = {}

    def records(self) -> list[CheckpointRecord]:
        """Return every checkpoint in the order in which they were written; unusable ones stand by their epoch."""
        return _in_order(retry_if_replaced(self.path, self._records_by_name))

    def _records_by_name(self) -> list[CheckpointRecord]:
        names = self._names()
        self._known = {name: known for name, known in self._known.items() if name in names}
        return [record for name in names if (record := self._record(name)) is not None]

    def _record(self, name: str) -> CheckpointRecord | None:
        """Return the record of a name, None for a link to nothing; raise ReplacedError where it went just now."""
        path = self.path / name
        try:
            return self._record_of(path, signature_of(path))
        except FileNotFoundError as problem:
            if path.is_symlink() and not path.exists():
                return None
            # It made room for a newer one, which may have come after the names were listed.
            raise ReplacedError(f"{path}: found it replaced or deleted while it was read") from problem

    def _record_of(self, path: Path, signature: Signature) -> CheckpointRecord:
        """Return what is known of a path with this signature, from its headers where nothing is."""
        known_signature, known = self._known.get(path.name, (None, None))
        if known is not None and known_signature == signature:
            return known
        record = read_record(path, signature, epoch=epoch_of(path.name))
        if record.complete:
            self._known[path.name] = signature, record
        elif signature_of(path) != signature:
            raise ReplacedError(str(record.problem))
        return record  # a problem is not remembered: the disk may have failed, and not the checkpoint

    def path_of(self, stem: str, format: str) -> Path:
        """Return the path that a stem has in a format: with ``.pth`` for torch, without a suffix for folders."""
        suffixes = format_named(format).suffixes
        suffix = _USUAL_SUFFIX if _USUAL_SUFFIX in suffixes else next(iter(suffixes), "")
        return self.path / f"{stem}{suffix}"

    def checkpoint_path(self, epoch: int, format: str) -> Path:
        """Return the path of an epoch's checkpoint."""
        return self.path_of(f"checkpoint_epoch_{epoch:04d}", format)

    def _names(self) -> list[str]:
        return [name for name in os.listdir(self.path) if epoch_of(name) is not None] if self.path.is_dir() else []

    def _pointers(self, *stems: str) -> Iterator[Path]:
        for stem in stems:
            for suffix in sorted(_suffixes()):
                if os.path.lexists(self.path / f"{stem}{suffix}"):
                    yield self.path / f"{stem}{suffix}"

    def pointed(self) -> dict[str, str]:
        """Return pointer → checkpoint, by their names, for every pointer there."""
        names = self._names()
        pairs = ((pointer.name, pointer_target(pointer, names)) for pointer in self._pointers(LATEST, BEST))
        return {pointer: name for pointer, name in pairs if name is not None}

    def point(self, stem: str, name: str) -> None:
        """Make the pointer stand for a checkpoint, and take away one that it had in another format."""
        pointer = self.path / f"{stem}{name.removeprefix(name.partition('.')[0])}"
        if pointer_target(pointer, [name]) is None:
            self._require_pointer(pointer)
            if pointer.is_dir() and not pointer.is_symlink():  # no link can be renamed onto a folder
                discard(pointer)
            make_pointer(pointer, name)
        for other in self._pointers(stem):
            if other != pointer and pointer_target(other, self._names()) is not None:
                other.unlink(missing_ok=True)

    def require_pointers(self, format: str) -> None:
        """Raise TargetExistsError where something of another's stands in the place of a pointer."""
        for stem in (LATEST, BEST):
            self._require_pointer(self.path_of(stem, format))

    def _require_pointer(self, pointer: Path) -> None:
        if not os.path.lexists(pointer) or pointer_target(pointer, self._names()) is not None:
            return
        if pointer.is_symlink() and epoch_of(os.readlink(pointer)) is not None:
            return
        if not pointer.is_symlink() and self._is_copy(pointer):
            return
        raise TargetExistsError(
            f"{pointer}: found something that is no pointer to a checkpoint of this folder, expected one or a free name; "
            "move it away, or choose another output_dir"
        )

    def _is_copy(self, pointer: Path) -> bool:
        """Return whether this is a checkpoint of the folder once more, as copying without links leaves it."""
        copy = read_record(pointer)
        return copy.save_count > 0 and any(
            (record.save_count, record.epoch, record.nbytes) == (copy.save_count, copy.epoch, copy.nbytes)
            for record in self.records()
        )

    def discard(self, record: CheckpointRecord) -> str | None:
        """Delete a checkpoint that a manager wrote and no pointer names; leave any other alone.

        Return why one is left alone that may hold something of the user's own.
        """
        if record.save_count == 0 or record.path.is_symlink() or record.path.name in self.pointed().values():
            return None
        try:
            doubt = _doubt(record)
            if doubt is None:
                discard(record.path)
        except FileNotFoundError:  # another process was faster
            return None
        return doubt

    def sweep(self) -> None:
        """Remove the temporaries that killed saves left here."""
        if self.path.is_dir():
            sweep(self.path)


def _doubt(record: CheckpointRecord) -> str | None:
    """Return why a checkpoint may not be ours alone to delete, None where it is: a file, or a folder of our files only."""
    if not record.path.is_dir():
        return None
    try:
        require_replaceable(record.path)
    except FormatError as problem:
        return str(problem)
    return None


def _in_order(records: Sequence[CheckpointRecord]) -> list[CheckpointRecord]:
    by_order = sorted(records, key=lambda record: record.order)
    ordered = [record for record in by_order if record.complete]
    for record in by_order:
        if not record.complete:
            ordered.insert(_place_by_epoch(ordered, record), record)
    return ordered


def _place_by_epoch(ordered: Sequence[CheckpointRecord], record: CheckpointRecord) -> int:
    """Return the index behind the last record of no later epoch."""
    epochs = [other.epoch or 0 for other in ordered]
    return max((index for index, epoch in enumerate(epochs, 1) if epoch <= (record.epoch or 0)), default=0)
