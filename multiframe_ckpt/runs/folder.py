"""CheckpointFolder: the folder of a run's checkpoints, by the names that a manager gives them.

    checkpoint_epoch_0050.pth     a checkpoint; ``names`` has what else it can be called
    latest_checkpoint.pth         points to the one that was written last
    best_model.pth                points to the best

There is no index that could go stale: what a checkpoint is, its own header says. Headers are read once and again only
where name, inode, size or time have changed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import chain, count
from pathlib import Path

from ..checkpoint.position import Position
from ..errors import FormatError, ReplacedError, TargetExistsError
from ..formats import require_replaceable
from ..storage.atomic import discard, sweep
from ..storage.consistency import retry_if_replaced
from ..storage.links import make_pointer, pointer_target
from .names import BEST, LATEST, name_stem, position_named, suffix_of, suffixes
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
        record = read_record(path, signature, named=position_named(path.name))
        if record.complete:
            self._known[path.name] = signature, record
        elif signature_of(path) != signature:
            raise ReplacedError(str(record.problem))
        return record  # a problem is not remembered: the disk may have failed, and not the checkpoint

    def path_of(self, stem: str, format: str) -> Path:
        """Return the path that a stem has in a format: with ``.pth`` for torch, without a suffix for folders."""
        return self.path / f"{stem}{suffix_of(format)}"

    def free_path(self, position: Position, format: str, save_count: int) -> Path:
        """Return the path for a save of this number: by its position alone where that is free, in whichever format."""
        taken = {name.partition(".")[0] for name in self._names()}
        stems = (name_stem(position, save) for save in chain([None], count(save_count)))
        paths = (self.path_of(stem, format) for stem in stems if stem not in taken)
        return next(path for path in paths if not os.path.lexists(path))

    def _names(self) -> list[str]:
        return (
            [name for name in os.listdir(self.path) if position_named(name) is not None] if self.path.is_dir() else []
        )

    def _pointers(self, *stems: str) -> Iterator[Path]:
        for stem in stems:
            for suffix in sorted(suffixes()):
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
        if pointer.is_symlink() and position_named(os.readlink(pointer)) is not None:
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
            (record.save_count, record.position, record.nbytes) == (copy.save_count, copy.position, copy.nbytes)
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
            ordered.insert(_place_by_position(ordered, record), record)
    return ordered


def _place_by_position(ordered: Sequence[CheckpointRecord], record: CheckpointRecord) -> int:
    """Return the index behind the last record of no later position."""
    places = enumerate((other.position.order for other in ordered), 1)
    return max((index for index, order in places if order <= record.position.order), default=0)
