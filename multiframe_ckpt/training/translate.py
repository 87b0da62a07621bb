"""translate(): a whole training checkpoint from one framework's dialect to another's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from ..errors import MismatchError, ValueRefusedError
from ..tree import MISSING, LazyTensor, Missing, Path, Tree, join_key, replaced
from .crossing import cross_optimizer, cross_scheduler, read_optimizer, read_scheduler, written
from .dialects import Dialect, dialect_to_write, optimizer_dialect, scheduler_dialect
from .names import Names
from .neutral import NeutralState, SchedulerState
from .parts import Part, TrainingParts
from .report import Notes, TranslateReport
from .search import find_parts

__all__ = ["foreign_random_states", "frameworks_of", "frameworks_of_parts", "translate"]

#: New nodes of the tree by path, MISSING for what is taken out.
_Changes: TypeAlias = "Mapping[Path, Tree | Missing]"

#: Parts of a random state that belong to Python or NumPy, and so mean the same beside any framework.
_COMMON_RNG = {"python", "random", "numpy", "np"}


def translate(
    tree: Tree,
    *,
    to: str,
    optimizer_class: str | None = None,
    scheduler_class: str | None = None,
    names: Sequence[str] | None = None,
    strict: bool = True,
    keep: bool = False,
) -> tuple[Tree, TranslateReport]:
    """Return a checkpoint with its optimizers and schedulers in the dialect ``to``, and what crossed and what did not.

    ``to`` is ``torch``, ``oneflow`` (0.9), ``oneflow-0.8`` or a plugin's. The model and everything else stay as they are;
    what only one framework can use (its random state, its gradient scaler) is left out by name. A tree without an optimizer
    or scheduler of another dialect comes back unchanged. ``optimizer_class`` and ``scheduler_class`` name classes that are
    not stored, ``names`` the parameters in the order in which they are numbered. What cannot cross is a ValueRefusedError,
    or with ``strict=False`` left out by name; with ``keep`` it is named all the same, but stays in the tree as it is.
    """
    target = dialect_to_write(to, "checkpoint")
    parts = find_parts(tree)
    notes = Notes("")
    if all(target.is_state(state) for state in _known_states(parts)):
        _say_unknown(parts, notes)
        return tree, notes.report()
    classes = _Classes(optimizer_class, scheduler_class)
    moving = _Moving(tree, target, Names.of(names, _weights(parts)), notes, strict=strict, keep=keep)
    moving.move(parts, classes)
    if frameworks_of_parts(parts) != {target.framework}:
        behind = _left_behind(parts, notes)
        moving.changes.update({} if keep else behind)
    return replaced(tree, moving.changes), notes.report()


def frameworks_of(tree: Tree) -> set[str]:
    """Return the frameworks in whose dialects a checkpoint's optimizers and schedulers are."""
    return frameworks_of_parts(find_parts(tree))


def frameworks_of_parts(parts: TrainingParts) -> set[str]:
    """Return the frameworks in whose dialects the optimizers and schedulers are."""
    sources = [*(optimizer_dialect(part.tree) for part in parts.optimizers)]
    sources += [scheduler_dialect(part.tree) for part in parts.schedulers]
    return {source.framework for source in sources if source is not None}


def _known_states(parts: TrainingParts) -> list[Tree]:
    states = [part.tree for part in parts.optimizers if optimizer_dialect(part.tree)]
    return states + [part.tree for part in parts.schedulers if scheduler_dialect(part.tree)]


def _weights(parts: TrainingParts) -> Mapping[str, LazyTensor] | None:
    model = parts.model
    if model is None or not isinstance(model.tree, Mapping):
        return None
    return {name: leaf for name, leaf in model.tree.items() if isinstance(leaf, LazyTensor)}


def _say_unknown(parts: TrainingParts, notes: Notes) -> None:
    unknown = [part for part in parts.optimizers if optimizer_dialect(part.tree) is None]
    unknown += [part for part in parts.schedulers if scheduler_dialect(part.tree) is None]
    for part in unknown:
        notes.warnings.append(f"{part.key}: found a state of no known dialect; kept as it is")


@dataclass(frozen=True, slots=True)
class _Classes:
    """The classes that the caller says, which decide over what is stored."""

    optimizer: str | None
    scheduler: str | None

    def of_optimizer(self, part: Part) -> Part:
        """Return an optimizer's part with its class."""
        return replace(part, class_name=self.optimizer or part.class_name)

    def of_scheduler(self, part: Part) -> Part:
        """Return a scheduler's part with its class."""
        return replace(part, class_name=self.scheduler or part.class_name)


