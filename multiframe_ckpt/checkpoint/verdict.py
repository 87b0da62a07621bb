"""Whether a run goes on from what was restored of it: each part by name, as ``training.verdict`` has it for conversions."""

from __future__ import annotations

from collections.abc import Container, Iterator

from ..backend import LoadReport
from ..terminal.text import plural
from ..training import PartVerdict, RunVerdict, TrainingParts
from .position import ended_on
from .run_state import OBJECTS

__all__ = ["judge_restore"]


def judge_restore(
    parts: TrainingParts, asked: Container[str], restored: Container[str], load: LoadReport, *, has_rng: bool
) -> RunVerdict:
    """Return whether the run of a checkpoint goes on in live objects, of which some were asked for and some restored."""
    is_stored = parts.optimizers or parts.schedulers or (parts.scaler and parts.scaler.tree)
    if not (is_stored or any(name in asked for name in OBJECTS if name != "model")):
        return RunVerdict()
    return RunVerdict((*_objects(parts, asked, restored, load), *_rest(parts, has_rng=has_rng)))


def _objects(
    parts: TrainingParts, asked: Container[str], restored: Container[str], load: LoadReport
) -> Iterator[PartVerdict]:
    there = {
        "model": bool(parts.models),
        "optimizer": bool(parts.optimizers),
        "scheduler": bool(parts.schedulers),
        "scaler": parts.scaler is not None and bool(parts.scaler.tree),
    }
    for name in OBJECTS:
        if name in restored:
            lost = _not_loaded(name, load)
            yield PartVerdict(name, not lost, lost)
        elif name in asked:
            yield PartVerdict(name, False, "it starts fresh")
        elif there[name]:
            yield PartVerdict(name, False, "not asked for")


def _not_loaded(name: str, load: LoadReport) -> str:
    keys = [*load.missing, *load.unexpected, *(one.key for one in load.mismatched)]
    count = sum(key == name or key.startswith(f"{name}/") for key in keys)
    return f"{plural(count, 'key')} not loaded" if count else ""


def _rest(parts: TrainingParts, *, has_rng: bool) -> Iterator[PartVerdict]:
    position = ended_on(parts)
    if position.is_known:
        names = {"epoch": position.epoch, "step": position.step}
        text = ", ".join(f"{name} {number}" for name, number in names.items() if number is not None)
        yield PartVerdict("progress", True, text)
    if has_rng:
        yield PartVerdict("random state", True)
    elif parts.rng:
        yield PartVerdict("random state", False, "not set; batches and dropout come in another order", decides=False)
