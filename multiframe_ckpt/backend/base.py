"""Backend: the contract of a framework's adapter, the template most adapters fill in, and the table of backends.

An adapter is one class in one package (``backends/README.md``). ``testing.backends.BackendContract`` is the suite that
says whether it keeps the contract. No framework is imported here: an object of a framework can exist only if that
framework is in ``sys.modules`` already, so :func:`backend_of` looks there before it loads an adapter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

from ..tree import Tree
from .loading import array_tensor, fill_array
from .report import LoadReport, Mismatch

__all__ = [
    "Backend",
    "LoadReport",
    "Mismatch",
    "SupportsRandomState",
    "SupportsStepHook",
    "SupportsWholeModels",
    "array_tensor",
    "fill_array",
]


class Backend(ABC):
    """Turns one framework's live objects into trees and back. Backends know no disk."""

    name: ClassVar[str]  # the framework's root module

    @abstractmethod
    def owns(self, obj: object) -> bool:
        """Return whether ``obj`` is a tensor, module, optimizer or scheduler of this framework."""

    @abstractmethod
    def to_tree(self, obj: object) -> Tree:
        """Return the tree of a tensor, module, optimizer, scheduler, state dict or nested mix, without moving bytes.

        The tensors stay views of live memory: they are read when asked for, as they are then.
        """

    @abstractmethod
    def from_tree(self, tree: Tree, *, device: str | None = None) -> Any:
        """Return the tree with the framework's tensors in it; tie are kept, memory is shared where it is safe."""

    @abstractmethod
    def load_into(self, target: object, tree: Tree, *, strict: bool = True) -> LoadReport:
        """Load the tree into a live object in place and say what was loaded.

        With ``strict`` any difference raises MismatchError, which carries the report, and nothing is touched; without
        it what fits is loaded. A dtype is never changed: one that differs is a mismatch.
        """


@runtime_checkable
class SupportsRandomState(Protocol):
    """A backend whose framework has random generators: global ones, and perhaps some that a model's modules own."""

    def random_state(self, model: object = None) -> dict[str, Tree]:
        """Return the generators' states, copied now."""

    def set_random_state(self, state: Mapping[str, Tree], model: object = None) -> None:
        """Set the generators to states that :meth:`random_state` gave."""


@runtime_checkable
class SupportsStepHook(Protocol):
    """A backend that knows what an optimizer's step changes, and perhaps how to wait before it."""

    def add_step_hook(self, optimizer: object, wait: Callable[[], object]) -> Callable[[], object] | None:
        """Call ``wait`` before every step; return what ends that, or None for an optimizer that cannot be made to."""

    def changed_by_step(self, optimizer: object) -> dict[Hashable, Callable[[], int]]:
        """Return the alias of each tensor that nothing but a step changes, with what counts the changes made to it."""


@runtime_checkable
class SupportsWholeModels(Protocol):
    """A backend whose framework can save a module with its code's names, and build it again by running them."""

    def save_model(self, model: object, path: str) -> None:
        """Write the whole module with the framework's own pickling."""

    def load_model(self, path: str, *, device: str | None = None) -> Any:
        """Return the whole module, running what the file names: for files of one's own only."""
