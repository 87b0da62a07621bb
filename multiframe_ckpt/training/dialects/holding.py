"""What a dialect can hold of a neutral state, by comparing the two: algorithm, options, tensors, attributes, facts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..denominators import refuse_disagreement
from ..neutral import Facts, Group, NeutralState, OptimizerState, SchedulerState
from ..optimizers import OPTIMIZERS, REQUIRED, WAY_OUT
from ..report import Notes
from ..schedulers import DERIVED, SCHEDULERS, restart_at
from ..schedulers import WAY_OUT as SCHEDULER_WAY_OUT
from .base import Dialect

__all__ = ["note_unheld"]


def note_unheld(dialect: Dialect, neutral: NeutralState, notes: Notes) -> None:
    """Note what a dialect cannot hold of a state, judged by its tables and its facts."""
    if neutral.optimizer is not None:
        _check_optimizer(dialect, neutral.optimizer, notes)
    if neutral.scheduler is not None:
        _check_scheduler(dialect, neutral.scheduler, notes)


@dataclass(frozen=True, slots=True)
class _Parting:
    """A group whose facts are not those of the dialect, and where to note what that means."""

    dialect: Dialect
    state: OptimizerState
    group: Group
    wanted: Facts
    notes: Notes  # for the state
    place: Notes  # for the group

    @property
    def title(self) -> str:
        return self.dialect.title

    @property
    def fresh(self) -> list[str]:
        """The parameters without a state."""
        return [name for name in self.group.names if name not in self.state.tensors]


def _check_optimizer(dialect: Dialect, state: OptimizerState, notes: Notes) -> None:
    """Note what a dialect cannot hold of an optimizer."""
    if state.algorithm not in dialect.optimizers:
        known = ", ".join(dialect.optimizers)
        notes.refuse(
            f"found {state.algorithm}, which {dialect.title} does not have, expected one of {known}; {WAY_OUT}"
        )
        return
    places = [notes.at("param_groups", i) for i in range(len(state.groups))]
    for group, place in zip(state.groups, places, strict=True):
        _check_options(dialect, state.algorithm, group, place)
        _leave_local(dialect, group, place)
    if notes.refused:  # comparing facts may read tensors
        return
    for group, place in zip(state.groups, places, strict=True):
        wanted = dialect.facts(state.algorithm, group.options)
        for fact, check_fact in _FACTS.items():
            if getattr(group.facts, fact) != getattr(wanted, fact):
                check_fact(_Parting(dialect, state, group, wanted, notes, place))
    _check_steps(dialect, state, notes)
    _check_tensors(dialect, state, notes)


def _check_tensors(dialect: Dialect, state: OptimizerState, notes: Notes) -> None:
    names = dialect.optimizers[state.algorithm].tensors
    for parameter, tensors in state.tensors.items():
        for name in tensors:
            if name not in names:
                text = f"{name}, which {dialect.title}'s {state.algorithm} does not have"
                notes.at("state", parameter).leave_out(text)


def _check_options(dialect: Dialect, algorithm: str, group: Group, notes: Notes) -> None:
    row = dialect.optimizers[algorithm]
    for name, default in OPTIMIZERS[algorithm].options.items():
        value = group.options.get(name, default)
        acts_on = row.idle.get(name, default)
        if (name in row.idle or name not in row.options) and value != acts_on:
            if acts_on is REQUIRED:
                notes.refuse(
                    f"found {algorithm} with {name} = {value}, which {dialect.title}'s does not have; {WAY_OUT}"
                )
            else:
                notes.refuse(
                    f"found {algorithm} with {name} = {value}, expected {acts_on}: {dialect.title}'s has no counterpart; "
                    f"{WAY_OUT}"
                )


def _leave_local(dialect: Dialect, group: Group, notes: Notes) -> None:
    for name, (value, reason) in group.local.items():
        advice = f"; {dialect.advice[name]}" if name in dialect.advice else ""
        notes.leave_out(f"{name} = {value}, {reason}{advice}")


def _check_denominator(parting: _Parting) -> None:
    for name in parting.group.names:
        eps = float(parting.group.options["eps"])
        refuse_disagreement(parting.state, name, eps, parting.notes.at("state", name))
        if parting.notes.refused:
            return
    here, there = ("√(v + eps)", "√v + eps") if parting.wanted.eps_inside_root else ("√v + eps", "√(v + eps)")
    parting.notes.warn(
        f"{parting.title}'s {parting.state.algorithm} divides by {here} and the one of this state by {there}; they agree "
        "as long as gradients stay as large as they are"
    )


def _check_rate(parting: _Parting) -> None:
    rate = parting.group.options["lr"]
    if not rate:
        parting.place.refuse("found momentum kept as lr · buffer under lr = 0, expected another lr")
        return
    keeper = f"{parting.title} keeps" if parting.wanted.momentum_times_lr else "the framework of this state keeps"
    parting.place.warn(
        f"{keeper} momentum as lr · buffer; converted with lr = {rate:g}, it is exact as long as that lasts: where the "
        "learning rate changes, that one goes on with momentum of the old one, and the runs part"
    )


def _check_maximize(parting: _Parting) -> None:
    minimizer = parting.title if parting.wanted.maximize_ignored else "the framework of this state"
    parting.place.refuse(
        f"found {parting.state.algorithm} with maximize and no momentum, expected momentum: {minimizer} heeds maximize "
        "only then; negate the loss instead"
    )


def _check_decay(parting: _Parting) -> None:
    grower = parting.title if parting.wanted.decay_grows else "the framework of this state"
    parting.place.refuse(
        f"found {parting.state.algorithm} with maximize and weight decay, expected one of the two: {grower} then lets "
        f"weights grow; {WAY_OUT}"
    )


def _check_first_gradient(parting: _Parting) -> None:
    options = parting.group.options
    if parting.fresh and options.get("momentum") and options.get("dampening"):
        does, other = ("dampens", "does not") if parting.wanted.first_gradient_dampened else ("does not dampen", "does")
        parting.place.warn(
            f"parameters {_few(parting.fresh)} have no momentum yet; {parting.title} {does} the first gradient and the "
            f"framework of this state {other}"
        )


def _check_first_step(parting: _Parting) -> None:
    later = parting.state.step + 1
    if parting.fresh and later > 1 and OPTIMIZERS[parting.state.algorithm].counts(parting.group.options):
        here, there = (later, 1) if parting.wanted.one_step_for_all else (1, later)
        parting.place.warn(
            f"parameters {_few(parting.fresh)} have no state yet; a first gradient counts as step {here} in "
            f"{parting.title} and as step {there} in the framework of this state, so their runs will part if they get one"
        )


#: What to ask where a fact of the state is not that of the dialect. A buffer's sign alone is turned without a word.
_FACTS: Mapping[str, Callable[[_Parting], None]] = {
    "eps_inside_root": _check_denominator,
    "momentum_times_lr": _check_rate,
    "maximize_ignored": _check_maximize,
    "decay_grows": _check_decay,
    "first_gradient_dampened": _check_first_gradient,
    "one_step_for_all": _check_first_step,
}


def _check_steps(dialect: Dialect, state: OptimizerState, notes: Notes) -> None:
    """Refuse steps that differ where the dialect has one for all and they enter the update."""
    counting = [
        group
        for group in state.groups
        if OPTIMIZERS[state.algorithm].counts(group.options)
        and dialect.facts(state.algorithm, group.options).one_step_for_all
    ]
    steps = {name: state.steps[name] for group in counting for name in group.names if name in state.steps}
    if len(set(steps.values())) > 1:
        low, high = min(steps, key=steps.__getitem__), max(steps, key=steps.__getitem__)
        notes.refuse(
            f"found parameters of different steps ({low}: {steps[low]}, {high}: {steps[high]}), expected one step for all: "
            f"{dialect.title}'s {state.algorithm} counts for all at once; {WAY_OUT}"
        )


def _check_scheduler(dialect: Dialect, state: SchedulerState, notes: Notes) -> None:
    """Note what a dialect cannot hold of a scheduler, and of those that it runs."""
    names = dialect.schedulers.get(state.algorithm)
    if names is None:
        known = ", ".join(dialect.schedulers) or "none"
        notes.refuse(
            f"found {state.algorithm}, which {dialect.title} does not have, expected one of {known}; {SCHEDULER_WAY_OUT}"
        )
        return
    for name, default in SCHEDULERS[state.algorithm].items():
        value = state.attributes.get(name, default)
        if name in names or name == "parts" or value is default:
            continue
        if default is DERIVED:
            _check_derived(dialect, state, name, notes)
        elif value != default:
            expected = "none" if default is REQUIRED else default
            notes.refuse(
                f"found {state.algorithm} with {name} = {value}, expected {expected}: {dialect.title}'s has no such thing; "
                f"{SCHEDULER_WAY_OUT}"
            )
    for i, part in enumerate(state.parts):
        _check_scheduler(dialect, part, notes.at("schedulers", i))


def _check_derived(dialect: Dialect, state: SchedulerState, name: str, notes: Notes) -> None:
    """Refuse warm restarts that stand within a step, in a dialect that counts whole ones."""
    expected = restart_at(state.attributes, max(0, state.step or 0))[("T_cur", "T_i").index(name)]
    if name == "T_cur" and not math.isclose(state.attributes[name], expected, abs_tol=1e-9):
        notes.refuse(
            f"found T_cur = {state.attributes[name]}, expected {expected}, as whole steps give it: {dialect.title}'s "
            f"{state.algorithm} takes no part of a step; {SCHEDULER_WAY_OUT}"
        )


def _few(names: Sequence[Any]) -> str:
    return ", ".join(map(str, names[:5])) + (", …" if len(names) > 5 else "")
