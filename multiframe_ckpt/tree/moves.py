"""Moves: how one tensor is made of others that lay their elements out otherwise. Nothing is read.

A rule is ``KEY=STEPS``, or ``KEY=STEPS of SOURCE`` where the tensor is made of another than the one called KEY; several
sources are joined and stand apart by commas. Steps are done one after another and stand apart by ``+``:

    keep              as it is
    turn              axes the other way round: of a matrix, the transpose
    turn:3,2,0,1      axes in this order, as NumPy's transpose has it
    rows:768:1536     these rows; either number may be left out
    reshape:12,-1     the same elements in this shape; -1 is what is left
    join, join:1      the sources one behind the other along the first axis, or another; it comes first

    fc.weight=turn
    *.q.weight=rows:0:768 of *.qkv.weight
    attn.q.weight=turn+rows::768 of c_attn.weight
    qkv.weight=join of q.weight, k.weight, v.weight

Each ``*`` in KEY matches any text, and every SOURCE must hold as many.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from ..errors import DtypeRefusedError, KeyRefusedError, ValueRefusedError
from .joined import Part, joined
from .rules import Rename
from .tensor import LazyTensor
from .turned import Reshaped, Rows, Turned

__all__ = ["Join", "Move", "Reshape", "Shape", "Step", "TakeRows", "Turn", "parse_move"]

Shape = tuple[int, ...]


class Step(ABC):
    """One step from a tensor to the same elements, or some of them, laid out otherwise."""

    __slots__ = ()

    @abstractmethod
    def shape_of(self, shape: Shape) -> Shape:
        """Return the shape that comes of one; raise ValueError, saying what was found and expected, where none does."""

    @abstractmethod
    def apply(self, tensor: LazyTensor) -> LazyTensor:
        """Return the tensor that comes of one, unread."""


@dataclass(frozen=True, slots=True)
class Turn(Step):
    """Axes in another order: axis ``i`` is the source's ``axes[i]``; None turns all of them round."""

    axes: tuple[int, ...] | None = None

    def __str__(self) -> str:
        return "turn" if self.axes is None else f"turn:{','.join(map(str, self.axes))}"

    def _order(self, shape: Shape) -> tuple[int, ...]:
        order = tuple(reversed(range(len(shape)))) if self.axes is None else self.axes
        if sorted(order) != list(range(len(shape))):
            raise ValueError(f"found shape {shape}, expected {len(order)} axes")
        return order

    def shape_of(self, shape: Shape) -> Shape:
        """Return the shape with its axes in the other order."""
        return tuple(shape[axis] for axis in self._order(shape))

    def apply(self, tensor: LazyTensor) -> LazyTensor:
        """Return the tensor turned; tied tensors that are turned alike stay tied."""
        order = self._order(tensor.shape)
        return _over(tensor, self.shape_of(tensor.shape), Turned(tensor, order), ("turned", order))


@dataclass(frozen=True, slots=True)
class TakeRows(Step):
    """The rows from ``start`` to before ``stop``; None is the last."""

    start: int = 0
    stop: int | None = None

    def __str__(self) -> str:
        return f"rows:{self.start}:{'' if self.stop is None else self.stop}"

    def bounds(self, shape: Shape) -> tuple[int, int]:
        """Return the first row and the one behind the last."""
        rows = shape[0] if shape else 0
        stop = rows if self.stop is None else self.stop
        if not self.start < stop <= rows:
            raise ValueError(f"found {rows} rows, expected {self.start}:{stop} among them")
        return self.start, stop

    def shape_of(self, shape: Shape) -> Shape:
        """Return the shape of so many rows."""
        start, stop = self.bounds(shape)
        return stop - start, *shape[1:]

    def apply(self, tensor: LazyTensor) -> LazyTensor:
        """Return the rows."""
        start, stop = self.bounds(tensor.shape)
        return _over(tensor, self.shape_of(tensor.shape), Rows(tensor, start, stop), ("rows", start, stop))


@dataclass(frozen=True, slots=True)
class Reshape(Step):
    """Another shape; one dimension may be -1, which is what is left."""

    shape: Shape

    def __str__(self) -> str:
        return f"reshape:{','.join(map(str, self.shape))}"

    def shape_of(self, shape: Shape) -> Shape:
        """Return the other shape."""
        known = prod(dim for dim in self.shape if dim >= 0)
        left = prod(shape) // known if known else 0
        filled = tuple(left if dim == -1 else dim for dim in self.shape)
        if self.shape.count(-1) > 1 or min(filled, default=0) < 0 or prod(filled) != prod(shape):
            raise ValueError(f"found shape {shape}, expected as many elements as {self.shape} has")
        return filled

    def apply(self, tensor: LazyTensor) -> LazyTensor:
        """Return the tensor in the other shape."""
        shape = self.shape_of(tensor.shape)
        return _over(tensor, shape, Reshaped(tensor, shape), ("reshaped",))


def _over(tensor: LazyTensor, shape: Shape, source: Turned | Rows | Reshaped, how: tuple[object, ...]) -> LazyTensor:
    alias = None if tensor.identity is None else (tensor.identity, *how)
    return LazyTensor(tensor.dtype, shape, source, alias)


