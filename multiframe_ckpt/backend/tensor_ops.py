"""TensorOps: what the template asks of an adapter about one tensor, one module, one object with a state."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, MutableMapping
from typing import Any, Generic, Protocol, TypeGuard, TypeVar, runtime_checkable

from ..tree import LazyTensor, Tree
from .arrays import copied_tensor
from .base import Backend

__all__ = ["Module", "Stateful", "SupportsFilling", "TensorOps", "is_stateful"]

T = TypeVar("T")


class Stateful(Protocol):
    """An optimizer, scheduler, scaler, data loader, …: an object that gives a state and takes one."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state."""

    def load_state_dict(self, state: Mapping[str, Any], /) -> object:
        """Take a state."""


class Module(Protocol):
    """An object whose state dict is its own live tensors."""

    def state_dict(self, *, keep_vars: bool) -> MutableMapping[str, Any]:
        """Return the tensors by name, with ``keep_vars`` the very ones."""

    def load_state_dict(self, state: Mapping[str, Any], /) -> object:
        """Copy from tensors of these names."""


@runtime_checkable
class SupportsFilling(Protocol):
    """A backend whose tensors can be filled in place. One without it has tensors that are values, as JAX's arrays are."""

    def copy_into(self, target: Any, tensor: LazyTensor) -> None:
        """Copy into a framework's tensor of the same dtype and shape, in place."""


class TensorOps(Backend, Generic[T]):
    """Three questions that an adapter answers, and others whose usual answer stands here; T is its tensor."""

    @abstractmethod
    def is_tensor(self, obj: object) -> TypeGuard[T]:
        """Return whether ``obj`` is a tensor of this framework."""

    @abstractmethod
    def to_lazy(self, tensor: T, key: str) -> LazyTensor:
        """Return a framework's tensor as a lazy one; raise a RefusedError that names ``key``."""

    @abstractmethod
    def from_lazy(self, tensor: LazyTensor, key: str, *, device: str | None) -> T:
        """Return a lazy tensor as the framework's; raise DtypeRefusedError that names ``key``."""

    def from_lazy_like(self, tensor: LazyTensor, key: str, like: T) -> T:
        """Return a lazy tensor as the framework's, in memory of its own, where and as ``like`` is: device, sharding, ….

        Its dtype and shape are the lazy tensor's.
        """
        return self.from_lazy(copied_tensor(tensor), key, device=None)

    def view_of(self, storage: T, tensor: LazyTensor) -> T | None:
        """Return ``tensor``, a view, over a live storage (1-D uint8), or None where the framework has no such views."""
        return None

    def is_module(self, obj: object) -> TypeGuard[Module]:
        """Return whether ``obj`` is a module: an object whose state dict is its own live tensors."""
        return False

    def accepts_keys(self, module: Module, state: Mapping[str, Tree]) -> bool:
        """Return whether the module's own loading accepts these keys although its state dict has others."""
        return False

    def parameters_of(self, optimizer: object) -> list[T]:
        """Return an optimizer's parameters in the order of its groups; nothing for what is no optimizer."""
        return []

    def is_own_optimizer(self, optimizer: object) -> bool:
        """Return whether an optimizer is one of the framework's own, whose moments have the shapes of parameters."""
        return False

    def takes_moments(self, optimizer: object, parameter: T, moments: Mapping[str, LazyTensor]) -> bool:
        """Return whether a step of the optimizer takes tensors of such dtypes for a parameter; True where nobody knows."""
        return True

    def load_state(self, target: Stateful, state: Mapping[str, Any]) -> None:
        """Hand a live state to an optimizer, scheduler or scaler."""
        target.load_state_dict(state)


def is_stateful(obj: object) -> TypeGuard[Stateful]:
    """Return whether ``obj`` is an instance that gives and takes a state: a module, optimizer, scheduler, scaler, …."""
    methods = ("state_dict", "load_state_dict")
    return not isinstance(obj, type) and all(callable(getattr(obj, name, None)) for name in methods)
