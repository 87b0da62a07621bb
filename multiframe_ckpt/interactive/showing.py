"""What a person sees of models: the list of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from ..terminal.table import table
from ..terminal.text import human_size, plural
from .finding import SavedModel

__all__ = ["listing"]

_AGES = ((86_400, "day"), (3_600, "hour"), (60, "minute"))
_HEAD = ("", "epoch", "metric", "parameters", "size", "age", "name")
_RIGHT = {0, 1, 3, 4, 5}
_MOST_METRICS = 2


def age_text(seconds: float) -> str:
    """Return how long ago something was, in the unit that reads best."""
    length, unit = next(((length, unit) for length, unit in _AGES if seconds >= length), (0, ""))
    if not length:
        return "just now"
    return plural(int(seconds // length), unit)


def listing(models: Sequence[SavedModel], *, now: float | None = None) -> Iterator[str]:
    """Yield the models as a table, numbered from 1, with what points to each; one that cannot be used says why."""
    now = time.time() if now is None else now
    rows = [_HEAD, *(_cells(number, model, now) for number, model in enumerate(models, 1))]
    yield from table(rows, right=_RIGHT)


def _cells(number: int, model: SavedModel, now: float) -> tuple[str, ...]:
    metrics = [f"{name} {value:.4g}" for name, value in list(model.metrics.items())[:_MOST_METRICS]]
    beside = model.name.removesuffix(model.path.name)
    pointers = [pointer.removeprefix(beside) for pointer in model.pointers]
    name = model.name + (f" <- {', '.join(pointers)}" if pointers else "")
    return (
        str(number),
        "-" if model.epoch is None else str(model.epoch),
        ", ".join(metrics) or "-",
        "-" if model.problem else f"{model.parameters:,}",
        human_size(model.nbytes),
        age_text(now - model.modified_ns / 1e9),
        f"{name}  (not usable: {model.problem.partition(', expected')[0]})" if model.problem else name,
    )
