"""Boxes: the part of an array that an index asks for, as NumPy slices, and blocks that fill a shape in order."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from functools import lru_cache
from math import prod
from typing import SupportsIndex, TypeAlias

import numpy as np

__all__ = ["Box", "as_slices", "blocks", "c_strides", "normalized", "positions", "shape_of", "taken"]

#: One entry a dimension: the positions that are taken, or the one position of a dimension that goes away.
Box: TypeAlias = "tuple[range | int, ...]"


def normalized(index: object, shape: tuple[int, ...]) -> Box:
    """Return the box that ``array[index]`` asks for of an array of this shape, an entry for each dimension.

    An index is an int, a slice, an Ellipsis, or a tuple of these. Raise IndexError as NumPy does, TypeError for any other.
    """
    parts = index if isinstance(index, tuple) else (index,)
    ellipses = [position for position, part in enumerate(parts) if part is Ellipsis]
    if len(ellipses) > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    missing = len(shape) - (len(parts) - len(ellipses))
    if missing < 0:
        raise IndexError(f"too many indices: found {len(shape) - missing}, expected at most {len(shape)}")
    position = ellipses[0] if ellipses else len(parts)
    filled = (*parts[:position], *[slice(None)] * missing, *parts[position + 1 :])
    return tuple(_entry(part, size, axis) for axis, (part, size) in enumerate(zip(filled, shape, strict=True)))


def _entry(part: object, size: int, axis: int) -> range | int:
    if isinstance(part, slice):
        return range(size)[part]
    if isinstance(part, bool) or not isinstance(part, SupportsIndex):
        raise TypeError(f"found an index of type {type(part).__name__}, expected ints, slices and '...'")
    number = operator.index(part)
    if not -size <= number < size:
        raise IndexError(f"index {number} is out of bounds for axis {axis} with size {size}")
    return number % size


def shape_of(box: Box) -> tuple[int, ...]:
    """Return the shape of what a box takes."""
    return tuple(len(entry) for entry in box if isinstance(entry, range))


def as_slices(box: Box) -> tuple[slice | int, ...]:
    """Return the box as NumPy takes it."""
    return tuple(entry if isinstance(entry, int) else _slice(entry) for entry in box)


def _slice(entry: range) -> slice:
    if not entry:
        return slice(0, 0)
    return slice(entry.start, entry.stop if entry.stop >= 0 else None, entry.step)


def taken(array: np.ndarray, box: Box) -> np.ndarray:
    """Return what a box takes of an array, as a view: an array of no dimensions, too, and no scalar."""
    view: np.ndarray = array[(*as_slices(box), ...)]
    return view


@lru_cache(maxsize=4096)  # most tensors have the shape of another
def c_strides(shape: tuple[int, ...], unit: int = 1) -> tuple[int, ...]:
    """Return the strides of a C-ordered array: in elements, or with their size as ``unit`` in bytes."""
    strides = []
    for size in reversed(shape):
        strides.append(unit)
        unit *= max(size, 1)
    return tuple(reversed(strides))


def blocks(shape: tuple[int, ...], itemsize: int, limit: int) -> Iterator[tuple[range, ...]]:
    """Yield boxes that fill a shape one behind the other in C order, each of at most ``limit`` bytes where one element is.

    Each is whole in the dimensions behind the one that it is cut in, so that its elements follow each other.
    """
    axis = 0
    while axis < len(shape) and prod(shape[axis + 1 :]) * itemsize > limit:
        axis += 1
    if 0 in shape or axis == len(shape):
        yield from _single(shape)
        return
    step = max(1, limit // max(1, prod(shape[axis + 1 :]) * itemsize))
    rest = tuple(map(range, shape[axis + 1 :]))
    for outer in positions(shape[:axis]):
        for start in range(0, shape[axis], step):
            yield (*outer, range(start, min(start + step, shape[axis])), *rest)


def _single(shape: tuple[int, ...]) -> Iterator[tuple[range, ...]]:
    if 0 not in shape:
        yield from positions(shape)


def positions(shape: tuple[int, ...]) -> Iterator[tuple[range, ...]]:
    """Yield every position of a shape in C order, as a box of one element."""
    if not shape:
        yield ()
        return
    for outer in positions(shape[:-1]):
        for number in range(shape[-1]):
            yield (*outer, range(number, number + 1))
