"""TensorBackend: the template that most adapters fill in."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping
from types import FunctionType, MethodType
from typing import Any

import numpy as np

from ..errors import MismatchError, ValueRefusedError
from ..tree import LazyTensor, Path, Tree, is_plain, key_of, map_leaves, tensors
from .base import Backend
from .loading import Loading, array_tensor, is_stateful
from .report import LoadReport

__all__ = ["TensorBackend"]


class TensorBackend(Backend):
    """A Backend of any framework whose modules and optimizers have ``state_dict`` and ``load_state_dict``.

    An adapter says what its tensors and modules are and how one tensor crosses; the rest is written once, here.
    """

    @abstractmethod
    def is_tensor(self, obj: object) -> bool:
        """Return whether ``obj`` is a tensor of this framework."""

    @abstractmethod
    def to_lazy(self, tensor: Any, key: str) -> LazyTensor:
        """Return a framework's tensor as a lazy one; raise a RefusedError that names ``key``."""

    @abstractmethod
    def from_lazy(self, tensor: LazyTensor, key: str, *, device: str | None) -> Any:
        """Return a lazy tensor as the framework's; raise DtypeRefusedError that names ``key``."""

    @abstractmethod
    def copy_into(self, target: Any, tensor: LazyTensor) -> None:
        """Copy into a framework's tensor of the same dtype and shape, in place."""

    def is_module(self, obj: object) -> bool:
        """Return whether ``obj`` is a module: an object whose state dict is its own live tensors."""
        return False

    def view_of(self, storage: Any, tensor: LazyTensor) -> Any:
        """Return ``tensor.view`` into a live storage (1-D uint8), or None where the framework has no such views."""
        return None

    def accepts_keys(self, module: Any, found: Mapping[str, Tree]) -> bool:
        """Return whether the module's own loading accepts these keys although its state dict has others."""
        return False

    def parameters_of(self, optimizer: Any) -> list[Any]:
        """Return an optimizer's parameters in order where it holds their moments in the same dtype, else nothing."""
        return []

    def load_state(self, target: Any, state: Any) -> None:
        """Hand a live state to an optimizer, scheduler or scaler."""
        target.load_state_dict(state)

    def owns(self, obj: object) -> bool:
        """Return whether ``obj`` is this framework's tensor, or of a class that comes from it and keep a state."""
        return self.is_tensor(obj) or (is_stateful(obj) and self.name in _roots(type(obj)))

    def to_tree(self, obj: object) -> Tree:
        """Return the tree; an object that is neither tensor, plain value nor stateful is refused by key."""
        return map_leaves(obj, self._neutral)

    def _neutral(self, path: Path, leaf: Any) -> Tree:
        key = key_of(path)
        if is_plain(leaf) or isinstance(leaf, LazyTensor):
            return leaf
        if self.is_tensor(leaf):
            return self.to_lazy(leaf, key)
        if isinstance(leaf, np.ndarray):
            return array_tensor(leaf, key)
        if is_stateful(leaf):
            return map_leaves(_without_code(leaf.state_dict()), self._neutral, path=path)
        return _plain_value(leaf, key)

    def from_tree(self, tree: Tree, *, device: str | None = None) -> Any:
        """Return the live object; tensors of equal identity become one tensor, those of one storage share it."""
        made: dict[Hashable, Any] = {}
        storages: dict[Hashable, Any] = {}
        kept = _storages_to_keep(tensors(tree).values())

        def build(tensor: LazyTensor, key: str) -> Any:
            if tensor.view is not None and tensor.alias in kept:
                if tensor.alias not in storages:
                    storages[tensor.alias] = self.from_lazy(tensor.view.storage, key, device=device)
                shared = self.view_of(storages[tensor.alias], tensor)
                if shared is not None:
                    return shared
            return self.from_lazy(tensor, key, device=device)

        def change(path: Path, leaf: Tree) -> Any:
            if not isinstance(leaf, LazyTensor):
                return leaf
            key = key_of(path)
            identity = leaf.identity
            if identity is None:
                return build(leaf, key)
            if identity not in made:
                made[identity] = build(leaf, key)
            return made[identity]

        return map_leaves(tree, change)

    def load_into(self, target: object, tree: Tree, *, strict: bool = True) -> LoadReport:
        """Load into modules, optimizers, schedulers, tensors, and mutable containers of these, in place."""
        loading = Loading(self)
        loading.visit(target, tree)
        report = loading.report()
        if strict and not report.complete:
            raise MismatchError(
                f"{type(target).__name__}: found {report}, expected the same keys, shapes and dtypes; "
                f"{_way_out(report)}",
                report,
            )
        for step in loading.steps:
            step()
        return report


def _way_out(report: LoadReport) -> str:
    if not report.suggestions:
        return "load what fits with strict=False"
    return f"{' or '.join(report.suggestions)} (options of 'multiframe-ckpt convert', and of convert())"


def _roots(cls: type) -> set[str]:
    """Return the root modules of a class and its bases."""
    return {base.__module__.partition(".")[0] for base in cls.__mro__}


def _without_code(state: Any) -> Any:
    """Return a state without its functions, which some schedulers leave in it: the object it is loaded into has them."""
    if not isinstance(state, Mapping):
        return state
    return {name: value for name, value in state.items() if not isinstance(value, FunctionType | MethodType)}


#: Subclasses of plain types, such as an IntEnum or torch.__version__, are kept by their value.
_PLAIN_VALUES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (bool, bool),
    (str, str.__str__),  # str() would give an enum's name
    (bytes, bytes),
    (int, int.__int__),
    (float, float.__float__),
    (complex, complex),
)


def _plain_value(value: Any, key: str) -> Tree:
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


def _storages_to_keep(tensors: Iterable[LazyTensor]) -> set[Hashable]:
    """Return the aliases of storages that two different tensors look into, or one tensor whole but not in C order."""
    seen: dict[Hashable, Hashable] = {}
    kept: set[Hashable] = set()
    for tensor in tensors:
        if tensor.alias is None or tensor.view is None:
            continue
        permuted = tensor.view.storage.nbytes == tensor.nbytes and not _is_c_order(tensor.shape, tensor.view.stride)
        if permuted or seen.setdefault(tensor.alias, tensor.identity) != tensor.identity:
            kept.add(tensor.alias)
    return kept


def _is_c_order(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    want = 1
    for dim, step in zip(reversed(shape), reversed(stride), strict=True):
        if dim != 1 and step != want:
            return False
        want *= dim
    return True
