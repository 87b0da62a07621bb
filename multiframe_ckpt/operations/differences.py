"""Differences of tensors and plain values: of how many elements, by how much, and apart from these NaNs and infinities."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ..terminal.text import short_repr
from ..tree import TOP, LazyTensor, Tree
from ..tree.digests import chunks_of

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
    x, y = a.numpy(), b.numpy()
    if all(map(np.array_equal, _chunks(x), _chunks(y))):
        return None, None
    return _parted(replace(change, size=a.size), x, y, tolerance)


def _parted(change: Change, x: np.ndarray, y: np.ndarray, tolerance: Tolerance) -> tuple[Change | None, float]:
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
    if not unlike.any():
        return None, largest
    count, nan_count, infinite_count = (int(np.count_nonzero(which & unlike)) for which in (unlike, nans, infinities))
    shown = largest if count > nan_count + infinite_count else None
    return replace(change, differing=count, largest=shown, nans=nan_count, infinities=infinite_count), largest


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


def _chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    return (np.frombuffer(chunk, np.uint8) for chunk in chunks_of(array))


def _bits(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(f"V{array.dtype.itemsize}")


def _described(leaf: Tree) -> str:
    return f"{leaf.dtype.name} {leaf.shape}" if isinstance(leaf, LazyTensor) else short_repr(leaf)
