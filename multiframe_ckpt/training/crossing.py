"""From one dialect to another: read a state, ask whether the target holds it, give it the target's facts, write it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..errors import MismatchError, ValueRefusedError
from ..tree import LazyTensor, Tree
from .dialects import Dialect, dialect_to_write, likely_scheduler_dialect, optimizer_dialect
from .names import NO_NAMES, Names
from .neutral import Facts, Group, NeutralState, OptimizerState, SchedulerState, scaled
from .optimizers import ADAMS, OPTIMIZERS, REQUIRED
from .report import Notes, TranslateReport
from .schedulers import WAY_OUT

__all__ = [
    "cross_optimizer",
    "cross_scheduler",
    "read_optimizer",
    "read_scheduler",
    "translate_optimizer",
    "translate_scheduler",
    "written",
]


def translate_optimizer(
    state: Tree,
    *,
    to: str,
    class_name: str | None = None,
    names: Sequence[str] | None = None,
    key: str = "optimizer",
) -> tuple[Tree, TranslateReport]:
    """Return an optimizer state in the dialect called ``to``, and what that took.

    The result is complete: the target's optimizer of the same class loads it and trains on. Its tensors are read when
    asked for (RMSprop's once now), as copies that no other optimizer trains on. Without ``class_name`` the class is
    recognised by its options. ``names`` are the parameters' in their order, where the state does not hold them. Raise
    ValueRefusedError for what the dialect cannot hold, with the reason.
    """
    notes = Notes(key)
    target = dialect_to_write(to, key)
    source = _optimizer_source(state, notes)
    if source.is_scheduler(state) and not target.is_state(state):
        notes.leave_out("the scheduler inside it, which is translated as a scheduler")
    crossed = cross_optimizer(state, target, class_name=class_name, names=Names.of(names), notes=notes)
    return crossed, notes.report()


def translate_scheduler(
    state: Tree, *, to: str, class_name: str | None = None, key: str = "scheduler"
) -> tuple[Tree, TranslateReport]:
    """Return a scheduler state in the dialect called ``to``, and what that took.

    Load it after building the scheduler on its optimizer, and the optimizer's state after that too. Raise
    ValueRefusedError for a scheduler that the target does not have, or has with another meaning.
    """
    notes = Notes(key)
    return cross_scheduler(state, dialect_to_write(to, key), class_name=class_name, notes=notes), notes.report()


def cross_optimizer(
    state: Tree, target: Dialect, *, class_name: str | None, names: Names, notes: Notes, like: Tree = None
) -> Tree:
    """Return an optimizer state in the target's dialect, adding to ``notes``; the very same where it is in it already."""
    _optimizer_source(state, notes)
    if target.is_optimizer(state):
        return state
    neutral = read_optimizer(state, target, class_name=class_name, names=names, notes=notes)
    return written(NeutralState(optimizer=neutral), target, names, notes, like=like)


def cross_scheduler(state: Tree, target: Dialect, *, class_name: str | None, notes: Notes) -> Tree:
    """Return a scheduler state in the target's dialect, adding to ``notes``; the very same where it is in it already."""
    if target.may_be_scheduler(state):
        return state
    neutral = read_scheduler(state, target, class_name=class_name, notes=notes)
    return written(NeutralState(scheduler=neutral), target, NO_NAMES, notes)


def read_optimizer(
    state: Tree, target: Dialect, *, class_name: str | None, names: Names, notes: Notes
) -> OptimizerState:
    """Return an optimizer state in neutral terms, as the target means them; raises for what it cannot hold."""
    source = _optimizer_source(state, notes)
    if not target.goes_by_name:  # numbers serve as names, and the weights need not be asked
        names = replace(names, weights=None)
    neutral = source.read(state, names, class_name=class_name, notes=notes).optimizer
    assert neutral is not None
    neutral = _completed(neutral, notes)
    _require_held(NeutralState(optimizer=neutral), target, notes)
    notes.converted.append(f"{notes.key}: {neutral.algorithm}, from {source.name} to {target.name}")
    return _with_facts_of(target, neutral)


def read_scheduler(state: Tree, target: Dialect, *, class_name: str | None, notes: Notes) -> SchedulerState:
    """Return a scheduler state in neutral terms; raises for what the target cannot hold."""
    source = likely_scheduler_dialect(state)
    if source is None:
        raise notes.error(f"found no scheduler state of any known dialect, expected one; {WAY_OUT}")
    neutral = source.read(state, class_name=class_name, notes=notes).scheduler
    assert neutral is not None
    _require_held(NeutralState(scheduler=neutral), target, notes)
    notes.converted.append(f"{notes.key}: {neutral.algorithm}, from {source.name} to {target.name}")
    return neutral


def _require_held(neutral: NeutralState, target: Dialect, notes: Notes) -> None:
    """Raise ValueRefusedError for what the target cannot hold; add what it leaves out to the notes."""
    holding = target.holds(neutral, notes.key)
    holding.require()
    notes.add(holding)


def written(neutral: NeutralState, target: Dialect, names: Names, notes: Notes, *, like: Tree = None) -> Tree:
    """Return a neutral state in the target's dialect; errors begin with the key of ``notes``."""
    try:
        return target.write(neutral, names, like=like)
    except (MismatchError, ValueRefusedError) as problem:
        raise type(problem)(f"{notes.key}: {problem}") from None


def _optimizer_source(state: Tree, notes: Notes) -> Dialect:
    source = optimizer_dialect(state)
    if source is None:
        raise notes.error("found no optimizer state, expected a dict with 'state' and 'param_groups'")
    return source


def _completed(state: OptimizerState, notes: Notes) -> OptimizerState:
    """Return a state with every option of its algorithm: those that its framework lacks at what that amounts to."""
    options = OPTIMIZERS[state.algorithm].options
    groups = [replace(group, options={**options, **group.options}) for group in state.groups]
    if state.algorithm not in ADAMS:
        groups = [replace(group, facts=replace(group.facts, decay_decoupled=None)) for group in groups]
    missing = sorted({name for group in groups for name, value in group.options.items() if value is REQUIRED})
    if missing:
        raise notes.error(f"found {state.algorithm} without {', '.join(missing)}, expected all its options")
    return replace(state, groups=tuple(groups))


def _with_facts_of(dialect: Dialect, state: OptimizerState) -> OptimizerState:
    """Return the state with its momentum as the dialect means it, and every tensor as a copy when it is read."""
    groups = []
    tensors: dict[str, dict[str, LazyTensor]] = {}
    for group in state.groups:
        wanted = dialect.facts(state.algorithm, group.options)
        before, after = _momentum_scale(group.facts, group), _momentum_scale(wanted, group)
        factor = 1.0 if before == after else after / before
        groups.append(replace(group, facts=replace(wanted, decay_decoupled=group.facts.decay_decoupled)))
        for name in group.names:
            if name in state.tensors:
                tensors[name] = {
                    key: scaled(tensor, factor if key == "momentum_buffer" else 1.0)
                    for key, tensor in state.tensors[name].items()
                }
    return replace(state, groups=tuple(groups), tensors=tensors)


def _momentum_scale(facts: Facts, group: Group) -> float:
    """Return what the momentum buffer is under these facts of the plain sum of gradients."""
    scale = float(group.options["lr"]) if facts.momentum_times_lr else 1.0
    return -scale if facts.momentum_negated else scale
