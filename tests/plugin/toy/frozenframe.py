"""A framework of values, as JAX and optax are: nothing changes an array, a state is a tuple of named tuples."""

from typing import NamedTuple

import numpy as np

__version__ = "0.7"


class Array:
    __slots__ = ("_values",)

    def __init__(self, values):
        values = np.array(values)
        values.flags.writeable = False
        object.__setattr__(self, "_values", values)

    def __setattr__(self, name, value):
        raise TypeError("an Array is never changed")

    def __array__(self, dtype=None, copy=None):
        return self._values if dtype is None else self._values.astype(dtype)


class Average(NamedTuple):
    count: Array
    mean: dict[str, Array]


class Empty(NamedTuple):
    pass


def start(params):
    return Average(
        Array(np.int64(0)), {name: Array(np.zeros_like(np.asarray(one))) for name, one in params.items()}
    ), Empty()


def step(params, state):
    average, rest = state
    mean = {name: Array(0.5 * np.asarray(average.mean[name]) + np.asarray(one)) for name, one in params.items()}
    params = {name: Array(np.asarray(one) - np.float32(0.1) * np.asarray(mean[name])) for name, one in params.items()}
    return params, (Average(Array(np.asarray(average.count) + 1), mean), rest)
