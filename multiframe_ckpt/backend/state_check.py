"""What an optimizer or scheduler would choke on in a state, or swallow and go wrong: found before anything is touched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from ..tree import LazyTensor, Path, Tree, key_of
from .report import Mismatch, described
from .tensor_ops import TensorOps

__all__ = ["moment_problems", "state_problem"]

T = TypeVar("T")

#: Entries that only one framework's schedulers and parameter groups have; the library translates between the two.
_DIALECT = ("last_epoch", "last_step", "_options")
_TRANSLATE = "it is another framework's; translate it first"


def state_problem(current: Mapping[str, Tree], source: Tree, path: Path) -> Mismatch | None:
    """Return the first problem of a state that an object is to take whose state is ``current``."""
    key = key_of(path)
    if not isinstance(source, Mapping):
        return Mismatch(key, described(source), "a state dict")
    checks = [("a state", current, source)]
    if "param_groups" in current:
        groups, expected = _groups(source.get("param_groups")), _groups(current["param_groups"])
        if _sizes(groups) != _sizes(expected) or not isinstance(source.get("state"), Mapping):
            return Mismatch(
                key,
                f"parameter groups of sizes {_sizes(groups)}",
                f"{_sizes(expected)}: the optimizer of the same model",
            )
        checks += [("a parameter group", *pair) for pair in zip(expected or (), groups or (), strict=True)]
    return next((problem for check in checks if (problem := _foreign(key, *check)) is not None), None)


def moment_problems(ops: TensorOps[T], optimizer: object, source: Tree, path: Path) -> Iterator[Mismatch]:
    """Yield the moments whose dtype is not their parameter's; scalars beside them have a dtype of their own."""
    parameters = ops.parameters_of(optimizer)
    if not parameters or not isinstance(source, Mapping):
        return
    groups, state = _groups(source.get("param_groups")), source.get("state")
    if groups is None or not isinstance(state, Mapping):
        return
    order = [index for group in groups for index in _indices(group)]
    for index, parameter in zip(order, parameters, strict=True):
        dtype = ops.to_lazy(parameter, key_of(path)).dtype
        entry = state.get(index)
        for name, leaf in entry.items() if isinstance(entry, Mapping) else ():
            if isinstance(leaf, LazyTensor) and leaf.shape and leaf.dtype != dtype:
                yield Mismatch(key_of((*path, "state", index, name)), described(leaf), f"{dtype.name} {leaf.shape}")


def _foreign(key: str, what: str, current: Mapping[str, Tree], source: Mapping[str, Tree]) -> Mismatch | None:
    for name in _DIALECT:
        if name in source and name not in current:
            return Mismatch(key, f"{what} with {name!r}", f"one without it: {_TRANSLATE}")
        if name in current and name not in source:
            return Mismatch(key, f"{what} without {name!r}", f"one with it: {_TRANSLATE}")
    return None


def _groups(groups: object) -> list[Mapping[str, Tree]] | None:
    if not isinstance(groups, list | tuple) or not all(isinstance(group, Mapping) for group in groups):
        return None
    return list(groups)


def _sizes(groups: list[Mapping[str, Tree]] | None) -> list[int] | None:
    return None if groups is None else [len(_indices(group)) for group in groups]


def _indices(group: Mapping[str, Tree]) -> Sequence[Tree]:
    indices = group.get("params")
    return indices if isinstance(indices, list | tuple) else ()
