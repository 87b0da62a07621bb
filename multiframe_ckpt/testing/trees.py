"""Trees to test with, and the one comparison of trees: bit for bit, ties, types and order included."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from itertools import cycle, islice

import numpy as np

from ..dtypes import DTYPES, DType
from ..tree import LazyTensor, Path, Tree, Unknown, children, key_of, map_leaves, tensors, tied_groups

__all__ = ["assert_trees_equal", "flat_tree", "rich_tree", "tensor_of_bytes", "untied"]


def assert_trees_equal(found: Tree, expected: Tree) -> None:
    """Raise AssertionError, naming the place, unless the two trees are the same to the bit.

    Compared are the types of containers and plain values (1 is not True, nor 1.0), the order of dict keys, the bits of
    floats, the dtype, shape and bytes of tensors, and which tensors are tied.
    """
    _compare(found, expected, ())
    ties = [tied_groups(tensors(tree)) for tree in (found, expected)]
    if ties[0] != ties[1]:
        raise AssertionError(f"found ties {ties[0]}, expected {ties[1]}")


def _compare(found: Tree, expected: Tree, path: Path) -> None:
    where = key_of(path)
    if type(found) is not type(expected):
        raise AssertionError(f"{where}: found {type(found).__name__}, expected {type(expected).__name__}")
    inside, wanted = children(found), children(expected)
    if inside is None or wanted is None:
        if _bits(found) != _bits(expected):
            raise AssertionError(f"{where}: found {_shown(found)}, expected {_shown(expected)}")
        return
    if isinstance(found, Unknown) and isinstance(expected, Unknown) and found.type_name != expected.type_name:
        raise AssertionError(f"{where}: found {found.type_name}, expected {expected.type_name}")
    items, wanted_items = list(inside), list(wanted)
    names, wanted_names = ([_name(name) for name, _ in pairs] for pairs in (items, wanted_items))
    if names != wanted_names:
        raise AssertionError(f"{where}: found keys {names}, expected {wanted_names}")
    for (name, node), (_, wanted_node) in zip(items, wanted_items, strict=True):
        _compare(node, wanted_node, (*path, name))


def _name(name: object) -> object:
    return type(name).__name__, [_name(part) for part in name] if isinstance(name, tuple) else _bits(name)


def _bits(leaf: object) -> object:
    if isinstance(leaf, LazyTensor):
        return leaf.dtype.name, leaf.shape, leaf.numpy().tobytes()
    if isinstance(leaf, float):
        return struct.pack("<d", leaf)
    if isinstance(leaf, complex):
        return struct.pack("<dd", leaf.real, leaf.imag)
    return leaf


def _shown(leaf: Tree) -> str:
    return f"{leaf.dtype.name} {leaf.shape} {leaf.numpy()!r}" if isinstance(leaf, LazyTensor) else repr(leaf)


def tensor_of_bytes(
    dtype: DType, shape: tuple[int, ...], pattern: Iterable[int], *, alias: str | None = None
) -> LazyTensor:
    """Return a tensor of that shape whose bytes repeat ``pattern``, whatever values they mean."""
    count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    bits = 1 if dtype.kind == "bool" else 0xFF  # NumPy has no meaning for a bool of another byte
    raw = np.frombuffer(bytes(byte & bits for byte in islice(cycle(pattern), count)), np.uint8)
    return LazyTensor.from_array(raw.view(dtype.numpy).reshape(shape), alias=alias)


def flat_tree() -> dict[str, LazyTensor]:
    """Return a plain state dict: names to tensors, two of them tied."""
    weight = LazyTensor.from_array(np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4), alias="weight")
    bias = LazyTensor.from_array(np.array([0.5, -0.0, np.inf, np.nan], np.float32))
    return {"z.weight": weight, "z.bias": bias, "a.weight": weight}


def rich_tree(dtypes: Iterable[DType] = DTYPES) -> Tree:
    """Return a training checkpoint that holds every kind of thing a tree can: all of ``dtypes``, 0-d, empty, tied."""
    floats = [0x01, 0x00, 0xC0, 0x7F, 0x00, 0x00, 0x00, 0x80, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0xF0, 0x7F, 0xFF]
    tensors = {dtype.name: tensor_of_bytes(dtype, (3, 2, 5), floats) for dtype in dtypes}
    shapes = {
        f"{dtype.name} {shape}": tensor_of_bytes(dtype, shape, range(256))
        for dtype in list(dtypes)[:3]
        for shape in ((), (0,), (0, 3), (2, 0), (1, 1, 1), (7,))
    }
    shared = next(iter(tensors.values()))
    tied = shared.with_(alias="tied")
    return {
        "model": {"dtypes": tensors, "shapes": shapes, "tied": tied, "again": {"tied": tied}},
        "optimizer": {
            "state": {0: {"step": tied, "rate": 0.1}, 1: {}},
            "groups": [{"params": [0, 1], "betas": (0.9, 0.999), "nesterov": False, "lr": None}],
        },
        "epoch": 3,
        "flag": True,
        "text": "häß\x00 ☃ \ud800",
        "values": [-0.0, float("inf"), float("-inf"), float("nan"), 1e-320, 2**63, -(10**40), 1 + 2j, b"\x00\xff", ""],
        "empty": [[], (), {}, [()]],
        "names": {"a/b": 1, "~": tied, "$tensor": "x", "": {"": 2}, (1, "x"): 3, None: 4},
    }


def untied(tree: Tree) -> Tree:
    """Return the tree with every tensor by itself, as a format without ties gives it back."""
    return map_leaves(tree, lambda _, leaf: leaf.with_(alias=None) if isinstance(leaf, LazyTensor) else leaf)
