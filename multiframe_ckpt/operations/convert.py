"""convert(): a checkpoint of one layout becomes one of another, and a report says what that took.

Rules are applied in the order select, cast, rename; each names tensors by their keys in the source.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..checkpoint import Checkpoint
from ..dtypes import DType, dtype_named
from ..errors import DtypeRefusedError, KeyRefusedError, UnknownNameError
from ..formats import format_for, writable_format
from ..progress import OnProgress, silent
from ..training import TranslateReport, dialects_to_write, find_parts, frameworks_of, translate, weights_path
from ..tree import (
    LazyTensor,
    Tree,
    drop,
    elementwise,
    join_key,
    leaves,
    map_leaves,
    rename_keys,
    tensors,
    unknown_as_dicts,
)
from ..tree import Path as TreePath
from ..tree.rules import parse_rename, renamed, select

__all__ = ["ConvertReport", "convert"]


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """What a conversion did. Keys are the source's.

    ``lossless`` says that converting back gives every tensor and plain value again, bit for bit and tied as it was.
    """

    source: str
    target: str
    source_format: str
    target_format: str
    tensors: int
    nbytes: int
    dry_run: bool = False
    excluded: tuple[str, ...] = ()  # left out on request
    renamed: dict[str, str] = field(default_factory=dict)
    cast: dict[str, str] = field(default_factory=dict)  # key → new dtype
    widened: dict[str, str] = field(default_factory=dict)  # key → dtype in the file; remembered, so not a loss
    duplicated: tuple[tuple[str, ...], ...] = ()  # tied tensors written once each; remembered, so not a loss
    lost_ties: tuple[tuple[str, ...], ...] = ()  # tensors that shared a storage at different places and do no more
    unknown: tuple[str, ...] = ()  # objects of unknown types, written as plain dicts
    lost_metadata: tuple[str, ...] = ()  # entries of the user's metadata that the target has no place for
    translated: tuple[str, ...] = ()  # optimizers and schedulers now in the other framework's dialect
    untranslated: tuple[str, ...] = ()  # parts that cannot cross, and why: in the target as they were
    warnings: tuple[str, ...] = ()  # what to mind of those translated
    inexact: tuple[str, ...] = ()  # keys of translated parts that translating back does not give again, or elsewhere

    @property
    def lossless(self) -> bool:
        """Whether nothing is lost."""
        return not (self.excluded or self.cast or self.lost_ties or self.unknown or self.lost_metadata or self.inexact)


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    format: str | None = None,
    backend: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    rename: Sequence[str] = (),
    dtype: str | None = None,
    optimizer_dtype: str | None = None,
    model_only: bool = False,
    overwrite: bool = False,
    verify: bool = True,
    digest: bool = True,
    durable: bool = True,
    dry_run: bool = False,
    allow_unknown: bool = False,
    allow_incomplete: bool = False,
    on_progress: OnProgress = silent,
) -> ConvertReport:
    """Write the checkpoint at ``source`` to ``target`` in ``format`` (default: by suffix, or ``oneflow``).

    ``include`` and ``exclude`` are globs over keys; ``rename`` rules read ``OLD=NEW`` (see keymap); ``dtype`` names the
    dtype that floating tensors of the weights get, ``optimizer_dtype`` that of the optimizer's; ``model_only`` takes
    the state dict out of a training checkpoint; ``dry_run`` writes nothing. ``verify``, ``digest`` and ``durable`` are
    those of :meth:`Checkpoint.open` and :meth:`Checkpoint.save`. ``backend`` names the framework in whose
    dialect optimizers and schedulers are written: by default OneFlow's in OneFlow's formats, PyTorch's in its own, and
    in others as they are. What cannot cross stays as it is and is named in the report. Needs no framework.

    The target appears whole or not at all. Raise FormatError for a bad source, RefusedError for what the target cannot
    hold, TargetExistsError unless ``overwrite``.
    """
    if backend not in (None, *dialects_to_write()):
        raise UnknownNameError(
            f"backend: found {backend!r}, expected one of {', '.join(dialects_to_write())}, which have their own dialects"
        )
    opened = Checkpoint.open(source, verify=verify, allow_unknown=allow_unknown, allow_incomplete=allow_incomplete)
    target = Path(target)
    layout = writable_format(format) if format else format_for(target)
    taken, left = _weights(opened.tree) if model_only else (opened.tree, [])
    tree, unknown = unknown_as_dicts(taken)
    edited = _edited(tree, include, exclude, {"model": dtype, "optimizers": optimizer_dtype}, rename)
    tree, crossing, inexact = _translated(edited.tree, backend or layout.dialect)

    checkpoint = replace(opened, tree=tree)
    planned = checkpoint.plan(target, format=layout.name, overwrite=overwrite, digest=digest, durable=durable)
    if not dry_run:
        planned.write(on_progress)
    plan = planned.changes
    table = tensors(tree)
    return ConvertReport(
        source=str(source),
        target=str(target),
        source_format=str(opened.meta["format"]),
        target_format=layout.name,
        tensors=len(table),
        nbytes=sum(tensor.nbytes for tensor in table.values()),
        dry_run=dry_run,
        excluded=(*left, *edited.excluded),
        renamed=edited.renamed,
        cast=edited.cast,
        widened=dict(plan.widened),
        duplicated=plan.duplicated,
        lost_ties=plan.lost_ties,
        unknown=tuple(unknown),
        lost_metadata=plan.lost_metadata,
        translated=crossing.converted,
        untranslated=crossing.left_out,
        warnings=crossing.warnings,
        inexact=inexact,
    )


@dataclass(frozen=True, slots=True)
class _Edited:
    """A tree after the user's rules, and what they did."""

    tree: Tree
    excluded: tuple[str, ...]
    renamed: dict[str, str]
    cast: dict[str, str]


