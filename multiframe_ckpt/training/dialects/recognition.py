"""Which optimizer a state is of, told by its options and tensors: its class is not in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from ...tree import Tree
from ..optimizers import ADAMS, OPTIMIZERS, WAY_OUT
from ..report import Notes
from .base import OptimizerRow

__all__ = ["decay_is_decoupled", "is_grouped", "matching", "recognised"]

#: Options that older versions of every framework lack.
_NEWER = {"dampening", "nesterov", "maximize"}
#: What any group may hold beside the options of its optimizer.
_BESIDE = {
    "param_names",
    "name",
    "initial_lr",
    "swa_lr",
    "max_lr",
    "min_lr",
    "base_momentum",
    "max_momentum",
    "decoupled_weight_decay",
}


class _Grouped(Protocol):
    """What is asked of a dialect; see ``GroupedDialect``."""

    adamw_order: ClassVar[tuple[str, str]]

    @property
    def run_options(self) -> Mapping[str, Any]: ...
    @property
    def local_options(self) -> Mapping[str, str]: ...
    @property
    def giveaways(self) -> Mapping[str, str]: ...
    @property
    def known_rows(self) -> Mapping[str, OptimizerRow]: ...
    def group_options(self, group: Mapping[str, Tree]) -> Mapping[str, Tree]: ...


def is_grouped(tree: Tree) -> bool:
    """Return whether a tree is ``{"state": {…}, "param_groups": […]}``, in any dialect."""
    if not isinstance(tree, Mapping) or not isinstance(tree.get("state"), Mapping):
        return False
    groups = tree.get("param_groups")
    return isinstance(groups, list | tuple) and all(isinstance(g, Mapping) and "params" in g for g in groups)


def recognised(dialect: _Grouped, tree: Tree, notes: Notes) -> tuple[str, bool]:
    """Return the neutral name of a state's algorithm, and whether it is certain.

    Raise ValueRefusedError for an optimizer that no other framework has.
    """
    algorithm = matching(dialect, tree)
    if algorithm is None:
        raise notes.error(
            f"found {_guess(dialect, tree)}, expected one of {', '.join(OPTIMIZERS)}; {WAY_OUT}, or name its class if it "
            "is one of them"
        )
    return _adam_or_adamw(dialect, tree) if algorithm in ADAMS else (algorithm, True)


def matching(dialect: _Grouped, tree: Tree) -> str | None:
    """Return the algorithm whose options and tensors a state has, and no others, or None."""
    options, tensors = _names(dialect, tree)
    for algorithm, row in dialect.known_rows.items():
        needed = {*row.options} - {*_NEWER, *dialect.run_options}
        known = {*row.options, *dialect.run_options, *dialect.local_options, *_BESIDE}
        if needed <= options <= known and tensors <= {"step", *row.tensors.values()}:
            return algorithm
    return None


def _names(dialect: _Grouped, tree: Tree) -> tuple[set[str], set[str]]:
    """Return the names of all options and of all tensors in a state."""
    options = {str(name) for group in tree["param_groups"] for name in dialect.group_options(group)}
    entries = [entry for entry in tree["state"].values() if isinstance(entry, Mapping)]
    return options, {str(name) for entry in entries for name in entry}


def _flags(dialect: _Grouped, tree: Tree) -> set[bool]:
    """Return what groups say of their decay, as newer versions do, and states that were written here."""
    options = [dialect.group_options(group) for group in tree["param_groups"]]
    return {bool(held["decoupled_weight_decay"]) for held in options if "decoupled_weight_decay" in held}


def decay_is_decoupled(dialect: _Grouped, tree: Tree) -> bool:
    """Return whether all groups say that their weights decay as AdamW's do, whatever class they are of."""
    return _flags(dialect, tree) == {True}


def _adam_or_adamw(dialect: _Grouped, tree: Tree) -> tuple[str, bool]:
    """Tell the two apart: a state may say so, without weight decay they are one, else the order of the options hints."""
    flags = _flags(dialect, tree)
    if len(flags) == 1:
        return "AdamW" if flags == {True} else "Adam", True
    options = [list(dialect.group_options(group)) for group in tree["param_groups"]]
    first, second = dialect.adamw_order
    is_adamw = any(first in held and second in held and held.index(first) < held.index(second) for held in options)
    decays = any(dialect.group_options(group).get("weight_decay") for group in tree["param_groups"])
    return "AdamW" if is_adamw else "Adam", not decays


def _guess(dialect: _Grouped, tree: Tree) -> str:
    options, tensors = _names(dialect, tree)
    for giveaway, name in dialect.giveaways.items():
        if giveaway in options | tensors:
            return f"what looks like {name}"
    return f"an optimizer with options {', '.join(sorted(options)) or 'none'}"
