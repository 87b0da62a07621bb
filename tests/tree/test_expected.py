"""Doors from a Tree to a type that can be used: what is there comes back as it is, and anything else is refused by key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_origin

import numpy as np
import pytest

from multiframe_ckpt.errors import ValueRefusedError
from multiframe_ckpt.tree import (
    LazyTensor,
    TensorRef,
    Tree,
    Unknown,
    expect_entries,
    expect_items,
    expect_tensor,
    leaves,
    node_at,
)

TENSOR = LazyTensor.from_array(np.zeros(2, np.float32))


def test_the_type_of_a_tree_names_all_that_stands_in_one() -> None:
    kinds = {get_origin(kind) or kind for kind in get_args(Tree)}
    plain = {bool, int, float, complex, str, bytes, type(None)}
    assert kinds == {LazyTensor, Unknown, TensorRef, Mapping, Sequence} | plain


def test_every_node_is_found_at_its_path() -> None:
    tree = {"a": [1, (TENSOR, {2: "x"})], ("b", 3): None, "c": Unknown("x.Y", (TENSOR,), {"s": 2})}
    assert all(node_at(tree, path) is leaf for path, leaf in leaves(tree))
    assert node_at(tree, ()) is tree


@pytest.mark.parametrize(
    ("expect", "node"),
    [
        (expect_tensor, TENSOR),
        (expect_entries, {"a": 1}),
        (expect_entries, {}),
        (expect_items, [1]),
        (expect_items, ()),
    ],
)
def test_what_is_expected_comes_back_as_it_is(expect: Any, node: Any) -> None:
    assert expect(node, "key") is node


@pytest.mark.parametrize(
    ("expect", "node", "message"),
    [
        (expect_tensor, None, "rng/cpu: found nothing, expected a tensor"),
        (expect_tensor, np.zeros(2), "rng/cpu: found a ndarray, expected a tensor"),
        (expect_entries, [("a", 1)], "rng/cpu: found a list, expected a dict"),
        (expect_entries, Unknown("x.Y"), "rng/cpu: found a Unknown, expected a dict"),
        (expect_items, "text", "rng/cpu: found a str, expected a list"),
        (expect_items, {0: "a"}, "rng/cpu: found a dict, expected a list"),
    ],
)
def test_anything_else_is_refused_by_key(expect: Any, node: Any, message: str) -> None:
    with pytest.raises(ValueRefusedError, match=message):
        expect(node, "rng/cpu")