def _edited(
    tree: Tree,
    include: Sequence[str],
    exclude: Sequence[str],
    casts: Mapping[str, str | None],
    rename: Sequence[str],
) -> _Edited:
    """Select, casts (part of the checkpoint → dtype) and rename, in this order."""
    keys = list(tensors(tree))
    kept = select(keys, include, exclude)
    dropped = set(keys).difference(kept)
    tree = drop(tree, dropped) if dropped else tree
    changed: dict[str, str] = {}
    for part, dtype in casts.items():
        tree = _cast(tree, dtype, part, changed) if dtype else tree
    names = renamed(kept, [parse_rename(rule) for rule in rename])
    tree = rename_keys(tree, names) if names else tree
    return _Edited(tree, tuple(key for key in keys if key in dropped), names, changed)


def _translated(tree: Tree, dialect: str | None) -> tuple[Tree, TranslateReport, tuple[str, ...]]:
    """Return the tree in a dialect, the report, and the keys that the way back would not give again."""
    if dialect is None:
        return tree, TranslateReport(), ()
    crossed, report = translate(tree, to=dialect, strict=False, keep=True)
    if not report.converted:
        return crossed, report, ()
    again = crossed
    for framework in sorted(frameworks_of(tree) - frameworks_of(crossed)):
        again, _ = translate(again, to=framework, strict=False, keep=True)
    before, after = _outline(tree), _outline(again)
    changed = tuple(key for key in {**before, **after} if before.get(key) != after.get(key))
    moved_keys = tuple(key for key, now in zip(before, after, strict=False) if key != now)
    return crossed, report, changed or moved_keys


def _outline(tree: Tree) -> dict[str, object]:
    """Return every leaf by key, tensors as their dtype and shape."""
    return {
        join_key(path): (leaf.dtype.name, leaf.shape) if isinstance(leaf, LazyTensor) else _spelled(leaf)
        for path, leaf in leaves(tree)
    }


def _spelled(leaf: Tree) -> object:
    return leaf if type(leaf) is int else repr(leaf)  # repr refuses an int of too many digits


def _weights(tree: Tree) -> tuple[Tree, list[str]]:
    """Return the state dict, and the keys of everything else in the tree."""
    where = weights_path(tree)
    weights = tree if where is None else tree[where]
    if not isinstance(weights, dict):
        raise KeyRefusedError(f"--model-only: found a {type(weights).__name__} at the top, expected a state dict")
    taken = {name: leaf for name, leaf in weights.items() if isinstance(leaf, LazyTensor)}
    prefix = () if where is None else (where,)
    paths = {(*prefix, name) for name in taken}
    return taken, [join_key(path) for path, _ in leaves(tree) if path not in paths]


def _cast(tree: Tree, name: str, part: str, changed: dict[str, str]) -> Tree:
    """Cast the floating tensors of one part of a checkpoint, ``model`` or ``optimizers``; 0-d counters stay."""
    dtype = dtype_named(name)
    if dtype is None or dtype.kind != "float":
        raise DtypeRefusedError(
            f"--dtype: found {name!r}, expected a floating dtype: float16, bfloat16, float32, float64 or a float8"
        )
    parts = find_parts(tree)
    found = parts.optimizers if part == "optimizers" else (parts.model,) if parts.model else ()
    keys = {id(tensor): key for key, tensor in tensors(tree).items()}

    def change(path: TreePath, leaf: Tree) -> Tree:
        if not isinstance(leaf, LazyTensor) or leaf.dtype.kind != "float" or leaf.dtype is dtype:
            return leaf
        if not any(path[: len(one.path)] == one.path for one in found) or (part == "optimizers" and not leaf.shape):
            return leaf
        changed[keys[id(leaf)]] = dtype.name
        return _cast_tensor(keys[id(leaf)], leaf, dtype)

    return map_leaves(tree, change)


def _cast_tensor(key: str, tensor: LazyTensor, dtype: DType) -> LazyTensor:
    def change(array: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):  # a signalling NaN is invalid in every cast
            result = array.astype(dtype.numpy)
            lost = np.isfinite(array.astype(np.float64)) & ~np.isfinite(result.astype(np.float64))
        if lost.any():
            value = array[lost].flat[0]
            raise DtypeRefusedError(
                f"{key}: found the value {value}, expected ones that {dtype.name} can hold; "
                "cast to a wider dtype (bfloat16 has float32's range), or leave this tensor out"
            )
        return result

    alias = None if tensor.identity is None else (tensor.identity, dtype.name)
    return elementwise(tensor, dtype, change, alias=alias)
