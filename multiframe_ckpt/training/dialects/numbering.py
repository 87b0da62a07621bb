"""Numbers and names of parameters, in states that go by number: what each is called, and what number each name gets."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import chain, count, islice
from typing import TypeGuard

from ...errors import MismatchError
from ...tree import LazyTensor, Tree
from ..names import Names, Shape
from ..neutral import Group, OptimizerState
from ..report import Notes
from .recognition import Grouped

__all__ = ["labels", "numbered", "numbered_like"]


def labels(state: Grouped, stored: Sequence[Tree], names: Names, notes: Notes) -> list[list[str]]:
    """Return the names of each group's parameters: those stored with it, else those of ``names``, else its numbers.

    Raise ValueRefusedError for stored names that are not one for each parameter.
    """
    parameters = state.parameters
    if _are_stored(stored):
        flat = [str(name) for group_names in stored for name in group_names]
        if len({*flat}) != len(flat) or [*map(len, stored)] != [*map(len, parameters)]:
            raise notes.error("found param_names that are not one for each parameter; the state is damaged")
        return [[*map(str, group_names)] for group_names in stored]
    numbers = {*chain.from_iterable(parameters)}
    if len({*map(str, numbers)}) != len(numbers):
        raise notes.error("found parameters whose numbers read alike, such as 1 and '1'; the state is damaged")
    shapes = [[_shape(state.entries.get(number)) for number in group] for group in parameters]
    return names.label(shapes, notes.key) or [[*map(str, group)] for group in parameters]


def _are_stored(names: Sequence[Tree]) -> TypeGuard[Sequence[Sequence[Tree]]]:
    return bool(names) and all(isinstance(group, list | tuple) for group in names)


def _shape(entry: Tree) -> Shape:
    """Return the shape of a parameter: that of the first tensor of its entry, the counter apart."""
    tensors = entry.items() if isinstance(entry, Mapping) else ()
    return next((value.shape for name, value in tensors if name != "step" and isinstance(value, LazyTensor)), None)


def numbered(state: OptimizerState, names: Names) -> list[dict[Hashable, str]]:
    """Return the name of each number, group after group: the numbers the state came with, or new ones in order."""
    fresh = count()
    return [_numbered(group, names, fresh) for group in state.groups]


def _numbered(group: Group, names: Names, fresh: Iterator[int]) -> dict[Hashable, str]:
    if group.ids:
        return dict(zip(group.ids, group.names, strict=True))
    ordered = names.order(group.names) if group.named else group.names
    return {next(fresh): name for name in ordered}


def numbered_like(
    state: OptimizerState, numbers: Sequence[Sequence[Hashable]], stored: Sequence[Tree], names: Names
) -> list[dict[Hashable, str]]:
    """Return the name of each number of a live optimizer: by its names where it has some, else by place.

    Raise MismatchError where the groups are not of the same sizes, or some names are not those of the state.
    """
    sizes = [len(group.names) for group in state.groups], [*map(len, numbers)]
    if sizes[0] != sizes[1]:
        raise MismatchError(
            f"found parameter groups of sizes {sizes[0]}, expected {sizes[1]}; make the optimizer of the same model"
        )
    live = iter(names.given or (chain.from_iterable(stored) if _are_stored(stored) else ()))
    return [
        _paired(group, group_numbers, [*map(str, islice(live, len(group_numbers)))])
        for group, group_numbers in zip(state.groups, numbers, strict=True)
    ]


def _paired(group: Group, numbers: Sequence[Hashable], live: list[str]) -> dict[Hashable, str]:
    shared = {*live} & {*group.names} if group.named else set()
    if not shared:
        return dict(zip(numbers, group.names, strict=True))
    if shared != {*group.names}:
        strangers = [name for name in group.names if name not in shared]
        raise MismatchError(
            f"found the state of parameter {strangers[0]!r}, expected one of {', '.join(live[:5])}…; make the optimizer of "
            "the same model"
        )
    return dict(zip(numbers, live, strict=True))
