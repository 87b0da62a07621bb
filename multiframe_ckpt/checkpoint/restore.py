"""restore(): a training checkpoint back into live objects, of the framework it came from or of the other one.

Everything is translated and compared before anything is touched: a strict restore loads all it was asked for or nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..backend import Backend, LoadReport, backend_of
from ..errors import CheckpointWarning
from ..training import TrainingParts, find_parts
from ..tree import Tree
from .live_states import Notes, parts_for, states_for
from .position import ended_on
from .random_state import set_random_state
from .run_state import FACTS, OBJECTS, RunState

__all__ = ["RestoreReport", "restore", "resume_parts"]


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What was restored, and what was not and why; with the facts of the run that the checkpoint holds.

    ``load`` has the keys in full, under ``model/``, ``optimizer/`` and so on.
    """

    restored: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    load: LoadReport = field(default_factory=LoadReport)
    epoch: int | None = None
    step: int | None = None
    loss: Tree = None
    metrics: Mapping[str, Tree] | None = None
    train_args: Tree = None

    def __str__(self) -> str:
        lines = [f"restored {', '.join(self.restored) or 'nothing'}"]
        lines += [f"left out {entry}" for entry in self.left_out]
        return "\n".join([*lines, *(f"warning: {entry}" for entry in self.warnings)])


def restore(tree: Tree, run: RunState, *, strict: bool = True) -> RestoreReport:
    """Load the parts of a training checkpoint into the live objects of a run; see ``Checkpoint.restore``."""
    objects, parts, notes = run.objects, find_parts(tree), Notes()
    backend = backend_of(list(objects.values()))
    states = states_for(parts, objects, backend, notes, strict=strict)
    load = (
        backend.load_into({name: objects[name] for name in states}, states, strict=strict) if states else LoadReport()
    )
    restored_rng = _restore_rng(parts, backend, run.model, notes) if run.rng else []
    notes.left_out += _not_asked_for(parts, run)
    for text in notes.warnings:
        warnings.warn(text, CheckpointWarning, stacklevel=3)
    facts = {name: part.tree for name in FACTS if (part := getattr(parts, name)) is not None}
    return RestoreReport((*states, *restored_rng), tuple(notes.left_out), tuple(notes.warnings), load, **facts)


def _restore_rng(parts: TrainingParts, backend: Backend, model: object, notes: Notes) -> list[str]:
    for part in parts.rng:
        if part.key == "rng_state" and isinstance(part.tree, Mapping):
            absent = set_random_state(part.tree, backend, model)
            notes.left_out += [f"rng_state/{name}: this program has no such generator" for name in absent]
            return ["rng"]
        notes.left_out.append(f"{part.key}: a random state of another program's own making")
    return []


def _not_asked_for(parts: TrainingParts, run: RunState) -> list[str]:
    left = [part for name in OBJECTS if name not in run.objects for part in parts_for(parts, name)]
    left += () if run.rng else parts.rng
    return [f"{part.key}: not asked for" for part in left]


def resume_parts(tree: Tree) -> dict[str, bool]:
    """Return which of the five things that an exact resume needs a checkpoint holds."""
    parts = find_parts(tree)
    return {
        "weights": bool(parts.models),
        "optimizer": bool(parts.optimizers),
        "scheduler": bool(parts.schedulers),
        "rng": bool(parts.rng),
        "progress": ended_on(parts).is_known,
    }
