"""OneFlow 0.9: options under ``_options`` of a group; one ``step`` for all parameters; schedulers count in ``last_step``.

Schedulers compute the rate from ``base_lrs``. SGD heeds ``maximize`` only with momentum, whose buffer it then negates, and
with weight decay it lets weights grow. RMSprop divides by √(v + eps). Sources: OneFlow 0.8 and 0.9,
``oneflow/nn/optimizer``, run.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

from ...tree import Entries, Tree
from ..neutral import Facts, Group, NeutralState, OptimizerState, SchedulerState
from ..optimizers import ADAMS
from ..report import Holding, Notes
from . import oneflow_schedulers
from .base import OptimizerRow
from .grouped import GroupedDialect
from .holding import note_unheld
from .recognition import Grouped, grouped, matching

__all__ = ["OneFlow", "has_every_option", "own_grouped"]

_MOMENTS = {name: name for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")}


def _row(options: str, tensors: Mapping[str, str], **idle: Any) -> OptimizerRow:
    return OptimizerRow(tuple(options.split()), tensors, idle)


_OPTIMIZERS = {
    "SGD": _row("lr momentum dampening weight_decay nesterov maximize fused", {"momentum_buffer": "momentum_buf"}),
    "Adam": _row(
        "lr eps betas weight_decay amsgrad bias_correction1 bias_correction2 do_bias_correction fused", _MOMENTS
    ),
    "AdamW": _row(
        "lr eps betas weight_decay bias_correction1 bias_correction2 do_bias_correction amsgrad fused", _MOMENTS
    ),
    "Adagrad": _row("lr initial_accumulator_value lr_decay weight_decay eps", {"sum": "sum"}),
    "RMSprop": _row("lr alpha eps weight_decay centered", {"square_avg": "square_avg", "grad_avg": "grad_avg"}),
    "Adadelta": _row(
        "lr rho eps maximize weight_decay", {"square_avg": "square_avgs", "acc_delta": "acc_deltas"}, maximize=False
    ),
}

_RUN_OPTIONS = {"bias_correction1": 1.0, "bias_correction2": 1.0, "fused": False, "contiguous_params": False}
_LOCAL_OPTIONS = {
    "clip_grad_max_norm": "which OneFlow's clip_grad() heeds",
    "clip_grad_norm_type": "which OneFlow's clip_grad() heeds",
    "lr_scale": "which only OneFlow's graphs heed",
}
_GIVEAWAYS = {"adam_w_mode": "LAMB"}


class OneFlow(GroupedDialect):
    """OneFlow 0.9."""

    name = "oneflow"
    framework = "oneflow"
    title = "OneFlow"
    optimizers = _OPTIMIZERS
    schedulers = oneflow_schedulers.STATES.names
    run_options = _RUN_OPTIONS
    local_options = _LOCAL_OPTIONS
    adamw_order = ("bias_correction1", "amsgrad")
    giveaways = _GIVEAWAYS

    def is_optimizer(self, tree: Tree) -> bool:
        """Return whether a tree has groups with ``_options``, and in them every option of its optimizer."""
        state = own_grouped(tree)
        return state is not None and has_every_option(state)

    def is_scheduler(self, tree: Tree) -> bool:
        """Return whether a tree counts in ``last_step`` and has learning rates or patience."""
        return oneflow_schedulers.is_state(tree)

    def may_be_scheduler(self, tree: Tree) -> bool:
        """Return whether a tree counts in ``last_step``."""
        return isinstance(tree, Mapping) and "last_step" in tree

    def facts(self, algorithm: str, options: Mapping[str, Any]) -> Facts:
        """Return what OneFlow does."""
        is_sgd, has_momentum = algorithm == "SGD", bool(options.get("momentum"))
        maximizes = is_sgd and bool(options.get("maximize"))
        return Facts(
            eps_inside_root=algorithm == "RMSprop",
            momentum_negated=maximizes and has_momentum,
            first_gradient_dampened=is_sgd,
            maximize_ignored=maximizes and not has_momentum,
            decay_grows=maximizes and has_momentum and bool(options.get("weight_decay")),
            one_step_for_all=True,
        )

    def holds(self, neutral: NeutralState, key: str = "state") -> Holding:
        """Return what of a state OneFlow can hold."""
        notes = Notes(key)
        if neutral.scheduler is not None:
            oneflow_schedulers.check(neutral.scheduler, notes)
        note_unheld(self, neutral, notes)
        return notes.holding()

    def require_readable(self, options: Mapping[str, Tree], notes: Notes) -> None:
        """Raise for fused buffers, whose states are not those of parameters."""
        if options.get("contiguous_params"):
            raise notes.error(
                "found contiguous_params, under which the state belongs to fused buffers, expected a state per parameter; "
                "save it from an optimizer without contiguous_params"
            )

    def group_options(self, group: Mapping[str, Tree]) -> Mapping[str, Tree]:
        """Return the options of a group."""
        inner = group.get("_options")
        options = inner if isinstance(inner, Mapping) else group
        return {name: value for name, value in options.items() if name not in ("params", "_enable_clip_grad")}

    def step_of(self, state: Entries, entry: Entries) -> Tree:
        """Return the one step of all parameters."""
        return state.get("step")

    def group_tree(
        self, options: dict[str, Tree], parameters: list[Any], like: Mapping[str, Tree] | None
    ) -> Mapping[str, Tree]:
        """Return a group with ``_options``: OneFlow replaces all of them on loading, and heeds none that it lacks."""
        if like is not None:
            own = like.get("_options")
            return {**like, "_options": {**own, **options} if isinstance(own, Mapping) else options}
        return {"_options": options, "_enable_clip_grad": False, "params": parameters}

    def derived_options(self, state: OptimizerState, group: Group) -> Mapping[str, Any]:
        """Return the corrections of bias that Adam made at its last step, and keeps among its options."""
        if state.algorithm not in ADAMS or not state.step or not group.options["do_bias_correction"]:
            return {}
        betas = group.options["betas"]
        return {f"bias_correction{i}": 1.0 - math.pow(beta, state.step) for i, beta in enumerate(betas, 1)}

    def state_tree(self, state: OptimizerState, names: Mapping[Hashable, str]) -> Tree:
        """Return the step and the tensors of each parameter, none for one without a state."""
        entries: dict[Hashable, Tree] = {"step": state.step}
        return entries | {parameter: self.own_tensors(state, name) for parameter, name in names.items()}

    def read_scheduler(self, tree: Mapping[str, Tree], class_name: str | None, notes: Notes) -> SchedulerState:
        """Return a scheduler state in neutral terms."""
        return oneflow_schedulers.read(tree, class_name, notes)

    def write_scheduler(self, state: SchedulerState) -> Tree:
        """Return a neutral scheduler state as OneFlow's attributes."""
        return oneflow_schedulers.write(state)


def own_grouped(tree: Tree) -> Grouped | None:
    """Return a tree as a state whose groups have ``_options``; None for what is none."""
    state = grouped(tree)
    return state if state is not None and any("_options" in group for group in state.groups) else None


def has_every_option(state: Grouped) -> bool:
    """Return whether the groups of a state have every option that 0.9 gives their optimizer.

    Of an optimizer that is not known, or has options of the user's own, those of momentum tell.
    """
    dialect = OneFlow()
    options = [dialect.group_options(group) for group in state.groups]
    algorithm = matching(dialect, state)
    if algorithm is None:
        return all("momentum" not in held or {"dampening", "nesterov"} & {*held} for held in options)
    return all(name in held for held in options for name in _OPTIMIZERS[algorithm].options)
