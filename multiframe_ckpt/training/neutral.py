"""NeutralState: the state of an optimizer or a scheduler as no framework keeps it, between any two dialects.

Parameters go by name. Options, tensors and attributes have the names of ``optimizers.py`` and ``schedulers.py``. Where two
frameworks mean different things by one name, a field of :class:`Facts` says what is meant.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from ..tree import LazyTensor, Tree, elementwise

__all__ = ["Facts", "Group", "NeutralState", "OptimizerState", "SchedulerState", "plain_numbers", "scaled"]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the algorithm of a parameter group does, and how its tensors are meant, where frameworks differ."""

    eps_inside_root: bool = False  # divides by √(v + eps), not by √v + eps
    momentum_times_lr: bool = False  # the momentum buffer holds the learning rate as a factor
    momentum_negated: bool = False  # the momentum buffer points the way weights move, not the way gradients do
    first_gradient_dampened: bool = False  # SGD dampens the gradient that begins its momentum as well
    maximize_ignored: bool = False  # asked to maximize, SGD minimizes
    decay_grows: bool = False  # under maximize, SGD's weight decay lets weights grow
    one_step_for_all: bool = False  # one count of steps for all parameters, not one for each
    decay_decoupled: bool | None = None  # of Adam and AdamW: None where nothing tells which of the two it is


@dataclass(frozen=True, slots=True)
class Group:
    """One parameter group: the names of its parameters in their order, its options, and what its numbers mean.

    ``extras`` are options of the user's own, which go along as they are. ``local`` are options that mean something in one
    framework only, with the reason. ``ids`` are what a state that goes by number calls its parameters.
    """

    names: tuple[str, ...]
    options: Mapping[str, Any]
    facts: Facts = Facts()
    extras: Mapping[str, Any] = field(default_factory=dict)
    local: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    ids: tuple[Hashable, ...] = ()

    @property
    def named(self) -> bool:
        """Whether the names are names, not the numbers of a state that knows no others."""
        return not all(name.isdecimal() for name in self.names)


@dataclass(frozen=True, slots=True)
class OptimizerState:
    """The state of an optimizer: ``tensors`` by parameter and name, ``steps`` for each parameter that has tensors."""

    algorithm: str
    groups: tuple[Group, ...]
    tensors: Mapping[str, Mapping[str, LazyTensor]]
    steps: Mapping[str, int]

    @property
    def step(self) -> int:
        """The highest step of a parameter, 0 where none has taken any."""
        return max(self.steps.values(), default=0)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all parameters, group after group."""
        return tuple(name for group in self.groups for name in group.names)


@dataclass(frozen=True, slots=True)
class SchedulerState:
    """The state of a scheduler. ``parts`` are those it runs, each at its own ``step``; -1 is one that has not begun.

    ``step`` is None for a chain whose parts differ in theirs. ``extras`` change nothing, and are kept for the way back.
    """

    algorithm: str
    step: int | None
    attributes: Mapping[str, Any]
    base_lrs: list[Any] | None = None
    last_lrs: list[Any] | None = None
    parts: tuple[SchedulerState, ...] = ()
    extras: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NeutralState:
    """What one state of a dialect holds: an optimizer, a scheduler, or a scheduler inside its optimizer's state."""

    optimizer: OptimizerState | None = None
    scheduler: SchedulerState | None = None


def plain_numbers(value: Tree, sequence: Callable[[list[object]], object] = list) -> Any:
    """Return a value with tensors of one element as numbers: not every framework can keep a learning rate as a tensor.

    Lists and tuples become what ``sequence`` makes of them.
    """
    if isinstance(value, LazyTensor) and value.size == 1:
        return value.numpy().reshape(()).item()
    if isinstance(value, list | tuple):
        return sequence([plain_numbers(item, sequence) for item in value])
    return value


def scaled(tensor: LazyTensor, factor: float) -> LazyTensor:
    """Return factor · tensor, a new array at each reading: optimizers train on the very tensors that they are given."""
    if factor == 1:
        return elementwise(tensor, tensor.dtype, np.copy)
    return elementwise(tensor, tensor.dtype, partial(_product, factor))


def _product(factor: float, array: np.ndarray) -> np.ndarray:
    return (array.astype(np.float64) * factor).astype(array.dtype)
