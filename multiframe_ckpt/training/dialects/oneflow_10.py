"""OneFlow 1.0: flat groups again, with ``contiguous_params``; one step for all. Read only: none was ever tried."""

from __future__ import annotations

from ...errors import ValueRefusedError
from ...tree import Tree
from ..names import NO_NAMES, Names
from ..neutral import NeutralState
from ..report import Holding, Notes
from .oneflow import OneFlow, own_grouped
from .recognition import grouped

__all__ = ["OneFlow10"]


class OneFlow10(OneFlow):
    """OneFlow 1.0, as its sources have it."""

    name = "oneflow-1.0"
    title = "OneFlow 1.0"
    writable = False

    def is_optimizer(self, tree: Tree) -> bool:
        """Return whether a tree has flat groups with options of OneFlow's, or one step for all."""
        state = grouped(tree)
        if state is None or own_grouped(tree) is not None:
            return False
        marks = {"_enable_clip_grad", "contiguous_params"}
        return "step" in state.entries or any(marks & {*group} for group in state.groups)

    def is_scheduler(self, tree: Tree) -> bool:
        """Return False: a scheduler of 1.0 is like one of 0.9."""
        return False

    def may_be_scheduler(self, tree: Tree) -> bool:
        """Return False: a scheduler of 1.0 is like one of 0.9."""
        return False

    def holds(self, neutral: NeutralState, key: str = "state") -> Holding:
        """Return that it holds nothing, since none of its states was ever tried."""
        notes = Notes(key)
        notes.refuse("found OneFlow 1.0 as what to write, expected a version that can be tried; write OneFlow 0.9")
        return notes.holding()

    def write(self, neutral: NeutralState, names: Names = NO_NAMES, *, like: Tree = None) -> Tree:
        """Raise: nothing is written in this dialect."""
        raise ValueRefusedError(self.holds(neutral).refused[0])
