"""check_resume(): whether live objects stand where a training checkpoint says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..backend import backend_of
from ..errors import MismatchError
from ..tree import LazyTensor, Tree, join_key, leaves
from ..tree.rules import parse_rename
from .live_states import Notes, states_for
from .run_state import RunState

__all__ = ["ResumeCheck", "check_resume"]


@dataclass(frozen=True, slots=True)
class ResumeCheck:
    """Whether live objects stand where a checkpoint says. ``cold`` parts hold nothing of what the checkpoint has."""

    cold: tuple[str, ...] = ()
    differing: tuple[str, ...] = ()

    @property
    def warm(self) -> bool:
        """Whether everything is as in the checkpoint."""
        return not (self.cold or self.differing)

    @property
    def ok(self) -> bool:
        """The same as ``warm``."""
        return self.warm


def check_resume(tree: Tree, run: RunState, *, rename: Sequence[str] = (), strict: bool = True) -> ResumeCheck:
    """Compare the live objects of a run with a training checkpoint; see ``Checkpoint.resume_check``."""
    backend = backend_of(list(run.objects.values()))
    rules = tuple(map(parse_rename, rename))
    expected = states_for(tree, run, backend, Notes(), rename=rules, strict=True)
    cold: list[str] = []
    differing: list[str] = []
    for name, obj in run.objects.items():
        if name not in expected:
            cold.append(f"{name}: found none in the checkpoint to resume from")
            continue
        live, saved = _flat(backend.to_tree(obj)), _flat(expected[name])
        lost = [key for key in saved if key not in live and isinstance(saved[key], LazyTensor)]
        wrong = [key for key in saved if key in live and not _same(live[key], saved[key])]
        if lost and name == "optimizer":
            cold.append(f"{name}: found no state for {lost[0]} and {len(lost) - 1} more, which the checkpoint has")
        else:
            wrong += lost
        differing += [f"{name}/{key}" for key in wrong]
    check = ResumeCheck(tuple(cold), tuple(differing))
    if strict and not check.warm:
        raise MismatchError(
            f"resume: found {'; '.join([*cold, *(f'{key} differs' for key in differing[:5])])}, expected live objects "
            "that stand where the checkpoint says; restore them right before the check, all in one call"
        )
    return check


def _flat(tree: Tree) -> dict[str, Tree]:
    return {join_key(path): leaf for path, leaf in leaves(tree)}


def _same(live: Tree, saved: Tree) -> bool:
    if isinstance(live, LazyTensor) and isinstance(saved, LazyTensor):
        a, b = live.numpy(), saved.numpy()
        return (live.dtype, live.shape) == (saved.dtype, saved.shape) and a.tobytes() == b.tobytes()
    return bool(live == saved) or (live != live and saved != saved)
