"""choose_weights(): the one model of a checkpoint, or the one that is asked for by its place or as its average.

Where contents leave a choice nothing is chosen: the error lists the candidates with their sizes.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, TypeGuard

from ..errors import KeyRefusedError, ValueRefusedError
from ..terminal.text import human_size, plural
from ..tree import MISSING, LazyTensor, Path, Tree, has_tensors, leaves, split_key
from ..tree.keys import text_path
from .candidates import entries, holds_states
from .names import is_buffer
from .parts import Part, TrainingParts
from .search import find_parts

__all__ = ["choose_weights", "count_parameters", "size_of"]

#: What stands for the only running average of a checkpoint, whatever its name is.
_AVERAGE = "ema"
_MOST_LISTED = 20


def choose_weights(tree: Tree, which: str | None = None, *, parameter: str = "model_only") -> Part:
    """Return the weights of a checkpoint: the only model in it, or ``which``: a path, a name at its end, or ``ema``.

    A path is spelled as keys are (``model/encoder``); what stands there is taken whole. ``parameter`` is what the caller
    calls ``which``. Raise ValueRefusedError where there is no model, KeyRefusedError for several and for a path where
    none is.
    """
    parts = find_parts(tree)
    if which is not None:
        return _named(tree, parts, which, parameter)
    if len(parts.models) == 1:
        return parts.models[0]
    if parts.models:
        raise _several(parts.models, parts.averages, parameter)
    raise _none(tree)


def _named(tree: Tree, parts: TrainingParts, which: str, parameter: str) -> Part:
    part = _at(tree, which)
    if part is not None and has_tensors(part.tree):
        return _inside(part, parameter) if holds_states(part.tree) else part
    known = (*parts.models, *parts.averages)
    named = [part for part in known if text_path(part.path)[-1:] == (which,)]
    if which == _AVERAGE and not named:
        named = [*parts.averages]
    if len(named) == 1:
        return named[0]
    if named:
        raise _several(named, (), parameter)
    listed = f"expected one of {_listed(known)}" if known else "and nothing else in the checkpoint is a model"
    raise KeyRefusedError(f"{parameter}={which!r}: found no weights there, {listed}")


def _inside(part: Part, parameter: str) -> Part:
    """Return the weights of a checkpoint in the checkpoint."""
    chosen = choose_weights(part.tree, parameter=parameter)
    return Part((*part.path, *chosen.path), chosen.tree)


def _at(tree: Tree, key: str) -> Part | None:
    """Return what stands at a key, or None."""
    path: Path = ()
    for text in split_key(key):
        inside: Mapping[Any, Tree] = entries(tree) or {}
        name = next((name for name in inside if text_path((name,)) == (text,)), MISSING)
        if name is MISSING:
            return None
        path, tree = (*path, name), inside[name]
    return Part(path, tree)


def _several(models: Iterable[Part], averages: Iterable[Part], parameter: str) -> KeyRefusedError:
    first = next(iter(models))
    return KeyRefusedError(
        f"weights: found several models, {_listed([*models, *averages])}, expected one; choose with "
        f"{parameter}={first.key!r}, or another of these"
    )


def _none(tree: Tree) -> ValueRefusedError:
    if not has_tensors(tree):
        return ValueRefusedError("weights: found no tensor in the checkpoint, expected some; look at it with inspect()")
    return ValueRefusedError(
        "weights: found tensors of optimizers, schedulers or random states alone, expected a model's; look at the "
        "checkpoint with inspect()"
    )


def _listed(parts: Iterable[Part]) -> str:
    shown = [f"{part.key!r} ({size_of(part)})" for part in parts]
    more = f", … {len(shown) - _MOST_LISTED} more" if len(shown) > _MOST_LISTED else ""
    return ", ".join(shown[:_MOST_LISTED]) + more


def size_of(part: Part) -> str:
    """Return how many tensors a part has, and their bytes."""
    tensors = [leaf for _, leaf in leaves(part.tree) if isinstance(leaf, LazyTensor)]
    return f"{plural(len(tensors), 'tensor')}, {human_size(sum(tensor.nbytes for tensor in tensors))}"


def count_parameters(parts: TrainingParts) -> int:
    """Return the number of elements of the models' parameters: tied ones once, and no buffers that are known by name."""
    weights = (leaf for part in parts.models for path, leaf in leaves(part.tree) if _is_parameter(leaf, path))
    seen: set[Hashable] = set()
    count = 0
    for leaf in weights:  # there may be hundreds of thousands: only those that may be tied are remembered
        identity = leaf.identity
        if identity is None or identity not in seen:
            count += leaf.size
            seen.update(() if identity is None else (identity,))
    return count


def _is_parameter(leaf: Tree, path: Path) -> TypeGuard[LazyTensor]:
    return isinstance(leaf, LazyTensor) and not (path and is_buffer(str(path[-1])))
