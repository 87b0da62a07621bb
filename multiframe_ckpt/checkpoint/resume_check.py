"""check_resume(): whether live objects stand where a training checkpoint says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..backend import backend_of
from ..errors import MismatchError
from ..training import find_parts
from ..tree import LazyTensor, Tree, join_key, leaves
from .restore import _Notes, _translated

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


def check_resume(
    tree: Tree, *, model: object = None, optimizer: object = None, scheduler: object = None, strict: bool = True
) -> ResumeCheck:
    """Compare live objects with a training checkpoint; see ``Checkpoint.resume_check``."""
    live = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    live = {name: obj for name, obj in live.items() if obj is not None}
    backend = backend_of(list(live.values()))
    expected = _translated(find_parts(tree), live, backend, _Notes(), strict=True)
    cold: list[str] = []
    differing: list[str] = []
    for name, obj in live.items():
        if name not in expected:
            cold.append(f"{name}: found none in the checkpoint to resume from")
            continue
        own, want = _flat(backend.to_tree(obj)), _flat(expected[name])
        lost = [key for key in want if key not in own and isinstance(want[key], LazyTensor)]
        wrong = [key for key in want if key in own and not _same(own[key], want[key])]
        if lost and name == "optimizer":
            cold.append(f"{name}: found no state for {lost[0]} and {len(lost) - 1} more, which the checkpoint has")
        differing += [f"{name}/{key}" for key in (wrong if lost and name == "optimizer" else [*wrong, *lost])]
    check = ResumeCheck(tuple(cold), tuple(differing))
    if strict and not check.warm:
        raise MismatchError(
            f"resume: found {'; '.join([*cold, *(f'{key} differs' for key in differing[:5])])}, expected live objects "
            "that stand where the checkpoint says; restore them right before the check, all in one call"
        )
    return check


def _flat(tree: Tree) -> dict[str, Any]:
    return {join_key(path): leaf for path, leaf in leaves(tree)}


def _same(own: Any, want: Any) -> bool:
    if isinstance(own, LazyTensor) and isinstance(want, LazyTensor):
        a, b = own.numpy(), want.numpy()
        return (own.dtype, own.shape) == (want.dtype, want.shape) and a.tobytes() == b.tobytes()
    return bool(own == want) or (own != own and want != want)
