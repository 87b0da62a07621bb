"""An optimizer state in torch's terms, whatever dialect it came from: flat groups, a step and named tensors for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..tree import LazyTensor, Tree, elementwise
from .optimizers import DEFAULTS, NEUTRAL, Optimizer, framework_of, group_options, recognised_optimizer
from .report import Notes

__all__ = ["Group", "NeutralState", "momentum_scale", "read_state", "scaled"]


@dataclass(frozen=True, slots=True)
class Group:
    """One parameter group in torch's terms: what crosses, what goes along as it is, and the ids of its parameters."""

    options: dict[str, Any]
    extras: dict[str, Any]
    params: list[Any]


@dataclass(frozen=True, slots=True)
class NeutralState:
    """An optimizer state in torch's terms; ``steps`` has a number for each parameter that has tensors."""

    row: Optimizer
    certain: bool
    groups: list[Group]
    tensors: dict[Any, dict[str, LazyTensor]]
    steps: dict[Any, int]


def read_state(state: Tree, dialect: str, class_name: str | None, notes: Notes) -> NeutralState:
    """Gives a state of any dialect in torch's terms; raises ValueRefusedError for what only its own framework knows."""
    row, certain = recognised_optimizer(state, dialect=dialect, name=class_name, key=notes.key)
    if not certain:
        notes.warn(
            f"found an Adam or AdamW with weight decay and no class name; read as {row.name} by the order of its options, "
            "so load it into that class, or name it as 'optimizer_class' in the checkpoint"
        )
    framework = framework_of(dialect)
    groups: list[Group] = []
    tensors: dict[Any, dict[str, LazyTensor]] = {}
    steps: dict[Any, int] = {}
    for i, group in enumerate(state["param_groups"]):
        place = notes.at("param_groups", i)
        options = {name: _number(value) for name, value in group_options(group).items()}
        scale = momentum_scale(options, framework, place) if row.name == "SGD" else 1.0
        groups.append(_read_group(options, list(group["params"]), row, framework, place))
        for param in group["params"]:
            entry = _read_entry(state["state"].get(param), row, framework, scale, notes.at("state", param))
            if entry:
                tensors[param] = entry
                steps[param] = _step(state["state"], param, row, framework, notes)
    return NeutralState(row, certain, groups, tensors, steps)


def _read_group(options: dict[str, Any], params: list[Any], row: Optimizer, framework: str, notes: Notes) -> Group:
    _require_fixed(options, row, notes)
    if options.get("contiguous_params"):
        raise notes.refused(
            "found contiguous_params, under which the state belongs to fused buffers, expected a state per parameter; "
            "save it from an optimizer without contiguous_params"
        )
    shared: dict[str, Any] = {}
    extras: dict[str, Any] = {}
    for name in row.shared:
        if name not in options and name not in DEFAULTS:
            raise notes.refused(
                f"found no option {name!r}, expected one: every {row.name} has it; the state is damaged"
            )
        shared[name] = options.get(name, DEFAULTS.get(name))
    for name, value in options.items():
        if name in _LEFT_OUT:
            notes.leave_out(f"{name} = {value}, {_LEFT_OUT[name]}")
        elif name in NEUTRAL[framework]:
            if value is True and name in ("fused", "foreach", "capturable", "differentiable"):
                notes.leave_out(f"{name} = True, which says how a step is run, not what it computes")
        elif name not in shared and name not in row.fixed:
            extras[name] = value
    return Group(shared, extras, params)


#: Options of OneFlow's groups that say what happens around a step.
_LEFT_OUT = {
    "clip_grad_max_norm": "which OneFlow's clip_grad() heeds; call torch.nn.utils.clip_grad_norm_ before each step",
    "clip_grad_norm_type": "which OneFlow's clip_grad() heeds; call torch.nn.utils.clip_grad_norm_ before each step",
    "lr_scale": "which only OneFlow's graphs heed",
}


def _require_fixed(options: dict[str, Any], row: Optimizer, notes: Notes) -> None:
    for name, value in row.fixed.items():
        if name in options and options[name] != value:
            raise notes.refused(
                f"found {row.name} with {name} = {options[name]}, expected {value}: the other framework's has no "
                "counterpart; leave the optimizer out and let it start fresh"
            )


def _read_entry(entry: Tree, row: Optimizer, framework: str, scale: float, notes: Notes) -> dict[str, LazyTensor]:
    """Gives a parameter's tensors under torch's names; ``scale`` is what OneFlow's momentum is of torch's."""
    if not isinstance(entry, Mapping):
        return {}
    names = {theirs if framework == "oneflow" else name: name for name, theirs in row.tensors.items()}
    tensors = {}
    for name, value in entry.items():
        if name in names and isinstance(value, LazyTensor):
            tensors[names[name]] = scaled(value, 1 / scale)
        elif name != "step" and value is not None:
            notes.leave_out(f"{name}, which {row.name} of the other framework does not have")
    return tensors


def _step(state: Mapping[Any, Tree], param: Any, row: Optimizer, framework: str, notes: Notes) -> int:
    step = state.get("step") if framework == "oneflow" else state[param].get("step")
    if step is None and row.name != "SGD":
        raise notes.refused(f"found no step of parameter {param}, expected one; the state is damaged")
    return int(_number(step or 0))


def momentum_scale(options: Mapping[str, Any], framework: str, notes: Notes) -> float:
    """Gives what OneFlow's momentum buffer is of torch's: 1, −1 under maximize, or −lr up to 0.8."""
    if not options["momentum"]:
        return 1.0
    if options.get("maximize") and options["weight_decay"]:
        raise notes.refused(
            "found SGD with maximize and weight decay, expected one of the two: OneFlow then lets weights grow; "
            "leave the optimizer out and let it start fresh"
        )
    if framework == "torch" or "dampening" in options or "nesterov" in options:
        return -1.0 if options.get("maximize") and framework == "oneflow" else 1.0
    return _old_scale(options, notes)


def _old_scale(options: Mapping[str, Any], notes: Notes) -> float:
    if not options["lr"]:
        raise notes.refused("found OneFlow 0.8's momentum, which is −lr · buffer, under lr = 0, expected another lr")
    notes.warn(
        f"OneFlow up to 0.8 keeps momentum as −lr · buffer; converted with lr = {options['lr']:g}, it is exact as long as "
        "that lasts: where the learning rate changes, 0.8 goes on with momentum of the old one, and the runs part"
    )
    return -float(options["lr"])


def _number(value: Any) -> Any:
    """Gives an option as plain numbers: torch may keep a learning rate as a tensor, which OneFlow cannot."""
    if isinstance(value, LazyTensor) and value.size == 1:
        return value.numpy().reshape(()).item()
    if isinstance(value, list | tuple):
        return tuple(map(_number, value))
    return value


def scaled(tensor: LazyTensor, factor: float) -> LazyTensor:
    """Gives factor · tensor, with an array of its own at each reading: optimizers train on the tensors they are given."""
    if factor == 1:
        return elementwise(tensor, tensor.dtype, np.copy)
    return elementwise(tensor, tensor.dtype, partial(_product, factor))


def _product(factor: float, array: np.ndarray) -> np.ndarray:
    return (array.astype(np.float64) * factor).astype(array.dtype)
