"""Which optimizer a state is of, told by its options and tensors: its class is not in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from ...tree import Entries, Tree
from ..optimizers import ADAMS, OPTIMIZERS, WAY_OUT
from ..report import Notes
from .base import OptimizerRow

__all__ = ["Grouped", "decay_is_decoupled", "grouped", "matching", "recognised", "require_grouped"]

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


@dataclass(frozen=True, slots=True)
class Grouped:
    """A state ``{"state": {parameter: tensors}, "param_groups": [{"params": [parameter, …], option: value, …}, …]}``."""

    tree: Mapping[str, Tree]  # all of it
    entries: Entries  # what stands under ``state``
    groups: Sequence[Mapping[str, Tree]]
    parameters: Sequence[Sequence[Any]]  # what each group lists


class _Dialect(Protocol):
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


def grouped(tree: Tree) -> Grouped | None:
    """Return a tree as a grouped state, in any dialect; None for what is none."""
    if not isinstance(tree, Mapping):
        return None
    entries, listed = tree.get("state"), tree.get("param_groups")
    if not isinstance(entries, Mapping) or not isinstance(listed, list | tuple):
        return None
    groups = [group for group in listed if isinstance(group, Mapping)]
    parameters = [named for group in groups if isinstance(named := group.get("params"), list | tuple)]
    return Grouped(tree, entries, groups, parameters) if len(listed) == len(groups) == len(parameters) else None


def require_grouped(tree: Tree, notes: Notes) -> Grouped:
    """Return a tree as a grouped state; raise ValueRefusedError for what is none."""
    state = grouped(tree)
    if state is None:
        raise notes.error("found no optimizer state, expected a dict with 'state' and 'param_groups'")
    return state


def recognised(dialect: _Dialect, state: Grouped, notes: Notes) -> tuple[str, bool]:
    """Return the neutral name of a state's algorithm, and whether it is certain.

    Raise ValueRefusedError for an optimizer that no other framework has.
    """
    algorithm = matching(dialect, state)
    if algorithm is None:
        raise notes.error(
            f"found {_guess(dialect, state)}, expected one of {', '.join(OPTIMIZERS)}; {WAY_OUT}, or name its class if it "
            "is one of them"
        )
    return _adam_or_adamw(dialect, state) if algorithm in ADAMS else (algorithm, True)


def matching(dialect: _Dialect, state: Grouped) -> str | None:
    """Return the algorithm whose options and tensors a state has, and no others, or None."""
    options, tensors = _names(dialect, state)
    for algorithm, row in dialect.known_rows.items():
        needed = {*row.options} - {*_NEWER, *dialect.run_options}
        known = {*row.options, *dialect.run_options, *dialect.local_options, *_BESIDE}
        if needed <= options <= known and tensors <= {"step", *row.tensors.values()}:
            return algorithm
    return None


def _names(dialect: _Dialect, state: Grouped) -> tuple[set[str], set[str]]:
    """Return the names of all options and of all tensors in a state."""
    options = {str(name) for group in state.groups for name in dialect.group_options(group)}
    entries = [entry for entry in state.entries.values() if isinstance(entry, Mapping)]
    return options, {str(name) for entry in entries for name in entry}


def _flags(dialect: _Dialect, state: Grouped) -> set[bool]:
    """Return what groups say of their decay, as newer versions do, and states that were written here."""
    options = [dialect.group_options(group) for group in state.groups]
    return {bool(held["decoupled_weight_decay"]) for held in options if "decoupled_weight_decay" in held}


def decay_is_decoupled(dialect: _Dialect, state: Grouped) -> bool:
    """Return whether all groups say that their weights decay as AdamW's do, whatever class they are of."""
    return _flags(dialect, state) == {True}


def _adam_or_adamw(dialect: _Dialect, state: Grouped) -> tuple[str, bool]:
    """Tell the two apart: a state may say so, without weight decay they are one, else the order of the options hints."""
    flags = _flags(dialect, state)
    if len(flags) == 1:
        return "AdamW" if flags == {True} else "Adam", True
    options = [list(dialect.group_options(group)) for group in state.groups]
    first, second = dialect.adamw_order
    is_adamw = any(first in held and second in held and held.index(first) < held.index(second) for held in options)
    decays = any(dialect.group_options(group).get("weight_decay") for group in state.groups)
    return "AdamW" if is_adamw else "Adam", not decays


def _guess(dialect: _Dialect, state: Grouped) -> str:
    options, tensors = _names(dialect, state)
    for giveaway, name in dialect.giveaways.items():
        if giveaway in options | tensors:
            return f"what looks like {name}"
    return f"an optimizer with options {', '.join(sorted(options)) or 'none'}"
