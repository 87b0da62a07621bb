"""The optimizers both frameworks have, a row each, and how the state of one is recognised.

An optimizer state is ``{"state": …, "param_groups": […]}`` in every dialect:

    torch         flat groups; per parameter its tensors and its own ``step``
    oneflow       0.9: the options of a group under ``_options``; one ``step`` for all parameters in ``state``
    oneflow-0.8   the same with fewer options; SGD's momentum is kept as −lr · buffer
    oneflow-1.0   flat groups again, with ``contiguous_params``; read only

Sources: torch 2.0.1 and 2.13 ``torch/optim``; OneFlow 0.8 and 0.9 ``oneflow/nn/optimizer`` and ``oneflow/optim``, run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ValueRefusedError
from ..tree import Tree

__all__ = [
    "DEFAULTS",
    "NEUTRAL",
    "OPTIMIZERS",
    "Optimizer",
    "framework_of",
    "group_options",
    "is_optimizer_state",
    "optimizer_dialect",
    "recognised_optimizer",
]


@dataclass(frozen=True, slots=True)
class Optimizer:
    """One optimizer: its options in each framework's own order, and torch's names of its tensors with OneFlow's.

    ``fixed`` are options that only one framework has, or heeds, with the value that the other's algorithm amounts to.
    ``counts_steps`` says whether a step's number enters the update, and so must be the same for all parameters.
    """

    name: str
    torch: tuple[str, ...]
    oneflow: tuple[str, ...]
    tensors: Mapping[str, str]
    fixed: Mapping[str, Any]
    counts_steps: bool

    @property
    def shared(self) -> list[str]:
        """The options that cross, in torch's order."""
        apart = {*self.fixed, *NEUTRAL["torch"], *NEUTRAL["oneflow"]}
        return [name for name in self.torch if name in self.oneflow and name not in apart]


#: Options that say how a step is run, or are computed anew in each; what a framework has them at unless told otherwise.
NEUTRAL: Mapping[str, Mapping[str, Any]] = {
    "torch": {"foreach": None, "capturable": False, "differentiable": False, "fused": None},
    "oneflow": {"bias_correction1": 1.0, "bias_correction2": 1.0, "fused": False, "contiguous_params": False},
}

#: Options that older versions lack, and the value that they had in effect.
DEFAULTS: Mapping[str, Any] = {"dampening": 0.0, "nesterov": False, "maximize": False, "amsgrad": False}

#: What any group may hold beside the options of its optimizer: it crosses as it is, or is left out by name.
_COMMON = {
    "params",
    "param_names",
    "name",
    "initial_lr",
    "swa_lr",
    "max_lr",
    "min_lr",
    "base_momentum",
    "max_momentum",
    "decoupled_weight_decay",
    "lr_scale",
    "clip_grad_max_norm",
    "clip_grad_norm_type",
    "_enable_clip_grad",
    *NEUTRAL["torch"],
    *NEUTRAL["oneflow"],
}


def _row(
    name: str,
    *,
    torch: str,
    oneflow: str,
    tensors: Mapping[str, str],
    fixed: Mapping[str, Any] | None = None,
    counts_steps: bool = False,
) -> Optimizer:
    return Optimizer(name, tuple(torch.split()), tuple(oneflow.split()), tensors, fixed or {}, counts_steps)


_MOMENTS = {"exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq", "max_exp_avg_sq": "max_exp_avg_sq"}

OPTIMIZERS: Mapping[str, Optimizer] = {
    row.name: row
    for row in (
        _row(
            "SGD",
            torch="lr momentum dampening weight_decay nesterov maximize foreach differentiable fused",
            oneflow="lr momentum dampening weight_decay nesterov maximize fused",
            tensors={"momentum_buffer": "momentum_buf"},
        ),
        _row(
            "Adam",
            torch="lr betas eps weight_decay amsgrad maximize foreach capturable differentiable fused",
            oneflow="lr eps betas weight_decay amsgrad bias_correction1 bias_correction2 do_bias_correction fused",
            tensors=_MOMENTS,
            fixed={"maximize": False, "do_bias_correction": True},
            counts_steps=True,
        ),
        _row(
            "AdamW",
            torch="lr betas eps weight_decay amsgrad foreach maximize capturable differentiable fused",
            oneflow="lr eps betas weight_decay bias_correction1 bias_correction2 do_bias_correction amsgrad fused",
            tensors=_MOMENTS,
            fixed={"maximize": False, "do_bias_correction": True},
            counts_steps=True,
        ),
        _row(
            "Adagrad",
            torch="lr lr_decay eps weight_decay initial_accumulator_value foreach maximize differentiable fused",
            oneflow="lr initial_accumulator_value lr_decay weight_decay eps",
            tensors={"sum": "sum"},
            fixed={"maximize": False},
            counts_steps=True,
        ),
        _row(
            "RMSprop",
            torch="lr momentum alpha eps centered weight_decay capturable foreach maximize differentiable",
            oneflow="lr alpha eps weight_decay centered",
            tensors={"square_avg": "square_avg", "grad_avg": "grad_avg"},
            fixed={"momentum": 0.0, "maximize": False},
        ),
        _row(
            "Adadelta",
            torch="lr rho eps weight_decay maximize capturable foreach differentiable",
            oneflow="lr rho eps maximize weight_decay",
            tensors={"square_avg": "square_avgs", "acc_delta": "acc_deltas"},
            fixed={"maximize": False},
        ),
    )
}

