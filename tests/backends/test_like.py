"""Templates: containers of any type come back as they were, and ties are the template's."""

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiframe_ckpt.backend import backend_named
from multiframe_ckpt.backend.containers import alike, misfits
from multiframe_ckpt.errors import CheckpointWarning, MismatchError, ValueRefusedError
from multiframe_ckpt.tree import LazyTensor

NUMPY = backend_named("numpy")


class Point(NamedTuple):
    x: object
    y: object


class Pair(tuple):
    """Takes its elements one by one."""

    def __new__(cls, first, second):
        return super().__new__(cls, (first, second))


class Steps(list):
    pass


class Frozen(Mapping):
    """As Flax's FrozenDict."""

    def __init__(self, entries):
        self._entries = dict(entries)

    def __getitem__(self, name):
        return self._entries[name]

    def __iter__(self):
        return iter(self._entries)

    def __len__(self):
        return len(self._entries)


def structures():
    """Nested containers of every type, of plain values and arrays."""
    leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.builds(np.zeros, st.just(2))
    names = st.text(max_size=3)

    def containers(inside):
        lists, dicts = st.lists(inside, max_size=3), st.dictionaries(names, inside, max_size=3)
        named = st.builds(Point, inside, inside) | st.builds(Pair, inside, inside)
        return lists | named | lists.map(tuple) | lists.map(Steps) | dicts | dicts.map(OrderedDict) | dicts.map(Frozen)

    return st.recursive(leaves, containers, max_leaves=12)


def types(node):
    """The types of a structure's containers and leaves, place by place."""
    if isinstance(node, Mapping):
        return type(node), {name: types(child) for name, child in node.items()}
    return (type(node), [types(child) for child in node]) if isinstance(node, list | tuple) else type(node)


def lazy(*values):
    return LazyTensor.from_array(np.array(values, np.float32))


