"""The states of a checkpoint that live objects take, in the dialect of their framework. Nothing is touched yet.

A run's object may be a list or dict of several, however nested. What ``capture`` wrote is found again by the very same
path; in another program's checkpoint by the names of the dict, or by order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..backend import Backend
from ..backend.tensor_ops import is_stateful
from ..errors import MismatchError, RefusedError
from ..training import Part, TrainingParts, TranslateReport, find_parts, is_ours, merged, translate_scheduler
from ..training.candidates import holds_states, is_state
from ..tree import (
    MISSING,
    Missing,
    Path,
    Tree,
    children,
    expect_entries,
    leaves,
    map_objects,
    node_at,
    replaced,
    tensors,
)
from ..tree.rules import Rename, matching, require_matches
from ..tree.wrappers import bare_name
from .live_models import Slot, fitted, models_for, slots_of, weights_for
from .run_state import LAYOUT, RunState

__all__ = ["Notes", "is_users", "states_for"]


_DISABLED = "the live scaler is disabled and takes no state"


@dataclass(slots=True)
class Notes:
    """What is left out, and what to mind, as it comes up; ``used`` are the paths of what live objects take."""

    left_out: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    used: list[Path] = field(default_factory=list)

    def add(self, report: TranslateReport) -> None:
        """Add what a translation left out and warns of."""
        self.left_out += report.left_out
        self.warnings += report.warnings


def states_for(
    tree: Tree, run: RunState, backend: Backend, notes: Notes, *, rename: Sequence[Rename], strict: bool
) -> dict[str, Tree]:
    """Return the trees to load, by the names of the live objects, nested as these are.

    An optimizer, scheduler or scaler that is not there is a warning; a model a MismatchError, or without ``strict`` a
    warning. What cannot cross or be told apart raises, or without ``strict`` is left out.
    """
    reader = _Reader(tree, find_parts(tree), run, backend, notes, rename)
    states: dict[str, Tree] = {}
    for name, obj in run.objects.items():
        if not any(True for _ in leaves(obj)):  # an empty list
            continue
        try:
            state = reader.state_of(name, obj)
        except (RefusedError, MismatchError) as problem:
            if strict:
                raise
            notes.left_out.append(str(problem))
            continue
        if state is MISSING:
            notes.warnings.append(_absent(name, obj))
        elif name != "scaler" or not reader.is_disabled(obj):
            states[name] = state
    if strict and any(True for _ in leaves(run.model)) and run.model is not None and "model" not in states:
        raise MismatchError(
            "model: found no weights in the checkpoint, expected some; load what there is with strict=False"
        )
    return states


@dataclass(frozen=True, slots=True)
class _Reader:
    """Finds the state of each live object of a run in a checkpoint."""

    tree: Tree
    parts: TrainingParts
    run: RunState
    backend: Backend
    notes: Notes
    rename: Sequence[Rename]

    def state_of(self, name: str, obj: object) -> Tree | Missing:
        """Return the tree that an object, or a nest of such, takes; MISSING where the checkpoint has none."""
        slots = slots_of(obj)
        own = self._own(name, slots)
        if own is not None:
            saved: Sequence[Part] = [self._own_part(name, own, path) for path, _ in slots]
        else:
            saved = self._saved(name, slots)
        if not saved:
            return MISSING
        if name == "model":
            require_matches([key for part in saved for key in tensors(part.tree)], self.rename)
        pairs = zip(slots, saved, strict=True)
        states = {path: self._translated(name, part, target) for (path, target), part in pairs}
        self.notes.used += [part.path for part in (saved if own is None else [own])]
        if own is not None:
            return replaced(own.tree, states)
        if [*states] == [()]:
            return states[()]
        nest: Tree = map_objects(obj, lambda path, leaf: states[path] if is_stateful(leaf) else leaf)
        return nest

    def is_disabled(self, obj: object) -> bool:
        """Return whether a scaler takes nothing of a state that the checkpoint has."""
        states = [self.backend.to_tree(target) for _, target in slots_of(obj)]
        return not any(states) and any(text.endswith(_DISABLED) for text in self.notes.left_out)

    def _own(self, name: str, slots: Sequence[Slot]) -> Part | None:
        """Return the part that ``capture`` wrote for objects nested alike; None where there is none."""
        key = f"{name}_state_dict"
        if not is_ours(self.tree) or key not in self.tree:
            return None
        own = Part((key,), self.tree[key])
        if [path for path, _ in slots] == [()]:
            return None if is_stateful(slots[0][1]) and _is_nest(name, own.tree) else own
        return own if all(_at(own.tree, path) is not MISSING for path, _ in slots) else None

    def _own_part(self, name: str, own: Part, below: Path) -> Part:
        path = (*own.path, *below)
        found = next((part for part in self._listed(name) if part.path == path), None)
        class_name = _at(expect_entries(self.tree, "checkpoint").get(f"{name}_class"), below)
        return found or Part(path, node_at(own.tree, below), class_name if isinstance(class_name, str) else None)

    def _listed(self, name: str) -> tuple[Part, ...]:
        scaler = () if self.parts.scaler is None else (self.parts.scaler,)
        listed = {"optimizer": self.parts.optimizers, "scheduler": self.parts.schedulers, "scaler": scaler}
        return tuple(part for part in listed.get(name, ()) if not is_users(self.tree, part))

    def _saved(self, name: str, slots: Sequence[Slot]) -> Sequence[Part]:
        """Return the part of each live object, where another program wrote them, or nested them otherwise."""
        if name == "model":
            return self._saved_models(slots)
        saved = self._listed(name)
        names = [path[-1] if path else None for path, _ in slots]
        by_name = {part.path[-1]: part for part in saved if part.path}
        if saved and all(isinstance(each, str) and each in by_name for each in names):
            return [by_name[each] for each in names]
        listed = ", ".join(part.key for part in saved)
        if saved and len(saved) != len(slots):
            raise MismatchError(
                f"{name}: found {len(saved)} in the checkpoint ({listed}), expected {len(slots)}; pass a list of as many"
            )
        if len(saved) > 1 and any(isinstance(each, str) for each in names):  # whose is whose is not guessed
            raise MismatchError(
                f"{name}: found {listed}, expected the names of the live ones ({', '.join(map(str, names))}); pass a dict "
                "under these names, or a list in their order"
            )
        return saved

    def _saved_models(self, slots: Sequence[Slot]) -> Sequence[Part]:
        if not self.parts.models:
            return ()
        if [path for path, _ in slots] == [()]:
            return [weights_for(self.tree, self.backend.to_tree(slots[0][1]))]
        return models_for(self.tree, slots, self.backend)

    def _translated(self, name: str, part: Part, target: object) -> Tree:
        if name == "model":
            rules = matching(tensors(part.tree), self.rename)
            return fitted(part.tree, self.backend.to_tree(target), rules)
        if name == "scaler":
            return self._scaler_state(part, target)
        cls = type(target).__name__
        if name == "optimizer":
            state, report = merged(
                self.backend.to_tree(target),
                part.tree,
                class_name=part.class_name,
                target_class=cls,
                names=names_of(target, self.run.model),
                key=part.key,
            )
            _require_same_order(part.key, state, names_of(target, self.run.model))
        else:
            state, report = translate_scheduler(
                part.tree, to=self.backend.name, class_name=part.class_name, key=part.key
            )
        if part.class_name not in (None, cls):
            self.notes.warnings.append(f"{part.key}: found the state of {part.class_name}, restored into {cls}")
        self.notes.add(report)
        return state

    def _scaler_state(self, part: Part, target: object) -> Tree:
        current: Tree = self.backend.to_tree(target)
        if current == {} and part.tree:  # whose own loading would say nothing
            self.notes.left_out.append(f"{part.key}: {_DISABLED}")
            return current
        return part.tree


def _require_same_order(key: str, state: Tree, names: Sequence[str] | None) -> None:
    """Raise MismatchError where stored names are those of a model's parameters, which are not in their order."""
    groups = state.get("param_groups") if isinstance(state, Mapping) else None
    mappings = [group for group in groups if isinstance(group, Mapping)] if isinstance(groups, list | tuple) else []
    listed = [each for group in mappings if isinstance(each := group.get("param_names"), list | tuple)]
    stored = [bare_name(str(name)) for each in listed for name in each]
    own = [bare_name(name) for name in names or ()]
    if stored != own and sorted(stored) == sorted(own):
        found, expected = next(pair for pair in zip(stored, own, strict=True) if pair[0] != pair[1])
        raise MismatchError(
            f"{key}/param_names: found {found!r}, expected {expected!r}: give the optimizer its parameters in that order"
        )