#: An option or a tensor that gives away an optimizer which the other framework does not have.
_ELSEWHERE = {
    "max_iter": "LBFGS",
    "momentum_decay": "NAdam",
    "lambd": "ASGD",
    "etas": "Rprop",
    "beta2_decay": "Adafactor",
    "ns_steps": "Muon",
    "adam_w_mode": "LAMB",
    "exp_inf": "Adamax",
}


def is_optimizer_state(tree: Tree) -> bool:
    """Says whether the tree is the state dict of an optimizer, of any dialect."""
    if not isinstance(tree, Mapping) or not isinstance(tree.get("state"), Mapping):
        return False
    groups = tree.get("param_groups")
    return isinstance(groups, list | tuple) and all(isinstance(g, Mapping) and "params" in g for g in groups)


def framework_of(dialect: str) -> str:
    """Gives the framework of a dialect: ``torch`` or ``oneflow``."""
    return dialect.partition("-")[0]


def group_options(group: Mapping[str, Tree]) -> Mapping[str, Tree]:
    """Gives the options of a parameter group of any dialect."""
    options = group["_options"] if isinstance(group.get("_options"), Mapping) else group
    return {name: value for name, value in options.items() if name not in ("params", "_enable_clip_grad")}


def optimizer_dialect(state: Tree) -> str:
    """Gives the dialect of an optimizer state: one of the four above."""
    groups = state["param_groups"]
    if not any("_options" in group for group in groups):
        is_flat = any("_enable_clip_grad" in group or "contiguous_params" in group for group in groups)
        return "oneflow-1.0" if is_flat or "step" in state["state"] else "torch"
    row = _matching(state, "oneflow")
    options = [group_options(group) for group in groups]
    return "oneflow" if row is None or all(name in o for o in options for name in row.oneflow) else "oneflow-0.8"


def recognised_optimizer(state: Tree, *, dialect: str, name: str | None, key: str) -> tuple[Optimizer, bool]:
    """Gives the row of an optimizer state and whether it is certain, which Adam or AdamW may not be.

    ``name`` is its class, ``AdamW`` or ``torch.optim.adamw.AdamW``; without it the options and tensors tell.
    Raises ValueRefusedError for an optimizer that the other framework does not have.
    """
    if name is not None:
        row = OPTIMIZERS.get(name.rpartition(".")[2])
        if row is None:
            raise ValueRefusedError(f"{key}: found the optimizer {name}, expected one of {_known()}; {_WAY_OUT}")
        return row, True
    row = _matching(state, framework_of(dialect))
    if row is None:
        raise ValueRefusedError(
            f"{key}: found {_guess(state)}, expected one of {_known()}; {_WAY_OUT}, or name its class if it is one of them"
        )
    return _adam_or_adamw(state) if row.name in ("Adam", "AdamW") else (row, True)


_WAY_OUT = "leave it out and let the optimizer start fresh"


def _known() -> str:
    return ", ".join(OPTIMIZERS)


def _names(state: Tree) -> tuple[set[str], set[str]]:
    """Gives the names of all options and of all tensors in an optimizer state."""
    options = {str(name) for group in state["param_groups"] for name in group_options(group)}
    entries = [entry for entry in state["state"].values() if isinstance(entry, Mapping)]
    return options, {str(name) for entry in entries for name in entry}


def _matching(state: Tree, framework: str) -> Optimizer | None:
    """Gives the row whose options and tensors these are, and no others, or None."""
    options, tensors = _names(state)
    for row in OPTIMIZERS.values():
        own = row.torch if framework == "torch" else row.oneflow
        needed = {*own} - {*DEFAULTS, *NEUTRAL["torch"], *NEUTRAL["oneflow"]} | ({"amsgrad"} & {*own})
        named = {*row.tensors} if framework == "torch" else {*row.tensors.values()}
        # torch's RMSprop alone keeps a tensor that only it has; its momentum is refused later, by name.
        spare = {"step", "momentum_buffer"} if row.name == "RMSprop" else {"step"}
        if needed <= options <= {*own} | _COMMON and tensors <= named | spare:
            return row
    return None


def _adam_or_adamw(state: Tree) -> tuple[Optimizer, bool]:
    """Tells the two apart: torch 2.6 says so, without weight decay they are one, else the order of the options hints."""
    options = [group_options(group) for group in state["param_groups"]]
    said = {bool(o["decoupled_weight_decay"]) for o in options if "decoupled_weight_decay" in o}
    if len(said) == 1:
        return OPTIMIZERS["AdamW" if said.pop() else "Adam"], True
    order = [list(o) for o in options]
    first, second = ("foreach", "maximize") if any("foreach" in o for o in order) else ("bias_correction1", "amsgrad")
    is_adamw = any(first in o and second in o and o.index(first) < o.index(second) for o in order)
    return OPTIMIZERS["AdamW" if is_adamw else "Adam"], not any(o["weight_decay"] for o in options)


def _guess(state: Tree) -> str:
    options, tensors = _names(state)
    for giveaway, name in _ELSEWHERE.items():
        if giveaway in options | tensors:
            return f"what looks like {name}"
    return f"an optimizer with options {', '.join(sorted(options)) or 'none'}"
