"""translate(): a whole training checkpoint from one framework's dialect to the other's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ValueRefusedError
from ..tree import Path, Tree, join_key
from .optimizer_states import translated_optimizer
from .optimizers import framework_of, is_optimizer_state, optimizer_dialect
from .parts import Part, TrainingParts, find_parts
from .report import Notes, TranslateReport
from .schedulers import is_scheduler_state, scheduler_dialect, translated_scheduler

__all__ = ["translate"]

_GONE = object()
#: Parts of a random state that belong to Python or NumPy, and so mean the same beside either framework.
_COMMON_RNG = {"python", "random", "numpy", "np"}


def translate(
    tree: Tree,
    *,
    to: str,
    optimizer_class: str | None = None,
    scheduler_class: str | None = None,
    strict: bool = True,
    keep: bool = False,
) -> tuple[Tree, TranslateReport]:
    """Gives a checkpoint with its optimizers and schedulers in the dialect ``to``, and what crossed and what did not.

    ``to`` is ``torch``, ``oneflow`` (0.9) or ``oneflow-0.8``. The model and everything else stay as they are; what only
    the other framework can use (its random state, its gradient scaler) is left out by name. A tree without an optimizer
    or scheduler of another dialect comes back unchanged. ``optimizer_class`` and ``scheduler_class`` name classes that
    are not stored. What cannot cross is a ValueRefusedError, or with ``strict=False`` left out by name; with ``keep`` it
    is named all the same, but stays in the tree as it is.
    """
    parts = find_parts(tree)
    notes = Notes("")
    if not any(dialect != to for dialect in _dialects(parts, to)):
        _say_unknown(parts, notes)
        return tree, notes.report()
    changes: dict[Path, Tree] = {}
    for part in parts.optimizers:
        name = optimizer_class or part.class_name
        changes[part.path] = _tried(translated_optimizer, part, to, name, notes, strict=strict, keep=keep)
    for part in parts.schedulers:
        name = scheduler_class or part.class_name
        changes[part.path] = _tried(translated_scheduler, part, framework_of(to), name, notes, strict=strict, keep=keep)
    if {framework_of(dialect) for dialect in _dialects(parts, to)} != {framework_of(to)}:
        behind = _left_behind(parts, notes)
        changes |= {} if keep else behind
    return _rebuilt(tree, changes), notes.report()


def _dialects(parts: TrainingParts, to: str) -> list[str]:
    """Gives the dialect of each state that is known; schedulers have one for all versions of a framework."""
    optimizers = [optimizer_dialect(part.tree) for part in parts.optimizers if is_optimizer_state(part.tree)]
    frameworks = [scheduler_dialect(part.tree) for part in parts.schedulers if is_scheduler_state(part.tree)]
    return optimizers + [to if name == framework_of(to) else name for name in frameworks]


def _say_unknown(parts: TrainingParts, notes: Notes) -> None:
    unknown = [part for part in parts.optimizers if not is_optimizer_state(part.tree)]
    unknown += [part for part in parts.schedulers if not is_scheduler_state(part.tree)]
    for part in unknown:
        notes.warnings.append(f"{part.key}: found a state of neither framework's own; kept as it is")


def _tried(translated: Any, part: Part, to: str, name: str | None, notes: Notes, *, strict: bool, keep: bool) -> Tree:
    """Gives a translated part; where it cannot cross and that is allowed _GONE, or the part as it is."""
    fresh = Notes(part.key)
    try:
        crossed = translated(part.tree, to=to, class_name=name, notes=fresh)
    except ValueRefusedError as problem:
        if strict:
            raise
        notes.left_out.append(str(problem))
        return part.tree if keep else _GONE
    notes.converted += fresh.converted
    notes.left_out += fresh.left_out
    notes.warnings += fresh.warnings
    return crossed


def _left_behind(parts: TrainingParts, notes: Notes) -> dict[Path, Tree]:
    """Gives the parts that only the framework they came from can use."""
    gone: dict[Path, Tree] = {}
    for part in parts.rng:
        if isinstance(part.tree, Mapping):
            paths = [(*part.path, name) for name in part.tree if str(name).lower() not in _COMMON_RNG]
        else:
            paths = [] if _COMMON_RNG & {*str(part.path[0]).lower().split("_")} - {"random"} else [part.path]
        for path in paths:
            gone[path] = _GONE
            notes.left_out.append(f"{join_key(path)}: the random state of one framework means nothing to the other")
    if parts.scaler is not None:
        gone[parts.scaler.path] = _GONE
        notes.left_out.append(f"{parts.scaler.key}: the other framework's gradient scaler keeps another state")
    return gone


def _rebuilt(node: Tree, changes: Mapping[Path, Tree]) -> Tree:
    """Gives the tree with the changes; what they do not touch is the very same object. A list keeps its length."""
    if () in changes:
        return changes[()]
    below: dict[Any, dict[Path, Tree]] = {}
    for path, new in changes.items():
        below.setdefault(path[0], {})[path[1:]] = new
    items = node.items() if isinstance(node, Mapping) else enumerate(node)
    rebuilt = {name: _rebuilt(child, below[name]) if name in below else child for name, child in items}
    if isinstance(node, Mapping):
        return {name: child for name, child in rebuilt.items() if child is not _GONE}
    children = [None if child is _GONE else child for child in rebuilt.values()]
    return children if isinstance(node, list) else tuple(children)
