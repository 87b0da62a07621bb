"""The dialects, a module each, and the table that finds them; ``base.py`` says what one is.

What the author of another one needs is here under one roof.
"""

from __future__ import annotations

from functools import cache

from ...errors import ValueRefusedError
from ...registry import Registry
from ...tree import Tree
from ..names import NO_NAMES, Names
from ..neutral import Facts, Group, NeutralState, OptimizerState, SchedulerState
from ..report import Holding, Notes
from .base import Dialect, OptimizerRow
from .holding import note_unheld

__all__ = [
    "DIALECTS",
    "NO_NAMES",
    "Dialect",
    "Facts",
    "Group",
    "Holding",
    "Names",
    "NeutralState",
    "Notes",
    "OptimizerRow",
    "OptimizerState",
    "SchedulerState",
    "dialect_named",
    "dialect_to_write",
    "dialects",
    "dialects_to_write",
    "is_optimizer_state",
    "is_scheduler_state",
    "likely_scheduler_dialect",
    "note_unheld",
    "optimizer_dialect",
    "scheduler_dialect",
    "title_of",
]

#: In the order in which a state is tried.
DIALECTS: Registry[type[Dialect]] = Registry(
    "dialect",
    {
        "torch": "multiframe_ckpt.training.dialects.torch:Torch",
        "oneflow": "multiframe_ckpt.training.dialects.oneflow:OneFlow",
        "oneflow-0.8": "multiframe_ckpt.training.dialects.oneflow_08:OneFlow08",
        "oneflow-1.0": "multiframe_ckpt.training.dialects.oneflow_10:OneFlow10",
    },
    group="multiframe_ckpt.dialects",
)


def dialects() -> tuple[Dialect, ...]:
    """Return every dialect that loads, in the order in which a state is tried."""
    return _loaded(tuple(DIALECTS.names()))


@cache  # asked of every container near the top of a checkpoint; a plugin that does not load is warned of once
def _loaded(names: tuple[str, ...]) -> tuple[Dialect, ...]:
    return tuple(kind() for kind in DIALECTS.available())


def dialect_named(name: str) -> Dialect:
    """Return the dialect called ``name``; UnknownNameError lists what there is."""
    return DIALECTS.get(name)()


def title_of(framework: str | None) -> str:
    """Return how people call a framework: as its dialect does, or by its own name where no dialect is its."""
    titles = {dialect.name: dialect.title for dialect in dialects()}
    return titles.get(framework or "", framework or "no framework")


def dialects_to_write() -> list[str]:
    """Return the names of the dialects that can be written."""
    return [dialect.name for dialect in dialects() if dialect.writable]


def dialect_to_write(name: str, key: str) -> Dialect:
    """Return the dialect called ``name``; raises ValueRefusedError for one that is unknown or only read."""
    names = dialects_to_write()
    if name not in names:
        raise ValueRefusedError(f"{key}: found {name!r} as the dialect to write, expected one of {', '.join(names)}")
    return dialect_named(name)


def optimizer_dialect(tree: Tree) -> Dialect | None:
    """Return the dialect of an optimizer state; None for what is none."""
    return next((dialect for dialect in dialects() if dialect.is_optimizer(tree)), None)


def scheduler_dialect(tree: Tree) -> Dialect | None:
    """Return the dialect of a scheduler state; None for what is none."""
    return next((dialect for dialect in dialects() if dialect.is_scheduler(tree)), None)


def likely_scheduler_dialect(tree: Tree) -> Dialect | None:
    """Return the dialect of a tree that stands for a scheduler's state, where less is enough; None for what is none."""
    likely = (dialect for dialect in dialects() if dialect.may_be_scheduler(tree))
    return scheduler_dialect(tree) or next(likely, None)


def is_optimizer_state(tree: Tree) -> bool:
    """Return whether a tree is the state of an optimizer, in any dialect."""
    return optimizer_dialect(tree) is not None


def is_scheduler_state(tree: Tree) -> bool:
    """Return whether a tree is the state of a learning rate scheduler, in any dialect, or holds one inside."""
    return scheduler_dialect(tree) is not None
