"""Moves: rules are read and refused in words, do what NumPy does, and are read off a template where only one fits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiframe_ckpt.dtypes import dtype_named
from multiframe_ckpt.errors import DtypeRefusedError, KeyRefusedError, ValueRefusedError
from multiframe_ckpt.tree import LazyTensor
from multiframe_ckpt.tree.move_plan import MovePlan, plan_moves
from multiframe_ckpt.tree.moves import Move, parse_move

FLOAT32 = dtype_named("float32")
assert FLOAT32


def tensors(**shapes: tuple[int, ...]) -> dict[str, LazyTensor]:
    """Return numbered tensors of these shapes; ``__`` in a name stands for a dot."""
    arrays = {name.replace("__", "."): np.arange(np.prod(shape), dtype=np.float32) for name, shape in shapes.items()}
    return {
        name: LazyTensor.from_array(array.reshape(shape))
        for (name, array), shape in zip(arrays.items(), shapes.values(), strict=True)
    }


def wanted(**shapes: tuple[int, ...]) -> dict[str, Any]:
    return {name.replace("__", "."): (FLOAT32, shape) for name, shape in shapes.items()}


def plan(source: Mapping[str, Any], *rules: str, template: Any = None, kinds: Any = None) -> MovePlan:
    return plan_moves(source, template, rules=[parse_move(rule) for rule in rules], kinds=kinds)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("a=turn", lambda a, b: a.T),
        ("a=turn:0,1", lambda a, b: a),
        ("c=keep of b", lambda a, b: b),
        ("a=rows:1:3", lambda a, b: a[1:3]),
        ("a=rows::2", lambda a, b: a[:2]),
        ("c=rows:2: of b", lambda a, b: b[2:]),
        ("a=reshape:-1", lambda a, b: a.reshape(-1)),
        ("a=reshape:2,-1,2", lambda a, b: a.reshape(2, -1, 2)),
        ("a=turn+rows:1:2", lambda a, b: a.T[1:2]),
        ("a=rows:1:2+turn", lambda a, b: a[1:2].T),
        ("a=join of a, b", lambda a, b: np.concatenate([a, b])),
        ("a=join:1+turn of b,a,b", lambda a, b: np.concatenate([b, a, b], axis=1).T),
    ],
)
def test_a_rule_does_what_numpy_does(rule: str, expected: Any) -> None:
    source = {name: LazyTensor.from_array(np.random.rand(4, 6).astype(np.float32)) for name in "ab"}
    moved = plan(source, rule).apply(source)[rule[0]]
    array = expected(source["a"].numpy(), source["b"].numpy())
    assert moved.shape == array.shape
    np.testing.assert_array_equal(moved.numpy(), array)


def test_axes_are_those_of_numpys_transpose() -> None:
    source = tensors(conv__kernel=(3, 2, 4, 5))
    moved = plan(source, "conv.weight=turn:3,2,0,1 of conv.kernel").apply(source)
    np.testing.assert_array_equal(moved["conv.weight"].numpy(), source["conv.kernel"].numpy().transpose(3, 2, 0, 1))


def test_stars_stand_for_the_same_text_in_key_and_sources() -> None:
    source = tensors(l0__qkv__weight=(6, 2), l1__qkv__weight=(6, 2), norm=(3,))
    rules = [
        f"*.{name}.weight=rows:{start}:{start + 2} of *.qkv.weight" for name, start in [("q", 0), ("k", 2), ("v", 4)]
    ]
    moved = plan(source, *rules).apply(source)
    assert list(moved) == [f"l{layer}.{name}.weight" for layer in (0, 1) for name in "qkv"] + ["norm"]
    np.testing.assert_array_equal(moved["l1.k.weight"].numpy(), source["l1.qkv.weight"].numpy()[2:4])


def test_the_first_rule_that_gives_a_key_counts() -> None:
    source = tensors(a=(2, 3), b=(2, 3))
    assert plan(source, "a=keep", "*=turn").laid_out == {"b": "turn"}


@pytest.mark.parametrize(
    "rule",
    [
        "",
        "a",
        "a=",
        "=turn",
        "a=flip",
        "a=turn:",
        "a=turn:x",
        "a=rows",
        "a=rows:1",
        "a=rows:-1:2",
        "a=reshape:",
        "a=join",
        "a=turn of b, c",
        "*=turn of b",
        "a=turn+join of b, c",
        "a=turn of ",
        "a=keep+turn",
    ],
)
def test_what_is_no_rule_is_refused_with_examples_of_rules(rule: str) -> None:
    with pytest.raises(KeyRefusedError, match=r"found no rule, expected KEY=STEPS.*'fc\.weight=turn'"):
        parse_move(rule)


@given(
    st.sampled_from(["a", "*.w", "a.b"]),
    st.lists(st.sampled_from(["turn", "turn:1,0", "rows:0:3", "rows:2:", "reshape:2,-1"]), min_size=1, max_size=3),
    st.sampled_from(["", " of *", " of x"]),
)
def test_a_rule_is_written_as_it_is_read(key: str, steps: list[str], of: str) -> None:
    rule = f"{key}={'+'.join(steps)}{of}"
    if of and key.count("*") != of.count("*"):
        return
    assert str(parse_move(rule)) == rule
    assert parse_move(str(parse_move(rule))) == parse_move(rule)


@pytest.mark.parametrize(
    ("rule", "error", "message"),
    [
        ("c=turn", KeyRefusedError, r"layout=\['c=turn'\]: found no tensor it matches"),
        ("c=join of a, d", KeyRefusedError, r"found no tensor 'd'"),
        ("b=turn of a", KeyRefusedError, r"layout=\['b=turn of a'\]: found a tensor 'b' already, expected a free key"),
        ("a=turn:0,1,2", ValueRefusedError, r"layout=\['a=turn:0,1,2'\]: found shape \(4, 6\), expected 3 axes"),
        ("a=turn:0,0", ValueRefusedError, r"expected 2 axes"),
        ("a=rows:2:5", ValueRefusedError, r"found 4 rows, expected 2:5 among them"),
        ("a=reshape:5,5", ValueRefusedError, r"found shape \(4, 6\), expected as many elements as \(5, 5\)"),
        ("a=reshape:-1,-1", ValueRefusedError, r"as many elements"),
        (
            "c=join of a, b",
            ValueRefusedError,
            r"found shapes \(4, 6\), \(4, 5\), expected them to differ in axis 0 only",
        ),
    ],
)
def test_a_rule_that_does_not_work_out_is_refused(rule: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        plan(tensors(a=(4, 6), b=(4, 5)), rule)


def test_tensors_of_several_dtypes_are_not_joined() -> None:
    source = tensors(a=(2, 2)) | {"b": LazyTensor.from_array(np.zeros((2, 2), np.float64))}
    with pytest.raises(
        DtypeRefusedError, match="found the dtypes float32, float64, expected one to join; cast them first"
    ):
        plan(source, "c=join of a, b").apply(source)


@pytest.mark.parametrize(
    ("rules", "left_out"),
    [
        (["q=rows:0:2 of qkv", "k=rows:2:6 of qkv"], ()),
        (["q=rows:0:3 of qkv", "k=rows:2:6 of qkv"], ()),
        (["q=rows:0:2 of qkv"], ("qkv",)),
        (["q=rows:0:2 of qkv", "k=rows:3:6 of qkv"], ("qkv",)),
        (["q=rows:0:2 of qkv", "all=turn of qkv"], ()),
        (["q=turn+rows:0:1 of qkv", "k=turn+rows:1:2 of qkv"], ()),
        (["q=turn+rows:0:1 of qkv", "k=rows:1:6 of qkv"], ("qkv",)),
    ],
)
def test_a_plan_says_of_which_tensors_there_is_no_way_back(rules: list[str], left_out: tuple[str, ...]) -> None:
    assert plan(tensors(qkv=(6, 2), n=(2,)), *rules).left_out == left_out


LINEAR = {"a.weight": "linear", "fc.weight": "linear"}


@pytest.mark.parametrize(
    ("source", "template", "kinds", "laid_out"),
    [
        (wanted(fc__weight=(4, 4)), wanted(fc__weight=(4, 4)), None, {}),
        (wanted(a=(3, 5), n=(4,)), wanted(n=(4,), a=(5, 3)), None, {"a": "turn"}),
        (
            wanted(a__weight=(3, 5), fc__weight=(4, 4)),
            wanted(a__weight=(5, 3), fc__weight=(4, 4)),
            LINEAR,
            {"a.weight": "turn", "fc.weight": "turn"},
        ),
        (
            wanted(a__weight=(3, 5), e__weight=(4, 4), x__weight=(2, 7)),
            wanted(a__weight=(5, 3), e__weight=(4, 4), x__weight=(2, 7)),
            {"a.weight": "linear", "e.weight": "embedding", "x.weight": "embedding"},
            {"a.weight": "turn"},
        ),
        (wanted(fc__kernel=(4, 4)), wanted(fc__weight=(4, 4)), LINEAR, {"fc.weight": "turn of fc.kernel"}),
        (wanted(n__scale=(4,)), wanted(n__weight=(4,)), None, {"n.weight": "keep of n.scale"}),
        (
            wanted(c__kernel=(3, 3, 8, 8)),
            wanted(c__weight=(8, 8, 3, 3)),
            {"c.weight": "conv2d"},
            {"c.weight": "turn:3,2,0,1 of c.kernel"},
        ),
        (wanted(c__w=(2, 3, 4, 5)), wanted(c__w=(5, 4, 2, 3)), None, {"c.w": "turn:3,2,0,1"}),
        (wanted(x=(15,)), wanted(x=(5, 3)), None, {"x": "reshape:5,3"}),
        (wanted(x=(1, 15)), wanted(x=(15,)), None, {"x": "reshape:15"}),
        (
            wanted(at__qkv__weight=(12, 4), at__out__weight=(4, 4)),
            wanted(at__q__weight=(4, 4), at__k__weight=(4, 4), at__v__weight=(4, 4), at__out__weight=(4, 4)),
            None,
            {f"at.{name}.weight": f"rows:{4 * i}:{4 * i + 4} of at.qkv.weight" for i, name in enumerate("qkv")},
        ),
        (
            wanted(m__gate_up__weight=(4, 12)),
            wanted(m__gate__weight=(6, 4), m__up__weight=(6, 4)),
            None,
            {
                "m.gate.weight": "turn+rows:0:6 of m.gate_up.weight",
                "m.up.weight": "turn+rows:6:12 of m.gate_up.weight",
            },
        ),
        (
            wanted(q_proj__bias=(4,), k_proj__bias=(2,), v_proj__bias=(2,)),
            wanted(qkv__bias=(8,)),
            None,
            {"qkv.bias": "join of q_proj.bias, k_proj.bias, v_proj.bias"},
        ),
        (
            wanted(q_proj__weight=(4, 6), k_proj__weight=(4, 3)),
            wanted(qk__weight=(9, 4)),
            None,
            {"qk.weight": "join:1+turn of q_proj.weight, k_proj.weight"},
        ),
        (wanted(x=(3, 5), n=(4,)), wanted(y=(5, 3), m=(4,)), None, {"y": "turn of x", "m": "keep of n"}),
    ],
)
def test_what_a_template_says_is_inferred(source: Any, template: Any, kinds: Any, laid_out: Mapping[str, str]) -> None:
    inferred = plan(source, template=template, kinds=kinds)
    assert [move.key for move in inferred.moves] == list(template)
    assert inferred.laid_out == laid_out
    arrays = {key: LazyTensor.from_array(np.zeros(shape, np.float32)) for key, (_, shape) in source.items()}
    assert {key: tensor.shape for key, tensor in inferred.apply(arrays).items()} == {
        key: shape for key, (_, shape) in template.items()
    }


@pytest.mark.parametrize(
    ("source", "template", "kinds", "rules"),
    [
        (
            wanted(a__weight=(3, 5), fc__weight=(4, 4)),
            wanted(a__weight=(5, 3), fc__weight=(4, 4)),
            None,
            ["fc.weight=keep", "fc.weight=turn"],
        ),
        (
            wanted(a__weight=(3, 5), b__weight=(2, 7), fc__weight=(4, 4)),
            wanted(a__weight=(5, 3), b__weight=(2, 7), fc__weight=(4, 4)),
            LINEAR | {"b.weight": "linear"},
            ["fc.weight=keep", "fc.weight=turn"],
        ),
        (
            wanted(fc__kernel=(4, 4)),
            wanted(fc__weight=(4, 4)),
            None,
            ["fc.weight=keep of fc.kernel", "fc.weight=turn of fc.kernel"],
        ),
        (
            wanted(c__kernel=(3, 3, 8, 16)),
            wanted(c__weight=(16, 8, 3, 3)),
            None,
            ["c.weight=turn:3,2,0,1 of c.kernel", "c.weight=turn of c.kernel"],
        ),
        (wanted(x=(3, 5), z=(3, 5)), wanted(y=(5, 3)), None, ["y=turn of x", "y=turn of z"]),
        (
            wanted(at__qkv=(8, 2), at__kv=(8, 2)),
            wanted(at__k=(4, 2), at__v=(4, 2)),
            None,
            ["at.k=rows:0:4 of at.qkv", "at.k=rows:0:4 of at.kv"],
        ),
    ],
)
def test_where_two_readings_fit_the_plan_is_refused_with_both_rules_and_each_decides(
    source: Any, template: Any, kinds: Any, rules: list[str]
) -> None:
    with pytest.raises(ValueRefusedError, match="expected one; say which: ") as refusal:
        plan(source, template=template, kinds=kinds)
    for rule in rules:
        assert f"layout=[{rule!r}]" in str(refusal.value)
        key = rule.partition("=")[0]
        decided = next((move for move in _decided(source, template, kinds, rule) if move.key == key), None)
        assert decided == parse_move(rule)


def _decided(source: Any, template: Any, kinds: Any, rule: str) -> tuple[Move, ...]:
    key = rule.partition("=")[0]
    return plan(source, rule, template={key: template[key]}, kinds=kinds).moves


def test_parts_in_no_known_order_are_refused_with_the_rules_that_say_one() -> None:
    source = wanted(at__c_attn__weight=(4, 12))
    template = wanted(at__q__weight=(4, 4), at__k__weight=(4, 4), at__v__weight=(4, 4))
    with pytest.raises(ValueRefusedError, match="nothing that says in which order") as refusal:
        plan(source, template=template)
    rules = [f"at.{name}.weight=turn+rows:{4 * i}:{4 * i + 4} of at.c_attn.weight" for i, name in enumerate("qkv")]
    assert all(repr(rule) in str(refusal.value) for rule in rules)
    assert plan(source, *rules, template=template).left_out == ()


@pytest.mark.parametrize(
    ("source", "template", "rules", "error", "message"),
    [
        (
            wanted(x=(3, 7)),
            wanted(y=(5, 9)),
            [],
            KeyRefusedError,
            r"y: found no tensor .*\(5, 9\).*layout=\['y=turn of x'\]",
        ),
        (wanted(), wanted(y=(5, 9)), [], KeyRefusedError, r"y: found no tensor it could be made of"),
        (wanted(x=(2, 6)), wanted(x=(3, 4)), [], ValueRefusedError, r"no order of its axes.*'x=turn\+reshape:3,4'"),
        (
            wanted(x=(2, 6)),
            wanted(x=(2, 6)),
            ["x=turn"],
            ValueRefusedError,
            r"shape \(6, 2\) comes of it, expected \(2, 6\)",
        ),
        (wanted(x=(2, 6)), wanted(x=(2, 6)), ["y=turn of x"], KeyRefusedError, r"found no 'y' in the template"),
    ],
)
def test_what_nothing_fits_is_refused(
    source: Any, template: Any, rules: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        plan(source, *rules, template=template)


def test_moments_go_the_way_of_their_parameters() -> None:
    source = tensors(fc__weight=(2, 3), q=(2, 4), k=(3, 4), frozen=(2,))
    layout = plan(source, "fc.weight=turn", "qk=join of q, k")
    moments = {
        name: {"exp_avg": tensor, "step": LazyTensor.from_array(np.array(3.0))} for name, tensor in source.items()
    }
    del moments["frozen"], moments["q"]["step"], moments["k"]["step"]
    moved = layout.apply_to_moments(moments)
    assert list(moved) == ["fc.weight", "qk"]
    np.testing.assert_array_equal(moved["fc.weight"]["exp_avg"].numpy(), source["fc.weight"].numpy().T)
    assert moved["fc.weight"]["step"] is moments["fc.weight"]["step"]
    np.testing.assert_array_equal(moved["qk"]["exp_avg"].numpy(), np.concatenate([source["q"], source["k"]]))


@pytest.mark.parametrize(
    ("moments", "message"),
    [
        (
            {"q": {"row": (2,)}, "k": {"row": (3,)}},
            r"qk: found row of shape \(2,\), \(3,\), expected .* parameter's shape",
        ),
        ({"q": {"m": (2, 4)}}, "qk: found moments of some of q, k, expected of all"),
        ({"q": {"m": (2, 4)}, "k": {}}, r"found m of shape \(2, 4\)"),
    ],
)
def test_moments_that_cannot_go_along_are_refused(moments: Any, message: str) -> None:
    layout = plan(tensors(q=(2, 4), k=(3, 4)), "qk=join of q, k")
    table = {key: tensors(**shapes) for key, shapes in moments.items()}
    with pytest.raises(ValueRefusedError, match=message):
        layout.apply_to_moments(table)


def test_tied_tensors_that_are_turned_alike_stay_tied() -> None:
    tied = LazyTensor.from_array(np.zeros((2, 3), np.float32), alias="storage")
    moved = plan({"a": tied, "b": tied}, "*=turn").apply({"a": tied, "b": tied})
    assert moved["a"].identity == moved["b"].identity is not None
