"""find_parts(): where a training checkpoint keeps its models, optimizers, schedulers and progress.

Names differ from program to program, contents hardly: an optimizer or scheduler state is known by what it holds, wherever
it stands; a dialect may gather one from several places, or keep a scheduler inside its optimizer's state. What else holds
tensors is weights (``candidates``), taken whole, however it is nested: one model, several, or averages of them. Two
writers say where theirs are: this library (``model_state_dict``) and Lightning (``state_dict``). Names tell the rest.
Known are our own (``optimizer_state_dict``, ``scheduler_state_dict``, …), Lightning's (``optimizer_states``,
``lr_schedulers``, …) and the usual ones of programs written by hand (``optimizer``, ``scheduler``, …).

The class of an optimizer is not in its state. It is read from beside it: ``optimizer_class`` for ``optimizer`` and
``optimizer_state_dict``, ``optimizer_G_class`` for ``optimizer_G``, and so for schedulers; a list or dict of states
has a list or dict of names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

from ..tree import LazyTensor, Path, Tree, Unknown, has_tensors, is_leaf, leaves
from .candidates import (
    OPTIMIZER_KEYS,
    WEIGHT_KEYS,
    are_random_states,
    entries,
    holds_states,
    holds_weights,
    is_average,
    is_like_modules,
    is_one_number,
    is_random_state,
    is_scaler_state,
    may_be_optimizer,
    may_hold_states,
)
from .dialects import is_optimizer_state, is_scheduler_state, optimizer_dialect
from .parts import Part, TrainingParts

__all__ = ["find_parts", "is_ours"]

_SCHEDULER_KEYS = (
    "scheduler_state_dict",
    "lr_schedulers",
    "scheduler_state",
    "scheduler",
    "schedulers",
    "lr_scheduler",
    "lr_scheduler_state_dict",
)
_PLAIN_KEYS = {
    "epoch": ("epoch", "current_epoch", "last_epoch"),
    "step": ("step", "global_step", "iteration", "iter", "global_iter", "n_iter"),
    "metrics": ("metrics", "metric"),
    "loss": ("loss", "train_loss", "val_loss"),
    "train_args": ("train_args", "args", "hyper_parameters", "hparams", "config", "cfg"),
    "timestamp": ("timestamp",),
    "scaler": ("scaler_state_dict", "scaler", "grad_scaler", "amp_scaler", "native_amp_scaling_state"),
}
_SUFFIXES = ("_state_dict", "_states", "_state")


def find_parts(tree: Tree) -> TrainingParts:
    """Return the parts of a checkpoint; a bare state dict is all model. Nothing is read."""
    if is_optimizer_state(tree) or is_scheduler_state(tree) or not _is_checkpoint(tree):
        return _bare(tree)
    search = _Search(tree)
    search.visit((), tree)
    return search.parts()


def is_ours(tree: Tree) -> TypeGuard[Mapping[str, Tree]]:
    """Return whether a tree is a checkpoint of a run that this library put together (``checkpoint.capture``)."""
    return isinstance(tree, Mapping) and "format_version" in tree and "framework" in tree


def _bare(tree: Tree) -> TrainingParts:
    is_scheduler = is_scheduler_state(tree)
    if is_optimizer_state(tree):
        return TrainingParts(optimizers=(Part((), tree),), schedulers=(Part((), tree),) if is_scheduler else ())
    if is_scheduler:
        return TrainingParts(schedulers=(Part((), tree),))
    if are_random_states(tree):
        return TrainingParts(rng=(Part((), tree),))
    return TrainingParts(models=(Part((), tree),) if has_tensors(tree) else ())


def _is_checkpoint(tree: Tree) -> bool:
    """Return whether a tree is put together around weights, or around a state: not weights itself, however nested."""
    inside = entries(tree)
    if inside is None:
        return False
    if _writers_key(tree) is not None or holds_states(tree):
        return True
    holders = [name for name, child in inside.items() if holds_weights(name, child)]
    if any(name in WEIGHT_KEYS for name in holders):
        return True
    named = any(_is_named_state(name, child) for name, child in inside.items())
    loose = any(_is_loose(name, child) for name, child in inside.items())
    return named or (bool(holders) and not loose)


def _writers_key(tree: Tree) -> str | None:
    """Return the key under which the writer of a checkpoint keeps the weights, for a writer that is known."""
    if is_ours(tree):
        return "model_state_dict"
    return "state_dict" if isinstance(tree, Mapping) and "pytorch-lightning_version" in tree else None


def _is_loose(name: object, node: Tree) -> bool:
    """Return whether a node is a tensor of a model, or a list of such: no counter, and no random state."""
    inside = node if isinstance(node, list | tuple) else [node]
    is_tensor = any(isinstance(item, LazyTensor) for item in inside)
    return is_tensor and not (_is_fact(name, node) or is_random_state(name, node))


def _is_fact(name: object, node: Tree) -> bool:
    return is_one_number(node) and any(name in names for names in _PLAIN_KEYS.values())


def _is_named_state(name: object, node: Tree) -> bool:
    return name in (*OPTIMIZER_KEYS, *_SCHEDULER_KEYS) and isinstance(node, Mapping) and bool(node)


@dataclass(slots=True)
class _Search:
    """A search under way: what was found in the checkpoint ``tree``, in the order in which it stands there."""

    tree: Tree
    facts: dict[str, Part] = field(default_factory=dict)
    optimizers: list[Part] = field(default_factory=list)
    schedulers: list[Part] = field(default_factory=list)
    rng: list[Part] = field(default_factory=list)
    candidates: list[Part] = field(default_factory=list)
    rest: list[Part] = field(default_factory=list)

    def visit(self, path: Path, level: Tree) -> None:
        """Find the parts that stand in one container of the checkpoint, and in those below that hold parts themselves."""
        inside = entries(level) or {}
        taken = self._take_facts(path, inside)
        nested = [name for name, child in inside.items() if name not in taken and _is_nested(name, child)]
        taken.update(nested)
        for found, parts_of in (
            (self.optimizers, self._optimizers),
            (self.schedulers, _schedulers),
            (self.rng, _random_states),
        ):
            names = [name for name in inside if name not in taken]
            parts = [part for name in names for part in parts_of(level, path, name)]
            found += parts
            places = [place for part in parts for place in (part.path, *part.beside)]
            taken.update(place[len(path)] for place in places if place[: len(path)] == path and place != path)
        for name in nested:
            self.visit((*path, name), inside[name])
        weights = self._weights(path, level, [name for name in inside if name not in taken])
        self.candidates += weights
        if not path:
            taken.update(name for part in weights for name in (part.path or entries(part.tree) or ()))
            self.rest += [Part((name,), child) for name, child in inside.items() if name not in taken]

    def parts(self) -> TrainingParts:
        """Return what was found."""
        inside = [_inside(self.tree, part) for part in self.optimizers if is_scheduler_state(part.tree)]
        models = _likeliest([part for part in self.candidates if not _is_average(part)])
        averages = tuple(part for part in self.candidates if _is_average(part))
        return TrainingParts(
            **self.facts,
            models=models or averages,
            averages=averages if models else (),
            optimizers=tuple(self.optimizers),
            schedulers=(*self.schedulers, *inside),
            rng=tuple(self.rng),
            rest=tuple(self.rest),
        )

    def _take_facts(self, path: Path, inside: Mapping[Any, Tree]) -> set[Any]:
        taken = set()
        for name_of_fact, names in _PLAIN_KEYS.items():
            name = next((name for name in names if inside.get(name) is not None), None)
            if name is None and name_of_fact == "scaler":
                name = next((name for name, child in inside.items() if is_scaler_state(child)), None)
            if name is not None:
                self.facts.setdefault(name_of_fact, Part((*path, name), inside[name]))
                taken.add(name)
        return taken

    def _optimizers(self, level: Tree, path: Path, name: Any) -> Iterator[Part]:
        node = (entries(level) or {})[name]
        states = list(_states(node, (name,), is_optimizer_state))
        if not states and name in OPTIMIZER_KEYS and isinstance(node, Mapping) and node:
            yield Part((*path, name), node, _class_beside(level, (name,), "optimizer"))
        for below, state in states:
            dialect = optimizer_dialect(state)
            assert dialect is not None
            gathered, beside = dialect.gather(self.tree, (*path, *below))
            yield Part((*path, *below), gathered, _class_beside(level, below, "optimizer"), beside)

    def _weights(self, path: Path, level: Tree, names: list[Any]) -> list[Part]:
        """Return what holds weights at a level; its own tensors count where nothing else at the top does."""
        inside = entries(level) or {}
        key = None if path else _writers_key(level)
        if key is not None:
            node = inside.get(key)
            return [Part((key,), node)] if key in names and node is not None else []
        holders = [Part((*path, name), inside[name]) for name in names if holds_weights(name, inside[name])]
        if holders or path or self.candidates or not isinstance(level, Mapping):
            return holders
        loose = {name: inside[name] for name in names if isinstance(inside[name], LazyTensor)}
        return [Part((), loose)] if loose else []


def _is_nested(name: object, node: Tree) -> bool:
    """Return whether a node is a checkpoint in the checkpoint: it holds states, and not states alone."""
    if is_optimizer_state(node) or is_scheduler_state(node) or may_be_optimizer(name) or name in _SCHEDULER_KEYS:
        return False
    return holds_states(node) and _holds_more_than_states(node)


def _holds_more_than_states(node: Tree) -> bool:
    if is_optimizer_state(node) or is_scheduler_state(node):
        return False
    inside = entries(node)
    if inside is None:
        return isinstance(node, LazyTensor)
    return any(_holds_more_than_states(child) for child in inside.values())


def _is_average(part: Part) -> bool:
    return any(map(is_average, part.path))


def _likeliest(candidates: list[Part]) -> tuple[Part, ...]:
    """Return the candidates without those of numbers alone, and beside a model of a usual name without statistics.

    Objects that were not built, such as a method kept of a model, count where nothing else does.
    """
    candidates = [part for part in candidates if not isinstance(part.tree, Unknown)] or candidates
    models = [part for part in candidates if any(leaf.size > 1 for leaf in _tensors(part.tree))] or candidates
    usual = any(part.path and part.path[-1] in WEIGHT_KEYS for part in models)
    name_of = {part.path: part.path[-1] if part.path else None for part in models}
    return tuple(part for part in models if not usual or is_like_modules(name_of[part.path], part.tree))


def _tensors(node: Tree) -> Iterator[LazyTensor]:
    return (leaf for _, leaf in leaves(node) if isinstance(leaf, LazyTensor))


def _schedulers(level: Tree, path: Path, name: Any) -> Iterator[Part]:
    node = (entries(level) or {})[name]
    states = list(_states(node, (name,), is_scheduler_state))
    if not states and name in _SCHEDULER_KEYS and isinstance(node, Mapping) and node:
        states = [((name,), node)]
    for below, state in states:
        yield Part((*path, *below), state, _class_beside(level, below, "scheduler"))


def _random_states(level: Tree, path: Path, name: Any) -> Iterator[Part]:
    node = (entries(level) or {})[name]
    if is_random_state(name, node):
        yield Part((*path, name), node)


def _inside(tree: Tree, optimizer: Part) -> Part:
    """Return the scheduler that an optimizer's state holds: the same tree at the same path."""
    return replace(optimizer, class_name=_class_called(("scheduler_class",), tree, optimizer.path))


