"""restore(): a training checkpoint back into live objects, of the framework it came from or of the other one.

Everything is translated and compared before anything is touched: a strict restore loads all it was asked for or nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..backend import Backend, LoadReport, backend_of, mismatch
from ..backend.report import advice_for
from ..errors import CheckpointWarning, MismatchError, ValueRefusedError
from ..training import Part, RunVerdict, VerdictReport, find_parts, has_random_state, is_ours
from ..tree import Path, Tree
from ..tree.rules import parse_rename
from .facts import extra_of, facts_of
from .hyperparameters import changed_hyperparameters
from .live_states import Notes, is_users, states_for
from .position import ended_on
from .random_state import check_random_state, set_random_state
from .run_state import RunState
from .verdict import judge_restore

__all__ = ["RestoreReport", "restore", "resume_parts"]


@dataclass(frozen=True, slots=True, repr=False)
class RestoreReport(VerdictReport):
    """What was restored, and what was not and why; with the facts of the run that the checkpoint holds.

    ``changed`` are the hyper-parameters of live optimizers and schedulers that were other than the checkpoint's, each with
    both values: what the program asked for, and what it has now. ``extra`` are the entries of the user's own, tensors live.
    ``load`` has the keys in full, under ``model/``, ``optimizer/`` and so on.
    """

    restored: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    load: LoadReport = field(default_factory=LoadReport)
    epoch: int | None = None
    step: int | None = None
    loss: Any = None
    metrics: Mapping[str, Any] | None = None
    train_args: Any = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    run: RunVerdict = field(default_factory=RunVerdict)
    fresh: tuple[str, ...] = ()  # what was asked for and not restored

    @property
    def exact(self) -> bool:
        """Whether all that was asked for was loaded, every tensor and value of it."""
        return self.load.complete and not self.fresh

    @property
    def exact_because(self) -> str:
        """The verdict on exactness as a sentence."""
        if self.exact:
            return "all that was asked for was loaded, every tensor and value of it"
        load = () if self.load.complete else (str(self.load),)
        return "; ".join((*(f"{name} was not restored" for name in self.fresh), *load))

    @property
    def headline(self) -> str:
        """What was restored."""
        return f"restored {', '.join(self.restored) or 'nothing'}"

    def lines(self, *, columns: int | None = None, more: str = "") -> Iterator[str]:
        """Yield what was restored, what that changed, what was left out, and a run that does not go on."""
        yield self.headline
        yield from (f"changed {entry}" for entry in self.changed)
        yield from (f"left out {entry}" for entry in self.left_out)
        if self.resumable is False:
            yield f"not resumable: {self.resumable_because}"
        yield from (f"warning: {entry}" for entry in self.warnings)


def restore(
    tree: Tree, run: RunState, *, rename: Sequence[str] = (), strict: bool = True, where: str = "checkpoint"
) -> RestoreReport:
    """Load the parts of a training checkpoint into the live objects of a run; see ``Checkpoint.restore``.

    ``where`` says in errors which checkpoint it is.
    """
    objects, parts, notes = run.objects, find_parts(tree), Notes()
    backend = backend_of(list(objects.values()))
    rules = tuple(map(parse_rename, rename))
    states = states_for(tree, run, backend, notes, rename=rules, strict=strict)
    changed = [text for name, state in states.items() for text in _changes(name, objects[name], state, backend)]
    facts, extra = facts_of(parts, backend), extra_of(tree, backend)
    rng = _own_random_state(tree, backend, run.model, notes) if run.rng else None
    load = _load({name: objects[name] for name in states}, states, backend, where, strict=strict)
    if rng is not None:
        notes.used += [part.path for part in parts.rng]
        absent = set_random_state(rng, backend, run.model)
        notes.left_out += [f"rng_state/{name}: this program has no such generator" for name in absent]
    notes.left_out += _not_asked_for(tree, notes.used)
    for text in notes.warnings:
        warnings.warn(text, CheckpointWarning, stacklevel=3)
    return RestoreReport(
        restored=(*states, *(() if rng is None else ("rng",))),
        left_out=tuple(notes.left_out),
        warnings=tuple(notes.warnings),
        changed=tuple(changed),
        load=load,
        extra=extra,
        run=judge_restore(parts, objects, states, load, has_rng=rng is not None),
        fresh=tuple(name for name in objects if name not in states),
        **facts,
    )


def _load(
    objects: Mapping[str, object], states: Mapping[str, Tree], backend: Backend, where: str, *, strict: bool
) -> LoadReport:
    """Load what was found; errors say which checkpoint it is, and what to rename in the names of its state dict."""
    if not states:
        return LoadReport()
    try:
        return _advised(backend.load_into(dict(objects), dict(states), strict=strict))
    except MismatchError as problem:
        if not isinstance(problem.report, LoadReport):
            raise
        raise mismatch(where, _advised(problem.report)) from None


def _advised(report: LoadReport) -> LoadReport:
    """Return the report with advice that names parameters by their keys in the state dict, as ``rename`` does."""
    missing, unexpected, loaded = (
        [key.removeprefix("model/") for key in keys if key.startswith("model/")]
        for keys in (report.missing, report.unexpected, report.loaded)
    )
    return replace(report, suggestions=advice_for(missing, unexpected, loaded, report.mismatched))


def _changes(name: str, obj: object, state: Tree, backend: Backend) -> list[str]:
    if name not in ("optimizer", "scheduler"):
        return []
    return changed_hyperparameters(name, backend.to_tree(obj), state)


def _own_random_state(tree: Tree, backend: Backend, model: object, notes: Notes) -> Mapping[str, Tree] | None:
    """Return the random state that this library wrote, checked; None where there is none that can be set."""
    for part in find_parts(tree).rng:
        if part.key == "rng_state" and isinstance(part.tree, Mapping):
            try:
                check_random_state(part.tree, backend, model)
            except ValueRefusedError:
                if is_ours(tree):
                    raise
            else:
                return part.tree
        notes.used.append(part.path)
        notes.left_out.append(f"{part.key}: a random state of another program's own making")
    return None


def _not_asked_for(tree: Tree, used: Sequence[Path]) -> list[str]:
    """Return the parts that no live object takes, nor a part of it, nor one that it is a part of."""
    parts = find_parts(tree)
    known = [*parts.models, *parts.averages, *parts.optimizers, *parts.schedulers, *parts.rng]
    known += [] if parts.scaler is None else [parts.scaler]
    left = [part for part in known if not any(_overlap(part, path) for path in used) and not is_users(tree, part)]
    return [f"{part.key}: not asked for" for part in left]


def _overlap(part: Part, path: Path) -> bool:
    length = min(len(part.path), len(path))
    return part.path[:length] == path[:length]


def resume_parts(tree: Tree) -> dict[str, bool]:
    """Return which of the five things that an exact resume needs a checkpoint holds."""
    parts = find_parts(tree)
    return {
        "weights": bool(parts.models),
        "optimizer": bool(parts.optimizers),
        "scheduler": bool(parts.schedulers),
        "rng": has_random_state(parts),
        "progress": ended_on(parts).is_known,
    }
