"""What a person sees of models: the list of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from ..terminal.table import table
from ..terminal.text import human_size, plural
from .finding import SavedModel

__all__ = ["listing"]

_AGES = ((86_400, "day"), (3_600, "hour"), (60, "minute"))
_HEAD = ("", "epoch", "step", "metric", "parameters", "size", "age", "name")
_STEP = _HEAD.index("step")
_MOST_METRICS = 2


def age_text(seconds: float) -> str:
    """Return how long ago something was, in the unit that reads best."""
    length, unit = next(((length, unit) for length, unit in _AGES if seconds >= length), (0, ""))
    if not length:
        return "just now"
    return plural(int(seconds // length), unit)


def listing(models: Sequence[SavedModel], *, now: float | None = None) -> Iterator[str]:
    """Yield the models as a table, numbered from 1, with what points to each; one that cannot be used says why.

    Steps have a column where one of the models was saved after a step.
    """
    now = time.time() if now is None else now
    rows = [_HEAD, *(_cells(number, model, now) for number, model in enumerate(models, 1))]
    if all(model.step is None for model in models):
        rows = [(*row[:_STEP], *row[_STEP + 1 :]) for row in rows]
    yield from table(rows, right={index for index, name in enumerate(rows[0]) if name not in ("metric", "name")})


def _cells(number: int, model: SavedModel, now: float) -> tuple[str, ...]:
    metrics = [f"{name} {value:.4g}" for name, value in list(model.metrics.items())[:_MOST_METRICS]]
    beside = model.name.removesuffix(model.path.name)
    pointers = [pointer.removeprefix(beside) for pointer in model.pointers]
    name = model.name + (f" <- {', '.join(pointers)}" if pointers else "")
    return (
        str(number),
        "-" if model.epoch is None else str(model.epoch),
        "-" if model.step is None else str(model.step),
        ", ".join(metrics) or "-",
        "-" if model.problem else f"{model.parameters:,}",
        human_size(model.nbytes),
        age_text(now - model.modified_ns / 1e9),
        f"{name}  (not usable: {model.problem.partition(', expected')[0]})" if model.problem else name,
    )