@pytest.mark.parametrize(
    ("node", "like"),
    [
        ((1, 2), Point(0, 0)),
        ([1, 2], Point(0, 0)),
        ((1, 2), Pair(0, 0)),
        ((1, 2), [0]),
        ([1, 2], (0, 0, 0)),
        ([1, 2], Steps()),
        ({"b": 1, "a": 2}, OrderedDict(a=0)),
        ({2: 1}, Counter()),
        ({"a": 1}, Frozen({})),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_container_takes_the_type_of_the_one_in_the_template(node, like):
    made = alike(node, like)
    assert type(made) is type(like)
    assert list(made.items() if isinstance(node, dict) else made) == list(
        node.items() if isinstance(node, dict) else node
    )


@pytest.mark.filterwarnings("ignore::multiframe_ckpt.errors.CheckpointWarning")
@given(obj=structures())
def test_any_structure_comes_back_by_itself_as_the_template(obj):
    tree = NUMPY.to_tree(obj)
    assert types(NUMPY.from_tree(tree, like=obj)) == types(obj)
    new, report = NUMPY.loaded_like(obj, tree)
    assert (report.ok, types(new)) == (True, types(obj))
    assert repr(NUMPY.from_tree(NUMPY.to_tree(new))) == repr(NUMPY.from_tree(tree))


def test_types_are_taken_at_every_depth_and_where_there_is_no_template_they_stay():
    made = alike({"a": [(1, (2, 3)), (4,)], "b": (5,)}, {"a": [Point(0, Point(0, 0))], "c": 0})
    assert made == {"a": [Point(1, Point(2, 3)), (4,)], "b": (5,)}
    assert [type(made["a"][0]), type(made["a"][0].y), type(made["a"][1]), type(made["b"])] == [
        Point,
        Point,
        tuple,
        tuple,
    ]


def test_a_mapping_keeps_what_its_type_has_beside_its_entries():
    like = defaultdict(list, a=[1])
    made = alike({"b": 2}, like)
    assert (made, made["fresh"], like) == ({"b": 2, "fresh": []}, [], {"a": [1]})


def test_containers_of_two_kinds_stay_what_they_are():
    assert alike({"x": 1}, Point(0, 0)) == {"x": 1}
    assert alike([1, 2], {"x": 1}) == [1, 2]
    assert alike(7, Point(0, 0)) == 7


def test_a_named_tuple_of_another_length_is_found_at_any_depth():
    found = [*misfits({"a": [(1, 2, 3)]}, {"a": (Point(0, 0),)})]
    assert [str(one) for one in found] == ["a/0: found 3 elements, expected the 2 of Point"]


def test_only_a_few_of_many_tuples_are_named():
    with pytest.warns(CheckpointWarning, match=r"^4 \(.*Point\), .*8 \(.*Point\), …: found 9 tuples"):
        NUMPY.to_tree([*range(4), *[Point(1, 2)] * 9])


def test_plain_tuples_and_what_they_hold_are_not_named():
    assert NUMPY.to_tree({"a": (1, [(2,)])}) == {"a": (1, [(2,)])}


def test_new_arrays_are_tied_where_the_old_ones_are():
    array, apart = np.zeros(2, np.float32), np.zeros(2, np.float32)
    like = {"in": array, "out": array, "apart": apart}
    new, report = NUMPY.loaded_like(like, {"out": lazy(1, 2), "apart": lazy(1, 2)})
    assert (report.ok, sorted(report.loaded)) == (True, ["apart", "in", "out"])
    assert new["in"] is new["out"]
    assert not np.shares_memory(new["in"], new["apart"])
    assert array.tolist() == [0, 0]


@pytest.mark.parametrize("load", [NUMPY.load_into, NUMPY.loaded_like])
def test_two_values_for_tied_arrays_are_a_mismatch_that_names_both_keys(load):
    array = np.zeros(1, np.float32)
    live = {"a": array, "b": array, "c": array}
    with pytest.raises(MismatchError, match=r"'a' and 'b' are one tensor.*'a' and 'c' are one tensor"):
        load(live, {"a": lazy(1), "b": lazy(2), "c": lazy(3)})
    loaded = load(live, {"a": lazy(1), "b": lazy(2), "c": lazy(1)}, strict=False)
    report = loaded[1] if isinstance(loaded, tuple) else loaded
    assert (report.loaded, [one.key for one in report.mismatched]) == (("a", "c"), ["b"])


def test_equal_values_for_tied_arrays_are_loaded_whether_or_not_they_are_one_in_the_checkpoint():
    array, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    NUMPY.load_into({"a": array, "b": array}, {"a": lazy(-0.0), "b": lazy(-0.0)})
    assert np.signbit(array).all()
    with pytest.raises(MismatchError):
        NUMPY.load_into({"a": array, "b": array}, {"a": lazy(0.0), "b": lazy(-0.0)})
    NUMPY.load_into({"a": array, "b": array}, {"a": lazy(np.nan), "b": lazy(np.nan)})
    NUMPY.load_into({"a": array, "b": array, "z": zero}, {"b": lazy(3.0), "z": lazy(0.0)})
    assert array.tolist() == [3]


def test_arrays_that_are_tied_in_the_checkpoint_alone_come_apart():
    tree = NUMPY.to_tree({"model": (weights := np.ones(2, np.float32)), "average": weights})
    new, _ = NUMPY.loaded_like({"model": np.zeros(2, np.float32), "average": np.zeros(2, np.float32)}, tree)
    assert not np.shares_memory(new["model"], new["average"])


def test_a_template_ties_what_it_and_the_tree_tie():
    one, other = np.ones(2, np.float32), np.zeros(2, np.float32)
    tree = NUMPY.to_tree({"a": one, "b": one, "c": one})
    back = NUMPY.from_tree(tree, like={"a": other, "b": other, "c": np.zeros(2, np.float32)})
    assert back["a"] is back["b"]
    assert not any(np.shares_memory(back["c"], array) for array in (back["a"], one))


def test_what_cannot_be_filled_can_be_replaced():
    fixed = np.zeros(2, np.float32)
    fixed.flags.writeable = False
    tree = {"pair": (lazy(1, 2), 3)}
    with pytest.raises(MismatchError, match=r"pair/0: .* a writable array of .*pair/1: found int, expected"):
        NUMPY.load_into({"pair": (fixed, 1)}, tree)
    new, report = NUMPY.loaded_like({"pair": (fixed, 1)}, tree)
    assert ([new["pair"][0].tolist(), new["pair"][1]], report.ok) == ([[1, 2], 3], True)


def test_a_target_with_a_state_is_refused_by_its_key_however_deep():
    class Loop:
        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            raise AssertionError

    with pytest.raises(ValueRefusedError, match=r"^a/0: found a .*Loop, an object that can only be filled in place"):
        NUMPY.loaded_like({"a": [Loop()]}, {"a": [{}]}, strict=False)
