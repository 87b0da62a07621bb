"""Crossing: a conversion's optimizers and schedulers put into a dialect, and whether the way back is exact."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..training import TranslateReport, frameworks_of, translate
from ..tree import LazyTensor, Tree, join_key, leaves

__all__ = ["Crossing", "cross"]


@dataclass(frozen=True, slots=True)
class Crossing:
    """What was translated, and the keys of it that translating back does not give again, or elsewhere."""

    report: TranslateReport = field(default_factory=TranslateReport)
    inexact: tuple[str, ...] = ()


def cross(tree: Tree, dialect: str | None) -> tuple[Tree, Crossing]:
    """Return the tree in a dialect; what cannot cross stays as it is. None leaves every part as it is."""
    if dialect is None:
        return tree, Crossing()
    crossed, report = translate(tree, to=dialect, strict=False, keep=True)
    if not report.converted:
        return crossed, Crossing(report)
    returned = crossed
    for framework in sorted(frameworks_of(tree) - frameworks_of(crossed)):
        returned, _ = translate(returned, to=framework, strict=False, keep=True)
    return crossed, Crossing(report, _inexact(tree, returned))


def _inexact(tree: Tree, returned: Tree) -> tuple[str, ...]:
    before, after = _outline(tree), _outline(returned)
    changed = tuple(key for key in {**before, **after} if before.get(key) != after.get(key))
    return changed or tuple(key for key, other in zip(before, after, strict=False) if key != other)


def _outline(tree: Tree) -> dict[str, object]:
    """Return every leaf by key, tensors as their dtype and shape."""
    return {
        join_key(path): (leaf.dtype.name, leaf.shape) if isinstance(leaf, LazyTensor) else _comparable(leaf)
        for path, leaf in leaves(tree)
    }


def _comparable(leaf: Tree) -> object:
    return leaf if type(leaf) is int else repr(leaf)  # repr refuses an int of too many digits