@dataclass(slots=True)
class _Moving:
    """One translation under way: ``changes`` are the new nodes of the tree, by path."""

    tree: Tree
    target: Dialect
    names: Names
    notes: Notes
    strict: bool = field(kw_only=True)
    keep: bool = field(kw_only=True)
    changes: dict[Path, Tree | Missing] = field(default_factory=dict)

    def move(self, parts: TrainingParts, classes: _Classes) -> None:
        """Translate every optimizer and scheduler; a target that keeps schedulers inside gets them in pairs."""
        pairs = list(zip(parts.optimizers, parts.schedulers, strict=False)) if self.target.scheduler_inside else []
        for optimizer, scheduler in pairs:
            self._move_pair(classes.of_optimizer(optimizer), classes.of_scheduler(scheduler))
        for part in parts.optimizers[len(pairs) :]:
            self._try(classes.of_optimizer(part), self._crossed_optimizer)
        for part in parts.schedulers[len(pairs) :]:
            self._try(classes.of_scheduler(part), self._crossed_scheduler)

    def _try(self, part: Part, crossed: Callable[[Part, Notes], _Changes]) -> bool:
        """Add what becomes of a part, and return True; leave it behind where it cannot cross and that is allowed."""
        notes = Notes(part.key)
        try:
            changes = crossed(part, notes)
        except (ValueRefusedError, MismatchError) as problem:
            self._leave_behind(part, problem)
            return False
        self.changes.update(changes)
        self.notes.add(notes)
        return True

    def _leave_behind(self, part: Part, problem: ValueRefusedError | MismatchError) -> None:
        """Name a part that cannot cross, and take it out unless it is to be kept; raise where all must cross."""
        if self.strict:
            raise problem
        self.notes.left_out.append(str(problem))
        self.changes.update({} if self.keep else _taken_out(part))

    def _crossed_optimizer(self, part: Part, notes: Notes) -> _Changes:
        state = cross_optimizer(part.tree, self.target, class_name=part.class_name, names=self.names, notes=notes)
        return {} if state is part.tree else self._placed(part, state)

    def _crossed_scheduler(self, part: Part, notes: Notes) -> _Changes:
        state = cross_scheduler(part.tree, self.target, class_name=part.class_name, notes=notes)
        if state is part.tree:
            return {}
        return {self._path_beside(part): state} if optimizer_dialect(part.tree) else {part.path: state}

    def _move_pair(self, optimizer: Part, scheduler: Part) -> None:
        """Translate an optimizer with the scheduler that goes inside its state."""

        def crossed(part: Part, notes: Notes) -> _Changes:
            state = read_optimizer(part.tree, self.target, class_name=part.class_name, names=self.names, notes=notes)
            inside = self._read_inside(scheduler, notes)
            tree = written(NeutralState(state, inside), self.target, self.names, notes)
            return {**(_taken_out(scheduler) if inside else {}), **self._placed(part, tree)}

        if not self.target.is_optimizer(optimizer.tree) and not self._try(optimizer, crossed):
            self._leave_behind(
                scheduler, Notes(scheduler.key).error("found no optimizer in whose state it would stand")
            )

    def _read_inside(self, part: Part, notes: Notes) -> SchedulerState | None:
        own_notes = Notes(part.key)
        try:
            state = read_scheduler(part.tree, self.target, class_name=part.class_name, notes=own_notes)
        except ValueRefusedError as problem:
            self._leave_behind(part, problem)
            return None
        notes.add(own_notes)
        return state

    def _placed(self, part: Part, state: Tree) -> _Changes:
        """Return where the pieces of a written state stand; what the old one was gathered from is gone."""
        return {**_taken_out(part), **self.target.spread(state, part.path)}

    def _path_beside(self, part: Part) -> Path:
        """Return the place of a scheduler that was inside an optimizer's state: beside that, under a like name."""
        if not part.path:
            raise ValueRefusedError(
                f"{part.key}: found a scheduler in an optimizer's state, expected a checkpoint around it"
            )
        first, *others = map(str, part.path)
        name = "_".join([first.replace("optimizer", "scheduler") if "optimizer" in first else "scheduler", *others])
        if isinstance(self.tree, Mapping) and name in self.tree:
            raise ValueRefusedError(
                f"{name}: found something there already, expected room for the scheduler of {part.key}"
            )
        return (name,)


def _taken_out(part: Part) -> _Changes:
    return dict.fromkeys((part.path, *part.beside), MISSING)


def foreign_random_states(part: Part) -> list[Path]:
    """Return the paths of the random states in a part that are those of a framework, and mean nothing to another."""
    if isinstance(part.tree, Mapping):
        return [(*part.path, name) for name in part.tree if str(name).lower() not in _COMMON_RNG]
    words = {*str(part.path[0]).lower().split("_")} if part.path else set()
    return [] if _COMMON_RNG & words - {"random"} else [part.path]


def _left_behind(parts: TrainingParts, notes: Notes) -> _Changes:
    """Return the parts that only the framework they came from can use, to be taken out."""
    missing: dict[Path, Tree | Missing] = {}
    for part in parts.rng:
        for path in foreign_random_states(part):
            missing[path] = MISSING
            notes.left_out.append(f"{join_key(path)}: the random state of one framework means nothing to another")
    if parts.scaler is not None:
        missing[parts.scaler.path] = MISSING
        notes.left_out.append(f"{parts.scaler.key}: another framework's gradient scaler keeps another state")
    return missing
