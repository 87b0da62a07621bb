"""Moments: optimizer states whose tensors are laid out as the parameters are that they belong to.

Where each parameter stays one, its tensors are moved where they stand, whatever optimizer it is. Where parameters are
joined or come apart, the state is read and written in its dialect with other parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..errors import MismatchError, ValueRefusedError
from ..tree import LazyTensor, Tree
from ..tree.move_plan import MovePlan
from .dialects import Dialect, optimizer_dialect
from .dialects.grouped import GroupedDialect
from .dialects.numbering import labels
from .dialects.recognition import require_grouped
from .names import Names
from .neutral import Group, NeutralState, OptimizerState
from .parts import Part
from .report import Notes

__all__ = ["move_moments"]

_WAY_OUT = "or take the weights alone: model_only=True"


def move_moments(part: Part, plan: MovePlan, weights: Mapping[str, LazyTensor]) -> Tree:
    """Return an optimizer's state with its tensors moved as the plan moves the ``weights``, unread.

    Raise ValueRefusedError where it is not known which tensor belongs to which parameter, or one has not its shape.
    """
    dialect = optimizer_dialect(part.tree)
    if dialect is None:
        raise ValueRefusedError(f"{part.key}: found an optimizer's state of no known dialect, expected one; {_WAY_OUT}")
    try:
        if isinstance(dialect, GroupedDialect) and plan.keeps_parameters:
            return _moved_in_place(part, dialect, plan, weights)
        return _rewritten(part, dialect, plan, weights)
    except (MismatchError, ValueRefusedError) as problem:
        raise type(problem)(f"{problem}; {_WAY_OUT}") from None


def _moved_in_place(part: Part, dialect: GroupedDialect, plan: MovePlan, weights: Mapping[str, LazyTensor]) -> Tree:
    notes = Notes(part.key)
    state = require_grouped(part.tree, notes)
    stored = [dialect.group_options(group).get("param_names") for group in state.groups]
    labelled = labels(state, stored, Names.of(None, weights), notes)
    names = {
        number: name
        for numbers, group_names in zip(state.parameters, labelled, strict=True)
        for number, name in zip(numbers, group_names, strict=True)
    }
    strangers = [name for name in names.values() if name not in weights]
    if strangers:
        raise ValueRefusedError(f"{part.key}: found the parameter {strangers[0]!r}, expected one of the weights' names")
    keys = {move.sources[0]: move.key for move in plan.moves}
    held = {number: entry for number, entry in state.entries.items() if number in names and isinstance(entry, Mapping)}
    tables = {number: _tensors(entry) for number, entry in held.items()}
    moved = plan.apply_to_moments({names[number]: table for number, table in tables.items()})
    entries = {number: {**held[number], **moved[keys[names[number]]]} for number, table in tables.items() if table}
    return {**state.tree, "state": {**state.entries, **entries}}


def _tensors(entry: Mapping[str, Tree]) -> dict[str, LazyTensor]:
    return {name: value for name, value in entry.items() if isinstance(value, LazyTensor)}


def _rewritten(part: Part, dialect: Dialect, plan: MovePlan, weights: Mapping[str, LazyTensor]) -> Tree:
    notes = Notes(part.key)
    state = dialect.read(part.tree, Names.of(None, weights), class_name=part.class_name, notes=notes).optimizer
    if state is None:
        raise notes.error("found no optimizer state, expected one")
    tensors = plan.apply_to_moments(state.tensors)
    groups = tuple(_with_names(group, plan, notes) for group in state.groups)
    steps = {move.key: _step(state, move.sources, notes) for move in plan.moves if move.key in tensors}
    moved = NeutralState(optimizer=replace(state, groups=groups, tensors=tensors, steps=steps))
    return dialect.write(moved, Names.of(None, plan.apply(weights)))


def _with_names(group: Group, plan: MovePlan, notes: Notes) -> Group:
    """Return a group of the parameters that come of its own, numbered anew."""
    moves = [move for move in plan.moves if {*move.sources} & {*group.names}]
    for move in moves:
        if not {*move.sources} <= {*group.names}:
            raise notes.error(f"found {', '.join(move.sources)} in several parameter groups, expected one to join them")
    return replace(group, names=tuple(move.key for move in moves), ids=())


def _step(state: OptimizerState, sources: tuple[str, ...], notes: Notes) -> int:
    steps = {state.steps[source] for source in sources}
    if len(steps) > 1:
        raise notes.error(f"found {', '.join(sources)} after different numbers of steps, expected one to join them")
    return steps.pop()
