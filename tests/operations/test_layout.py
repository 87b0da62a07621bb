"""layout=: parameters are laid out otherwise, optimizers' tensors with them, and the way back gives the bits again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multiframe_ckpt.checkpoint import Checkpoint
from multiframe_ckpt.errors import KeyRefusedError, MismatchError, RefusedError
from multiframe_ckpt.operations.convert import convert
from multiframe_ckpt.testing import assert_trees_equal
from multiframe_ckpt.tree import LazyTensor


def saved(path: Path, tree: Any) -> Path:
    Checkpoint(tree).save(path)
    return path


def tensor(*shape: int, start: int = 0) -> LazyTensor:
    return LazyTensor.from_array(np.arange(start, start + np.prod(shape), dtype=np.float32).reshape(shape))


def arrays(path: Path) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in Checkpoint.open(path).tensors().items()}


def test_rows_take_the_place_of_what_they_are_rows_of(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.safetensors", {"first": tensor(2), "qkv": tensor(6, 3), "last": tensor(1)})
    rules = [f"{name}=rows:{2 * i}:{2 * i + 2} of qkv" for i, name in enumerate("qkv")]
    report = convert(source, tmp_path / "b.safetensors", layout=rules)
    assert list(arrays(report_target(report))) == ["first", "q", "k", "v", "last"]
    assert report.laid_out == {name: f"rows:{2 * i}:{2 * i + 2} of qkv" for i, name in enumerate("qkv")}
    assert report.exact and report.excluded == ()
    back = convert(report.target, tmp_path / "c.safetensors", layout=["qkv=join of q, k, v"])
    assert back.exact
    np.testing.assert_equal(arrays(report_target(back)), arrays(source))


def report_target(report: Any) -> Path:
    return Path(report.target)


def test_what_no_rule_takes_of_a_tensor_is_left_out_and_said(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.safetensors", {"qkv": tensor(6, 3)})
    report = convert(source, tmp_path / "b.safetensors", layout=["q=rows:0:2 of qkv"])
    assert not report.exact and report.excluded == ("qkv",)


def test_layout_comes_before_the_other_rules(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.safetensors", {"m.kernel": tensor(2, 3), "x": tensor(1)})
    report = convert(
        source,
        tmp_path / "b.safetensors",
        layout=["*.weight=turn of *.kernel"],
        exclude=["x"],
        rename=["m.*=n.*"],
        dtype="bfloat16",
    )
    written = Checkpoint.open(report.target).tensors()
    assert {key: (leaf.dtype.name, leaf.shape) for key, leaf in written.items()} == {"n.weight": ("bfloat16", (3, 2))}
    assert (report.laid_out, report.renamed, dict(report.cast)) == (
        {"m.weight": "turn of m.kernel"},
        {"m.weight": "n.weight"},
        {"m.weight": "bfloat16"},
    )


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({"params": {"d": {"kernel": (2, 3), "bias": (3,)}}}, ["params/d/weight", "params/d/bias"]),
        ({"l": [{"kernel": (2, 3)}, {"kernel": (3, 2)}]}, ["l/0/weight", "l/1/weight"]),
    ],
)
def test_nested_weights_keep_their_nesting(tmp_path: Path, tree: Any, expected: list[str]) -> None:
    def built(node: Any) -> Any:
        if isinstance(node, tuple):
            return tensor(*node)
        return {k: built(v) for k, v in node.items()} if isinstance(node, dict) else [built(v) for v in node]

    source = saved(tmp_path / "a.pth", built(tree))
    report = convert(source, tmp_path / "b.pth", layout=["*/weight=turn of */kernel"])
    assert list(arrays(report_target(report))) == expected


@pytest.mark.parametrize(
    ("tree", "rule", "error", "message"),
    [
        ({"a": (2, 3), "n": 1}, "n=turn of a", KeyRefusedError, "layout of 'n': found something there already"),
        ({"a": (2, 3)}, "b=turn", KeyRefusedError, r"layout=\['b=turn'\]: found no tensor it matches"),
        ({"a": [(2, 3)]}, "b=turn of a/0", KeyRefusedError, "layout of 'a/0': found an item of a list"),
        ({"a": (2, 3), "b": (2,)}, "a/c=turn of b", RefusedError, "layout"),
    ],
)
def test_a_rule_with_no_room_is_refused_before_anything_is_written(
    tmp_path: Path, tree: Any, rule: str, error: type[Exception], message: str
) -> None:
    def built(node: Any) -> Any:
        return (
            tensor(*node) if isinstance(node, tuple) else [built(v) for v in node] if isinstance(node, list) else node
        )

    source = saved(tmp_path / "a.pth", {key: built(node) for key, node in tree.items()})
    with pytest.raises(error, match=message):
        convert(source, tmp_path / "b.pth", layout=[rule])
    assert not (tmp_path / "b.pth").exists()


def training(**options: Any) -> dict[str, Any]:
    """Return a checkpoint of three matrices and a bias with Adam's state in PyTorch's dialect."""
    shapes = {"q.weight": (2, 3), "k.weight": (4, 3), "fc.weight": (3, 3), "fc.bias": (3,)}
    entries = {
        number: {"step": tensor(start=7), "exp_avg": tensor(*shape, start=100), "exp_avg_sq": tensor(*shape, start=200)}
        for number, shape in enumerate(shapes.values())
    }
    usual = {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False, "maximize": False}
    group = {
        **usual,
        "foreach": None,
        "capturable": False,
        "differentiable": False,
        "fused": None,
        "params": [0, 1, 2, 3],
    }
    return {
        "model_state_dict": {name: tensor(*shape) for name, shape in shapes.items()},
        "optimizer_class": "Adam",
        "optimizer_state_dict": {"state": entries, "param_groups": [{**group, **options}]},
        "epoch": 3,
    }


def test_an_optimizers_tensors_are_turned_with_their_parameters_and_back(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.pth", training())
    report = convert(source, tmp_path / "b.pth", layout=["*.weight=turn"])
    assert report.exact
    before, after = arrays(source), arrays(report_target(report))
    assert list(before) == list(after)
    for key, array in before.items():
        np.testing.assert_array_equal(after[key], array.T)
    back = convert(report.target, tmp_path / "c.pth", layout=["*.weight=turn"])
    assert_trees_equal(Checkpoint.open(back.target).tree, Checkpoint.open(source).tree)


def test_tensors_of_joined_parameters_are_joined_and_of_rows_are_rows(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.pth", training())
    report = convert(source, tmp_path / "b.pth", layout=["qk.weight=join of q.weight, k.weight"])
    before, after = arrays(source), Checkpoint.open(report.target).tree["optimizer_state_dict"]
    assert [list(group["params"]) for group in after["param_groups"]] == [[0, 1, 2]]
    assert [float(entry["step"].numpy()) for entry in after["state"].values()] == [7, 7, 7]
    for name in "exp_avg", "exp_avg_sq":
        joined = [before[f"optimizer_state_dict/state/{number}/{name}"] for number in (0, 1)]
        np.testing.assert_array_equal(after["state"][0][name].numpy(), np.concatenate(joined))
    rules = ["q.weight=rows:0:2 of qk.weight", "k.weight=rows:2: of qk.weight"]
    back = arrays(report_target(convert(report.target, tmp_path / "c.pth", layout=rules)))
    np.testing.assert_equal(back, before)


def test_with_the_weights_alone_optimizers_are_not_asked(tmp_path: Path) -> None:
    tree = training()
    tree["optimizer_state_dict"]["state"][0]["exp_avg"] = tensor(5)
    source = saved(tmp_path / "a.pth", tree)
    with pytest.raises(MismatchError, match=r"model_only=True"):
        convert(source, tmp_path / "b.pth", layout=["*.weight=turn"])
    report = convert(source, tmp_path / "b.pth", layout=["*.weight=turn"], model_only=True)
    assert arrays(report_target(report))["q.weight"].shape == (3, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"params": [0, 1, 2, 3, 4]}, "found parameters that shapes do not tell apart"),
        ({"param_names": ["a", "b", "c", "d"]}, r"found the parameter 'a', expected one of the weights' names"),
    ],
)
def test_tensors_of_parameters_that_are_not_known_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    source = saved(tmp_path / "a.pth", training(**change))
    with pytest.raises(ValueError, match=message) as refusal:
        convert(source, tmp_path / "b.pth", layout=["*.weight=turn"])
    assert str(refusal.value).endswith("or take the weights alone: model_only=True")


def test_a_tie_of_which_one_side_is_turned_is_said_to_be_lost(tmp_path: Path) -> None:
    tied = LazyTensor.from_array(np.zeros((2, 2), np.float32), alias="storage")
    source = saved(tmp_path / "a.pth", {"a": tied, "b": tied, "c": tensor(2)})
    assert convert(source, tmp_path / "b.pth", layout=["a=turn", "b=turn"]).exact
    report = convert(source, tmp_path / "c.pth", layout=["a=turn"])
    assert report.lost_ties == (("a", "b"),) and not report.exact
