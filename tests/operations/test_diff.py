"""diff(): what differs is counted apart, a run and its own conversion are the same, and rules are those of convert."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.tree import LazyTensor


def compared(a: Any, b: Any, **options: Any) -> mfc.DiffReport:
    return mfc.diff(*(mfc.Checkpoint({"w": LazyTensor.from_array(np.asarray(values))}) for values in (a, b)), **options)


def tensor(*values: float) -> LazyTensor:
    return LazyTensor.from_array(np.array(values, np.float32))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.5], (1, 0.5, 0, 0)),
        ([np.nan, 2.0], [1.0, 2.5], (2, 0.5, 1, 0)),
        ([np.nan, 2.0], [1.0, 2.0], (1, None, 1, 0)),
        ([np.inf, 2.0], [-np.inf, 2.25], (2, 0.25, 0, 1)),
        ([np.inf, np.nan, 1.0], [np.inf, np.nan, 1.0 + 2**-40], (1, 2**-40, 0, 0)),
        ([0.0, 1.0], [-0.0, 1.0], (1, 0.0, 0, 0)),
        ([1 + 1j, complex("nan")], [1 + 2j, 1], (2, 1.0, 1, 0)),
    ],
)
def test_nans_and_infinities_are_counted_apart_and_hide_no_other_difference(
    a: list[Any], b: list[Any], expected: tuple[int, float | None, int, int]
) -> None:
    (change,) = compared(a, b).changed
    assert (change.differing, change.largest, change.nans, change.infinities) == expected
    assert (change.a, change.size) == (change.b, len(a))


def test_nans_of_other_bits_differ_bit_for_bit_and_not_within_a_tolerance() -> None:
    a, b = (np.array([bits], np.uint32).view(np.float32) for bits in (0x7FC00001, 0x7FC00002))
    (change,) = compared(a, b).changed
    assert (change.differing, change.nans, change.largest) == (1, 1, None)
    report = compared(a, b, atol=1e-9)
    assert (report.equal, report.exact, report.near) == (True, False, 1)


@pytest.mark.parametrize(
    ("dtype", "a", "b"),
    [("int64", -(2**63), 2**63 - 1), ("int64", 2**53, 2**53 + 1), ("uint64", 0, 2**64 - 1), ("int8", -128, 127)],
)
def test_integers_part_by_what_they_do(dtype: str, a: int, b: int) -> None:
    (change,) = compared(np.array([a], dtype), np.array([b], dtype)).changed
    assert change.largest == float(b - a)


def test_within_a_tolerance_only_what_is_beyond_it_is_counted() -> None:
    report = compared([1.0, 2.0, 3.0], [1.001, 2.5, 3.0], atol=0.01)
    (change,) = report.changed
    assert (change.differing, change.largest) == (1, 0.5)
    report = compared([1.0, 2.0], [1.001, 2.0], atol=0.01)
    assert (report.equal, report.exact, report.near) == (True, False, 1)
    assert "within the tolerance" in report.headline


def test_another_dtype_or_shape_has_no_number() -> None:
    (change,) = compared(np.ones(3, np.float32), np.ones(3, np.float64)).changed
    assert (change.a, change.b, change.differing) == ("float32 (3,)", "float64 (3,)", None)


SGD = {"lr": 0.1, "momentum": 0.9, "dampening": 0, "weight_decay": 0, "nesterov": False, "maximize": False}
ADAM = {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False, "maximize": False}
STEP = LazyTensor.from_array(np.array(3.0, np.float32))
STATES: dict[str, Any] = {
    "SGD of an old version": ({0: {"momentum_buffer": tensor(1, 2)}}, SGD),
    "SGD with a choice": ({0: {"momentum_buffer": tensor(1, 2)}}, {**SGD, "foreach": True, "fused": None}),
    "Adam": ({0: {"step": STEP, "exp_avg": tensor(1, 2), "exp_avg_sq": tensor(3, 4)}}, ADAM),
    "LBFGS": ({0: {"d": tensor(1, 2)}}, {"lr": 1.0, "max_iter": 20}),
}


def run(name: str) -> dict[str, Any]:
    state, options = STATES[name]
    schedule = {"gamma": 0.9, "base_lrs": [0.1], "last_epoch": 3, "_step_count": 4, "_last_lr": [0.1]}
    optimizer = {"state": dict(state), "param_groups": [{**options, "params": [0]}]}
    return {"model": {"w": tensor(5, 6)}, "optimizer": optimizer, "scheduler": schedule, "epoch": 3}


@pytest.mark.parametrize("name", STATES)
def test_a_run_and_its_own_conversion_are_the_same_whichever_stands_first(name: str, tmp_path: Path) -> None:
    mfc.Checkpoint(run(name)).save(tmp_path / "a.pt")
    mfc.convert(tmp_path / "a.pt", tmp_path / "b")
    mfc.convert(tmp_path / "b", tmp_path / "c.pt")
    a, b, c = tmp_path / "a.pt", tmp_path / "b", tmp_path / "c.pt"
    for one, other in [(a, b), (b, a), (b, c), (c, b)]:
        report = mfc.diff(one, other)
        assert report.equal, str(report)
    assert not mfc.diff(a, b, dialect="as-is").equal
    assert mfc.diff(a, b, dialect="oneflow").equal


def test_a_moment_that_differs_is_found_across_dialects(tmp_path: Path) -> None:
    tree = run("Adam")
    mfc.Checkpoint(tree).save(tmp_path / "a.pt")
    tree["optimizer"]["state"][0] = {**tree["optimizer"]["state"][0], "exp_avg": tensor(1, 2.5)}
    tree["optimizer"]["param_groups"][0]["lr"] = 0.2
    mfc.Checkpoint(tree).save(tmp_path / "other.pt")
    mfc.convert(tmp_path / "other.pt", tmp_path / "b")
    report = mfc.diff(tmp_path / "a.pt", tmp_path / "b")
    assert [change.key for change in report.changed] == ["optimizer/state/0/exp_avg", "optimizer/param_groups/0/lr"]
    assert (report.dialect, report.added, report.removed) == ("torch", (), ())


def test_checkpoints_of_one_framework_are_compared_as_they_are(tmp_path: Path) -> None:
    new, old = run("SGD with a choice"), run("SGD of an old version")
    report = mfc.diff(mfc.Checkpoint(old), mfc.Checkpoint(new))
    assert report.dialect is None
    assert report.added == ("optimizer/param_groups/0/foreach", "optimizer/param_groups/0/fused")


@pytest.mark.parametrize(
    "rules",
    [
        {"include": ["model/*"]},
        {"exclude": ["optimizer/*"]},
        {"rename": ["model/*=net/*"]},
        {"model_only": True},
        {"model_only": "model", "rename": ["w=weight"]},
        {"include": ["model/*"], "rename": ["model/*=net/*"]},
        {"exclude": ["optimizer/state/0/exp_avg"], "rename": ["model/w=model/weight"]},
    ],
    ids=str,
)
def test_a_checkpoint_and_what_a_conversion_by_rules_made_of_it_are_the_same_by_these(
    rules: dict[str, Any], tmp_path: Path
) -> None:
    mfc.Checkpoint(run("Adam")).save(tmp_path / "a.pt")
    mfc.convert(tmp_path / "a.pt", tmp_path / "b.safetensors", **rules)
    assert not mfc.diff(tmp_path / "a.pt", tmp_path / "b.safetensors").equal
    report = mfc.diff(tmp_path / "a.pt", tmp_path / "b.safetensors", **rules)
    assert report.equal, str(report)


def test_rules_select_on_both_sides_and_one_that_matches_nothing_is_refused() -> None:
    a, b = run("Adam"), run("Adam")
    b["optimizer"]["state"][0] = {**b["optimizer"]["state"][0], "exp_avg": tensor(0, 0)}
    left, right = mfc.Checkpoint(a), mfc.Checkpoint(b)
    assert not mfc.diff(left, right).equal
    assert mfc.diff(left, right, include=["model/*"]).equal
    assert mfc.diff(left, right, exclude=["*exp_avg"]).equal
    assert mfc.diff(left, right, model_only=True).equal
    with pytest.raises(mfc.KeyRefusedError, match="include"):
        mfc.diff(left, right, include=["nothing*"])
