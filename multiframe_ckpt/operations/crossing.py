"""Crossing: a conversion's optimizers and schedulers put into a dialect, and whether the way back is exact."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..training import (
    TranslateReport,
    dialect_named,
    dialects_to_write,
    find_parts,
    frameworks_of,
    keys_below,
    translate,
)
from ..tree import MISSING, Elementwise, LazyTensor, Missing, Path, Tree, is_leaf, join_key, key_of, leaves
from ..tree.digests import chunks_of
from .layout import Layout
from .rules import Edits

__all__ = ["Crossing", "cross", "losses_of_run"]


@dataclass(frozen=True, slots=True)
class Crossing:
    """What was translated, and the keys of the source's values that translating back does not give again.

    What only the way back adds, such as an option that newer versions have, is no loss.
    """

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
    for way_back in sorted(frameworks_of(tree) - {dialect_named(dialect).framework}):
        if way_back in dialects_to_write():
            returned, _ = translate(returned, to=way_back, strict=False, keep=True)
    return crossed, Crossing(report, tuple(map(key_of, _lost(tree, returned, ()))))


def losses_of_run(tree: Tree, edits: Edits, layout: Layout) -> dict[str, str]:
    """Return what rules did to tensors and values of a checkpoint that a run may need as they were, by their keys.

    A new name of a weight is none: models have the names that they are asked for by.
    """
    parts = find_parts(tree)
    prefix = f"{join_key(parts.model.path)}/" if parts.model and parts.model.path else ""
    losses = dict.fromkeys(edits.excluded, "left out") | dict.fromkeys(edits.cast, "cast")
    losses |= {f"{prefix}{key}": "left out" for key in layout.left_out}
    losses |= {entry.partition(": ")[0]: "of unknown type" for entry in edits.unknown}
    weights = {key for part in parts.models for key in keys_below(part)} if edits.renamed else set()
    return losses | {key: "renamed" for key in edits.renamed if key not in weights}


def _lost(before: Tree, after: Tree | Missing, path: Path) -> Iterator[Path]:
    """Yield the paths of values of one tree that another does not have there, bit for bit."""
    if before is after:
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name, node in before.items():
            yield from _lost(node, after.get(name, MISSING), (*path, name))
    elif isinstance(before, list | tuple) and isinstance(after, list | tuple) and _are_alike(before, after):
        for place, (node, other) in enumerate(zip(before, after, strict=True)):
            yield from _lost(node, other, (*path, place))
    elif after is MISSING:  # a moment that is None is one that is not there yet
        yield from ((*path, *rest) for rest, leaf in leaves(before) if leaf is not None)
    elif not (is_leaf(before) and _same(before, after)):
        yield from ((*path, *rest) for rest, _ in leaves(before))


def _are_alike(before: Sequence[Tree], after: Sequence[Tree]) -> bool:
    """Return whether both are lists, or both tuples, of one length."""
    return type(before) is type(after) and len(before) == len(after)


def _same(before: Tree, after: Tree) -> bool:
    if isinstance(before, LazyTensor) and isinstance(after, LazyTensor):
        return (before.dtype, before.shape) == (after.dtype, after.shape) and _same_elements(before, after)
    if type(before) is not type(after):
        return False
    return bool(before == after) if type(before) is int else repr(before) == repr(after)  # repr: NaN, and signs of zero


def _same_elements(before: LazyTensor, after: LazyTensor) -> bool:
    """Return whether two tensors hold the same bits; copies of one are not read for that."""
    while isinstance(after.source, Elementwise) and after.source.change is np.copy:
        after = after.source.base
    if after is before or after.source is before.source:
        return True
    pairs = zip(chunks_of(before.numpy()), chunks_of(after.numpy()), strict=True)
    return all(bytes(one) == bytes(other) for one, other in pairs)
