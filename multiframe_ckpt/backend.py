"""Backend: the contract of a framework's adapter, the template most adapters fill in, and the table of backends.

An adapter is one class in one package (``backends/README.md``). ``testing.backends.BackendContract`` is the suite that
says whether it keeps the contract. No framework is imported here: an object of a framework can exist only if that
framework is in ``sys.modules`` already, so :func:`backend_of` looks there before it loads an adapter.
"""

from __future__ import annotations

import os
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from types import FunctionType, MethodType
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from .errors import MismatchError, UnavailableError, UnknownNameError, ValueRefusedError
from .loading import Loading, array_tensor, fill_array, is_stateful
from .registry import Registry
from .report import LoadReport, Mismatch
from .tensor import LazyTensor
from .tree import Path, Tree, is_plain, join_key, leaves, map_leaves, tensors_of

__all__ = [
    "BACKENDS",
    "Backend",
    "BackendRecord",
    "HoldsUpdates",
    "KeepsRandomState",
    "LoadReport",
    "Mismatch",
    "PicklesModels",
    "TensorBackend",
    "array_tensor",
    "backend_named",
    "backend_of",
    "backends",
    "default_backend",
    "fill_array",
]


class Backend(ABC):
    """Turns one framework's live objects into trees and back. Backends know no disk."""

    name: ClassVar[str]  # the framework's root module

    @abstractmethod
    def owns(self, obj: object) -> bool:
        """Says whether ``obj`` is a tensor, module, optimizer or scheduler of this framework."""

    @abstractmethod
    def to_tree(self, obj: object) -> Tree:
        """Gives the tree of a tensor, module, optimizer, scheduler, state dict or nested mix, without moving bytes.

        The tensors stay views of live memory: they are read when asked for, as they are then.
        """

    @abstractmethod
    def from_tree(self, tree: Tree, *, device: str | None = None) -> Any:
        """Gives the tree with the framework's tensors in it; ties are kept, memory is shared where it is safe."""

    @abstractmethod
    def load_into(self, target: object, tree: Tree, *, strict: bool = True) -> LoadReport:
        """Loads the tree into a live object in place and says what was loaded.

        With ``strict`` any difference raises MismatchError, which carries the report, and nothing is touched; without
        it what fits is loaded. A dtype is never changed: one that differs is a mismatch.
        """


@runtime_checkable
class KeepsRandomState(Protocol):
    """A backend whose framework has random generators: global ones, and perhaps some that a model's modules own."""

    def random_state(self, model: object = None) -> dict[str, Tree]:
        """Gives the generators' states, copied now."""

    def set_random_state(self, state: Mapping[str, Tree], model: object = None) -> None:
        """Sets the generators to states that :meth:`random_state` gave."""


@runtime_checkable
class HoldsUpdates(Protocol):
    """A backend that knows what an optimizer's step changes, and perhaps how to wait before it."""

    def before_update(self, optimizer: object, wait: Callable[[], object]) -> Callable[[], object] | None:
        """Calls ``wait`` before every step; gives what ends that, or None for an optimizer that cannot be made to."""

    def updated_by(self, optimizer: object) -> dict[Hashable, Callable[[], int]]:
        """Gives the alias of each tensor that nothing but a step changes, with what counts the changes made to it."""


@runtime_checkable
class PicklesModels(Protocol):
    """A backend whose framework can save a module with its code's names, and build it again by running them."""

    def save_model(self, model: object, path: str) -> None:
        """Writes the whole module with the framework's own pickling."""

    def load_model(self, path: str, *, device: str | None = None) -> Any:
        """Gives the whole module, running what the file names: for files of one's own only."""


class TensorBackend(Backend):
    """A Backend of any framework whose modules and optimizers have ``state_dict`` and ``load_state_dict``.

    An adapter says what its tensors and modules are and how one tensor crosses; the rest is written once, here.
    """

    @abstractmethod
    def is_tensor(self, obj: object) -> bool:
        """Says whether ``obj`` is a tensor of this framework."""

    @abstractmethod
    def lazy(self, tensor: Any, key: str) -> LazyTensor:
        """Gives a framework's tensor as a lazy one; raises a RefusedError that names ``key``."""

    @abstractmethod
    def live(self, tensor: LazyTensor, key: str, *, device: str | None) -> Any:
        """Gives a lazy tensor as the framework's; raises DtypeRefusedError that names ``key``."""

    @abstractmethod
    def copy_into(self, target: Any, tensor: LazyTensor) -> None:
        """Copies into a framework's tensor of the same dtype and shape, in place."""

    def is_module(self, obj: object) -> bool:
        """Says whether ``obj`` is a module: an object whose state dict is its own live tensors."""
        return False

    def strided(self, storage: Any, tensor: LazyTensor) -> Any:
        """Gives ``tensor.view`` into a live storage (1-D uint8), or None where the framework has no such views."""
        return None

    def adapts(self, module: Any, found: Mapping[str, Tree]) -> bool:
        """Says whether the module's own loading accepts these keys although its state dict has others."""
        return False

    def parameters_of(self, optimizer: Any) -> list[Any]:
        """Gives an optimizer's parameters in order where it holds their moments in the same dtype, else nothing."""
        return []

    def load_state(self, target: Any, state: Any) -> None:
        """Hands a live state to an optimizer, scheduler or scaler."""
        target.load_state_dict(state)

    def owns(self, obj: object) -> bool:
        """Says whether ``obj`` is this framework's tensor, or of a class that comes from it and keeps a state."""
        return self.is_tensor(obj) or (is_stateful(obj) and self.name in _roots(type(obj)))

    def to_tree(self, obj: object) -> Tree:
        """Gives the tree; an object that is neither tensor, plain value nor stateful is refused by key."""
        return map_leaves(obj, self._neutral)

    def _neutral(self, path: Path, leaf: Any) -> Tree:
        key = join_key(path) or "(top)"
        if is_plain(leaf) or isinstance(leaf, LazyTensor):
            return leaf
        if self.is_tensor(leaf):
            return self.lazy(leaf, key)
        if isinstance(leaf, np.ndarray):
            return array_tensor(leaf, key)
        if is_stateful(leaf):
            return map_leaves(_without_code(leaf.state_dict()), self._neutral, path=path)
        return _plain_value(leaf, key)

    def from_tree(self, tree: Tree, *, device: str | None = None) -> Any:
        """Gives the live object; tensors of equal identity become one tensor, those of one storage share it."""
        made: dict[Hashable, Any] = {}
        storages: dict[Hashable, Any] = {}
        kept = _storages_to_keep(tensors_of(tree).values())

        def build(tensor: LazyTensor, key: str) -> Any:
            if tensor.view is not None and tensor.alias in kept:
                if tensor.alias not in storages:
                    storages[tensor.alias] = self.live(tensor.view.storage, key, device=device)
                shared = self.strided(storages[tensor.alias], tensor)
                if shared is not None:
                    return shared
            return self.live(tensor, key, device=device)

        def change(path: Path, leaf: Tree) -> Any:
            if not isinstance(leaf, LazyTensor):
                return leaf
            key = join_key(path) or "(top)"
            identity = leaf.identity
            if identity is None:
                return build(leaf, key)
            if identity not in made:
                made[identity] = build(leaf, key)
            return made[identity]

        return map_leaves(tree, change)

    def load_into(self, target: object, tree: Tree, *, strict: bool = True) -> LoadReport:
        """Loads into modules, optimizers, schedulers, tensors, and mutable containers of these, in place."""
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
    """Gives the root modules of a class and its bases."""
    return {base.__module__.partition(".")[0] for base in cls.__mro__}


