"""The learning rate schedulers that more than one framework has, a row each, in neutral terms.

A scheduler's state is its attributes and the step it is at. Only numbers cross, so the optimizer's groups must carry ``lr``
and ``initial_lr`` with them, as their translation does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .optimizers import REQUIRED

__all__ = ["DERIVED", "SCHEDULERS", "WAY_OUT", "restart_at"]

#: Stands for the value of an attribute that follows from the others and the step, where whole steps are counted.
DERIVED = object()
#: What to do about a scheduler that cannot cross.
WAY_OUT = "leave it out and build a new one that begins at the step of this one"


def _row(attributes: str, **defaults: Any) -> Mapping[str, Any]:
    return dict.fromkeys(attributes.split(), REQUIRED) | defaults


#: Each scheduler's attributes, with the value that doing without one amounts to. ``parts`` are schedulers that it runs.
SCHEDULERS: Mapping[str, Mapping[str, Any]] = {
    "StepLR": _row("step_size gamma"),
    "MultiStepLR": _row("milestones gamma"),  # a list, with a milestone twice where gamma counts twice
    "ExponentialLR": _row("gamma"),
    "CosineAnnealingLR": _row("T_max eta_min"),
    "CosineAnnealingWarmRestarts": _row(
        "T_0 T_mult eta_min", T_cur=DERIVED, T_i=DERIVED, decay_rate=1.0, restart_limit=0
    ),
    "LambdaLR": _row("lr_lambdas"),
    "LinearLR": _row("start_factor end_factor total_iters"),
    "ConstantLR": _row("factor total_iters"),
    "PolynomialLR": _row("power total_iters", end_learning_rate=0.0, cycle=False),
    "ReduceLROnPlateau": _row(
        "factor min_lrs patience cooldown cooldown_counter mode threshold threshold_mode best mode_worse eps bad_steps"
    ),
    "SequentialLR": _row("parts milestones", interval_rescaling=True),  # each part counts from 0 at its milestone
    "ChainedScheduler": _row("parts"),
}


def restart_at(attributes: Mapping[str, Any], step: int) -> tuple[int, int]:
    """Return T_cur and T_i of CosineAnnealingWarmRestarts: how far into a period of which length a step is."""
    start, period = 0, int(attributes["T_0"])
    if attributes["T_mult"] == 1:
        return step % period, period
    while step >= start + period:
        start, period = start + period, period * int(attributes["T_mult"])
    return step - start, period
