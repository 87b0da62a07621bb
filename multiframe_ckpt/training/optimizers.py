"""The optimizers that more than one framework has, a row each, in neutral terms.

What a framework calls their options and tensors, in which order, and which of them it lacks, its dialect says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["ADAMS", "OPTIMIZERS", "REQUIRED", "WAY_OUT", "Optimizer"]

#: Stands for the value of an option that every state has.
REQUIRED = object()
#: What to do about an optimizer that cannot cross.
WAY_OUT = "leave the optimizer out and let it start fresh"


#: One algorithm but for what weight decay is added to.
ADAMS = ("Adam", "AdamW")


@dataclass(frozen=True, slots=True)
class Optimizer:
    """One algorithm: its options, each with the value that doing without it amounts to, and its tensors.

    ``counts_steps`` says whether a step's number enters the update. ``mean_square`` are the tensors of v, the running mean
    of squared gradients, and of the mean to be subtracted from it, where eps is added to its root.
    """

    name: str
    options: Mapping[str, Any]
    tensors: tuple[str, ...]
    counts_steps: bool = False
    mean_square: tuple[str, str] | None = None

    def counts(self, options: Mapping[str, Any]) -> bool:
        """Return whether steps must agree under these options: in Adagrad they enter through ``lr_decay`` alone."""
        return self.counts_steps and bool(options.get("lr_decay", True))


def _row(name: str, options: str, tensors: str, **others: Any) -> Optimizer:
    """Return a row; ``others`` are fields of it, and the options that a framework may lack, with their value."""
    own = {field: others.pop(field) for field in ("counts_steps", "mean_square") if field in others}
    return Optimizer(name, dict.fromkeys(options.split(), REQUIRED) | others, tuple(tensors.split()), **own)


_ADAM: Mapping[str, Any] = {
    "options": "lr betas eps weight_decay",
    "tensors": "exp_avg exp_avg_sq max_exp_avg_sq",
    "counts_steps": True,
    "amsgrad": False,
    "maximize": False,
    "do_bias_correction": True,
}

OPTIMIZERS: Mapping[str, Optimizer] = {
    row.name: row
    for row in (
        _row("SGD", "lr momentum weight_decay", "momentum_buffer", dampening=0.0, nesterov=False, maximize=False),
        _row("Adam", **_ADAM),
        _row("AdamW", **_ADAM),
        _row(
            "Adagrad",
            "lr lr_decay eps weight_decay initial_accumulator_value",
            "sum",
            maximize=False,
            counts_steps=True,
        ),
        _row(
            "RMSprop",
            "lr alpha eps centered weight_decay",
            "square_avg grad_avg momentum_buffer",
            momentum=0,  # as torch has it by default
            maximize=False,
            mean_square=("square_avg", "grad_avg"),
        ),
        _row("Adadelta", "lr rho eps weight_decay", "square_avg acc_delta", maximize=False),
    )
}