@dataclass(frozen=True, slots=True)
class Join:
    """Several tensors one behind the other along an axis."""

    axis: int = 0

    def __str__(self) -> str:
        return f"join:{self.axis}" if self.axis else "join"

    def shape_of(self, shapes: Sequence[Shape]) -> Shape:
        """Return the shape of them all; raise ValueError where they differ along another axis."""
        first = shapes[0]
        if any(len(shape) <= self.axis or self._rest(shape) != self._rest(first) for shape in shapes):
            raise ValueError(
                f"found shapes {', '.join(map(str, shapes))}, expected them to differ in axis {self.axis} only"
            )
        return *first[: self.axis], sum(shape[self.axis] for shape in shapes), *first[self.axis + 1 :]

    def _rest(self, shape: Shape) -> Shape:
        return shape[: self.axis] + shape[self.axis + 1 :]

    def apply(self, tensors: Sequence[LazyTensor], where: str) -> LazyTensor:
        """Return the tensors joined."""
        shape, start, parts = self.shape_of([tensor.shape for tensor in tensors]), 0, []
        for tensor in tensors:
            parts.append(Part(tuple(start if axis == self.axis else 0 for axis in range(len(shape))), tensor))
            start += tensor.shape[self.axis]
        return joined(tensors[0].dtype, shape, parts, where=where)


@dataclass(frozen=True, slots=True)
class Move:
    """How the tensor called ``key`` is made: of ``sources``, which are joined where there are several, by ``steps``.

    In a rule key and sources may be patterns. No step and the key as source is a tensor that stays as it is.
    """

    key: str
    sources: tuple[str, ...]
    steps: tuple[Step, ...] = ()
    join: Join | None = None

    def __str__(self) -> str:
        of = "" if self.sources == (self.key,) else f" of {', '.join(self.sources)}"
        return f"{self.key}={self.words}{of}"

    @property
    def words(self) -> str:
        """The steps, as a rule has them."""
        return "+".join(map(str, (*([self.join] if self.join else []), *self.steps))) or "keep"

    @property
    def changes(self) -> bool:
        """Whether elements are laid out otherwise than in a source of this name."""
        return bool(self.steps or self.join)

    def matched(self, source: str) -> Move | None:
        """Return the move of a rule for a tensor that its first source matches, or None."""
        key = Rename(self.sources[0], self.key).apply(source)
        if key is None:
            return None
        others = (Rename(self.sources[0], other).apply(source) or "" for other in self.sources[1:])
        return Move(key, (source, *others), self.steps, self.join)

    def shape_of(self, shapes: Sequence[Shape]) -> Shape:
        """Return the shape that comes of the sources'; raise ValueRefusedError where none does."""
        return self._refusing(lambda: self._shape(shapes))

    def _shape(self, shapes: Sequence[Shape]) -> Shape:
        shape = self.join.shape_of(shapes) if self.join else shapes[0]
        for step in self.steps:
            shape = step.shape_of(shape)
        return shape

    def apply(self, *tensors: LazyTensor) -> LazyTensor:
        """Return what comes of the sources, unread: of parameters, or of what has their shapes, such as moments."""
        self.shape_of([tensor.shape for tensor in tensors])
        if len({tensor.dtype.name for tensor in tensors}) > 1:
            names = ", ".join(tensor.dtype.name for tensor in tensors)
            raise DtypeRefusedError(f"{self._rule}: found the dtypes {names}, expected one to join; cast them first")
        tensor = self.join.apply(tensors, self.key) if self.join else tensors[0]
        for step in self.steps:
            tensor = step.apply(tensor)
        return tensor

    @property
    def _rule(self) -> str:
        return f"layout=[{str(self)!r}]"

    def _refusing(self, shape: Callable[[], Shape]) -> Shape:
        try:
            return shape()
        except ValueError as problem:
            raise ValueRefusedError(f"{self._rule}: {problem}; see the shapes with: mfc.inspect(path)") from None


_NUMBERS = r"-?\d+(?:,-?\d+)*"
#: The pattern of each step, and what it makes of what it matches.
_STEPS: Mapping[str, Callable[[re.Match[str]], Step | Join]] = {
    r"turn": lambda _: Turn(),
    rf"turn:({_NUMBERS})": lambda match: Turn(_numbers(match[1])),
    r"rows:(\d*):(\d*)": lambda match: TakeRows(int(match[1] or 0), int(match[2]) if match[2] else None),
    rf"reshape:({_NUMBERS})": lambda match: Reshape(_numbers(match[1])),
    r"join": lambda _: Join(),
    r"join:(\d+)": lambda match: Join(int(match[1])),
}


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def parse_move(rule: str) -> Move:
    """Read a rule; raise KeyRefusedError for anything else."""
    key, _, text = rule.partition("=")
    steps_text, of, sources_text = text.partition(" of ")
    steps = [_parsed(step) for step in steps_text.strip().split("+")] if steps_text.strip() != "keep" else []
    sources = tuple(re.split(r",\s*", sources_text.strip())) if of else (key,)
    join = steps.pop(0) if steps and isinstance(steps[0], Join) else None
    later = tuple(step for step in steps if isinstance(step, Step))
    fits = key and len(later) == len(steps) and (join is not None) == (len(sources) > 1)
    if not fits or any(source.count("*") != key.count("*") or not source for source in sources):
        raise KeyRefusedError(
            f"layout=[{rule!r}]: found no rule, expected KEY=STEPS or KEY=STEPS of SOURCE with as many * in both, such as "
            "'fc.weight=turn', 'conv.weight=turn:3,2,0,1', 'q.weight=rows:0:768 of qkv.weight', 'flat=reshape:12,-1' or "
            "'qkv.weight=join of q.weight, k.weight, v.weight'"
        )
    return Move(key, sources, later, join if isinstance(join, Join) else None)


def _parsed(text: str) -> Step | Join | None:
    for pattern, make in _STEPS.items():
        match = re.fullmatch(pattern, text.strip())
        if match is not None:
            return make(match)
    return None
