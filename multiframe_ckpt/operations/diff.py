"""diff: where two checkpoints differ, key by key."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..checkpoint import Checkpoint
from ..terminal.report import Report
from ..terminal.text import bulleted, short_repr
from ..tree import TOP, LazyTensor, Tree, join_key, leaves
from ..tree.digests import chunks_of
from .inspect import opened

__all__ = ["Change", "DiffReport", "diff"]


@dataclass(frozen=True, slots=True)
class Change:
    """One key that differs: ``found`` in A against ``expected`` in B; ``largest`` is the largest absolute difference."""

    key: str
    found: str
    expected: str
    largest: float | None = None

    def __str__(self) -> str:
        key = self.key or TOP
        if self.largest is None:
            return f"{key}: {self.found} -> {self.expected}"
        return f"{key}: {self.found}, {self.expected}, by at most {self.largest:.6g}"


@dataclass(frozen=True, slots=True, repr=False)
class DiffReport(Report):
    """Where two checkpoints differ: keys only in B (added), only in A (removed), and in both but unlike (changed)."""

    a: str
    b: str
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[Change, ...]
    same: int
    largest: float  # over every tensor compared, equal within the tolerances or not

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not (self.added or self.removed or self.changed)

    @property
    def ok(self) -> bool:
        """The same as ``equal``."""
        return self.equal

    @property
    def headline(self) -> str:
        """Same or different, and how many of each."""
        largest = f"; largest difference {self.largest:.6g}" if self.largest else ""
        if self.equal:
            return f"same: all {self.same:,} tensors and values{largest}"
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
        yield self.headline


def diff(
    a: Checkpoint | str | os.PathLike[str],
    b: Checkpoint | str | os.PathLike[str],
    *,
    rtol: float = 0.0,
    atol: float = 0.0,
) -> DiffReport:
    """Compare two checkpoints, or those at two paths, of any formats and frameworks, key by key.

    With both tolerances 0 tensors are compared bit for bit, NaN payloads and signs of zero included; otherwise values
    differ where ``|a - b| > atol + rtol * |b|``, and NaN equals NaN. A dtype or shape that differs is a change.
    """
    a, b = opened(a), opened(b)
    left, right = _entries(a), _entries(b)
    changed: list[Change] = []
    largest = 0.0
    for key in left:
        if key in right:
            change, distance = _compare(key, left[key], right[key], rtol, atol)
            largest = max(largest, distance)
            changed += [change] if change else []
    both = sum(key in right for key in left)
    return DiffReport(
        a=str(a.meta.get("path", "a")),
        b=str(b.meta.get("path", "b")),
        added=tuple(key for key in right if key not in left),
        removed=tuple(key for key in left if key not in right),
        changed=tuple(changed),
        same=both - len(changed),
        largest=largest,
    )


def _entries(checkpoint: Checkpoint) -> dict[str, Tree]:
    values = {join_key(path): leaf for path, leaf in leaves(checkpoint.tree) if not isinstance(leaf, LazyTensor)}
    return {**checkpoint.tensors(), **values}


def _compare(key: str, a: Tree, b: Tree, rtol: float, atol: float) -> tuple[Change | None, float]:
    if not (isinstance(a, LazyTensor) and isinstance(b, LazyTensor)):
        same = type(a) is type(b) and (a == b or (a != a and b != b))
        return (None if same else Change(key, _described(a), _described(b))), 0.0
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return Change(key, _described(a), _described(b)), 0.0
    x, y = a.numpy(), b.numpy()
    if all(map(np.array_equal, _chunks(x), _chunks(y))):
        return None, 0.0
    wide = np.complex128 if a.dtype.kind == "complex" else np.float64
    with np.errstate(invalid="ignore", over="ignore"):  # a signalling NaN is invalid in every cast
        p, q = x.astype(wide), y.astype(wide)
        gap = np.where((p == q) | (np.isnan(p) & np.isnan(q)), 0.0, np.abs(p - q))
        near = np.isfinite(gap) & (gap <= atol + rtol * np.abs(q))  # nothing finite is near infinity
        within = (rtol or atol) and bool(np.all((gap == 0) | near))
    largest = float("inf") if np.isnan(gap).any() else float(gap.max())
    count = int(np.count_nonzero(gap)) or int(np.count_nonzero(_bits(x) != _bits(y)))
    change = Change(key, _described(a), f"{count} of {a.size} values differ", largest)
    return (None if within else change), largest


def _chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    return (np.frombuffer(chunk, np.uint8) for chunk in chunks_of(array))


def _bits(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(f"V{array.dtype.itemsize}")


def _described(leaf: Tree) -> str:
    return f"{leaf.dtype.name} {leaf.shape}" if isinstance(leaf, LazyTensor) else short_repr(leaf)
