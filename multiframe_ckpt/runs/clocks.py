"""Every: how often something is done in a run, by the clock that it counts: epochs or steps."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import SupportsIndex, TypeAlias, get_args

from ..checkpoint.position import Clock, Position
from ..errors import ValueRefusedError
from ..terminal.text import short_repr

__all__ = ["Every", "falls_on", "require_at_least", "require_every", "saved_position"]

#: Every n epochs, or every n steps where steps are counted; or a number for each, as ``{"epoch": 1, "step": 1000}``.
Every: TypeAlias = int | Mapping[Clock, int]


def falls_on(every: Every, position: Position, *, unnamed: bool) -> bool:
    """Return whether it is a multiple on its own clock; ``unnamed`` for a clock of which nothing is said."""
    number = position.number
    step = every.get(position.clock) if isinstance(every, Mapping) else every
    if step is None:
        return unnamed
    return number is not None and number % step == 0


def require_every(name: str, every: Every | None) -> None:
    """Raise ValueRefusedError for a number below 1, and for a clock that there is not."""
    for clock, number in every.items() if isinstance(every, Mapping) else [(None, every)]:
        if clock is not None and clock not in get_args(Clock):
            raise ValueRefusedError(
                f"{name}: found {short_repr(clock)}, expected 'epoch', 'step' or both, with a number each"
            )
        require_at_least(name, number, 1)


def require_at_least(name: str, value: int | None, least: int) -> None:
    """Raise ValueRefusedError for a number of this name below ``least``; None is for none."""
    if value is not None and value < least:
        raise ValueRefusedError(f"{name}: found {value}, expected {least} or more")


def saved_position(epoch: SupportsIndex | None, step: SupportsIndex | None) -> Position:
    """Return the position of a save: after an epoch, after a step, or with both after a step within the epoch.

    Raise ValueRefusedError for neither, and for what is no whole number from 0 on.
    """
    if epoch is None and step is None:
        raise ValueRefusedError("epoch, step: found neither, expected the number of the epoch or step that was done")
    return Position(_number("epoch", epoch), _number("step", step), epoch is not None and step is not None)


def _number(name: str, value: SupportsIndex | None) -> int | None:
    if value is None:
        return None
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueRefusedError(
            f"{name}: found a {type(value).__name__}, expected a whole number: save(epoch, model), or save(step=…, model=…)"
        ) from None
    require_at_least(name, number, 0)
    return number