def _without_code(state: Any) -> Any:
    """Gives a state without its functions, which some schedulers leave in it: the object it is loaded into has them."""
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
    """Gives the aliases of storages that two different tensors look into, or one tensor whole but not in C order."""
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


#: Name → where its class is. The class imports its framework when it is called, never when it is imported.
BACKENDS: Registry[type[Backend]] = Registry(
    "backend",
    {
        "numpy": "multiframe_ckpt_numpy:NumpyBackend",
        "torch": "multiframe_ckpt_torch:TorchBackend",
        "oneflow": "multiframe_ckpt_oneflow:OneflowBackend",
    },
    "multiframe_ckpt.backends",
)
_EXTRAS = ("torch", "oneflow")
_VARIABLE = "MULTIFRAME_CKPT_BACKEND"


@cache
def backend_named(name: str) -> Backend:
    """Gives the backend called ``name``; raises UnknownNameError, or UnavailableError with the reason and a way out."""
    try:
        return BACKENDS.get(name)()
    except (UnknownNameError, UnavailableError):
        raise
    except Exception as problem:  # a framework that is present but broken may raise anything while it is imported
        first_line = (str(problem).splitlines() or [""])[0]
        fix = f"pip install 'multiframe-ckpt[{name}]'" if name in _EXTRAS else f"repair or remove the plugin {name!r}"
        raise UnavailableError(
            f"{name}: found {type(problem).__name__}: {first_line}, expected a working {name}; {fix}"
        ) from problem


def default_backend() -> Backend:
    """Gives the backend that MULTIFRAME_CKPT_BACKEND names, else NumPy's."""
    try:
        return backend_named(os.environ.get(_VARIABLE) or "numpy")
    except UnknownNameError as problem:
        raise UnknownNameError(f"{_VARIABLE}: {problem}") from None


def backend_of(obj: object) -> Backend:
    """Gives the backend whose objects ``obj`` is or holds, NumPy's for plain values; imports no framework.

    NumPy arrays and plain values go with any framework's tensors; a mix of two frameworks is refused.
    """
    candidates = _imported_backends()
    found: dict[str, str] = {}
    known: set[type] = set()
    for path, leaf in leaves(obj):
        if type(leaf) in known:
            continue
        known.add(type(leaf))
        for backend in candidates:
            if backend.owns(leaf):
                found.setdefault(backend.name, join_key(path) or "(top)")
                break
    if len(found) > 1:
        places = " and ".join(f"{name} at {key!r}" for name, key in found.items())
        raise ValueRefusedError(f"found objects of two frameworks, {places}, expected one; save them apart")
    return backend_named(next(iter(found), "numpy"))


def _imported_backends() -> list[Backend]:
    """Gives the backends, NumPy's apart, whose framework this process has imported already."""
    found: list[Backend] = []
    for name in BACKENDS.names():
        if name != "numpy" and sys.modules.get(name) is not None:
            try:
                found.append(backend_named(name))
            except UnavailableError as problem:
                warnings.warn(f"backend left out: {problem}", stacklevel=3)
    return found


@dataclass(frozen=True, slots=True)
class BackendRecord:
    """Whether a backend can be used here: its framework's version, or the reason why not."""

    name: str
    available: bool
    version: str | None = None
    reason: str | None = None


def backends() -> list[BackendRecord]:
    """Gives a record of every known backend; to know whether one works it imports its framework."""
    return [_record(name) for name in BACKENDS.names()]


def _record(name: str) -> BackendRecord:
    try:
        backend = backend_named(name)
    except UnavailableError as problem:
        return BackendRecord(name, available=False, reason=str(problem))
    version = getattr(sys.modules.get(backend.name), "__version__", None)
    return BackendRecord(name, available=True, version=None if version is None else str(version))
