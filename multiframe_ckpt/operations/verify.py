"""verify: whether a checkpoint is whole, and everything of it that is damaged, missing, extra or without a digest."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import DamagedError, FormatError, IncompleteError, ReplacedError
from ..formats import ReadOptions, Unread, format_at, open_path
from ..storage.atomic import current_path
from ..storage.consistency import retry_if_replaced
from ..storage.parallel import in_parallel
from ..storage.transfer import read_once
from ..tree import LazyTensor, tensors

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
    return retry_if_replaced(path, lambda: _checked(path, _opened(path, ReadOptions(allow_unknown=allow_unknown))))


@dataclass(frozen=True, slots=True)
class _Opened:
    """What can be looked at of a checkpoint, what reading leaves of it, and what is wrong with the whole, if anything."""

    format: str
    tensors: Mapping[str, LazyTensor]
    unread: Unread
    problem: FormatError | None = None


def _opened(path: Path, options: ReadOptions) -> _Opened:
    """Open what can be opened, of an unfinished or damaged checkpoint too."""
    try:
        format, opened = open_path(path, None, options)
    except (DamagedError, IncompleteError) as problem:
        return _what_is_left(path, options, problem)
    table = tensors(opened.tree)
    try:
        return _Opened(format.name, table, opened.unread())
    except DamagedError as problem:
        return _Opened(format.name, table, Unread(), problem)


def _what_is_left(path: Path, options: ReadOptions, problem: FormatError) -> _Opened:
    """Return the tensors that can be looked at all the same."""
    unread = Unread(problem.extra)
    try:
        format, opened = open_path(path, None, replace(options, allow_incomplete=True))
    except FormatError:
        return _Opened(format_at(current_path(path)).name, {}, unread, problem)
    return _Opened(format.name, tensors(opened.tree), unread, problem)


def _checked(path: Path, opened: _Opened) -> VerifyReport:
    """Read every tensor, and every copy of one, and say what is wrong."""
    table = opened.tensors
    problems = check_all({**table, **opened.unread.copies})
    damaged = {key: problem for key, problem in problems.items() if problem is not None}
    for problem in damaged.values():
        if isinstance(problem, ReplacedError):
            raise problem
    unchecked = [key for key, tensor in table.items() if key not in damaged and not tensor.is_covered]
    whole = [] if opened.problem is None else [opened.problem]
    texts = [str(problem).removeprefix(f"{path}: ") for problem in (*whole, *damaged.values())]
    return VerifyReport(
        path=str(path),
        format=opened.format,
        tensors=len(table),
        checked=len(table) - len(damaged.keys() & table.keys()) - len(unchecked),
        unchecked=tuple(unchecked),
        damaged=tuple(damaged),
        missing=opened.problem.missing if opened.problem else (),
        extra=opened.unread.extra,
        problems=tuple(dict.fromkeys(texts)),
    )


def check_all(table: Mapping[str, LazyTensor]) -> dict[str, FormatError | OSError | None]:
    """Read each tensor, the same bytes once and large ones several at a time; return what is wrong with it, or None."""
    place_of = {key: _place(tensor) for key, tensor in table.items()}
    first: dict[object, str] = {}  # several tensors may lie in one place
    for key, place in place_of.items():
        first.setdefault(place, key)
    places, keys = list(first), list(first.values())
    checks = in_parallel(lambda key: _check(key, table[key]), keys, lambda key: table[key].nbytes)
    problems = {places[number]: problem for number, problem in checks}
    return {key: problems[_place(tensor)] for key, tensor in table.items()}


def _place(tensor: LazyTensor) -> object:
    place = tensor.source.place
    return id(tensor) if place is None else (place, tensor.digest)


def _check(key: str, tensor: LazyTensor) -> FormatError | OSError | None:
    try:
        read_once(key, tensor)
    except (FormatError, OSError) as problem:  # OSError: a disk that cannot read a sector
        return problem
    return None
