"""Rules: what is asked of the tensors of a conversion, made at the door; and Edits, what following them did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..dtypes import DType, dtype_named
from ..errors import DtypeRefusedError, KeyRefusedError
from ..training import Part, find_parts, weights_path
from ..tree import LazyTensor, Path, Tree, edit, join_key, leaves, tensor_paths, tensors, unknown_as_dicts
from ..tree.cast import cast
from ..tree.edits import Placed
from ..tree.rules import Rename, Select, renamed

__all__ = ["DtypeRules", "Edits", "Rules", "floating_dtype"]


@dataclass(frozen=True, slots=True)
class DtypeRules:
    """The floating dtypes that the weights get, and the states of optimizers; None leaves theirs."""

    model: DType | None = None
    optimizers: DType | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """What is done to the tensors, in this order: the state dict taken out, selected, cast, renamed.

    ``select`` and ``renames`` name tensors by their keys in the source; those of the state dict where ``model_only``
    takes it out.
    """

    select: Select = field(default_factory=Select)
    dtypes: DtypeRules = field(default_factory=DtypeRules)
    renames: tuple[Rename, ...] = ()
    model_only: bool = False

    def apply(self, tree: Tree) -> tuple[Tree, Edits]:
        """Return the tree that the rules make of one, and what they did; it is rebuilt once. No tensor is read."""
        taken, left = _state_dict(tree) if self.model_only else (tree, ())
        plain, unknown = unknown_as_dicts(taken)
        table = tensors(plain)
        kept = dict.fromkeys(self.select.kept(table))
        dropped = tuple(key for key in table if key not in kept)
        dtypes = {key: dtype for key, dtype in self._dtypes(plain, table) if key in kept}
        new_keys = renamed(kept, self.renames)
        edits = Edits(
            excluded=(*left, *dropped),
            renamed=new_keys,
            cast={key: dtype.name for key, dtype in dtypes.items()},
            unknown=tuple(unknown),
        )
        if not (dropped or dtypes or new_keys):
            return plain, edits
        placed: dict[str, Placed] = dict.fromkeys(dropped, ())
        for key in dtypes.keys() | new_keys.keys():
            tensor = cast(key, table[key], dtypes[key]) if key in dtypes else table[key]
            placed[key] = ((new_keys.get(key, key), tensor),)
        return edit(plain, placed, what="rename"), edits

    def _dtypes(self, tree: Tree, table: Mapping[str, LazyTensor]) -> Iterator[tuple[str, DType]]:
        """Yield the key of each tensor to cast, and to what; counters of optimizers, which have no dimension, stay."""
        if self.dtypes == DtypeRules():
            return
        parts = find_parts(tree)
        weights = () if parts.model is None else (parts.model,)
        for key, path in tensor_paths(tree).items():
            tensor = table[key]
            if _holds(weights, path):
                dtype = self.dtypes.model
            else:
                dtype = self.dtypes.optimizers if tensor.shape and _holds(parts.optimizers, path) else None
            if dtype is not None and tensor.dtype.kind == "float" and tensor.dtype is not dtype:
                yield key, dtype


@dataclass(frozen=True, slots=True)
class Edits:
    """What the rules did. Keys are the source's."""

    excluded: tuple[str, ...] = ()  # left out on request
    renamed: Mapping[str, str] = field(default_factory=dict)
    cast: Mapping[str, str] = field(default_factory=dict)  # key → new dtype
    unknown: tuple[str, ...] = ()  # objects of unknown types, now plain dicts


def floating_dtype(parameter: str, name: str | None) -> DType | None:
    """Return the floating dtype called ``name``; raise DtypeRefusedError, which names the parameter, for any other."""
    dtype = dtype_named(name) if name is not None else None
    if name is not None and (dtype is None or dtype.kind != "float"):
        raise DtypeRefusedError(
            f"{parameter}={name!r}: found no floating dtype, expected one: float16, bfloat16, float32, float64 or a float8"
        )
    return dtype


def _holds(parts: Sequence[Part], path: Path) -> bool:
    return any(path[: len(part.path)] == part.path for part in parts)


def _state_dict(tree: Tree) -> tuple[Tree, tuple[str, ...]]:
    """Return the state dict of a training checkpoint, its tensors alone, and the keys of everything else."""
    name = weights_path(tree)
    prefix = () if name is None else (name,)
    weights = tree if name is None else tree[name]
    if not isinstance(weights, dict):
        raise KeyRefusedError(f"model_only=True: found a {type(weights).__name__} at the top, expected a state dict")
    taken = {name: leaf for name, leaf in weights.items() if isinstance(leaf, LazyTensor)}
    paths = {(*prefix, name) for name in taken}
    return taken, tuple(join_key(path) for path, _ in leaves(tree) if path not in paths)
