"""TensorBackend: the template that most adapters fill in."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from types import FunctionType, MethodType
from typing import Any, Generic, TypeVar

import numpy as np

from ..errors import MismatchError, ValueRefusedError
from ..tree import LazyTensor, Path, Sharing, Strided, Tree, is_plain, key_of, leaves, map_objects, tensors
from .arrays import array_tensor
from .comparison import compare
from .containers import alike, misfits, warn_of_tuples
from .loading import apply, checked, merged, require_fillable, require_values
from .report import LoadReport
from .tensor_ops import TensorOps, is_stateful

__all__ = ["TensorBackend"]

L = TypeVar("L")
T = TypeVar("T")


class TensorBackend(TensorOps[T]):
    """A Backend of any framework whose modules and optimizers have ``state_dict`` and ``load_state_dict``, if it has any.

    An adapter says what its tensors and modules are and how one tensor crosses (``TensorOps``); the rest is written once,
    here. One with a method ``copy_into`` (``SupportsFilling``) loads in place too; without one its tensors are values.
    """

    #: Tuple subclasses that are nothing but their elements, such as torch.Size: they become plain ones without a word.
    plain_tuples: tuple[type, ...] = ()

    def owns(self, obj: object) -> bool:
        """Return whether ``obj`` is this framework's tensor, or of a class that comes from it and keeps a state."""
        return self.is_tensor(obj) or (is_stateful(obj) and self.name in _roots(type(obj)))

    def to_tree(self, obj: object) -> Tree:
        """Return the tree; an object that is neither tensor, plain value nor stateful is refused by key."""
        return self._tree(obj, ())

    def _tree(self, obj: object, path: Path) -> Tree:
        tree: Tree = map_objects(obj, self._neutral, path=path)
        warn_of_tuples(obj, path, plain=self.plain_tuples)
        return tree

    def _neutral(self, path: Path, leaf: object) -> Tree:
        if is_plain(leaf) or isinstance(leaf, LazyTensor):
            return leaf
        if self.is_tensor(leaf):
            return self.to_lazy(leaf, key_of(path))
        if isinstance(leaf, np.ndarray):
            return array_tensor(leaf, key_of(path))
        if is_stateful(leaf):
            return self._tree(_without_code(leaf.state_dict()), path)
        return _plain_value(leaf, key_of(path))

    def from_tree(self, tree: Tree, *, device: str | None = None, like: object = None) -> Any:
        """Return the live object; tensors of equal identity become one tensor, those of one storage share it."""
        if like is None:
            return map_objects(tree, _Builder(self, tree, device).build)
        problems = [*misfits(tree, like)]
        if problems:
            raise MismatchError(f"{problems[0]}; give a template of the checkpoint's own structure")
        near = {path: leaf for path, leaf in leaves(like) if isinstance(leaf, np.ndarray) or self.is_tensor(leaf)}
        return alike(map_objects(tree, _Builder(self, tree, device, near).build), like)

    def load_into(self, target: object, tree: Tree, *, strict: bool = True) -> LoadReport:
        """Load into modules, optimizers, schedulers, tensors, and mutable containers of these, in place."""
        require_fillable(self, target)
        comparison = compare(self, target, tree, in_place=True)
        report = checked(target, comparison, strict=strict)
        apply(comparison)
        return report

    def loaded_like(self, like: L, tree: Tree, *, strict: bool = True) -> tuple[L, LoadReport]:
        """Return new tensors and plain values in containers as those of ``like``; nothing of it is touched."""
        require_values(self, like)
        comparison = compare(self, like, tree, in_place=False)
        report = checked(like, comparison, strict=strict)
        return self.from_tree(merged(like, comparison), like=like), report


class _Builder(Generic[T]):
    """Makes the live tensors of one tree: one for each identity, views of one storage for those that share it.

    ``near`` are a template's tensors and arrays. Such a one is tied to another where tree and template both say so.
    """

    def __init__(
        self, ops: TensorOps[T], tree: Tree, device: str | None, near: Mapping[Path, T | np.ndarray] | None = None
    ) -> None:
        self._ops, self._device, self._near = ops, device, near or {}
        self._made: dict[Hashable, T | np.ndarray] = {}
        self._storages: dict[Hashable, T] = {}
        self._kept = _storages_to_keep(tensors(tree))

    def build(self, path: Path, leaf: object) -> object:
        """Return the live tensor of a lazy one, and any other leaf as it is."""
        if not isinstance(leaf, LazyTensor):
            return leaf
        key, near = key_of(path), self._near.get(path)
        identity = leaf.identity if near is None else self._tie(leaf, near, key)
        if identity is None:
            return self._tensor(leaf, near, key)
        if identity not in self._made:
            self._made[identity] = self._tensor(leaf, near, key)
        return self._made[identity]

    def _tie(self, tensor: LazyTensor, near: T | np.ndarray, key: str) -> Hashable | None:
        if tensor.identity is None:
            return None
        other = array_tensor(near, key) if isinstance(near, np.ndarray) else self._ops.to_lazy(near, key)
        return None if other.identity is None else (tensor.identity, other.identity)

    def _tensor(self, tensor: LazyTensor, near: T | np.ndarray | None, key: str) -> T | np.ndarray:
        if isinstance(near, np.ndarray):
            return tensor.numpy().copy()
        if near is not None:
            return self._ops.from_lazy_like(tensor, key, near)
        shared = self._view(tensor, key)
        return self._ops.from_lazy(tensor, key, device=self._device) if shared is None else shared

    def _view(self, tensor: LazyTensor, key: str) -> T | None:
        if not isinstance(tensor.source, Strided) or tensor.alias not in self._kept:
            return None
        if tensor.alias not in self._storages:
            self._storages[tensor.alias] = self._ops.from_lazy(tensor.source.storage, key, device=self._device)
        return self._ops.view_of(self._storages[tensor.alias], tensor)


def _roots(cls: type) -> set[str]:
    """Return the root modules of a class and its bases."""
    return {base.__module__.partition(".")[0] for base in cls.__mro__}


def _without_code(state: object) -> object:
    """Return a state without its functions, which some schedulers leave in it: the object it is loaded into has them."""
    if not isinstance(state, Mapping):
        return state
    return {name: value for name, value in state.items() if not isinstance(value, FunctionType | MethodType)}


#: Subclasses of plain types, such as an IntEnum or torch.__version__, are kept by their value.
_PLAIN_VALUES: tuple[tuple[type, Callable[..., Tree]], ...] = (
    (bool, bool),
    (str, str.__str__),  # str() would give an enum's name
    (bytes, bytes),
    (int, int.__int__),
    (float, float.__float__),
    (complex, complex),
)


def _plain_value(value: object, key: str) -> Tree:
    if isinstance(value, np.generic):
        value = value.item()
    for kind, plain in _PLAIN_VALUES:
        if isinstance(value, kind):
            return plain(value)
    raise ValueRefusedError(
        f"{key}: found {type(value).__module__}.{type(value).__qualname__}, expected a tensor of one framework, "
        "a plain value, a container of these, or an object with state_dict(); leave it out, or store its plain parts, "
        "such as str(…)"
    )


def _storages_to_keep(table: Mapping[str, LazyTensor]) -> set[Hashable]:
    """Return the aliases of storages that two different tensors look into, or one that is larger, or not in C order."""
    permuted = {tensor.alias for tensor in table.values() if _is_permuted(tensor)}
    return {*Sharing(table).kept_aliases, *permuted}


def _is_permuted(tensor: LazyTensor) -> bool:
    view = tensor.source
    return isinstance(view, Strided) and view.storage.nbytes == tensor.nbytes and not view.is_dense
