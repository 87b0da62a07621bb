"""convert(): a checkpoint of one layout becomes one of another, and a report says what that took.

Rules are applied in the order select, cast, rename; each names tensors by their keys in the source.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from .checkpoint import Checkpoint
from .dtypes import DType, dtype_named
from .errors import DtypeRefusedError, KeyRefusedError
from .formats import format_for, format_named
from .formats.base import HoldsMetadata
from .keymap import parse_rename, renamed, select
from .progress import OnProgress, silent
from .tensor import LazyTensor
from .training import weights_path
from .tree import Tree, join_key, leaves, map_leaves, moved, plain_inert, tensors_of, without

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
    inert: tuple[str, ...] = ()  # objects of unknown types, written as plain dicts
    lost_metadata: tuple[str, ...] = ()  # entries of the user's metadata that the target has no place for

    @property
    def lossless(self) -> bool:
        """Whether nothing is lost."""
        return not (self.excluded or self.cast or self.lost_ties or self.inert or self.lost_metadata)


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    to: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    rename: Sequence[str] = (),
    cast: str | None = None,
    weights_only: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    allow_inert: bool = False,
    allow_incomplete: bool = False,
    on_progress: OnProgress = silent,
) -> ConvertReport:
    """Writes the checkpoint at ``source`` to ``target`` in the format ``to`` (default: by suffix, or ``oneflow``).

    ``include`` and ``exclude`` are globs over keys; ``rename`` rules read ``OLD=NEW`` (see keymap); ``cast`` names the
    dtype that floating tensors of the weights get; ``weights_only`` takes the state dict out of a training checkpoint;
    ``dry_run`` writes nothing. Needs no framework. The target appears whole or not at all. Raises FormatError for a bad
    source, RefusedError for what the target cannot hold, TargetExistsError unless ``overwrite``.
    """
    opened = Checkpoint.open(source, allow_inert=allow_inert, allow_incomplete=allow_incomplete)
    target = Path(target)
    layout = format_named(to) if to else format_for(target)
    taken, left = _weights(opened.tree) if weights_only else (opened.tree, [])
    tree, inert = plain_inert(taken)
    keys = list(tensors_of(tree))
    kept = select(keys, include, exclude)
    tree = without(tree, set(keys) - set(kept)) if len(kept) < len(keys) else tree
    tree, changed = _cast(tree, cast) if cast else (tree, {})
    names = renamed(kept, [parse_rename(rule) for rule in rename])
    tree = moved(tree, names) if names else tree

    checkpoint = replace(opened, tree=tree)
    _, plan = checkpoint.prepared(layout)
    checkpoint.require_free(target, overwrite=overwrite)
    if not dry_run:
        checkpoint.save(target, format=layout.name, overwrite=overwrite, on_progress=on_progress)
    metadata = opened.meta.get("metadata") or {}
    table = tensors_of(tree)
    return ConvertReport(
        source=str(source),
        target=str(target),
        source_format=str(opened.meta["format"]),
        target_format=layout.name,
        tensors=len(table),
        nbytes=sum(tensor.nbytes for tensor in table.values()),
        dry_run=dry_run,
        excluded=(*left, *(key for key in keys if key not in set(kept))),
        renamed=names,
        cast=changed,
        widened=dict(plan.widened),
        duplicated=plan.duplicated,
        lost_ties=plan.lost_ties,
        inert=tuple(inert),
        lost_metadata=() if isinstance(layout, HoldsMetadata) else tuple(metadata),
    )


def _weights(tree: Tree) -> tuple[Tree, list[str]]:
    """Gives the state dict, and the keys of everything else in the tree."""
    where = weights_path(tree)
    weights = tree if where is None else tree[where]
    if not isinstance(weights, dict):
        raise KeyRefusedError(f"--weights-only: found a {type(weights).__name__} at the top, expected a state dict")
    taken = {name: leaf for name, leaf in weights.items() if isinstance(leaf, LazyTensor)}
    prefix = () if where is None else (where,)
    paths = {(*prefix, name) for name in taken}
    return taken, [join_key(path) for path, _ in leaves(tree) if path not in paths]


def _cast(tree: Tree, name: str) -> tuple[Tree, dict[str, str]]:
    """Casts the floating tensors of the weights; optimizer state keeps its dtypes."""
    dtype = dtype_named(name)
    if dtype is None or dtype.kind != "float":
        raise DtypeRefusedError(
            f"--dtype: found {name!r}, expected a floating dtype: float16, bfloat16, float32, float64 or a float8"
        )
    where = weights_path(tree)
    changed: dict[str, str] = {}
    keys = {id(tensor): key for key, tensor in tensors_of(tree).items()}

    def change(_: object, leaf: Tree) -> Tree:
        if not isinstance(leaf, LazyTensor) or leaf.dtype.kind != "float" or leaf.dtype is dtype:
            return leaf
        changed[keys[id(leaf)]] = dtype.name
        return _cast_tensor(keys[id(leaf)], leaf, dtype)

    if where is None:
        return map_leaves(tree, change), changed
    return {**tree, where: map_leaves(tree[where], change)}, changed


def _cast_tensor(key: str, tensor: LazyTensor, dtype: DType) -> LazyTensor:
    def source() -> np.ndarray:
        array = tensor.numpy()
        with np.errstate(over="ignore", invalid="ignore"):
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
    return LazyTensor(dtype, tensor.shape, source, alias=alias)
