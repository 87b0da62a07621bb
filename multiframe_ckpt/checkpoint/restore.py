"""restore(): a training checkpoint back into live objects, of the framework it came from or of the other one.

Everything is translated and compared before anything is touched: a strict restore loads all it was asked for or nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..backend import Backend, LoadReport, backend_of
from ..errors import CheckpointWarning, MismatchError, RefusedError
from ..training import Part, TrainingParts, TranslateReport, find_parts, merged, translate_scheduler
from ..tree import Tree, tensors
from .random_state import set_random_state

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
    loss: Any = None
    metrics: Mapping[str, Any] | None = None
    train_args: Any = None

    def __str__(self) -> str:
        lines = [f"restored {', '.join(self.restored) or 'nothing'}"]
        lines += [f"left out {entry}" for entry in self.left_out]
        return "\n".join([*lines, *(f"warning: {entry}" for entry in self.warnings)])


def restore(
    tree: Tree,
    *,
    model: object = None,
    optimizer: object = None,
    scheduler: object = None,
    scaler: object = None,
    rng: bool = True,
    strict: bool = True,
) -> RestoreReport:
    """Load the parts of a training checkpoint into live objects; see ``Checkpoint.restore``."""
    live = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler}
    live = {name: obj for name, obj in live.items() if obj is not None}
    backend = backend_of(list(live.values()))
    parts = find_parts(tree)
    notes = _Notes()
    given = _translated(parts, live, backend, notes, strict=strict)
    load = backend.load_into({name: live[name] for name in given}, given, strict=strict) if given else LoadReport()
    restored = list(given)
    restored += _restore_rng(parts, backend, live.get("model"), notes) if rng else []
    _say_unasked(parts, live, notes, rng=rng)
    for text in notes.warnings:
        warnings.warn(text, CheckpointWarning, stacklevel=3)
    facts = {name: part.tree for name in _FACTS if (part := getattr(parts, name)) is not None}
    return RestoreReport(tuple(restored), tuple(notes.left_out), tuple(notes.warnings), load, **facts)


_FACTS = ("epoch", "step", "loss", "metrics", "train_args")


@dataclass(slots=True)
class _Notes:
    left_out: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, report: TranslateReport) -> None:
        self.left_out += report.left_out
        self.warnings += report.warnings


def _parts_of(parts: TrainingParts, name: str) -> tuple[Part, ...]:
    """Return the parts that a live object called ``name`` takes."""
    if name in ("optimizer", "scheduler"):
        found: tuple[Part, ...] = getattr(parts, f"{name}s")
        return found
    part = getattr(parts, name)
    return () if part is None else (part,)


def _translated(
    parts: TrainingParts, live: Mapping[str, Any], backend: Backend, notes: _Notes, *, strict: bool
) -> dict[str, Tree]:
    """Return the trees to load, in the live objects' dialect; a list of objects takes as many parts."""
    given: dict[str, Tree] = {}
    for name, obj in live.items():
        found = _parts_of(parts, name)
        several = isinstance(obj, list | tuple)
        objects = list(obj) if several else [obj]
        if not found:
            notes.warnings.append(_absent(name, objects[0]))
            continue
        if len(found) != len(objects):
            raise MismatchError(
                f"{name}: found {len(found)} in the checkpoint ({', '.join(part.key for part in found)}), expected "
                f"{len(objects)}; pass a list of as many"
            )
        try:
            states = [_one(name, part, one, live, backend, notes) for part, one in zip(found, objects, strict=True)]
        except (RefusedError, MismatchError) as problem:
            if strict:
                raise
            notes.left_out.append(str(problem))
            continue
        given[name] = states if several else states[0]
    return given


def _one(name: str, part: Part, obj: Any, live: Mapping[str, Any], backend: Backend, notes: _Notes) -> Tree:
    cls = type(obj).__name__
    if name == "optimizer":
        state, report = merged(
            backend.to_tree(obj),
            part.tree,
            class_name=part.class_name,
            target_class=cls,
            names=_names_of(obj, live.get("model")),
            key=part.key,
        )
    elif name == "scheduler":
        state, report = translate_scheduler(part.tree, to=backend.name, class_name=part.class_name, key=part.key)
    else:
        return part.tree
    if part.class_name not in (None, cls):
        notes.warnings.append(f"{part.key}: found the state of {part.class_name}, restored into {cls}")
    notes.add(report)
    return state


def _names_of(optimizer: Any, model: Any) -> tuple[str, ...] | None:
    """Return what a model calls an optimizer's parameters, in the order of its groups; None where some are not its."""
    if not hasattr(model, "named_parameters") or not hasattr(optimizer, "param_groups"):
        return None
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    parameters = [parameter for group in optimizer.param_groups for parameter in _parameters(group)]
    labels = tuple(names[id(parameter)] for parameter in parameters if id(parameter) in names)
    return labels if len(labels) == len(parameters) else None


def _parameters(group: Any) -> Iterable[Any]:
    """Return the parameters of a live optimizer's group: an entry of a dict, or an attribute."""
    parameters: Iterable[Any] = group["params"] if isinstance(group, Mapping) else getattr(group, "parameters", ())
    return parameters


def _absent(name: str, obj: Any) -> str:
    text = f"{name}: found none in the checkpoint; it starts fresh"
    groups = getattr(obj, "param_groups", None)
    if name != "optimizer" or not groups:
        return text
    rates = sorted({float(group["lr"]) for group in groups})
    return f"{text}, with the learning rate it was given ({', '.join(map(str, rates))})"


def _restore_rng(parts: TrainingParts, backend: Backend, model: object, notes: _Notes) -> list[str]:
    for part in parts.rng:
        if part.key == "rng_state" and isinstance(part.tree, Mapping):
            left = set_random_state(part.tree, backend, model)
            notes.left_out += [f"rng_state/{name}: this program has no such generator" for name in left]
            return ["rng"]
        notes.left_out.append(f"{part.key}: a random state of another program's own making")
    return []


def _say_unasked(parts: TrainingParts, live: Mapping[str, Any], notes: _Notes, *, rng: bool) -> None:
    for name in ("model", "optimizer", "scheduler", "scaler"):
        if name not in live:
            notes.left_out += [f"{part.key}: not asked for" for part in _parts_of(parts, name)]
    if not rng:
        notes.left_out += [f"{part.key}: not asked for" for part in parts.rng]


def resume_parts(tree: Tree) -> dict[str, bool]:
    """Return which of the five things that an exact resume needs a checkpoint holds."""
    parts = find_parts(tree)
    return {
        "weights": parts.model is not None and bool(tensors(parts.model.tree)),
        "optimizer": bool(parts.optimizers),
        "scheduler": bool(parts.schedulers),
        "rng": bool(parts.rng),
        "progress": parts.epoch is not None or parts.step is not None,
    }