def _states(node: Tree, path: Path, is_wanted: Callable[[Tree], bool]) -> Iterator[tuple[Path, Tree]]:
    """Yield a state with its path, or those of a list or dict of states, however nested."""
    if is_leaf(node):
        return
    if is_wanted(node):
        yield path, node
        return
    if is_optimizer_state(node) or is_scheduler_state(node):
        return
    for name, child in may_hold_states(node):
        yield from _states(child, (*path, name), is_wanted)


def _class_beside(level: Tree, path: Path, kind: str) -> str | None:
    """Return the class that is stored for the state at a path of a level, an ``optimizer`` or a ``scheduler``."""
    name = str(path[0])
    stem = next((name[: -len(suffix)] for suffix in _SUFFIXES if name.endswith(suffix)), name)
    return _class_called((f"{stem}_class", f"{kind}_class"), level, path)


def _class_called(names: tuple[str, ...], level: Tree, path: Path) -> str | None:
    if not isinstance(level, Mapping):
        return None
    for name in names:
        value: Any = level.get(name)
        for step in path[1:]:
            is_list = isinstance(value, list | tuple) and isinstance(step, int) and step < len(value)
            value = value[step] if is_list else value.get(step) if isinstance(value, Mapping) else None
        if isinstance(value, str):
            return value
    return None
