"""Rules: what is asked of the tensors of a conversion, made at the door; and Edits, what following them did."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..dtypes import DType, dtype_named
from ..errors import DtypeRefusedError
from ..formats import Versions
from ..training import Part, choose_weights, find_parts
from ..tree import (
    MISSING,
    LazyTensor,
    Missing,
    Path,
    Tree,
    Unknown,
    Visit,
    edit,
    has_unknown,
    is_leaf,
    join_key,
    leaves,
    rebuild,
    tensor_paths,
    tensors,
    unknown_as_dicts,
    walk,
)
from ..tree.cast import cast
from ..tree.edits import Placed
from ..tree.rules import Rename, Select, new_name, renamed

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
    takes it out. A text in its place says which: see :func:`~multiframe_ckpt.training.choose_weights`.
    """

    select: Select = field(default_factory=Select)
    dtypes: DtypeRules = field(default_factory=DtypeRules)
    renames: tuple[Rename, ...] = ()
    model_only: bool | str = False

    def apply(self, tree: Tree) -> tuple[Tree, Edits]:
        """Return the tree that the rules make of one, and what they did; it is rebuilt once. No tensor is read."""
        taken, left = _state_dict(tree, self.model_only) if self.model_only else (tree, ())
        everything = tensors(taken)
        kept = dict.fromkeys(self.select.kept(everything))
        dropped = tuple(key for key in everything if key not in kept)
        plain, unknown = unknown_as_dicts(_without_emptied(taken, kept) if self.model_only else taken)
        table = tensors(plain)
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
        placed: dict[str, Placed] = {key: () for key in dropped if key in table}
        for key in dtypes.keys() | new_keys.keys():
            tensor = cast(key, table[key], dtypes[key]) if key in dtypes else table[key]
            placed[key] = ((new_keys.get(key, key), tensor),)
        return edit(plain, placed, what="rename"), edits

    def carried(self, versions: Versions, source: Tree, result: Tree) -> Versions:
        """Return the versions of modules by the keys that the state dicts have in the result; those that are there."""
        if self.model_only and versions:
            taken = choose_weights(source, self.model_only if isinstance(self.model_only, str) else None)
            key = join_key(taken.path)
            versions = {"": versions[key]} if key in versions else {}
        renamed: dict[str, dict[str, Mapping[str, Tree]]] = {}
        for key, modules in versions.items():
            for module, facts in modules.items():
                new_key, new_module = self._place_of_module(key, module)
                renamed.setdefault(new_key, {}).setdefault(new_module, facts)
        keys = list(tensors(result)) if renamed else []
        return {key: facts for key, facts in renamed.items() if not key or any(_is_below(one, key) for one in keys)}

    def _place_of_module(self, key: str, module: str) -> tuple[str, str]:
        """Return the key of a module's state dict and its name there, as the rules give new names to its tensors."""
        tensor = f"{module}._" if module else "_"
        new_key, _, name = new_name(f"{key}/{tensor}" if key else tensor, self.renames).rpartition("/")
        return new_key, name.removesuffix("_").removesuffix(".")

    def _dtypes(self, tree: Tree, table: Mapping[str, LazyTensor]) -> Iterator[tuple[str, DType]]:
        """Yield the key of each tensor to cast, and to what; counters of optimizers, which have no dimension, stay."""
        if self.dtypes == DtypeRules():
            return
        parts = find_parts(tree)
        weights = (*parts.models, *parts.averages)
        for key, path in tensor_paths(tree).items():
            tensor = table[key]
            if _holds(parts.optimizers, path):  # first: weights that stand loose at the top have the path of the whole
                dtype = self.dtypes.optimizers if tensor.shape else None
            else:
                dtype = self.dtypes.model if _holds(weights, path) else None
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


def _is_below(key: str, above: str) -> bool:
    return key.startswith(f"{above}/")


def _holds(parts: Sequence[Part], path: Path) -> bool:
    return any(path[: len(part.path)] == part.path for part in parts)


def _without_emptied(tree: Tree, kept: Container[str]) -> Tree:
    """Return the weights without the unknown objects among them of which no tensor is kept."""

    def visit(path: Path, node: Tree, on: Visit) -> Tree | Missing:
        if isinstance(node, Unknown):
            keys = (join_key((*path, *inner)) for inner, leaf in leaves(node) if isinstance(leaf, LazyTensor))
            return node if any(key in kept for key in keys) else MISSING
        return node if is_leaf(node) else rebuild(node, on, path)

    pruned = walk(tree, visit) if has_unknown(tree) else tree
    return {} if pruned is MISSING else pruned


def _state_dict(tree: Tree, which: bool | str) -> tuple[Tree, tuple[str, ...]]:
    """Return the weights of a checkpoint, their tensors alone and nested as they are, and the keys of everything else."""
    part = choose_weights(tree, which if isinstance(which, str) else None)

    def visit(path: Path, node: Tree, on: Visit) -> Tree | Missing:
        if isinstance(node, LazyTensor | Unknown):
            return node
        if is_leaf(node):
            return MISSING
        kept = rebuild(node, on, path)
        return kept if kept or not path else MISSING

    taken = walk(part.tree, visit)
    kept = {(*part.path, *path) for path, leaf in leaves(part.tree) if isinstance(leaf, LazyTensor)}
    return {} if taken is MISSING else taken, tuple(join_key(path) for path, _ in leaves(tree) if path not in kept)
