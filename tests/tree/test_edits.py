"""edit(): one pass drops, exchanges and renames tensors by their keys, and refuses a new key that is taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from multiframe_ckpt.errors import KeyRefusedError
from multiframe_ckpt.tree import LazyTensor, Unknown, edit, unknown_as_dicts


def tensor() -> LazyTensor:
    return LazyTensor.from_array(np.zeros(2, np.float32))


A, B, C, D = (tensor() for _ in range(4))


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
    assert edit(tree, drop=drop) == expected


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
    edited = edit({"m": {"a": A, "b": B, "n": 1}, 1: {2: C}}, rename=rename)
    assert edited == expected
    assert list(edited["m"]) == list(expected["m"])


def test_a_checkpoint_that_is_one_tensor_can_be_given_a_key() -> None:
    assert edit(A, rename={"": "weights/a"}) == {"weights": {"a": A}}


def test_all_at_once_goes_by_the_keys_of_the_tree_that_was_given() -> None:
    tree = {"a": A, "b": B, "c": C}
    assert edit(tree, drop={"a"}, exchange={"b": D}, rename={"b": "a", "c": "deep/b"}) == {"a": D, "deep": {"b": C}}
    assert tree == {"a": A, "b": B, "c": C}


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
        edit(tree, rename=rename)


def test_unknown_objects_become_dicts_wherever_they_stand_and_are_named() -> None:
    inner = Unknown("b.B", (A,))
    tree, names = unknown_as_dicts(Unknown("a.A", None, {"x": [inner], 2: 1}))
    assert names == ["(top): a.A", "state/x/0: b.B"]
    assert tree == {"__unknown__": "a.A", "state": {"x": [{"__unknown__": "b.B", "args": (A,)}], 2: 1}}
