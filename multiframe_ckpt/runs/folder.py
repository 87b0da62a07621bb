"""CheckpointFolder: the folder of a run's checkpoints, by the names that a manager gives them.

    checkpoint_epoch_0050.pth     a checkpoint; ``names`` has what else it can be called
    latest_checkpoint.pth         points to the one that was written last
    best_model.pth                points to the best

There is no index that could go stale: what a checkpoint is, its own header says. Headers are read once and again only
where name, inode, size or time have changed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, count
from pathlib import Path

from ..checkpoint.position import Position
from ..errors import FormatError, ReplacedError
from ..formats import require_replaceable
from ..storage.atomic import discard, sweep
from ..storage.consistency import retry_if_replaced
from ..storage.links import pointer_target
from .names import BEST, LATEST, name_stem, pointer_stem, position_named, suffix_of
from .records import CheckpointRecord, Signature, read_record, signature_of

__all__ = ["CheckpointFolder"]


class CheckpointFolder:
    """The checkpoints in ``path``, which may not exist yet. Nothing is held but what headers said."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, tuple[Signature, CheckpointRecord]] = {}

    def records(self) -> list[CheckpointRecord]:
        """Return every checkpoint in the order in which they were written; unusable ones stand by their name."""
        return _in_order(retry_if_replaced(self.path, self._records_by_name))

    def _records_by_name(self) -> list[CheckpointRecord]:
        alone = [pointer.name for pointer in self._standing_alone()]
        names = self.names()
        self._known = {name: known for name, known in self._known.items() if name in (*names, *alone)}
        records: list[CheckpointRecord] = []
        for name in (*names, *alone):
            record = self.record(name)
            if record is not None and (name not in alone or _counts(record, records)):
                records.append(record)
        return records

    def _standing_alone(self) -> Iterator[Path]:
        """Yield the pointers that are checkpoints themselves, as one is that was copied or fetched without links."""
        for pointer in self.pointers():
            if not pointer.is_symlink() and pointer_target(pointer, self.names()) is None:
                yield pointer

    def record(self, name: str) -> CheckpointRecord | None:
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
        record = read_record(path, signature, named=position_named(path.name))
        if record.complete:
            self._known[path.name] = signature, record
        elif signature_of(path) != signature:
            raise ReplacedError(str(record.problem))
        return record  # a problem is not remembered: the disk may have failed, and not the checkpoint

    def path_of(self, stem: str, format: str) -> Path:
        """Return the path that a stem has in a format: with ``.pth`` for torch, without a suffix for folders."""
        return self.path / f"{stem}{suffix_of(format)}"

    def free_path(self, position: Position, like: str, save_count: int) -> Path:
        """Return the path for a save of this number, by its position alone where that is free, in whichever format.

        Its suffix is that of the name ``like``.
        """
        suffix = like.removeprefix(like.partition(".")[0])
        taken = {name.partition(".")[0] for name in self.names()}
        stems = (name_stem(position, save) for save in chain([None], count(save_count)))
        paths = (self.path / f"{stem}{suffix}" for stem in stems if stem not in taken)
        return next(path for path in paths if not os.path.lexists(path))

    def names(self) -> list[str]:
        """Return the names there that a manager gives checkpoints."""
        return [name for name in self._listed() if position_named(name) is not None]

    def pointers(self, *stems: str) -> list[Path]:
        """Return what stands under a pointer's name, of these stems or of both, links to nothing too."""
        return [self.path / name for name in sorted(self._listed()) if pointer_stem(name) in (stems or (LATEST, BEST))]

    def _listed(self) -> list[str]:
        return os.listdir(self.path) if self.path.is_dir() else []

    def pointed(self) -> dict[str, str]:
        """Return pointer → checkpoint, by their names; one that stands alone is its own."""
        alone, names = set(self._standing_alone()), self.names()
        pairs = (
            (pointer.name, pointer.name if pointer in alone else pointer_target(pointer, names))
            for pointer in self.pointers()
        )
        return {pointer: name for pointer, name in pairs if name is not None}

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


def _counts(alone: CheckpointRecord, records: Iterable[CheckpointRecord]) -> bool:
    """Return whether what stands under a pointer's name is a checkpoint of the run that is not among the records.

    Copying without links leaves one twice. A ``best_model`` that no manager wrote may be anything.
    """
    if alone.save_count > 0:
        return all(_save(other) != _save(alone) for other in records)
    return pointer_stem(alone.path.name) == LATEST


def _save(record: CheckpointRecord) -> tuple[object, ...]:
    return record.save_count, record.position, record.nbytes, record.timestamp


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
            ordered.insert(_place_by_position(ordered, record), record)
    return ordered


def _place_by_position(ordered: Sequence[CheckpointRecord], record: CheckpointRecord) -> int:
    """Return the index behind the last record of no later position."""
    places = enumerate((other.position.order for other in ordered), 1)
    return max((index for index, order in places if order <= record.position.order), default=0)
