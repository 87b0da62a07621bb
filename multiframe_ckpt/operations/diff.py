"""diff: where two checkpoints differ, key by key; of two runs, in one dialect."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..checkpoint import Checkpoint
from ..errors import KeyRefusedError, MultiframeError, UnknownNameError
from ..terminal.report import Report
from ..terminal.text import bulleted
from ..training import choose_weights, dialect_named, dialects_to_write, frameworks_of, translate
from ..tree import TOP, LazyTensor, Tree, join_key, leaves, tensors
from ..tree.rules import Select, parse_rename
from .differences import Change, Tolerance, compare
from .inspect import opened
from .rules import Rules

__all__ = ["AS_IS", "DiffReport", "diff"]

#: The dialect that is none: optimizers and schedulers are compared as the checkpoints have them.
AS_IS = "as-is"


@dataclass(frozen=True, slots=True, repr=False)
class DiffReport(Report):
    """Where two checkpoints differ: keys only in B (added), only in A (removed), and in both but unlike (changed).

    ``dialect`` is the one in which the runs were compared that are of different frameworks, None where both stayed as they
    are. ``near`` counts the tensors that differ within the tolerances.
    """

    a: str
    b: str
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[Change, ...]
    same: int
    largest: float  # between finite elements of every tensor compared, equal within the tolerances or not
    near: int = 0
    dialect: str | None = None

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not (self.added or self.removed or self.changed)

    @property
    def exact(self) -> bool:
        """Whether nothing differs, and no tensor even within the tolerances."""
        return self.equal and not self.near

    @property
    def ok(self) -> bool:
        """The same as ``equal``."""
        return self.equal

    @property
    def headline(self) -> str:
        """Same or different, and how many of each."""
        largest = f"; largest difference {self.largest:.6g}" if self.largest else ""
        if self.equal:
            near = f", {self.near:,} of them within the tolerance" if self.near else ""
            return f"same: all {self.same:,} tensors and values{near}{largest}"
        counts = {"removed": self.removed, "added": self.added, "changed": self.changed}
        differing = ", ".join(f"{len(keys):,} {what}" for what, keys in counts.items() if keys)
        return f"different: {differing}, {self.same:,} the same{largest}"

    def lines(self, *, columns: int | None = None, more: str = "") -> Iterator[str]:
        """Yield every key that differs, and how."""
        sections = {
            f"only in {self.a}": [key or TOP for key in self.removed],
            f"only in {self.b}": [key or TOP for key in self.added],
            "changed": list(map(str, self.changed)),
        }
        for title, items in sections.items():
            if items:
                yield f"{title} ({len(items):,}):"
                yield from bulleted(items)
        if self.dialect is not None:
            title = dialect_named(self.dialect).title
            yield f"optimizers and schedulers compared as {title} has them; as they are: dialect={AS_IS!r}"
        yield self.headline


def diff(
    a: Checkpoint | str | os.PathLike[str],
    b: Checkpoint | str | os.PathLike[str],
    *,
    rtol: float = 0.0,
    atol: float = 0.0,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    rename: Sequence[str] = (),
    model_only: bool | str = False,
    dialect: str | None = None,
) -> DiffReport:
    """Compare two checkpoints, or those at two paths, of any formats and frameworks, key by key.

    With both tolerances 0 tensors are compared bit for bit, NaN payloads and signs of zero included; otherwise values
    differ where ``|a - b| > atol + rtol * |b|``, and NaN equals NaN. A dtype or shape that differs is a change.

    Runs of two frameworks are compared in the ``dialect`` of A: what that leaves no room for, such as how a step is run, is
    no difference. ``"as-is"`` compares optimizers and schedulers as they are, the name of a dialect in that one.
    ``include``, ``exclude``, ``rename`` and ``model_only`` are followed for A as ``convert`` does, so that A is compared
    with what a conversion by them made; for B those that its keys match, but for new names.
    """
    a, b = opened(a), opened(b)
    select, renames = Select(tuple(include), tuple(exclude)), tuple(map(parse_rename, rename))
    left, right = a.tree, b.tree
    if model_only or include or exclude or renames:
        left, _ = Rules(select, renames=renames, model_only=model_only).apply(left)
        right, _ = Rules(_matching(select, right, model_only), model_only=_model_in(right, model_only)).apply(right)
    left, right, common = _in_one_dialect(left, right, dialect)
    return replace(
        _compared(_entries(left), _entries(right), Tolerance(rtol, atol)),
        a=str(a.meta.get("path", "a")),
        b=str(b.meta.get("path", "b")),
        dialect=common,
    )


def _compared(left: dict[str, Tree], right: dict[str, Tree], tolerance: Tolerance) -> DiffReport:
    changed: list[Change] = []
    largest, near, both = 0.0, 0, [key for key in left if key in right]
    for key in both:
        change, distance = compare(key, left[key], right[key], tolerance)
        largest = max(largest, distance or 0.0)
        near += change is None and distance is not None
        changed += [change] if change else []
    added, removed = (tuple(key for key in one if key not in other) for one, other in ((right, left), (left, right)))
    return DiffReport("a", "b", added, removed, tuple(changed), len(both) - len(changed), largest, near)


def _entries(tree: Tree) -> dict[str, Tree]:
    values = {join_key(path): leaf for path, leaf in leaves(tree) if not isinstance(leaf, LazyTensor)}
    return {**tensors(tree), **values}


def _model_in(tree: Tree, which: bool | str) -> bool | str:
    """Return which weights to take of the other side, which may be those alone."""
    if not isinstance(which, str):
        return which
    try:
        choose_weights(tree, which)
    except KeyRefusedError:
        return True
    return which


def _matching(select: Select, tree: Tree, model_only: bool | str) -> Select:
    """Return the globs that match a key of the other side: one that a conversion made has no key that was left out."""
    taken, _ = Rules(model_only=_model_in(tree, model_only)).apply(tree)
    keys = list(tensors(taken))

    def matching(globs: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(glob for glob in globs if Select((glob,)).takes_any(keys))

    return Select(matching(select.include), matching(select.exclude))


def _in_one_dialect(left: Tree, right: Tree, dialect: str | None) -> tuple[Tree, Tree, str | None]:
    """Return both trees in one dialect, and which, or as they are; A goes through that of B and back, as B has come."""
    if dialect == AS_IS:
        return left, right, None
    if dialect is not None:
        if dialect not in dialects_to_write():
            names = ", ".join(map(repr, (AS_IS, *dialects_to_write())))
            raise UnknownNameError(f"dialect={dialect!r}: found no dialect of this name, expected one of {names}")
        return _translated(left, dialect), _translated(right, dialect), dialect
    own, other = frameworks_of(left), frameworks_of(right)
    if own == other or not (own and other) or not {*own, *other} <= {*dialects_to_write()}:
        return left, right, None
    there, here = min(other), min(own)
    return _translated(_translated(left, there), here), _translated(right, here), here


def _translated(tree: Tree, dialect: str) -> Tree:
    try:
        return translate(tree, to=dialect, strict=False, keep=True)[0]
    except MultiframeError:  # a damaged state is compared as it is
        return tree
