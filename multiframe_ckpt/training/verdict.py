"""Whether a run goes on from a checkpoint, part by part: the one place that decides what *resumable* means.

A run is there where the state of an optimizer, a scheduler or a gradient scaler is. It goes on in a framework when every
part that its next step depends on is whole, and in that framework's own dialect. A random state that cannot cross is told
and does not decide: the run goes on, with other batches and other dropout.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import MultiframeError
from ..terminal.report import Report
from ..tree import Tree, join_key, leaves
from .dialects import DIALECTS, Dialect, optimizer_dialect, scheduler_dialect, title_of
from .parts import Part, TrainingParts
from .report import Notes, TranslateReport
from .search import find_parts
from .translate import foreign_random_states, frameworks_of_parts

__all__ = [
    "Carried",
    "PartVerdict",
    "RunVerdict",
    "VerdictReport",
    "has_random_state",
    "judge_checkpoint",
    "judge_move",
    "keys_below",
]

#: The names under which this library keeps the states of random generators, besides those of the frameworks.
_GENERATORS = {"python", "numpy"}
_OTHER_ORDER = "batches and dropout come in another order"


@dataclass(frozen=True, slots=True)
class PartVerdict:
    """What becomes of one part of a run. One that does not ``decide`` is only told."""

    name: str
    goes_on: bool
    text: str = ""
    decides: bool = True

    def __str__(self) -> str:
        if not self.text:
            return self.name
        return f"{self.name} ({self.text})" if self.goes_on else f"{self.name}: {self.text}"


@dataclass(frozen=True, slots=True)
class RunVerdict:
    """Whether a run goes on, in which framework, and what becomes of each part; where there are none there is no run."""

    parts: tuple[PartVerdict, ...] = ()
    framework: str | None = None

    @property
    def resumable(self) -> bool | None:
        """Whether the run goes on, or None where there is none."""
        return all(part.goes_on or not part.decides for part in self.parts) if self.parts else None

    @property
    def because(self) -> str:
        """The verdict as a sentence, with its reasons."""
        if self.resumable is None:
            return "there is no run in it: no state of an optimizer, a scheduler or a gradient scaler"
        place = f" in {title_of(self.framework)}" if self.framework else ""
        kept = ", ".join(str(part) for part in self.parts if part.goes_on)
        lost = "; ".join(str(part) for part in self.parts if not part.goes_on and part.decides)
        told = "; ".join(str(part) for part in self.parts if not part.goes_on and not part.decides)
        told = f"; not decisive: {told}" if told else ""
        if self.resumable:
            return f"the run goes on{place} with {kept}{told}"
        return f"the run does not go on{place}: {lost}" + (f"; what goes on: {kept}" if kept else "") + told


class VerdictReport(Report):
    """A report with both verdicts: *exact*, which each kind decides for itself, and *resumable*, which ``run`` says."""

    __slots__ = ()

    run: RunVerdict

    @property
    @abstractmethod
    def exact(self) -> bool:
        """Whether every tensor and value is there."""

    @property
    @abstractmethod
    def exact_because(self) -> str:
        """The verdict on exactness as a sentence."""

    @property
    def resumable(self) -> bool | None:
        """Whether the run goes on; None where there is no run."""
        return self.run.resumable

    @property
    def resumable_because(self) -> str:
        """The verdict on the run as a sentence, with each part by name."""
        return self.run.because

    @property
    def ok(self) -> bool:
        """Whether it is exact and, where there is a run, resumable."""
        return self.exact and self.resumable is not False


@dataclass(frozen=True, slots=True)
class Carried:
    """How a checkpoint was carried over: into which dialect, from whose file, and what that did beside translating.

    ``target`` is None where every part stays as it is. ``losses`` say of tensors and values, by their keys in the source,
    what became of each, as ``left out``.
    """

    target: Dialect | None = None
    source_framework: str | None = None
    report: TranslateReport = field(default_factory=TranslateReport)
    losses: Mapping[str, str] = field(default_factory=dict)

    def crosses(self, parts: TrainingParts) -> bool:
        """Return whether the run comes from another framework than it goes to."""
        known = frameworks_of_parts(parts) or {self.source_framework} - {None}
        return self.target is not None and bool(known) and known != {self.target.framework}

    def lost(self, part: Part) -> str:
        """Return what happened to the tensors and values of a part, as ``3 left out, 1 cast``."""
        counts: dict[str, int] = {}
        keys = keys_below(part) if self.losses else set()
        for loss in (loss for key, loss in self.losses.items() if key in keys):
            counts[loss] = counts.get(loss, 0) + 1
        return ", ".join(f"{count:,} {loss}" for loss, count in counts.items())

    def reason(self, part: Part) -> str:
        """Return why a part did not cross, as the translation says it."""
        keys = (f"{part.key}: ", f"{part.key}/")
        reasons = [entry for entry in self.report.left_out if entry.startswith(keys)]
        return reasons[-1].removeprefix(keys[0]) if reasons else "it is not in this framework's dialect"


def judge_move(source: Tree, result: Tree, move: Carried) -> RunVerdict:
    """Return whether the run of a checkpoint goes on from what a conversion made of it."""
    parts = find_parts(source)
    if not _has_run(parts):
        return RunVerdict()
    after = find_parts(result)
    frameworks: set[str | None] = {*frameworks_of_parts(parts)} or {move.source_framework}
    frameworks = {move.target.framework} if move.target else frameworks
    framework = frameworks.pop() if len(frameworks) == 1 else None
    return RunVerdict(
        (
            *_models(parts, after, move),
            *_states("optimizer", parts.optimizers, after.optimizers, _takes_optimizer, move, parts),
            *_states("scheduler", parts.schedulers, after.schedulers, _takes_scheduler, move, parts),
            *_scaler(parts, after, move),
            *_one_framework(parts, move),
            *_progress(parts, after),
            *_random_state(parts, after, framework, move),
        ),
        framework,
    )


def judge_checkpoint(tree: Tree, framework: str | None = None) -> RunVerdict:
    """Return whether the run of a checkpoint goes on from it as it is; ``framework`` is that of its file."""
    verdict = judge_move(tree, tree, Carried(source_framework=framework))
    if verdict.resumable is None:
        return verdict
    parts = find_parts(tree)
    absent = [("model", not parts.models, True), ("optimizer", not parts.optimizers, True)]
    absent += [("scheduler", not parts.schedulers, False), ("progress", not _progress(parts, parts), False)]
    absent += [("random state", not parts.rng, False)]
    missing = [PartVerdict(name, False, "none in it", decides) for name, is_absent, decides in absent if is_absent]
    return RunVerdict((*verdict.parts, *missing), verdict.framework)


def keys_below(part: Part) -> set[str]:
    """Return the keys of all that is in a part, containers and unknown objects too, as its checkpoint has them."""
    own = len(part.path)
    paths = ((*part.path, *path) for path, _ in leaves(part.tree))
    return {join_key(path[:depth]) for path in paths for depth in range(own + 1, len(path) + 1)} | {join_key(part.path)}


def _has_run(parts: TrainingParts) -> bool:
    return bool(parts.optimizers or parts.schedulers or (parts.scaler and parts.scaler.tree))


def _models(parts: TrainingParts, after: TrainingParts, move: Carried) -> Iterator[PartVerdict]:
    for part in parts.models:
        lost = move.lost(part)
        if not lost and len(after.models) < len(parts.models):
            lost = "not to be found under its new names"
        yield PartVerdict("model" if len(parts.models) == 1 else f"model {part.key}", not lost, lost)


def _states(
    kind: str,
    parts: Sequence[Part],
    after: Sequence[Part],
    takes: Callable[[Dialect | None, Tree], bool | None],
    move: Carried,
    run: TrainingParts,
) -> Iterator[PartVerdict]:
    """Yield what becomes of each optimizer, or scheduler."""
    results = {part.path: part for part in after}
    for part in parts:
        name = kind if len(parts) == 1 else f"{kind} {part.key}"
        lost = move.lost(part)
        is_moved = any(entry.startswith(f"{part.key}: ") for entry in move.report.converted)
        if not lost and part.path in results:
            taken = takes(move.target, results[part.path].tree)
            if taken is None and move.crosses(run):
                lost = "found a state of no known kind, which is kept as it is and may mean nothing there"
            elif taken is False and not is_moved:
                lost = move.reason(part)
        elif not lost and not is_moved:
            lost = "left out"
        yield PartVerdict(name, not lost, lost or _class_of(kind, part))


def _takes_optimizer(target: Dialect | None, state: Tree) -> bool | None:
    """Return whether a state is one of the target's dialect; None for one of no known dialect."""
    if optimizer_dialect(state) is None:
        return None
    return target is None or target.is_optimizer(state)


