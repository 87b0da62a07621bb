"""Differences of tensors and plain values: of how many elements, by how much, and apart from these NaNs and infinities."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..terminal.text import short_repr
from ..tree import TOP, LazyTensor, Tree
from .side_by_side import unlike_pieces, without_repeats

__all__ = ["Change", "Tolerance", "compare"]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far values may part: ``|a - b| <= atol + rtol * |b|``; bit for bit where both are 0."""

    rtol: float = 0.0
    atol: float = 0.0

    @property
    def is_none(self) -> bool:
        """Whether tensors are compared bit for bit."""
        return not (self.rtol or self.atol)


@dataclass(frozen=True, slots=True)
class Change:
    """One key that differs: what stands in A and in B, and of tensors of one dtype and shape how they part.

    ``differing`` of ``size`` elements are unlike. ``largest`` is the largest difference between finite ones. In ``nans`` of
    them one side or both are NaN, in ``infinities`` one or both are infinite. All four are None where dtype, shape or kind
    of value differ.
    """

    key: str
    a: str
    b: str
    differing: int | None = None
    size: int | None = None
    largest: float | None = None
    nans: int | None = None
    infinities: int | None = None

    def __str__(self) -> str:
        key = self.key or TOP
        if self.differing is None:
            return f"{key}: {self.a} -> {self.b}"
        largest = f", by at most {self.largest:.6g}" if self.largest is not None else ""
        odd = {"NaN": self.nans, "infinite": self.infinities}
        among = "".join(f", {count:,} {what}" for what, count in odd.items() if count)
        return f"{key}: {self.a}, {self.differing} of {self.size} values differ{largest}{among}"


def compare(key: str, a: Tree, b: Tree, tolerance: Tolerance) -> tuple[Change | None, float | None]:
    """Return how two leaves differ, None where they do not, and the largest difference of finite elements.

    That is None where they are the same bit for bit.
    """
    if not (isinstance(a, LazyTensor) and isinstance(b, LazyTensor)):
        same = type(a) is type(b) and (a == b or (a != a and b != b))
        return (None, None) if same else (Change(key, _described(a), _described(b)), 0.0)
    change = Change(key, _described(a), _described(b))
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return change, 0.0
    x, y = without_repeats(a, b)
    partings = [_parted(*pair, tolerance) for pair in unlike_pieces(x, y)]
    if not partings:
        return None, None
    times = a.size // x.size
    differing, nans, infinities = (
        times * sum(getattr(parting, name) for parting in partings) for name in ("differing", "nans", "infinities")
    )
    largest = max(parting.largest for parting in partings)
    if not differing:
        return None, largest
    shown = largest if differing > nans + infinities else None
    return replace(change, size=a.size, differing=differing, largest=shown, nans=nans, infinities=infinities), largest


@dataclass(frozen=True, slots=True)
class _Parting:
    """How two pieces part: how many elements are unlike, and by how much the finite ones at the most."""

    differing: int
    nans: int
    infinities: int
    largest: float


def _parted(x: np.ndarray, y: np.ndarray, tolerance: Tolerance) -> _Parting:
    """Return how two arrays of one dtype and shape differ, whose bytes do."""
    unlike = _bits(x) != _bits(y)
    distances = _distances(x, y)
    finite = np.isfinite(distances)
    nans, infinities = np.isnan(distances), np.isinf(distances)
    largest = float(distances[finite].max(initial=0.0))
    if not tolerance.is_none:
        with np.errstate(invalid="ignore"):  # 0 · ∞
            bound = tolerance.atol + tolerance.rtol * np.abs(_wide(y))
        near = finite & (distances <= bound)  # nothing finite is near infinity
        unlike = unlike & ~(near | (distances == 0))
    else:
        nans = nans | (unlike & np.isnan(_wide(x)) & np.isnan(_wide(y)))
    count, nan_count, infinite_count = (int(np.count_nonzero(which & unlike)) for which in (unlike, nans, infinities))
    return _Parting(count, nan_count, infinite_count, largest)


def _distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return |x - y|, 0 where both are NaN or the same infinity, NaN where one is NaN, infinite where one is infinite."""
    if x.dtype.kind in "iu":  # 64 bits and a difference of two signed ones fit no float
        high, low = (bound(x, y).reshape(-1) for bound in (np.maximum, np.minimum))
        distances: np.ndarray = (high.astype(np.uint64) - low.astype(np.uint64)).astype(np.float64)
        return distances
    p, q = _wide(x), _wide(y)
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where((p == q) | (np.isnan(p) & np.isnan(q)), 0.0, np.abs(p - q))


def _wide(array: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # a signalling NaN is invalid in every cast
        return array.reshape(-1).astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def _bits(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(f"V{array.dtype.itemsize}")


def _described(leaf: Tree) -> str:
    return f"{leaf.dtype.name} {leaf.shape}" if isinstance(leaf, LazyTensor) else short_repr(leaf)
