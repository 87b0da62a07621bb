"""Backend: the contract of a framework's adapter, and the abilities that some have beside it.

An adapter is one class in one package (``backends/README.md``); ``testing`` has the suites that say whether it keeps the
contract. No framework is imported here, nor anywhere in the core.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from ..tree import Tree
from .report import LoadReport

__all__ = [
    "Backend",
    "SupportsRandomState",
    "SupportsStepChanges",
    "SupportsStepHook",
    "SupportsWholeModels",
]

T = TypeVar("T")


class Backend(ABC):
    """Turns one framework's live objects into trees and back. Backends know no disk.

    There are two ways of loading: into objects, in place, and by new values like old ones. A backend whose objects are
    of one kind alone raises ValueRefusedError for the other way, and says which one to take.
    """

    name: ClassVar[str]  # the framework's root module

    @abstractmethod
    def owns(self, obj: object) -> bool:
        """Return whether ``obj`` is a tensor, module, optimizer or scheduler of this framework."""

    @abstractmethod
    def to_tree(self, obj: object) -> Tree:
        """Return the tree of a tensor, module, optimizer, scheduler, state dict or nested mix, without moving bytes.

        The tensors stay views of live memory: they are read when asked for, as they are then. Containers become plain
        dicts, lists and tuples; of a NamedTuple or other tuple subclass a CheckpointWarning says so, by key and type.
        """

    @abstractmethod
    def from_tree(self, tree: Tree, *, device: str | None = None, like: object = None) -> Any:
        """Return the tree with the framework's tensors in it; ties are kept, memory is shared where it is safe.

        ``like`` is a live object of the same structure, or of a part of it. Each container takes the type of like's at
        its place, NamedTuples and other tuple subclasses included; each tensor is made where and as like's is, in memory
        of its own. Elements, keys and their order are the tree's. Raise MismatchError for a NamedTuple of another length.
        """

    @abstractmethod
    def load_into(self, target: object, tree: Tree, *, strict: bool = True) -> LoadReport:
        """Load the tree into a live object in place and say what was loaded.

        With ``strict`` any difference raises MismatchError, which carries the report, and nothing is touched; without
        it what fits is loaded. A dtype is never changed: one that differs is a mismatch. A target with tensors that are
        values is a ValueRefusedError, asked before anything is touched.
        """

    @abstractmethod
    def loaded_like(self, like: T, tree: Tree, *, strict: bool = True) -> tuple[T, LoadReport]:
        """Return the tree's values in the structure of ``like``, and what was loaded; ``like`` is never touched.

        The containers, their types and keys are like's; the values are the tree's, plain ones of the tree's kind. The
        report, and what ``strict`` means, are those of :meth:`load_into`; without ``strict`` what does not fit is like's
        own. An object that can only be filled in place, such as a module, is a ValueRefusedError.
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
    """A backend whose optimizers can be made to wait before a step."""

    def add_step_hook(self, optimizer: object, wait: Callable[[], object]) -> Callable[[], object] | None:
        """Call ``wait`` before every step; return what ends that, or None for an optimizer that cannot be made to."""


@runtime_checkable
class SupportsStepChanges(Protocol):
    """A backend that knows what an optimizer's step changes."""

    def changed_by_step(self, optimizer: object) -> Mapping[Hashable, Callable[[], int] | None]:
        """Return the alias of each tensor that nothing but a step changes, with what counts the changes made to it.

        That is None where the framework counts no changes.
        """


@runtime_checkable
class SupportsWholeModels(Protocol):
    """A backend whose framework can save a module with its code's names, and build it again by running them."""

    def save_model(self, model: object, path: str) -> None:
        """Write the whole module with the framework's own pickling."""

    def load_model(self, path: str, *, device: str | None = None) -> Any:
        """Return the whole module, running what the file names: for files of one's own only."""
