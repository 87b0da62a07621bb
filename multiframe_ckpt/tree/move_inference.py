"""Inference: which move makes each tensor of a template, read off names, then kinds of modules, then shapes.

A tensor of the same name, or of the other name that frameworks give the same thing (``kernel`` for ``weight``), is as it
is, turned or reshaped, whichever its shape says. Where the shape says nothing, as of a square matrix, the others of its
kind do: where they are turned it is too. Names left over on both sides are the rows of a fused tensor, or joined to one,
where names and shapes say so; last, a tensor that alone fits a shape is taken for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, permutations
from math import prod

from ..errors import KeyRefusedError, ValueRefusedError
from .moves import Join, Move, Reshape, Shape, Step, TakeRows, Turn

__all__ = ["Inference"]

Steps = tuple[Step, ...]

#: What frameworks call the same thing: PyTorch first, then Flax and Keras.
_SAME = (
    ("weight", "kernel", "embedding", "embeddings", "scale", "gamma"),
    ("bias", "beta"),
    ("running_mean", "mean", "moving_mean"),
    ("running_var", "var", "moving_variance"),
)
#: How modules of a kind are laid out elsewhere: a linear weight (out, in) as (in, out), a convolution's OIHW as HWIO.
_TURNS = {"linear": (1, 0), "conv1d": (2, 1, 0), "conv2d": (3, 2, 0, 1), "conv3d": (4, 3, 0, 1, 2)}
#: Shapes of more axes are turned in more ways than can be told apart.
_MOST_AXES = 5


class Inference:
    """What the shapes of a source and of a template tell; ``moves`` are the ones that rules gave."""

    def __init__(
        self,
        source: Mapping[str, Shape],
        template: Mapping[str, Shape],
        kinds: Mapping[str, str],
        by_rule: Mapping[str, Move],
    ) -> None:
        self._source, self._template, self._kinds = source, template, kinds
        self._moves: dict[str, Move] = {}
        self._open = [key for key in template if key not in by_rule]
        taken = {name for move in by_rule.values() for name in move.sources}
        self._free = [key for key in source if key not in taken or key in template]

    def moves(self) -> dict[str, Move]:
        """Return a move for each key of the template that no rule has; raise where none or several fit."""
        pairs = dict(self._named())
        readings = {key: self._readings(key, name) for key, name in pairs.items()}
        turned = self._turned(pairs, readings)
        for key, name in pairs.items():
            steps = self._decided(key, name, readings[key], turned)
            self._take(Move(key, (name,), steps))
        for fused in self._split, self._joined:
            for move in fused():
                self._take(move)
        for key in self._left():
            self._take(self._by_shape(key))
        return self._moves

    def _left(self) -> list[str]:
        return [key for key in self._open if key not in self._moves]

    def _take(self, move: Move) -> None:
        self._moves[move.key] = move
        self._free = [name for name in self._free if name not in move.sources]

    def _named(self) -> Iterator[tuple[str, str]]:
        """Yield the keys of the template that have a tensor of their name, or of one that means the same."""
        others: dict[tuple[object, ...], list[str]] = {}
        for name in self._free:
            if name not in self._template:
                others.setdefault(_meaning(name), []).append(name)
        for key in self._open:
            names = [key] if key in self._source else others.get(_meaning(key), [])
            if len(names) == 1 and prod(self._source[names[0]]) == prod(self._template[key]):
                yield key, names[0]

    def _readings(self, key: str, name: str) -> list[Steps]:
        """Return every way in which a tensor can be one of the template by its shape, as it is first."""
        shape, wanted = self._source[name], self._template[key]
        readings: list[Steps] = [()] if shape == wanted else []
        readings += [(turn,) for turn in self._turns(key, name) if turn.shape_of(shape) == wanted]
        is_flat = min(len(shape), len(wanted)) == 1 or _without_ones(shape) == _without_ones(wanted)
        if not readings and is_flat:
            readings.append((Reshape(wanted),))
        if not readings:
            raise ValueRefusedError(
                f"{key}: found {name!r} of shape {shape}, expected {wanted}, which no order of its axes gives; say how "
                f"it is made, such as {_rule(Move(key, (name,), (Turn(), Reshape(wanted))))}"
            )
        return readings

    def _turned(self, pairs: Mapping[str, str], readings: Mapping[str, list[Steps]]) -> dict[str | None, set[Steps]]:
        """Return how the tensors of each kind are laid out whose shapes leave no doubt."""
        certain: dict[str | None, set[Steps]] = {}
        for key in pairs:
            if len(readings[key]) == 1 and len(self._template[key]) > 1:
                certain.setdefault(self._kinds.get(key), set()).add(readings[key][0])
        return certain

    def _decided(self, key: str, name: str, readings: list[Steps], certain: Mapping[str | None, set[Steps]]) -> Steps:
        """Return the one reading; of several, the one that the name and the kind, or others of the kind, tell."""
        if len(readings) == 1:
            return readings[0]
        kind = self._kinds.get(key)
        is_kernel = _is_kernel(name) != _is_kernel(key)
        alike = [steps for steps in readings if steps in certain.get(kind, set())]
        if kind in _TURNS and is_kernel:
            alike = alike or [steps for steps in readings if steps]
        elif not is_kernel and not any(steps for seen in certain.values() for steps in seen) and () in readings:
            return ()
        if kind is None or len(alike) != 1 or len(certain.get(kind, ())) > 1:
            raise self._two_readings(key, [Move(key, (name,), steps) for steps in readings])
        return alike[0]

    def _two_readings(self, key: str, moves: Sequence[Move]) -> ValueRefusedError:
        shapes = ", ".join(f"{name!r} of shape {self._source[name]}" for name in dict.fromkeys(moves[0].sources))
        return ValueRefusedError(
            f"{key}: found {shapes}, of which it could be made in more than one way, expected one; say which: "
            f"{' or '.join(map(_rule, moves[:4]))}"
        )

    def _split(self) -> list[Move]:
        """Return the moves of tensors that are the rows of one left over, such as q, k and v of qkv."""
        moves: dict[str, Move] = {}
        for whole in self._free:
            fitting = _rows_of(whole, self._source[whole], {key: self._template[key] for key in self._left()})
            for move in fitting:
                if move.key in moves:
                    raise self._two_readings(move.key, [moves[move.key], move])
            _require_order(whole, [move.key for move in fitting], fitting)
            moves |= {move.key: move for move in fitting}
        return list(moves.values())

    def _joined(self) -> list[Move]:
        """Return the moves of tensors that those left over are joined to, such as qkv."""
        moves = [
            _join_to(key, self._template[key], {name: self._source[name] for name in self._free})
            for key in self._left()
        ]
        for move in filter(None, moves):
            _require_order(move.key, move.sources, [move])
        return [move for move in moves if move is not None]

    def _by_shape(self, key: str) -> Move:
        """Return the move of the one tensor left over that fits; raise where there is none, or where two could be meant."""
        fitting = [move for name in self._free for move in self._fitting(key, name)]
        rivals = [other for other in self._left() if other != key and self._template[other] == self._template[key]]
        if len(fitting) == 1 and not rivals:
            return fitting[0]
        if fitting:
            raise ValueRefusedError(
                f"{key}: found {', '.join(dict.fromkeys(move.sources[0] for move in fitting))}, any of which could be it, "
                f"expected one; say which: {' or '.join(map(_rule, fitting[:4]))}"
            )
        raise KeyRefusedError(
            f"{key}: found no tensor it could be made of, expected shape {self._template[key]}; say how it is made, "
            f"such as {_rule(Move(key, (next(iter(self._free), 'SOURCE'),), (Turn(),)))}"
        )

    def _turns(self, key: str, name: str) -> list[Turn]:
        """Return the orders of axes that a tensor of a kind may have, there or back as the names say: of no kind, any."""
        kind, same = self._kinds.get(key), tuple(range(len(self._source[name])))
        if kind is None:
            orders = list(permutations(same))[1:] if len(same) <= _MOST_AXES else []
        else:
            order = _TURNS.get(kind, ())
            back = tuple(map(order.index, range(len(order))))
            from_kernel, to_kernel = _is_kernel(name), _is_kernel(key)
            orders = [back] * (to_kernel or not from_kernel) + [order] * (from_kernel or not to_kernel)
        turns = (Turn(None if axes == same[::-1] else axes) for axes in orders if axes and len(axes) == len(same))
        return list(dict.fromkeys(turns))

    def _fitting(self, key: str, name: str) -> list[Move]:
        shape, wanted = self._source[name], self._template[key]
        ways: list[Steps] = [()] if shape == wanted else []
        ways += [(turn,) for turn in self._turns(key, name) if turn.shape_of(shape) == wanted]
        return [Move(key, (name,), steps) for steps in ways]


def _rows_of(whole: str, shape: Shape, parts: Mapping[str, Shape]) -> list[Move]:
    """Return the moves that make the parts beside a fused tensor of its rows, or of its columns turned; none do not fit."""
    beside = [key for key in parts if _beside(key) == _beside(whole)]
    for steps in ((), (Turn(),)) if len(shape) == 2 else ((),):
        turned = shape[::-1] if steps else shape
        if len(beside) > 1 and all(parts[key] and parts[key][1:] == turned[1:] for key in beside):
            stops = [sum(parts[key][0] for key in beside[: count + 1]) for count in range(len(beside))]
            if turned and stops[-1] == turned[0]:
                bounds = zip(beside, [0, *stops], stops, strict=False)
                return [Move(key, (whole,), (*steps, TakeRows(start, stop))) for key, start, stop in bounds]
    return []


def _join_to(whole: str, shape: Shape, parts: Mapping[str, Shape]) -> Move | None:
    """Return the move that joins the parts beside a fused tensor to it, turned where that fits; None where none does."""
    beside = tuple(name for name in parts if _beside(name) == _beside(whole))
    moves = [Move(whole, beside, (), Join()), Move(whole, beside, (Turn(),), Join(1))]
    for move in moves if len(beside) > 1 else ():
        try:
            if move.shape_of([parts[name] for name in beside]) == shape:
                return move
        except ValueRefusedError:
            continue
    return None


def _require_order(whole: str, parts: Sequence[str], moves: Sequence[Move]) -> None:
    """Raise unless the name of a fused tensor says in which order its parts are, as qkv does."""
    if not parts:
        return
    names = [_split_name(part)[1] for part in parts]
    start, end = _common(names), _common([name[::-1] for name in names])
    tokens = [name[start : len(name) - end] for name in names]
    fused = _split_name(whole)[1]
    places = [fused.find(token if token in fused else token[0]) if token else -1 for token in tokens]
    if -1 in places or any(one >= other for one, other in pairwise(places)):
        raise ValueRefusedError(
            f"{whole}: found {', '.join(parts)} as its parts, and nothing that says in which order they are, expected a "
            f"name such as qkv; say so: layout=[{', '.join(repr(str(move)) for move in moves)}]"
        )


def _common(names: Sequence[str]) -> int:
    """Return how many characters all names begin with alike."""
    alike = (len({*letters}) == 1 for letters in zip(*names, strict=False))
    return next((count for count, same in enumerate(alike) if not same), min(map(len, names)))


def _split_name(key: str) -> tuple[str, str, str]:
    """Return where a tensor is, the name of its module, and what of the module it is: ``attn``, ``q``, ``weight``."""
    *parents, last = re.split(r"[./]", key)
    match = re.fullmatch(r"(.+)_(weight|bias)", last)
    if match is not None:
        return ".".join(parents), match[1], match[2]
    if parents and _group(last) != last:
        return ".".join(parents[:-1]), parents[-1], last
    return ".".join(parents), last, ""


def _beside(key: str) -> tuple[str, int | str]:
    """Return what is equal for tensors of modules beside each other that are the same of theirs."""
    place, _, leaf = _split_name(key)
    return place, _group(leaf)


def _group(leaf: str) -> int | str:
    return next((number for number, names in enumerate(_SAME) if leaf in names), leaf)


def _meaning(key: str) -> tuple[object, ...]:
    """Return what is equal for names of one thing in several frameworks."""
    *parents, last = re.split(r"[./]", key)
    return (*parents, _group(last))


def _is_kernel(key: str) -> bool:
    """Return whether a name is the one that Flax and Keras give to what they lay out the other way."""
    return re.split(r"[./]", key)[-1] == "kernel"


def _without_ones(shape: Shape) -> Shape:
    return tuple(dim for dim in shape if dim != 1)


def _rule(move: Move) -> str:
    return f"layout=[{str(move)!r}]"
