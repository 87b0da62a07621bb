"""verify: whether a checkpoint is whole, and everything of it that is damaged, missing, extra or without a digest."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import DamagedError, FormatError, IncompleteError, ReplacedError
from ..formats import ReadOptions, Unread, format_at, open_path
from ..storage.atomic import current_path
from ..storage.consistency import retry_if_replaced
from ..storage.parallel import in_parallel
from ..storage.paths import path_of
from ..storage.transfer import read_once
from ..terminal.text import bulleted, plural
from ..training import Carried, RunVerdict, VerdictReport, judge_move
from ..tree import TOP, Elementwise, LazyTensor, Strided, Tree, tensors

__all__ = ["VerifyReport", "verify"]


@dataclass(frozen=True, slots=True, repr=False)
class VerifyReport(VerdictReport):
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
    run: RunVerdict = field(default_factory=RunVerdict)

    @property
    def exact(self) -> bool:
        """Whether every tensor is the one that was written, bit for bit, as its digest says."""
        return self.whole and not self.unchecked

    @property
    def exact_because(self) -> str:
        """The verdict on exactness as a sentence."""
        if self.exact:
            return f"all of {plural(self.tensors, 'tensor')} match their digest"
        problems = f"{plural(len(self.problems), 'problem')} found" if self.problems else ""
        without = f"{len(self.unchecked):,} without a digest to compare with" if self.unchecked else ""
        return ", ".join(filter(None, (problems, without)))

    @property
    def whole(self) -> bool:
        """Whether no problem was found."""
        return not self.problems

    @property
    def ok(self) -> bool:
        """The same as ``whole``."""
        return self.whole

    @property
    def headline(self) -> str:
        """Whole, damaged, or without the digests by which that could be told."""
        if not self.whole:
            return f"{self.path}: damaged"
        has_digests = self.checked or not self.unchecked
        verdict = "whole" if has_digests else "no digests in this file; structure and sizes are right"
        return f"{self.path} ({self.format}): {verdict}"

    def lines(self, *, columns: int | None = None, more: str = "") -> Iterator[str]:
        """Yield the damage, how many tensors match their digest, and what is missing or extra."""
        yield self.headline
        yield from bulleted(self.problems)
        if self.checked or not self.unchecked or self.problems:
            without = f"; {len(self.unchecked):,} have none, and were read all the same" if self.unchecked else ""
            yield f"{self.checked:,} of {plural(self.tensors, 'tensor')} match their digest{without}"
        sections = {"missing": self.missing, "extra, named by nothing and left alone": self.extra}
        for title, items in sections.items():
            if items:
                yield f"{title} ({len(items):,}):"
                yield from bulleted([item or TOP for item in items])
        if self.problems and self.resumable is not None:
            yield f"{'resumable' if self.resumable else 'not resumable'}: {self.resumable_because}"


def verify(path: str | os.PathLike[str]) -> VerifyReport:
    """Read every byte once and compare it with what the file promises; damage and unfinished saves are in the report.

    Raise FileNotFoundError, and the other FormatErrors for what cannot be looked at: unknown, or refused as unsafe.
    """
    path = path_of(path)
    return retry_if_replaced(path, lambda: _verified(path))


def _verified(path: Path) -> VerifyReport:
    look = _looked_at(path, ReadOptions())
    damaged = {key: problem for key, problem in check_all({**look.table, **look.unread.copies}).items() if problem}
    for problem in damaged.values():
        if isinstance(problem, ReplacedError):
            raise problem
    unchecked = [key for key, tensor in look.table.items() if key not in damaged and not tensor.is_covered]
    texts = [str(error).removeprefix(f"{path}: ") for error in (look.problem, *damaged.values()) if error is not None]
    return VerifyReport(
        path=str(path),
        format=look.format,
        tensors=len(look.table),
        checked=len(look.table) - len(damaged.keys() & look.table.keys()) - len(unchecked),
        unchecked=tuple(unchecked),
        damaged=tuple(damaged),
        missing=look.problem.missing if look.problem else (),
        extra=look.unread.extra,
        problems=tuple(dict.fromkeys(texts)),
        run=judge_move(look.tree, look.tree, Carried(losses=dict.fromkeys(damaged, "damaged"))),
    )


@dataclass(frozen=True, slots=True)
class _Look:
    """What headers say of a checkpoint, as far as they can be read, and what is wrong with the whole."""

    format: str
    tree: Tree
    table: Mapping[str, LazyTensor]
    unread: Unread
    problem: FormatError | None = None


def _looked_at(path: Path, options: ReadOptions) -> _Look:
    try:
        format, opened = open_path(path, None, options)
    except (DamagedError, IncompleteError) as problem:
        return _what_is_left(path, options, problem)
    table = tensors(opened.tree)
    try:
        return _Look(format.name, opened.tree, table, opened.unread())
    except DamagedError as problem:
        return _Look(format.name, opened.tree, table, Unread(), problem)


def _what_is_left(path: Path, options: ReadOptions, problem: DamagedError | IncompleteError) -> _Look:
    """Return the tensors that can be looked at all the same."""
    unread = Unread(problem.extra)
    try:
        format, opened = open_path(path, None, replace(options, allow_incomplete=True))
    except FormatError:
        return _Look(format_at(current_path(path)).name, {}, {}, unread, problem)
    return _Look(format.name, opened.tree, tensors(opened.tree), unread, problem)


def check_all(table: Mapping[str, LazyTensor]) -> dict[str, FormatError | OSError | None]:
    """Read each tensor, the same bytes once and large ones several at a time; return what is wrong with it, or None."""
    table = {key: stored(tensor) for key, tensor in table.items()}
    place_of = {key: _place(tensor) for key, tensor in table.items()}
    first: dict[object, str] = {}  # several tensors may lie in one place
    for key, place in place_of.items():
        first.setdefault(place, key)
    places, keys = list(first), list(first.values())
    checks = in_parallel(lambda key: _check(key, table[key]), keys, lambda key: table[key].nbytes)
    problems = {places[number]: problem for number, problem in checks}
    return {key: problems[place] for key, place in place_of.items()}


def stored(tensor: LazyTensor) -> LazyTensor:
    """Return what there is to read of a tensor: of an expanded one, its storage, and not the same bytes over and over."""
    source = tensor.source
    if isinstance(source, Strided) and source.is_expanded:
        return stored(source.storage)
    if isinstance(source, Elementwise) and tensor.digest is None:
        base = stored(source.base)
        return tensor if base is source.base else base
    return tensor


def _place(tensor: LazyTensor) -> object:
    place = tensor.source.place
    return id(tensor) if place is None else (place, tensor.digest)


def _check(key: str, tensor: LazyTensor) -> FormatError | OSError | None:
    try:
        read_once(key, tensor)
    except (FormatError, OSError) as problem:  # OSError: a disk that cannot read a sector
        return problem
    return None