def _takes_scheduler(target: Dialect | None, state: Tree) -> bool | None:
    if scheduler_dialect(state) is None:
        return None
    return target is None or target.may_be_scheduler(state)


def _class_of(kind: str, part: Part) -> str:
    """Return the class of a state's optimizer or scheduler, as far as it is known."""
    dialect = optimizer_dialect(part.tree) if kind == "optimizer" else scheduler_dialect(part.tree)
    if part.class_name is not None or dialect is None:
        return part.class_name or ""
    try:
        if kind == "optimizer":
            return dialect.algorithm(part.tree, notes=Notes(part.key))[0]
        scheduler = dialect.read(part.tree, notes=Notes(part.key)).scheduler
    except MultiframeError:
        return ""
    return "" if scheduler is None else scheduler.algorithm


def _scaler(parts: TrainingParts, after: TrainingParts, move: Carried) -> Iterator[PartVerdict]:
    if parts.scaler is None or not parts.scaler.tree:
        return
    if move.crosses(parts):
        yield PartVerdict("scaler", False, "another framework's gradient scaler keeps another state")
        return
    lost = move.lost(parts.scaler) or ("" if after.scaler else "left out")
    yield PartVerdict("scaler", not lost, lost)


def _one_framework(parts: TrainingParts, move: Carried) -> Iterator[PartVerdict]:
    frameworks = sorted(map(title_of, frameworks_of_parts(parts)))
    if move.target is None and len(frameworks) > 1:
        yield PartVerdict("framework", False, f"its states are of {' and '.join(frameworks)}, which no framework takes")


