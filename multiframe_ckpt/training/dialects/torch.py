"""PyTorch: flat groups; per parameter its tensors and its own ``step``; schedulers count in ``last_epoch``.

Sources: torch 2.0.1 and 2.13, ``torch/optim`` and ``lr_scheduler.py``.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from ...dtypes import dtype_of_numpy
from ...tree import Entries, LazyTensor, Tree
from ..neutral import NeutralState, OptimizerState, SchedulerState
from ..report import Holding, Notes
from . import torch_schedulers
from .base import OptimizerRow
from .grouped import GroupedDialect
from .holding import note_unheld
from .recognition import grouped

__all__ = ["Torch"]

_MOMENTS = {name: name for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")}


def _row(options: str, *tensors: str) -> OptimizerRow:
    return OptimizerRow(tuple(options.split()), {name: name for name in tensors})


_OPTIMIZERS = {
    "SGD": _row("lr momentum dampening weight_decay nesterov maximize foreach differentiable fused", "momentum_buffer"),
    "Adam": _row("lr betas eps weight_decay amsgrad maximize foreach capturable differentiable fused", *_MOMENTS),
    "AdamW": _row("lr betas eps weight_decay amsgrad foreach maximize capturable differentiable fused", *_MOMENTS),
    "Adagrad": _row(
        "lr lr_decay eps weight_decay initial_accumulator_value foreach maximize differentiable fused", "sum"
    ),
    "RMSprop": _row(
        "lr momentum alpha eps centered weight_decay capturable foreach maximize differentiable",
        "square_avg",
        "grad_avg",
        "momentum_buffer",
    ),
    "Adadelta": _row("lr rho eps weight_decay maximize capturable foreach differentiable", "square_avg", "acc_delta"),
}


_RUN_OPTIONS = {"foreach": None, "capturable": False, "differentiable": False, "fused": None}
_LOCAL_OPTIONS = {"lr_scale": "which only timm's schedulers heed"}
_GIVEAWAYS = {
    "max_iter": "LBFGS",
    "momentum_decay": "NAdam",
    "lambd": "ASGD",
    "etas": "Rprop",
    "beta2_decay": "Adafactor",
    "ns_steps": "Muon",
    "exp_inf": "Adamax",
}
_ADVICE = dict.fromkeys(
    ("clip_grad_max_norm", "clip_grad_norm_type"), "call torch.nn.utils.clip_grad_norm_ before each step"
)


class Torch(GroupedDialect):
    """PyTorch from 1.11 on."""

    name = "torch"
    framework = "torch"
    title = "PyTorch"
    optimizers = _OPTIMIZERS
    schedulers = torch_schedulers.STATES.names
    run_options = _RUN_OPTIONS
    local_options = _LOCAL_OPTIONS
    adamw_order = ("foreach", "maximize")
    giveaways = _GIVEAWAYS
    advice = _ADVICE

    def is_optimizer(self, tree: Tree) -> bool:
        """Return whether a tree has flat groups and a count for each parameter."""
        state, foreign = grouped(tree), {"_options", "_enable_clip_grad", "contiguous_params"}
        return (
            state is not None and "step" not in state.entries and not any(foreign & {*group} for group in state.groups)
        )

    def is_scheduler(self, tree: Tree) -> bool:
        """Return whether a tree counts in ``last_epoch``, or runs schedulers, and has learning rates or patience."""
        return torch_schedulers.is_state(tree)

    def may_be_scheduler(self, tree: Tree) -> bool:
        """Return whether a tree counts in ``last_epoch``, or runs schedulers."""
        return torch_schedulers.may_be_state(tree)

    def holds(self, neutral: NeutralState, key: str = "state") -> Holding:
        """Return what of a state PyTorch can hold."""
        notes = Notes(key)
        note_unheld(self, neutral, notes)
        return notes.holding()

    def group_options(self, group: Mapping[str, Tree]) -> Mapping[str, Tree]:
        """Return the options of a group: all that is in it but the parameters."""
        return {name: value for name, value in group.items() if name != "params"}

    def step_of(self, state: Entries, entry: Entries) -> Tree:
        """Return a parameter's own step."""
        return entry.get("step")

    def option_order(self, algorithm: str, *, is_certain: bool) -> tuple[str, ...]:
        """Return an algorithm's options in order: since 2.6 AdamW has Adam's order, and says which of the two it is."""
        return super().option_order("Adam" if is_certain and algorithm == "AdamW" else algorithm, is_certain=is_certain)

    def group_tree(
        self, options: dict[str, Tree], parameters: list[Any], like: Mapping[str, Tree] | None
    ) -> Mapping[str, Tree]:
        """Return a flat group."""
        if like is not None:
            return {**like, **options, "params": like["params"]}
        return {**options, "params": parameters}

    def state_tree(self, state: OptimizerState, names: Mapping[Hashable, str]) -> Tree:
        """Return the tensors of each parameter that has some, with its count."""
        return {
            parameter: self._counter(state, name) | self.own_tensors(state, name)
            for parameter, name in names.items()
            if name in state.tensors or state.steps.get(name)
        }

    def _counter(self, state: OptimizerState, name: str) -> dict[str, LazyTensor]:
        """Return the count of a parameter; a new array at each reading, since torch counts in place."""
        if state.algorithm == "SGD" and not state.steps.get(name):  # it counts none, and leaves alone what it finds
            return {}
        dtype = dtype_of_numpy(np.dtype(np.float32))
        assert dtype is not None
        return {"step": LazyTensor.from_function(dtype, (), lambda: np.array(state.steps[name], np.float32))}

    def read_scheduler(self, tree: Mapping[str, Tree], class_name: str | None, notes: Notes) -> SchedulerState:
        """Return a scheduler state in neutral terms."""
        return torch_schedulers.read(tree, class_name, notes)

    def write_scheduler(self, state: SchedulerState) -> Tree:
        """Return a neutral scheduler state as PyTorch's attributes."""
        return torch_schedulers.write(state)
