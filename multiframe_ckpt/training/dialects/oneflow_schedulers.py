"""The learning rate schedulers of OneFlow, whose states are their attributes.

``SequentialLR`` and ``ChainedScheduler`` set the step of their parts when they use them, and run only schedulers that say
the rate of any step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeGuard

from ...tree import Tree
from ..neutral import SchedulerState
from ..report import Notes
from ..schedulers import WAY_OUT
from .attributes import AttributeStates, parts_of, same

__all__ = ["STATES", "check", "is_state", "read", "write"]

_PLATEAU = "factor min_lrs patience cooldown cooldown_counter mode threshold threshold_mode best mode_worse eps"

STATES = AttributeStates(
    names={
        "StepLR": same("step_size gamma"),
        "MultiStepLR": same("milestones gamma"),
        "ExponentialLR": same("gamma"),
        "CosineAnnealingLR": same("T_max eta_min"),
        "CosineAnnealingWarmRestarts": same("T_0 T_mult eta_min decay_rate restart_limit"),
        "LambdaLR": same("lr_lambdas"),
        "LinearLR": same("start_factor end_factor total_iters"),
        "ConstantLR": same("factor total_iters"),
        "PolynomialLR": same("power") | {"total_iters": "max_decay_steps"} | same("end_learning_rate cycle"),
        "ReduceLROnPlateau": same(_PLATEAU) | {"bad_steps": "num_bad_steps"},
        "SequentialLR": {"parts": "schedulers"} | same("milestones interval_rescaling"),
        "ChainedScheduler": {"parts": "schedulers"},
    },
    common=frozenset(same("last_step base_lrs verbose _last_lr _is_initial default_min_lr interval_rescaling")),
    counter="last_step",
    giveaways={"decay_steps": "CosineDecayLR", "warmup_iters": "WarmupLR"},
)

#: Schedulers that no SequentialLR or ChainedScheduler can run.
_ALONE = ("LambdaLR", "ReduceLROnPlateau", "SequentialLR", "ChainedScheduler")
#: Schedulers that scale whatever rate they are given.
_SCALING = ("StepLR", "MultiStepLR", "ExponentialLR", "CosineAnnealingLR", "LinearLR", "ConstantLR", "PolynomialLR")


def is_state(tree: Tree) -> TypeGuard[Mapping[str, Tree]]:
    """Return whether a tree counts in ``last_step`` and has learning rates or patience."""
    return isinstance(tree, Mapping) and "last_step" in tree and bool({"_last_lr", "base_lrs", "patience"} & {*tree})


def read(tree: Mapping[str, Tree], class_name: str | None, notes: Notes) -> SchedulerState:
    """Return a scheduler state in neutral terms: each part of a sequence at its own step, -1 before it begins."""
    algorithm = STATES.recognised(tree, class_name, notes)
    # The parts of a chain have the step and the rates that they had when they were last used.
    current = (
        {"last_step": tree["last_step"], "_last_lr": tree.get("_last_lr")} if algorithm == "ChainedScheduler" else {}
    )
    parts = tuple(
        _read_part(part, current, notes.at("schedulers", i))
        for i, part in enumerate(parts_of(tree.get("schedulers"), notes))
    )
    state = STATES.read(algorithm, tree, parts, notes)
    check(state, notes)
    notes.holding().require()
    return _begun(state, notes) if algorithm == "SequentialLR" else state


def _read_part(tree: Tree, current: Mapping[str, Tree], notes: Notes) -> SchedulerState:
    state = {**tree, **current} if isinstance(tree, Mapping) else tree
    if not is_state(state):
        raise notes.error("found no scheduler state, expected one; the state is damaged")
    return read(state, None, notes)


def _begun(state: SchedulerState, notes: Notes) -> SchedulerState:
    """Return a sequence whose parts know which has begun, and what rates the running one gave."""
    if len(state.parts) != len(state.attributes["milestones"]) + 1:
        raise notes.error("found milestones that are not one less than the schedulers; the state is damaged")
    rescaled = state.attributes["interval_rescaling"]
    attributes = {**state.attributes, "interval_rescaling": rescaled is True or all(rescaled) or rescaled}
    running = sum(milestone <= (state.step or 0) for milestone in attributes["milestones"])
    parts = [replace(part, step=-1) if i > running else part for i, part in enumerate(state.parts)]
    parts[running] = replace(parts[running], last_lrs=state.last_lrs)
    return replace(state, attributes=attributes, parts=tuple(parts))


def check(state: SchedulerState, notes: Notes) -> None:
    """Note what OneFlow cannot run as a part of another scheduler."""
    for i, part in enumerate(state.parts):
        if part.algorithm in _ALONE:
            _refuse_part(part, f"OneFlow's {state.algorithm} cannot run {part.algorithm}", notes.at("schedulers", i))
    if state.algorithm == "ChainedScheduler":
        _refuse_unscaling(state, notes)
        if state.step is None:
            steps = sorted(part.step or 0 for part in state.parts)
            notes.refuse(f"found a chain whose parts are at steps {steps}, expected one step; {WAY_OUT}")


def _refuse_unscaling(state: SchedulerState, notes: Notes) -> None:
    """Refuse parts of a chain that do not scale what they are given: OneFlow hands the rate of each part to the next."""
    for i, part in enumerate(state.parts):
        place, end = notes.at("schedulers", i), part.attributes.get("T_max", math.inf)
        if part.algorithm in _ALONE:
            continue
        if part.algorithm not in _SCALING or part.attributes.get("eta_min") or (part.step or 0) > end:
            _refuse_part(part, f"{part.algorithm} there does not scale the rate it is given", place)
        elif end < math.inf:
            place.warn(f"a chained {part.algorithm} scales what it is given up to T_max = {end}; then the runs part")


def _refuse_part(part: SchedulerState, reason: str, notes: Notes) -> None:
    notes.refuse(f"found {part.algorithm}, expected another: {reason}; {WAY_OUT}")


def write(state: SchedulerState) -> Tree:
    """Return a neutral scheduler state as OneFlow's attributes."""
    parts = [write(replace(part, step=max(0, part.step or 0))) for part in state.parts]
    attributes = STATES.written(state, parts)
    if state.parts and state.parts[0].base_lrs is not None:
        attributes["base_lrs"] = state.parts[0].base_lrs
    if state.algorithm == "SequentialLR":
        del attributes["interval_rescaling"]
        attributes["interval_rescaling"] = [True] * len(attributes["milestones"])
    return attributes
