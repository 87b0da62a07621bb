"""verify: whether a checkpoint is whole, and everything of it that is damaged, missing, extra or without a digest."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..checkpoint import Checkpoint
from ..errors import DamagedError, FormatError, IncompleteError, ReplacedError
from ..formats import format_at
from ..formats.base import LeavesUnread, Unread
from ..storage.atomic import current_path
from ..storage.consistency import retry_if_replaced
from ..storage.parallel import in_parallel
from ..storage.transfer import read_once
from ..tree import LazyTensor, OpenedFile

__all__ = ["VerifyReport", "verify"]


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """Whether a checkpoint's bytes are whole, and what of it is not, or cannot be told to be.

    ``checked`` tensors were read and match their digest. ``unchecked`` are the keys of those without one: they were read
    as far as the layout lets errors show, such as sizes. ``damaged`` are the keys of tensors whose bytes cannot be read
    or are not the promised ones, ``missing`` what the checkpoint names and does not hold, ``extra`` what it holds and
    nothing names, which harms no one. ``problems`` says of each damage what was found, expected, and can be done.
    """

    path: str
    format: str
    tensors: int
    checked: int
    unchecked: tuple[str, ...]
    damaged: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether no problem was found."""
        return not self.problems

    @property
    def ok(self) -> bool:
        """The same as ``whole``."""
        return self.whole


def verify(path: str | os.PathLike[str], *, allow_unknown: bool = False) -> VerifyReport:
    """Read every byte once and compare it with what the file promises; damage and unfinished saves are in the report.

    Raise FileNotFoundError, and the other FormatErrors for what cannot be looked at: unknown, or refused as unsafe.
    """
    path = Path(path)
    return retry_if_replaced(path, lambda: _verified(path, allow_unknown=allow_unknown))


def _verified(path: Path, *, allow_unknown: bool) -> VerifyReport:
    place = current_path(path)
    layout = format_at(place)
    table, problem = _opened(path, layout.name, allow_unknown=allow_unknown)
    unread = Unread(getattr(problem, "extra", ()))
    if problem is None and isinstance(layout, LeavesUnread):
        try:
            unread = layout.unread(place, table)
        except DamagedError as found:
            problem = found
    damaged = {key: found for key, found in check_all({**table, **unread.copies}).items() if found is not None}
    for wrong in damaged.values():
        if isinstance(wrong, ReplacedError):
            raise wrong
    unchecked = [key for key, tensor in table.items() if key not in damaged and not _has_digest(tensor)]
    texts = [str(error).removeprefix(f"{path}: ") for error in (problem, *damaged.values()) if error is not None]
    return VerifyReport(
        path=str(path),
        format=layout.name,
        tensors=len(table),
        checked=len(table) - len(damaged.keys() & table.keys()) - len(unchecked),
        unchecked=tuple(unchecked),
        damaged=tuple(damaged),
        missing=getattr(problem, "missing", ()),
        extra=unread.extra,
        problems=tuple(dict.fromkeys(texts)),
    )


def _opened(path: Path, name: str, *, allow_unknown: bool) -> tuple[dict[str, LazyTensor], FormatError | None]:
    """Return the tensors, and what is wrong with the whole; then the tensors that can be looked at all the same."""
    try:
        return Checkpoint.open(path, format=name, allow_unknown=allow_unknown).tensors(), None
    except (DamagedError, IncompleteError) as problem:
        found = problem
    try:
        tree = Checkpoint.open(path, format=name, allow_unknown=allow_unknown, allow_incomplete=True)
    except FormatError:
        return {}, found
    return tree.tensors(), found


def check_all(table: Mapping[str, LazyTensor]) -> dict[str, FormatError | OSError | None]:
    """Read each tensor, the same bytes once and large ones several at a time; return what is wrong with it, or None."""
    first: dict[object, str] = {}  # several tensors may lie in one place
    for key, tensor in table.items():
        first.setdefault(_place(tensor), key)
    places, keys = list(first), list(first.values())
    found = in_parallel(lambda key: _check(key, table[key]), keys, lambda key: table[key].nbytes)
    problems = {places[at]: problem for at, problem in found}
    return {key: problems[_place(tensor)] for key, tensor in table.items()}


def _place(tensor: LazyTensor) -> object:
    inside = isinstance(tensor.source, OpenedFile)
    return (tensor.source, tensor.at, tensor.nbytes, tensor.digest) if inside else id(tensor)


def _check(key: str, tensor: LazyTensor) -> FormatError | OSError | None:
    try:
        read_once(key, tensor)
    except (FormatError, OSError) as problem:  # OSError: a disk that cannot read a sector
        return problem
    return None


def _has_digest(tensor: LazyTensor) -> bool:
    """Return whether something covers a tensor's bytes: its own digest, or that of the storage it looks into."""
    storage = tensor.view.storage.digest if tensor.view is not None else None
    return not tensor.nbytes or tensor.digest is not None or storage is not None
