"""Names: what the parameters of an optimizer are called, where its state goes by number.

A state goes by the names that it holds itself; else by those of a live model, given in the order in which its parameters
are numbered; else by the checkpoint's weights in their order. The last is checked by shape, and refused where two weights
could have been swapped without anyone seeing it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ..errors import MismatchError, ValueRefusedError
from ..tree import LazyTensor

__all__ = ["NO_NAMES", "Names", "Shape", "is_buffer"]

#: The shape of a parameter as its moments tell it; None where it has none yet.
Shape: TypeAlias = tuple[int, ...] | None

#: What modules call buffers that no optimizer trains, and that stand among the weights.
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def is_buffer(name: str) -> bool:
    """Return whether a tensor of a state dict is a buffer by its name, as those of normalization are."""
    return name.rpartition(".")[2] in _BUFFERS


@dataclass(frozen=True, slots=True)
class Names:
    """Where names come from: ``given`` in the order of numbers, or ``weights``, the checkpoint's state dict."""

    given: tuple[str, ...] | None = None
    weights: Mapping[str, LazyTensor] | None = None

    @classmethod
    def of(cls, names: Sequence[str] | None, weights: Mapping[str, LazyTensor] | None = None) -> Names:
        """Return names of which either side may be unknown."""
        return cls(None if names is None else tuple(names), weights)

    def label(self, shapes: Sequence[Sequence[Shape]], key: str) -> list[list[str]] | None:
        """Return names for the parameters of each group, in order, or None where there is nothing to name them by.

        ``key`` begins each message. Raise MismatchError where the counts or shapes are not those of the names,
        ValueRefusedError where weights could be swapped.
        """
        count = sum(map(len, shapes))
        if self.given is not None:
            if len(self.given) != count:
                raise MismatchError(
                    f"{key}: found {count} parameters, expected {len(self.given)}, as many as there are names; "
                    "make the optimizer of the same model"
                )
            return _split(self.given, shapes)
        weights = trained(self.weights or {})
        if not weights:
            return None
        flat = [shape for group in shapes for shape in group]
        if len(flat) == len(weights) and all(
            shape in (None, known) for shape, known in zip(flat, weights.values(), strict=True)
        ):
            return _split(list(weights), shapes)
        return _label_by_shape(weights, shapes, key)

    def order(self, names: Sequence[str]) -> list[str]:
        """Return names in the order of numbers: a framework that goes by number numbers parameters as they are given.

        Raise ValueRefusedError for a name that is not among those known.
        """
        known = self.given if self.given is not None else tuple(self.weights or ())
        if not known:
            return list(names)
        place = {name: i for i, name in enumerate(known)}
        strangers = [name for name in names if name not in place]
        if strangers:
            raise ValueRefusedError(
                f"found the state of parameter {strangers[0]!r}, expected one of the weights' names ({known[0]!r}, …), by "
                "whose order parameters are numbered; give the names in their order"
            )
        return sorted(names, key=place.__getitem__)


#: Where a state must know by itself, or parameters go by number.
NO_NAMES = Names()


def trained(weights: Mapping[str, LazyTensor]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights that an optimizer may train: floating, no known buffer, a tied one once."""
    shapes = {}
    seen = set()
    for name, tensor in weights.items():
        is_untrained = is_buffer(name) or tensor.dtype.kind not in ("float", "complex")
        if is_untrained or (tensor.identity is not None and tensor.identity in seen):
            continue
        seen.add(tensor.identity)
        shapes[name] = tensor.shape
    return shapes


def _split(names: Sequence[str], shapes: Sequence[Sequence[Shape]]) -> list[list[str]]:
    rest = iter(names)
    return [[next(rest) for _ in group] for group in shapes]


def _label_by_shape(
    weights: Mapping[str, tuple[int, ...]], shapes: Sequence[Sequence[Shape]], key: str
) -> list[list[str]]:
    """Return names where each shape says which weights a group trains, in whatever order the groups are."""
    labels: list[list[str]] = [[""] * len(group) for group in shapes]
    places: dict[Shape, list[tuple[int, int]]] = {}
    for i, group in enumerate(shapes):
        for j, shape in enumerate(group):
            places.setdefault(shape, []).append((i, j))
    for shape, parameters in places.items():
        names = [name for name, known in weights.items() if known == shape]
        _require_as_many(shape, names, parameters, key)
        for name, (i, j) in zip(names, parameters, strict=True):
            labels[i][j] = name
    _require_order(weights, labels, key)
    return labels


def _require_as_many(shape: Shape, names: list[str], parameters: list[tuple[int, int]], key: str) -> None:
    """Raise unless a shape has as many weights as parameters, all of them in one group, whose order then tells."""
    if shape is None or len(names) > len(parameters) or (len(names) > 1 and len({i for i, _ in parameters}) > 1):
        raise _swapped(names or ["one without a state"], key)
    if len(names) < len(parameters):
        raise MismatchError(
            f"{key}: found {len(parameters)} parameters of shape {shape}, expected {len(names)}, as many as weights; take "
            "the state and the weights of one checkpoint"
        )


def _require_order(weights: Mapping[str, tuple[int, ...]], labels: list[list[str]], key: str) -> None:
    """Raise where a group is not in the weights' order, and has two of one shape, whose order then tells nothing."""
    place = {name: i for i, name in enumerate(weights)}
    for group in labels:
        alike = [name for name in group if [weights[other] for other in group].count(weights[name]) > 1]
        if alike and sorted(group, key=place.__getitem__) != group:
            raise _swapped(alike, key)


def _swapped(names: list[str], key: str) -> ValueRefusedError:
    return ValueRefusedError(
        f"{key}: found parameters that shapes do not tell apart ({', '.join(names[:5])}), so that two could be swapped; "
        "store their names with the state (param_names), or give them in order"
    )