def _progress(parts: TrainingParts, after: TrainingParts) -> list[PartVerdict]:
    names = [name for name in ("epoch", "step") if _has_begun(getattr(parts, name))]
    lost = [name for name in names if getattr(after, name) is None]
    if not names:
        return []
    text = ", ".join(f"{name} {getattr(parts, name).tree}" for name in names)
    return [PartVerdict("progress", not lost, f"{', '.join(lost)} left out" if lost else text)]


def _has_begun(part: Part | None) -> bool:
    """Return whether an epoch or step says where a run is: -1 is before it begins."""
    return part is not None and part.tree is not None and not (isinstance(part.tree, int | float) and part.tree < 0)


def _random_state(
    parts: TrainingParts, after: TrainingParts, framework: str | None, move: Carried
) -> Iterator[PartVerdict]:
    if not parts.rng:
        return
    lost = ", ".join(filter(None, map(move.lost, parts.rng))) or ("" if after.rng else "left out")
    if not lost and move.crosses(parts) and any(map(foreign_random_states, parts.rng)):
        lost = f"that of one framework means nothing to another; {_OTHER_ORDER}"
    elif not lost and not has_random_state(parts, framework):
        lost = f"none of {title_of(framework)}'s in it; {_OTHER_ORDER}"
    yield PartVerdict("random state", not lost, lost, decides=False)


def has_random_state(parts: TrainingParts, framework: str | None = None) -> bool:
    """Return whether there is a random state, and that of a framework in it: it is not where others are by name alone.

    Without one named it is the framework of the run's states.
    """
    own = {framework} if framework else frameworks_of_parts(parts)
    known = {*_GENERATORS, *DIALECTS.names(), *own}
    named = [part.tree for part in parts.rng if isinstance(part.tree, Mapping)]
    kept = [{*map(str, tree)} for tree in named if known & {*map(str, tree)}]
    return bool(parts.rng) and (not own or not kept or any(own & names for names in kept))