def is_users(tree: Tree, part: Part) -> bool:
    """Return whether a part of a checkpoint is an entry that its user added, such as the state of another optimizer."""
    return is_ours(tree) and bool(part.path) and part.path[0] not in LAYOUT


def _is_nest(name: str, node: Tree) -> bool:
    """Return whether a node is a list or dict of states, rather than one."""
    if name == "model":
        return isinstance(node, list | tuple)
    return holds_states(node) and not is_state(node)


def _at(node: Tree, path: Path) -> Tree | Missing:
    for name in path:
        inside = dict(children(node) or ())
        if name not in inside:
            return MISSING
        node = inside[name]
    return node


def names_of(optimizer: object, model: object) -> tuple[str, ...] | None:
    """Return what the models call an optimizer's parameters, in the order of its groups; None where some are not theirs."""
    if not hasattr(optimizer, "param_groups"):
        return None
    parameters = [parameter for group in optimizer.param_groups for parameter in _parameters(group)]
    tables = [dict(_names_in(obj)) for _, obj in slots_of(model)]
    together = {place: name for table in tables for place, name in table.items()}
    for table in (*tables, together):
        known = tuple(table[id(parameter)] for parameter in parameters if id(parameter) in table)
        if len(known) == len(parameters) == len({*known}):
            return known
    return None


def _names_in(model: object) -> Iterator[tuple[int, str]]:
    if hasattr(model, "named_parameters"):
        yield from ((id(parameter), name) for name, parameter in model.named_parameters())


def _parameters(group: object) -> Iterable[object]:
    """Return the parameters of a live optimizer's group: an entry of a dict, or an attribute."""
    parameters: Iterable[object] = group["params"] if isinstance(group, Mapping) else getattr(group, "parameters", ())
    return parameters


def _absent(name: str, obj: object) -> str:
    text = f"{name}: found none in the checkpoint; it starts fresh"
    groups = [group for _, each in slots_of(obj) for group in getattr(each, "param_groups", ())]
    if name != "optimizer" or not groups:
        return text
    rates = sorted({float(group["lr"]) for group in groups})
    return f"{text}, with the learning rate it was given ({', '.join(map(str, rates))})"
