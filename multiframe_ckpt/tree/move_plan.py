"""MovePlan: how every tensor of one layout is made of those of another; by rules, and where a template is given, inferred.

What a rule does not say is read off the template: by names first, then by the kinds of modules, then by shapes. Where two
readings fit, the plan is refused, with the rule that would decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ..dtypes import DType
from ..errors import KeyRefusedError, ValueRefusedError
from .move_inference import Inference
from .moves import Move, Shape, TakeRows
from .tensor import LazyTensor

__all__ = ["MovePlan", "plan_moves"]

#: A tensor, or what is known of one that is not there.
Described: TypeAlias = "LazyTensor | tuple[DType, Shape]"


@dataclass(frozen=True, slots=True)
class MovePlan:
    """A move for each tensor that is to come, in its order, and the shapes of those that they are made of."""

    moves: tuple[Move, ...]
    shapes: Mapping[str, Shape]

    def apply(self, tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
        """Return the tensors of the other layout, unread."""
        return {
            move.key: move.apply(*(tensors[source] for source in move.sources))
            if move.changes
            else tensors[move.sources[0]]
            for move in self.moves
        }

    def apply_to_moments(self, moments: Mapping[str, Mapping[str, LazyTensor]]) -> dict[str, dict[str, LazyTensor]]:
        """Return an optimizer's tensors, by parameter and name, moved as the parameters are.

        A tensor without dimensions, such as a counter, goes along as it is. Raise ValueRefusedError for any other that has
        not its parameter's shape, and where joined parameters do not have the same tensors.
        """
        moved = {}
        for move in self.moves:
            entries = [moments[source] for source in move.sources if source in moments]
            if len(entries) == len(move.sources):
                moved[move.key] = {name: self._moment(move, name, entries) for name in entries[0]}
            elif entries:
                raise ValueRefusedError(
                    f"{move.key}: found moments of some of {', '.join(move.sources)}, expected of all"
                )
        return moved

    def _moment(self, move: Move, name: str, entries: Sequence[Mapping[str, LazyTensor]]) -> LazyTensor:
        tensors = [entry[name] for entry in entries if name in entry]
        shapes = [tensor.shape for tensor in tensors]
        if move.changes and shapes == [self.shapes[source] for source in move.sources]:
            return move.apply(*tensors)
        if move.changes and (len(tensors) != 1 or tensors[0].shape):
            raise ValueRefusedError(
                f"{move.key}: found {name} of shape {', '.join(map(str, shapes))}, expected a tensor of the parameter's "
                "shape; leave the optimizer's state out"
            )
        return tensors[0]

    @property
    def keeps_parameters(self) -> bool:
        """Whether each tensor is made of one, and each of those makes one."""
        sources = [source for move in self.moves for source in move.sources]
        return len(sources) == len(self.moves) == len({*sources}) and not self.left_out

    @property
    def laid_out(self) -> dict[str, str]:
        """What is done, in the words of a rule, by the key of each tensor that is laid out otherwise or renamed."""
        return {
            move.key: str(move).partition("=")[2] for move in self.moves if move.changes or move.sources != (move.key,)
        }

    @property
    def left_out(self) -> tuple[str, ...]:
        """The tensors some of whose elements are in none of the others: there is no way back from those."""
        return tuple(key for key in self.shapes if not self._is_whole(key))

    def _is_whole(self, source: str) -> bool:
        moves = [move for move in self.moves if source in move.sources]
        cuts = [[step for step in move.steps if isinstance(step, TakeRows)] for move in moves]
        if not all(cuts):
            return True
        before = {
            (move.sources, move.join, move.steps[: move.steps.index(cut[0])])
            for move, cut in zip(moves, cuts, strict=True)
        }
        if len(before) != 1 or any(len(cut) > 1 for cut in cuts):
            return False
        ((sources, join, steps),) = before
        shape = Move(source, sources, steps, join).shape_of([self.shapes[key] for key in sources])
        end = 0
        for start, stop in sorted(cut[0].bounds(shape) for cut in cuts):
            end = max(end, stop) if start <= end else end
        return bool(moves) and end == shape[0]


def plan_moves(
    source: Mapping[str, Described],
    template: Mapping[str, Described] | None = None,
    *,
    rules: Sequence[Move] = (),
    kinds: Mapping[str, str] | None = None,
) -> MovePlan:
    """Return how the tensors of ``template`` are made of those of ``source``; without a template, what the rules say.

    ``kinds`` says of keys of the template what module they are of: ``linear``, ``conv1d``, ``conv2d``, ``conv3d``,
    ``embedding`` or any other. Without a template, what no rule takes stays as it is. Raise KeyRefusedError for a rule or a
    tensor that nothing fits, ValueRefusedError where two readings fit, both with the rule to give.
    """
    shapes = {key: _shape(tensor) for key, tensor in source.items()}
    by_rule = _matched(shapes, rules)
    if template is None:
        return MovePlan(_in_place(shapes, by_rule), shapes)
    wanted = {key: _shape(tensor) for key, tensor in template.items()}
    for move in by_rule.values():
        _require_wanted(move, shapes, wanted)
    inferred = Inference(shapes, wanted, kinds or {}, by_rule).moves()
    return MovePlan(tuple((by_rule | inferred)[key] for key in wanted), shapes)


def _shape(tensor: Described) -> Shape:
    return tensor.shape if isinstance(tensor, LazyTensor) else tensor[1]


def _matched(shapes: Mapping[str, Shape], rules: Sequence[Move]) -> dict[str, Move]:
    """Return the moves that rules give, by key: the first one that gives a key."""
    moves: dict[str, Move] = {}
    for rule in rules:
        matches = [move for move in map(rule.matched, shapes) if move is not None]
        if not matches:
            raise KeyRefusedError(
                f"layout=[{str(rule)!r}]: found no tensor it matches, expected at least one; "
                "see the keys with: mfc.inspect(path)"
            )
        for move in matches:
            _require_sources(move, shapes)
            moves.setdefault(move.key, move)
    return moves


def _require_sources(move: Move, shapes: Mapping[str, Shape]) -> None:
    missing = [source for source in move.sources if source not in shapes]
    if missing:
        raise KeyRefusedError(f"layout=[{str(move)!r}]: found no tensor {missing[0]!r}, expected each that is joined")
    move.shape_of([shapes[source] for source in move.sources])


def _in_place(shapes: Mapping[str, Shape], by_rule: Mapping[str, Move]) -> tuple[Move, ...]:
    """Return the moves of rules, each where its first source is, between tensors that stay as they are."""
    taken = {source for move in by_rule.values() for source in move.sources}
    moves = []
    for key in shapes:
        moves += [move for move in by_rule.values() if move.sources[0] == key]
        if key not in taken:
            if key in by_rule:
                raise KeyRefusedError(
                    f"layout=[{str(by_rule[key])!r}]: found a tensor {key!r} already, expected a free key; give another"
                )
            moves.append(Move(key, (key,)))
    return tuple(moves)


def _require_wanted(move: Move, shapes: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> None:
    rule = f"layout=[{str(move)!r}]"
    if move.key not in wanted:
        raise KeyRefusedError(f"{rule}: found no {move.key!r} in the template, expected one of its keys")
    shape = move.shape_of([shapes[source] for source in move.sources])
    if shape != wanted[move.key]:
        raise ValueRefusedError(
            f"{rule}: found that shape {shape} comes of it, expected {wanted[move.key]}; mend the rule"
        )
