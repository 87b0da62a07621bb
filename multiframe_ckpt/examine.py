"""Looking at checkpoints: what one holds, and where two differ."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .checkpoint import Checkpoint
from .digests import chunks_of
from .restore import resume_parts
from .tensor import LazyTensor, tied_groups
from .tree import join_key, leaves

__all__ = ["Change", "DiffReport", "Summary", "TensorRow", "diff", "summarize"]


@dataclass(frozen=True, slots=True)
class TensorRow:
    """One tensor of a summary; ``tied_to`` is the first key of the same tensor."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    tied_to: str | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """What a checkpoint holds. ``parameters`` and ``nbytes`` count tied tensors once."""

    path: str
    format: str
    framework: str | None
    tensors: tuple[TensorRow, ...]
    parameters: int
    nbytes: int
    dtypes: Mapping[str, int]  # name → number of tensors
    values: Mapping[str, Any]  # plain values by key
    meta: Mapping[str, Any]
    resume: Mapping[str, bool]  # which of weights, optimizer, scheduler, rng, progress a resume from it would get


def summarize(checkpoint: Checkpoint | str | os.PathLike[str]) -> Summary:
    """Gives what a checkpoint, or the one at a path, holds: from its headers."""
    checkpoint = _opened(checkpoint)
    table = checkpoint.tensors()
    first = {key: group[0] for group in tied_groups(table) for key in group[1:]}
    rows = tuple(TensorRow(key, t.dtype.name, t.shape, t.nbytes, first.get(key)) for key, t in table.items())
    distinct = [table[row.key] for row in rows if row.tied_to is None]
    names = [row.dtype for row in rows]
    meta = dict(checkpoint.meta)
    return Summary(
        path=str(meta.pop("path", "")),
        format=str(meta.pop("format", "")),
        framework=meta.pop("framework", None),
        tensors=rows,
        parameters=sum(tensor.size for tensor in distinct),
        nbytes=sum(tensor.nbytes for tensor in distinct),
        dtypes={name: names.count(name) for name in dict.fromkeys(names)},
        values={join_key(path): leaf for path, leaf in leaves(checkpoint.tree) if not isinstance(leaf, LazyTensor)},
        meta=meta,
        resume=resume_parts(checkpoint.tree),
    )


@dataclass(frozen=True, slots=True)
class Change:
    """One key that differs: ``found`` in A against ``expected`` in B; ``largest`` is the largest absolute difference."""

    key: str
    found: str
    expected: str
    largest: float | None = None


@dataclass(frozen=True, slots=True)
class DiffReport:
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


def _opened(checkpoint: Checkpoint | str | os.PathLike[str]) -> Checkpoint:
    return checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint.open(checkpoint)


def diff(
    a: Checkpoint | str | os.PathLike[str],
    b: Checkpoint | str | os.PathLike[str],
    *,
    rtol: float = 0.0,
    atol: float = 0.0,
) -> DiffReport:
    """Compares two checkpoints, or those at two paths, of any formats and frameworks, key by key.

    With both tolerances 0 tensors are compared bit for bit, NaN payloads and signs of zero included; otherwise values
    differ where ``|a - b| > atol + rtol * |b|``, and NaN equals NaN. A dtype or shape that differs is a change.
    """
    a, b = _opened(a), _opened(b)
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


def _entries(checkpoint: Checkpoint) -> dict[str, Any]:
    values = {join_key(path): leaf for path, leaf in leaves(checkpoint.tree) if not isinstance(leaf, LazyTensor)}
    return {**checkpoint.tensors(), **values}


def _compare(key: str, a: Any, b: Any, rtol: float, atol: float) -> tuple[Change | None, float]:
    if not (isinstance(a, LazyTensor) and isinstance(b, LazyTensor)):
        same = type(a) is type(b) and (a == b or (a != a and b != b))
        return (None if same else Change(key, _say(a), _say(b))), 0.0
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return Change(key, _say(a), _say(b)), 0.0
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
    change = Change(key, _say(a), f"{count} of {a.size} values differ", largest)
    return (None if within else change), largest


def _chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    return (np.frombuffer(chunk, np.uint8) for chunk in chunks_of(array))


def _bits(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(f"V{array.dtype.itemsize}")


def _say(value: Any) -> str:
    if isinstance(value, LazyTensor):
        return f"{value.dtype.name} {value.shape}"
    # Python may refuse to spell integers of more than 640 digits (sys.int_info), but never in base 16.
    huge = isinstance(value, int) and value.bit_length() > 2_000
    return (hex(value) if huge else repr(value))[:80]
