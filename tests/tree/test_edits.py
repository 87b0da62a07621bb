"""edit(): one pass drops, exchanges, renames and splits tensors by their keys, and refuses a new key that is taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from multiframe_ckpt.errors import KeyRefusedError
from multiframe_ckpt.tree import LazyTensor, Unknown, edit, tensors, unknown_as_dicts
from multiframe_ckpt.tree.edits import Placed


def tensor() -> LazyTensor:
    return LazyTensor.from_array(np.zeros(2, np.float32))


A, B, C, D = (tensor() for _ in range(4))


def rename_in(tree: Any, new_keys: dict[str, str]) -> Any:
    table = tensors(tree)
    return edit(tree, {key: [(new_key, table[key])] for key, new_key in new_keys.items()}, what="rename")


@pytest.mark.parametrize(
    ("tree", "drop", "expected"),
    [
        ({"a": A, "b": B, "n": 1}, {"a"}, {"b": B, "n": 1}),
        ({"m": {"a": A}, "n": 1}, {"m/a"}, {"n": 1}),
        ({"m": {"a": A, "s": 1}, "e": {}}, {"m/a"}, {"m": {"s": 1}, "e": {}}),
        ({"l": [A, B]}, {"l/0"}, {"l": [None, B]}),
        ({"l": (A, {"b": B})}, {"l/1/b"}, {"l": (A, None)}),
        ({"a": A}, {"a"}, {}),
        (A, {""}, {}),
        ({1: A, "1": B}, {"1~"}, {1: A}),
    ],
)
def test_dropped_tensors_leave_and_so_do_the_dicts_they_empty(tree: Any, drop: set[str], expected: Any) -> None:
    assert edit(tree, dict.fromkeys(drop, ()), what="drop") == expected


@pytest.mark.parametrize(
    ("rename", "expected"),
    [
        ({"m/a": "m/z"}, {"m": {"z": A, "b": B, "n": 1}, 1: {2: C}}),
        ({"m/a": "m/b", "m/b": "m/a"}, {"m": {"b": A, "a": B, "n": 1}, 1: {2: C}}),
        ({"m/a": "x/y/z"}, {"m": {"b": B, "n": 1}, 1: {2: C}, "x": {"y": {"z": A}}}),
        ({"m/a": "~1/x"}, {"m": {"b": B, "n": 1}, 1: {2: C}, "/": {"x": A}}),
        ({"1/2": "1/two"}, {"m": {"a": A, "b": B, "n": 1}, 1: {"two": C}}),
        ({"1/2": "two"}, {"m": {"a": A, "b": B, "n": 1}, 1: {}, "two": C}),
    ],
)
def test_a_renamed_tensor_keeps_its_place_in_its_dict_or_goes_last_in_another(
    rename: dict[str, str], expected: Any
) -> None:
    edited = rename_in({"m": {"a": A, "b": B, "n": 1}, 1: {2: C}}, rename)
    assert edited == expected
    assert list(edited["m"]) == list(expected["m"])


def test_a_checkpoint_that_is_one_tensor_can_be_given_a_key() -> None:
    assert rename_in(A, {"": "weights/a"}) == {"weights": {"a": A}}


def test_all_at_once_goes_by_the_keys_of_the_tree_that_was_given() -> None:
    tree = {"a": A, "b": B, "c": C}
    placed: dict[str, Placed] = {"a": (), "b": [("a", D)], "c": [("deep/b", C)]}
    assert edit(tree, placed, what="rename") == {"a": D, "deep": {"b": C}}
    assert tree == {"a": A, "b": B, "c": C}


def test_one_tensor_may_become_several_each_in_its_place() -> None:
    edited = edit({"a": A, "n": 1, "b": B}, {"a": [("q", C), ("k", D)], "b": ()}, what="layout of")
    assert list(edited.items()) == [("q", C), ("k", D), ("n", 1)]


@pytest.mark.parametrize(
    ("tree", "rename"),
    [
        ({"epoch": 1, "a": A}, {"a": "epoch"}),
        ({"a": A, "epoch": 1}, {"a": "epoch"}),
        ({"m": {"a": A}, "epoch": 1}, {"m/a": "epoch"}),
        ({"m": {"a": A}, "epoch": 1}, {"m/a": "epoch/a"}),
        ({"l": [A]}, {"l/0": "x"}),
        ({"l": [A]}, {"l/0": "l/1"}),
        ({"l": ({"a": A},)}, {"l/0/a": "l/1/a"}),
    ],
)
def test_a_new_key_that_is_taken_and_an_old_one_of_a_list_are_refused(tree: Any, rename: dict[str, str]) -> None:
    with pytest.raises(KeyRefusedError, match=r"^rename.*found .*, expected "):
        rename_in(tree, rename)


def test_unknown_objects_become_dicts_wherever_they_stand_and_are_named() -> None:
    inner = Unknown("b.B", (A,))
    tree, names = unknown_as_dicts(Unknown("a.A", None, {"x": [inner], 2: 1}))
    assert names == ["(top): a.A", "state/x/0: b.B"]
    assert tree == {"__unknown__": "a.A", "state": {"x": [{"__unknown__": "b.B", "args": (A,)}], 2: 1}}
