"""Dialect: how one framework lays out the states of its optimizers and schedulers. What a plugin has to write.

A dialect knows its own framework and the neutral state, never another framework. Whatever crosses goes

    tree of one dialect ──read──▶ NeutralState ──holds, write──▶ tree of another

Between the two stands ``crossing.py``: it asks the target what it holds, and gives the numbers the meaning they have there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ...tree import Path, Tree, node_at
from ..names import NO_NAMES, Names
from ..neutral import Facts, NeutralState
from ..report import Holding, Notes

__all__ = ["Dialect", "OptimizerRow"]


@dataclass(frozen=True, slots=True)
class OptimizerRow:
    """One optimizer as a framework has it: its options in their order, and its names of the neutral tensors.

    ``idle`` are options that it has but does not heed, with the value that it therefore acts on.
    """

    options: tuple[str, ...]
    tensors: Mapping[str, str]
    idle: Mapping[str, Any] = field(default_factory=dict)


class Dialect(ABC):
    """One dialect, found by the entry point group ``multiframe_ckpt.dialects``.

    ``optimizers`` and ``schedulers`` are the algorithms that it has, by their neutral names; of a scheduler, the neutral
    attributes with the framework's own names. ``advice`` says what to do here instead of a local option of elsewhere.
    """

    name: ClassVar[str]  # as the registry has it
    framework: ClassVar[str]  # dialects of one framework share its random state and its gradient scaler
    title: ClassVar[str]  # the framework as a message names it
    writable: ClassVar[bool] = True
    goes_by_name: ClassVar[bool] = False  # its states name their parameters, where others number them
    scheduler_inside: ClassVar[bool] = False  # a scheduler's state is kept inside its optimizer's
    optimizers: ClassVar[Mapping[str, OptimizerRow]] = {}
    schedulers: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    advice: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def is_optimizer(self, tree: Tree) -> bool:
        """Return whether a tree is the state of an optimizer in this dialect. Cheap: it is asked of many trees."""

    def is_scheduler(self, tree: Tree) -> bool:
        """Return whether a tree is, or holds inside an optimizer's, the state of a scheduler in this dialect."""
        return False

    def may_be_scheduler(self, tree: Tree) -> bool:
        """Return whether a tree that stands for a scheduler's state is one of this dialect's: less is enough then."""
        return self.is_scheduler(tree)

    def is_state(self, tree: Tree) -> bool:
        """Return whether a tree is a state in this dialect."""
        return self.is_optimizer(tree) or self.is_scheduler(tree)

    @abstractmethod
    def read(self, tree: Tree, names: Names = NO_NAMES, *, class_name: str | None = None, notes: Notes) -> NeutralState:
        """Return a state of this dialect in neutral terms, tensors unread.

        ``names`` name parameters that the state itself only numbers. ``class_name`` is the class of the optimizer or
        scheduler, where that is known. What no other framework could use is left out in ``notes``; raises ValueRefusedError
        for a state that is damaged, or that has a meaning in this framework alone.
        """

    def algorithm(self, tree: Tree, *, class_name: str | None = None, notes: Notes) -> tuple[str, bool]:
        """Return the neutral name of an optimizer state's algorithm, and whether it is certain."""
        state = self.read(tree, class_name=class_name, notes=notes).optimizer
        if state is None:
            raise notes.error("found no optimizer state, expected one")
        return state.algorithm, True

    def facts(self, algorithm: str, options: Mapping[str, Any]) -> Facts:
        """Return what an algorithm does in this framework under neutral options; ``decay_decoupled`` is never asked."""
        return Facts()

    @abstractmethod
    def holds(self, neutral: NeutralState, key: str = "state") -> Holding:
        """Return what of a state this dialect can hold, and why not the rest; ``key`` begins each reason.

        ``holding.py`` compares algorithms, options, tensors, attributes and facts with the tables above.
        """

    @abstractmethod
    def write(self, neutral: NeutralState, names: Names = NO_NAMES, *, like: Tree = None) -> Tree:
        """Return a state in this dialect that holds a neutral one, whose facts are this dialect's already.

        ``names`` have the order in which parameters are numbered. ``like`` is the state of a live object: what only says
        how a step is run, and what parameters are called, stays as it has them.
        """

    def gather(self, checkpoint: Tree, path: Path) -> tuple[Tree, tuple[Path, ...]]:
        """Return the whole of the state that stands at ``path``, and the paths of what else it was put together from.

        Overridden where a part of a state stands elsewhere in the checkpoint, such as a map of names beside it.
        """
        return node_at(checkpoint, path), ()

    def spread(self, state: Tree, path: Path) -> Mapping[Path, Tree]:
        """Return where in a checkpoint the pieces of a written state stand; undoes :meth:`gather`."""
        return {path: state}
