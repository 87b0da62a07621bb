"""The learning rate schedulers of PyTorch, whose states are their attributes; most multiply the current learning rate.

A state does not say its class: the attributes tell, and LambdaLR and MultiplicativeLR look the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeGuard

from ...tree import Tree
from ..neutral import SchedulerState
from ..report import Notes
from ..schedulers import restart_at
from .attributes import AttributeStates, parts_of, same

__all__ = ["STATES", "is_state", "may_be_state", "read", "write"]

_PLATEAU = "factor min_lrs patience cooldown cooldown_counter mode threshold threshold_mode best mode_worse eps"

STATES = AttributeStates(
    names={
        "StepLR": same("step_size gamma"),
        "MultiStepLR": same("milestones gamma"),
        "ExponentialLR": same("gamma"),
        "CosineAnnealingLR": same("T_max eta_min"),
        "CosineAnnealingWarmRestarts": same("T_0 T_mult eta_min T_cur T_i"),
        "LambdaLR": same("lr_lambdas"),
        "LinearLR": same("start_factor end_factor total_iters"),
        "ConstantLR": same("factor total_iters"),
        "PolynomialLR": same("total_iters power"),
        "ReduceLROnPlateau": same(_PLATEAU) | {"bad_steps": "num_bad_epochs"},
        "SequentialLR": {"parts": "_schedulers", "milestones": "_milestones"},
        "ChainedScheduler": {"parts": "_schedulers"},
    },
    common=frozenset(
        same(
            "last_epoch base_lrs verbose _last_lr _step_count _get_lr_called_within_step _is_initial T_cur T_i "
            "default_min_lr"
        )
    ),
    counter="last_epoch",
    giveaways={"max_lrs": "CyclicLR", "_schedule_phases": "OneCycleLR", "swa_lrs": "SWALR"},
)

#: The order in which schedulers have their attributes, so that a way back gives the same file.
_ORDER = same(
    "step_size milestones T_max T_0 T_i T_mult start_factor end_factor factor total_iters power gamma eta_min T_cur "
    "default_min_lr min_lrs patience cooldown eps base_lrs _milestones last_epoch verbose _step_count _is_initial "
    "_get_lr_called_within_step _last_lr mode_worse mode threshold threshold_mode best cooldown_counter num_bad_epochs "
    "lr_lambdas _schedulers"
)
#: Schedulers without a count of their calls.
_UNCOUNTED = ("ReduceLROnPlateau", "SequentialLR", "ChainedScheduler")
#: Schedulers whose own ``step`` never adds to that count.
_UNCOUNTING = ("CosineAnnealingWarmRestarts",)


def is_state(tree: Tree) -> TypeGuard[Mapping[str, Tree]]:
    """Return whether a tree counts in ``last_epoch``, or runs schedulers, and has learning rates or patience."""
    return may_be_state(tree) and bool({"_last_lr", "base_lrs", "patience"} & {*tree})


def may_be_state(tree: Tree) -> TypeGuard[Mapping[str, Tree]]:
    """Return whether a tree counts in ``last_epoch``, or runs schedulers."""
    return isinstance(tree, Mapping) and ("last_epoch" in tree or "_schedulers" in tree)


def read(tree: Mapping[str, Tree], class_name: str | None, notes: Notes) -> SchedulerState:
    """Return a scheduler state in neutral terms; each part of a sequence counts for itself, as neutral ones do."""
    algorithm = STATES.recognised(tree, class_name, notes)
    if algorithm == "LambdaLR" and class_name is None:
        notes.warn("found a LambdaLR or a MultiplicativeLR, which look the same; read as LambdaLR")
    parts = tuple(
        _read_part(part, notes.at("schedulers", i)) for i, part in enumerate(parts_of(tree.get("_schedulers"), notes))
    )
    state = STATES.read(algorithm, tree, parts, notes)
    if algorithm == "MultiStepLR":
        milestones = sorted(Counter(state.attributes["milestones"]).elements())
        return replace(state, attributes={**state.attributes, "milestones": milestones})
    if algorithm == "ChainedScheduler":  # which has no count of its own
        steps = {part.step for part in parts}
        return replace(state, step=steps.pop() if len(steps) == 1 else None)
    return state


def _read_part(tree: Tree, notes: Notes) -> SchedulerState:
    if not is_state(tree):
        raise notes.error("found no scheduler state, expected one; the state is damaged")
    return read(tree, None, notes)


def write(state: SchedulerState) -> Tree:
    """Return a scheduler state in PyTorch's order."""
    attributes = STATES.written(state, [write(part) for part in state.parts])
    if state.algorithm == "MultiStepLR":
        attributes["milestones"] = dict(Counter(state.attributes["milestones"]))
    if state.algorithm == "CosineAnnealingWarmRestarts" and "T_cur" not in attributes:
        attributes["T_cur"], attributes["T_i"] = restart_at(state.attributes, max(0, state.step or 0))
    if state.algorithm == "SequentialLR":
        attributes.pop("base_lrs", None)
    if state.algorithm == "ChainedScheduler":
        attributes = {name: attributes[name] for name in ("_schedulers", "_last_lr") if name in attributes}
    if state.algorithm not in _UNCOUNTED:
        calls = 0 if state.algorithm in _UNCOUNTING else max(0, state.step or 0) + 1
        attributes |= {"_step_count": calls, "_get_lr_called_within_step": False}
    return {name: attributes[name] for name in _ORDER if name in attributes}
