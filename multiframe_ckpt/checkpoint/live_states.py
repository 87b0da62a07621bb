"""The states of a checkpoint that live objects take, in the dialect of their framework. Nothing is touched yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..backend import Backend
from ..errors import MismatchError, RefusedError
from ..training import Part, TrainingParts, TranslateReport, merged, translate_scheduler
from ..tree import Tree

__all__ = ["Notes", "parts_for", "states_for"]


@dataclass(slots=True)
class Notes:
    """What is left out, and what to mind, as it comes up."""

    left_out: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, report: TranslateReport) -> None:
        """Add what a translation left out and warns of."""
        self.left_out += report.left_out
        self.warnings += report.warnings


def parts_for(parts: TrainingParts, name: str) -> tuple[Part, ...]:
    """Return the parts of a checkpoint that a live object called ``name`` takes, or a list of such objects."""
    if name == "optimizer":
        return parts.optimizers
    if name == "scheduler":
        return parts.schedulers
    part: Part | None = getattr(parts, name)
    return () if part is None else (part,)


def states_for(
    parts: TrainingParts, objects: Mapping[str, object], backend: Backend, notes: Notes, *, strict: bool
) -> dict[str, Tree]:
    """Return the trees to load, by the names of the live objects; a list of objects gets a list of as many.

    A part that is not there is a warning. One that cannot cross raises, or without ``strict`` is left out. Raise
    MismatchError for a list of another length than there are parts.
    """
    states: dict[str, Tree] = {}
    for name, obj in objects.items():
        targets: Sequence[object] = obj if isinstance(obj, list | tuple) else [obj]
        saved = parts_for(parts, name)
        if not saved:
            notes.warnings.append(_absent(name, targets[0]))
            continue
        _require_as_many(name, saved, targets)
        try:
            pairs = zip(saved, targets, strict=True)
            crossed = [_state_for(name, part, target, objects, backend, notes) for part, target in pairs]
        except (RefusedError, MismatchError) as problem:
            if strict:
                raise
            notes.left_out.append(str(problem))
            continue
        states[name] = crossed if targets is obj else crossed[0]
    return states


def _require_as_many(name: str, saved: Sequence[Part], targets: Sequence[object]) -> None:
    if len(saved) != len(targets):
        raise MismatchError(
            f"{name}: found {len(saved)} in the checkpoint ({', '.join(part.key for part in saved)}), expected "
            f"{len(targets)}; pass a list of as many"
        )


def _state_for(
    name: str, part: Part, target: object, objects: Mapping[str, object], backend: Backend, notes: Notes
) -> Tree:
    cls = type(target).__name__
    if name == "optimizer":
        state, report = merged(
            backend.to_tree(target),
            part.tree,
            class_name=part.class_name,
            target_class=cls,
            names=_names_of(target, objects.get("model")),
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


def _names_of(optimizer: object, model: object) -> tuple[str, ...] | None:
    """Return what a model calls an optimizer's parameters, in the order of its groups; None where some are not its."""
    if not hasattr(model, "named_parameters") or not hasattr(optimizer, "param_groups"):
        return None
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    parameters = [parameter for group in optimizer.param_groups for parameter in _parameters(group)]
    known = tuple(names[id(parameter)] for parameter in parameters if id(parameter) in names)
    return known if len(known) == len(parameters) else None


def _parameters(group: object) -> Iterable[object]:
    """Return the parameters of a live optimizer's group: an entry of a dict, or an attribute."""
    parameters: Iterable[object] = group["params"] if isinstance(group, Mapping) else getattr(group, "parameters", ())
    return parameters


def _absent(name: str, obj: object) -> str:
    text = f"{name}: found none in the checkpoint; it starts fresh"
    groups = getattr(obj, "param_groups", None)
    if name != "optimizer" or not groups:
        return text
    rates = sorted({float(group["lr"]) for group in groups})
    return f"{text}, with the learning rate it was given ({', '.join(map(str, rates))})"
