"""Walkers: containers keep their kind, order and depth; what is missing leaves a dict and stands as None in a list."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from typing import Any

import numpy as np
import pytest

from multiframe_ckpt.errors import ValueRefusedError
from multiframe_ckpt.tree import (
    MAX_DEPTH,
    MISSING,
    LazyTensor,
    Unknown,
    is_leaf,
    key_of,
    leaves,
    map_leaves,
    rebuild,
    tensor_paths,
    tensors,
    unknown_as_dicts,
)

Pair = namedtuple("Pair", "left right")
TENSOR = LazyTensor.from_array(np.zeros(2, np.float32))


def test_a_rebuilt_container_is_of_its_kind_and_visits_children_with_their_paths() -> None:
    seen: list[Any] = []

    def visit(path: Any, child: Any) -> Any:
        seen.append((path, child))
        return child

    for node in ({"a": 1, 2: "b"}, [1, 2], (1, 2), Unknown("x.Y", (1,), {"s": 2}), {}, [], ()):
        again = rebuild(node, visit, ("top",))
        assert type(again) is type(node)
        assert list(leaves(again)) == list(leaves(node))
    assert seen[:2] == [(("top", "a"), 1), (("top", 2), "b")]


def test_what_is_missing_leaves_a_dict_and_stands_as_none_in_a_list_or_tuple() -> None:
    def visit(_: Any, child: Any) -> Any:
        return MISSING if child == 1 else child

    assert rebuild({"a": 1, "b": 2}, visit) == {"b": 2}
    assert rebuild([1, 2], visit) == [None, 2]
    assert rebuild((1, 2), visit) == (None, 2)
    unknown = rebuild(Unknown("x.Y", (2,), 1, [2]), visit)
    assert (unknown.args, unknown.state, unknown.items) == ((2,), None, [2])


@pytest.mark.parametrize("node", [OrderedDict(a=1), Pair(1, 2)], ids=["dict", "tuple"])
def test_containers_of_other_classes_become_plain_ones(node: Any) -> None:
    again = map_leaves(node, lambda _, leaf: leaf)
    assert type(again) is type(node).__bases__[0]
    assert again == node


def test_an_unknown_keeps_what_it_was_called_with_even_nothing() -> None:
    for args in (None, (), (1,)):
        again = map_leaves(Unknown("x.Y", args, {"a": 1}), lambda _, leaf: leaf)
        assert (again.args, again.state) == (args, {"a": 1})


def test_objects_that_no_tree_knows_are_leaves() -> None:
    array = np.arange(3)
    assert is_leaf(array)
    assert map_leaves([array, MISSING], lambda _, leaf: leaf)[0] is array
    assert not any(map(is_leaf, ({}, [], (), Unknown("x"))))


@pytest.mark.parametrize("wrap", [lambda node: [node], lambda node: {"a": node}, lambda node: Unknown("x", (node,))])
@pytest.mark.parametrize(
    "walk", [lambda tree: list(leaves(tree)), unknown_as_dicts, lambda tree: map_leaves(tree, key)]
)
def test_a_tree_that_nests_too_deep_is_refused_by_every_walk(wrap: Any, walk: Any) -> None:
    tree: Any = 1
    for _ in range(MAX_DEPTH + 2):
        tree = wrap(tree)
    with pytest.raises(ValueRefusedError, match="nest deeper than 128"):
        walk(tree)


def key(path: Any, _: Any) -> str:
    return key_of(path)


def test_the_paths_of_tensors_have_the_keys_of_the_table() -> None:
    tree = {"a": [TENSOR, 1], 1: TENSOR, "1": TENSOR}
    assert tensor_paths(tree) == {"a/0": ("a", 0), "1": (1,), "1~": ("1",)}
    assert list(tensor_paths(tree)) == list(tensors(tree))
    assert tensor_paths(TENSOR) == {"": ()}
