"""Hypothesis strategies for trees: every dtype, every bit pattern, hostile names, ties, plain values of every kind."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from hypothesis import strategies as st

from ..dtypes import DTYPES, DType
from ..tree import LazyTensor, Tree

__all__ = ["HOSTILE_NAMES", "indices", "names", "plain_values", "tensors", "trees"]

#: Names that some file system, archive, parser or this library's own layouts could trip over.
HOSTILE_NAMES = (
    *(
        "",
        ".",
        "..",
        "/",
        "//",
        "a/b",
        "a//b",
        "../up",
        "/root",
        "~",
        "~0",
        "~1",
        "a~1b",
        "x~",
        "\\",
        "a\\b",
        "C:",
        "*",
    ),
    *("\x00", "a\x00b", "\n", "\r\n", "\x7f", " ", "trailing ", "trailing.", "\ud800", "\udcff", "x" * 300, "☃" * 100),
    *("é", "e\u0301", "W", "w", "CON", "0", "1", "-1", "None", "True", "\ufeff", "\u202e", '"', "'", "a.npy", "a.pt"),
    *("$tensor", "$dict", "$", "__metadata__", "multiframe_ckpt", "tensor_0", "tensor_1", "format", "layers", "tree"),
    *("snapshot_done", "pickled_data", "meta", "out", "data.pkl", "data/0", "version", ".hidden", "__unknown__"),
)

_FLOAT_BITS = st.integers(0, 2**64 - 1).map(lambda bits: struct.unpack("<d", struct.pack("<Q", bits))[0])
_FLOATS = st.one_of(st.floats(), _FLOAT_BITS)


def names() -> st.SearchStrategy[str]:
    """Return names as models have them, hostile ones, and any text."""
    usual = st.sampled_from(["l1.weight", "l1.bias", "layers.0.attn.qkv", "lr", "state", "exp_avg"])
    return st.one_of(usual, st.sampled_from(HOSTILE_NAMES), st.text(max_size=8))


def dict_keys() -> st.SearchStrategy[Any]:
    """Return names, and the other keys a dict may have: ints as optimizers use them, None, bools, bytes, tuples."""
    others = st.one_of(st.none(), st.booleans(), st.floats(allow_nan=False), st.binary(max_size=3))
    return st.one_of(names(), st.integers(-2, 12), others, st.tuples(st.integers(0, 3), names()))


def plain_values() -> st.SearchStrategy[Any]:
    """Return plain leaf values of every type, huge ints and every float included."""
    ints = st.one_of(st.integers(), st.integers(-(2**65), 2**65), st.sampled_from([2**53, 2**53 + 1, 10**4000]))
    complexes = st.builds(complex, _FLOATS, _FLOATS)
    return st.one_of(
        st.none(), st.booleans(), ints, _FLOATS, complexes, names(), st.text(max_size=20), st.binary(max_size=20)
    )


@st.composite
def tensors(draw: st.DrawFn, dtypes: Sequence[DType] = DTYPES) -> LazyTensor:
    """Return tensors of any bits (NaN payloads, -0.0, denormals among them), 0-d, empty and not contiguous ones too."""
    dtype = draw(st.sampled_from(list(dtypes)))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
    nbytes = prod(shape) * dtype.itemsize
    raw = np.frombuffer(draw(st.binary(min_size=nbytes, max_size=nbytes)), np.uint8)
    array = (raw & 1 if dtype.kind == "bool" else raw).view(dtype.numpy).reshape(shape)
    return LazyTensor.from_array(array.T if draw(st.booleans()) else array)


@st.composite
def trees(draw: st.DrawFn, dtypes: Sequence[DType] = DTYPES, keys: st.SearchStrategy[Any] | None = None) -> Tree:
    """Return whole checkpoints: now a flat state dict, now a nest of containers; some tensors under several names."""
    pool = [
        tensor.with_(alias=("pool", index))
        for index, tensor in enumerate(draw(st.lists(tensors(dtypes), min_size=1, max_size=4)))
    ]
    shared = st.sampled_from(pool)
    if draw(st.booleans()):
        return draw(st.dictionaries(names(), shared, max_size=6))
    keys = dict_keys() if keys is None else keys
    return draw(
        st.recursive(
            st.one_of(plain_values(), shared),
            lambda inner: st.one_of(
                st.dictionaries(keys, inner, max_size=4),
                st.lists(inner, max_size=4),
                st.lists(inner, max_size=4).map(tuple),
            ),
            max_leaves=12,
        )
    )


def indices(shape: tuple[int, ...]) -> st.SearchStrategy[object]:
    """Return indices of an array of this shape as NumPy's basic slicing has them: ints, slices of any step, an Ellipsis."""
    entries = st.tuples(*(_entries(size) for size in shape))
    cuts = st.integers(0, len(shape))
    return st.one_of(entries, st.builds(lambda whole, cut: (*whole[:cut], ...), entries, cuts), st.just(...))


def _entries(size: int) -> st.SearchStrategy[object]:
    bounds = st.none() | st.integers(-size - 2, size + 2)
    steps = st.none() | st.sampled_from([1, 2, 3, -1, -2])
    slices = st.builds(slice, bounds, bounds, steps)
    return slices | st.integers(-size, size - 1) if size else slices
