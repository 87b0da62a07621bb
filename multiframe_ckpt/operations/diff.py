"""diff: where two checkpoints differ, key by key."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..checkpoint import Checkpoint
from ..storage.parallel import SMALL_NBYTES
from ..storage.transfer import data_spans, read_span, recut
from ..terminal.report import Report
from ..terminal.text import bulleted, short_repr
from ..tree import TOP, LazyTensor, Strided, Tree, join_key, leaves
from ..tree.digests import PIECE, bytes_of
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
    x, y = _without_repeats(a, b)
    found = [_distance(*pair, rtol, atol) for pair in _unlike_pieces(x, y)]
    if not found:
        return None, 0.0
    largest = max(one.largest for one in found)
    count = (sum(one.values for one in found) or sum(one.bits for one in found)) * (a.size // x.size)
    if (rtol or atol) and all(one.is_within for one in found):
        return None, largest
    return Change(key, _described(a), f"{count} of {a.size} values differ", largest), largest


def _without_repeats(a: LazyTensor, b: LazyTensor) -> tuple[LazyTensor, LazyTensor]:
    """Return what is to be compared of two tensors: where both repeat the same few elements, these once."""
    parts = [tensor[_once(tensor.source)] for tensor in (a, b) if isinstance(tensor.source, Strided)]
    if len(parts) < 2 or parts[0].shape != parts[1].shape or parts[0].shape == a.shape:
        return a, b
    for tensor in (a, b):
        tensor.compare_once(memoryview(bytearray(PIECE)))  # parts are not compared with digests
    return parts[0], parts[1]


def _once(view: Strided) -> tuple[slice, ...]:
    return tuple(slice(0, 1) if step == 0 else slice(None) for step in view.strides)


def _unlike_pieces(a: LazyTensor, b: LazyTensor) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read both, piece by piece, and yield those elements of the same place whose bits are not the same."""
    for pair in _pairs(a, b):
        x, y = (np.frombuffer(piece, np.uint8) for piece in pair)
        if not np.array_equal(x, y):
            yield x.view(a.dtype.numpy), y.view(b.dtype.numpy)


def _pairs(a: LazyTensor, b: LazyTensor) -> Iterator[tuple[memoryview, ...]]:
    """Yield the bytes of both, as many of each at a time: those of small tensors at once."""
    if a.nbytes <= SMALL_NBYTES:
        return iter([(bytes_of(a.numpy()), bytes_of(b.numpy()))])
    holes = [spans for spans in map(data_spans, (a, b)) if sum(map(len, spans)) < a.nbytes]
    if len(holes) == 2:
        return (pair for span in _merged([*holes[0], *holes[1]], a) for pair in _pairs_in(a, b, span))
    sizes = [min(PIECE, a.nbytes - start) for start in range(0, a.nbytes, PIECE)]
    return zip(*(recut(tensor.pieces(memoryview(bytearray(PIECE))), sizes) for tensor in (a, b)), strict=True)


def _merged(spans: list[range], tensor: LazyTensor) -> Iterator[range]:
    """Yield spans of whole elements that hold what any of these does, one behind the other and none on another."""
    size, end = tensor.dtype.itemsize, 0
    for span in sorted(spans, key=lambda span: span.start):
        start, stop = span.start // size * size, min(-(-span.stop // size) * size, tensor.nbytes)
        if stop > end:
            yield range(max(end, start), stop)
            end = stop


def _pairs_in(a: LazyTensor, b: LazyTensor, span: range) -> Iterator[tuple[memoryview, ...]]:
    """Yield the bytes of both in a part."""
    return zip(*(read_span(tensor, span, memoryview(bytearray(PIECE))) for tensor in (a, b)), strict=True)


@dataclass(frozen=True, slots=True)
class _Distance:
    """How far two pieces are apart: how many values and how many bit patterns differ, and by how much."""

    values: int
    bits: int
    largest: float
    is_within: bool


def _distance(x: np.ndarray, y: np.ndarray, rtol: float, atol: float) -> _Distance:
    wide = np.complex128 if x.dtype.kind == "c" else np.float64
    with np.errstate(invalid="ignore", over="ignore"):  # a signalling NaN is invalid in every cast
        p, q = x.astype(wide), y.astype(wide)
        gap = np.where((p == q) | (np.isnan(p) & np.isnan(q)), 0.0, np.abs(p - q))
        near = np.isfinite(gap) & (gap <= atol + rtol * np.abs(q))  # nothing finite is near infinity
        is_within = bool(np.all((gap == 0) | near))
    largest = float("inf") if np.isnan(gap).any() else float(gap.max())
    bits = int(np.count_nonzero(x.view(f"V{x.itemsize}") != y.view(f"V{y.itemsize}")))
    return _Distance(int(np.count_nonzero(gap)), bits, largest, is_within)


def _described(leaf: Tree) -> str:
    return f"{leaf.dtype.name} {leaf.shape}" if isinstance(leaf, LazyTensor) else short_repr(leaf)
