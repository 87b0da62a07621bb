"""convert(): rules, refusals and reports, without any framework."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.dtypes import DTYPES
from multiframe_ckpt.testing import assert_trees_equal, rich_tree
from multiframe_ckpt.tree import LazyTensor


def tensor(*shape: int, dtype: str = "float32") -> LazyTensor:
    return LazyTensor.from_array(np.arange(np.prod(shape, dtype=int)).astype(dtype).reshape(shape))


def training_tree() -> dict[str, Any]:
    return {
        "epoch": 3,
        "model_state_dict": {"module.l1.weight": tensor(2, 3), "module.l1.bias": tensor(2), "n": tensor(dtype="int64")},
        "optimizer_state_dict": {
            "state": {0: {"step": tensor(), "exp_avg": tensor(2, 3), "exp_avg_sq": tensor(2, 3)}},
            "param_groups": [{"lr": 0.1, "params": [0]}],
        },
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    mfc.Checkpoint(training_tree()).save(tmp_path / "run.pt")
    return tmp_path / "run.pt"


def test_the_suffix_names_the_format_and_none_is_oneflows_folder(source: Path, tmp_path: Path) -> None:
    for name, expected in {"a": "oneflow", "a.PTH": "torch", "a.h5": "hdf5", "a.json": "json", "a.npz": "npz"}.items():
        assert mfc.convert(source, tmp_path / name).target_format == expected
    with pytest.raises(mfc.UnknownFormatError, match="format='torch'"):
        mfc.convert(source, tmp_path / "a.xyz")


def test_rename_include_and_exclude_change_what_they_name_and_keep_the_order(source: Path, tmp_path: Path) -> None:
    report = mfc.convert(
        source,
        tmp_path / "x.pt",
        include=["model_state_dict/*"],
        exclude=["*/n"],
        rename=["model_state_dict/module.*=model_state_dict/*"],
    )
    tree = mfc.open(tmp_path / "x.pt").tree
    assert list(tree["model_state_dict"]) == ["l1.weight", "l1.bias"]
    assert tree["epoch"] == 3
    assert report.renamed == {
        f"model_state_dict/module.l1.{name}": f"model_state_dict/l1.{name}" for name in ("weight", "bias")
    }
    assert "model_state_dict/n" in report.excluded
    assert not report.exact


def test_a_tensor_can_move_to_another_part_of_the_tree(source: Path, tmp_path: Path) -> None:
    mfc.convert(source, tmp_path / "x.pt", rename=["model_state_dict/n=counters/batches"])
    assert mfc.open(tmp_path / "x.pt").tree["counters"]["batches"].dtype.name == "int64"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("rename", ["nothing=x"]),
        ("rename", ["a"]),
        ("rename", ["a*=b"]),
        ("rename", ["model_state_dict/module.l1.*=model_state_dict/same"]),
        ("rename", ["model_state_dict/module.l1.weight=model_state_dict/module.l1.bias"]),
        ("rename", ["model_state_dict/n=epoch"]),
        ("include", ["nothing*"]),
        ("exclude", ["nothing*"]),
    ],
)
def test_a_rule_that_does_not_work_out_is_refused(source: Path, tmp_path: Path, option: str, value: list[str]) -> None:
    with pytest.raises(mfc.KeyRefusedError):
        mfc.convert(source, tmp_path / "x.pt", **{option: value})
    assert not (tmp_path / "x.pt").exists()


def test_model_only_takes_the_state_dict_and_says_what_it_left(source: Path, tmp_path: Path) -> None:
    report = mfc.convert(source, tmp_path / "w.safetensors", model_only=True)
    assert list(mfc.open(tmp_path / "w.safetensors").tree) == ["module.l1.weight", "module.l1.bias", "n"]
    assert "epoch" in report.excluded
    assert not report.exact


def test_a_cast_changes_floating_weights_and_leaves_the_optimizer_unless_asked(source: Path, tmp_path: Path) -> None:
    report = mfc.convert(source, tmp_path / "h.pt", dtype="bfloat16")
    tensors = mfc.open(tmp_path / "h.pt").tensors()
    names = {key: tensor.dtype.name for key, tensor in tensors.items()}
    assert names["model_state_dict/module.l1.weight"] == "bfloat16"
    assert names["model_state_dict/n"] == "int64"
    assert names["optimizer_state_dict/state/0/exp_avg"] == "float32"
    assert set(report.cast.values()) == {"bfloat16"}
    mfc.convert(source, tmp_path / "o.pt", optimizer_dtype="float64")
    tensors = mfc.open(tmp_path / "o.pt").tensors()
    assert tensors["optimizer_state_dict/state/0/exp_avg"].dtype.name == "float64"
    assert tensors["optimizer_state_dict/state/0/step"].dtype.name == "float32"
    assert tensors["model_state_dict/module.l1.weight"].dtype.name == "float32"


@pytest.mark.parametrize("name", ["int8", "nonsense", "complex64"])
def test_a_cast_to_anything_but_a_float_is_refused(source: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(mfc.DtypeRefusedError, match=name):
        mfc.convert(source, tmp_path / "x.pt", dtype=name)


def test_a_cast_that_would_overflow_is_refused_by_name_and_value(tmp_path: Path) -> None:
    mfc.Checkpoint({"w": LazyTensor.from_array(np.array([1.0, 1e6, np.inf], np.float32))}).save(tmp_path / "a.pt")
    with pytest.raises(mfc.DtypeRefusedError, match=r"^w: found the value 1000000\.0"):
        mfc.convert(tmp_path / "a.pt", tmp_path / "b.pt", dtype="float16")
    assert sorted(os.listdir(tmp_path)) == ["a.pt"]


def test_signalling_nans_are_cast_and_compared_without_a_warning(tmp_path: Path) -> None:
    bits = np.array([0x7F81, 0x3F80], np.uint16)
    bfloat16 = next(row for row in DTYPES if row.name == "bfloat16")
    mfc.Checkpoint({"w": LazyTensor.from_array(bits.view(bfloat16.numpy))}).save(tmp_path / "a.pt")
    mfc.convert(tmp_path / "a.pt", tmp_path / "b.pt", dtype="float16")
    assert np.isnan(mfc.open(tmp_path / "b.pt").tensors()["w"].numpy()[0])
    bits[0] ^= 2
    other = mfc.Checkpoint({"w": LazyTensor.from_array(bits.view(bfloat16.numpy))})
    assert len(mfc.diff(mfc.open(tmp_path / "a.pt"), other).changed) == 1


def test_tied_tensors_stay_tied_through_a_cast(tmp_path: Path) -> None:
    tied = LazyTensor.from_array(np.ones(4, np.float32), alias="tied")
    mfc.Checkpoint({"a": tied, "b": tied}).save(tmp_path / "a.pt")
    mfc.convert(tmp_path / "a.pt", tmp_path / "b.pt", dtype="float16")
    tensors = mfc.open(tmp_path / "b.pt").tensors()
    assert tensors["a"].identity == tensors["b"].identity is not None


def test_a_dry_run_says_the_same_and_writes_nothing(source: Path, tmp_path: Path) -> None:
    dry = mfc.convert(source, tmp_path / "x", dry_run=True)
    assert sorted(os.listdir(tmp_path)) == ["run.pt"]
    wet = mfc.convert(source, tmp_path / "x")
    for name in type(dry).__dataclass_fields__:
        assert name == "dry_run" or getattr(dry, name) == getattr(wet, name)


def test_nothing_is_overwritten_unasked_and_a_foreign_folder_never(source: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.tex").write_text("years of work")
    mfc.convert(source, tmp_path / "c")
    with pytest.raises(mfc.TargetExistsError, match="overwrite=True"):
        mfc.convert(source, tmp_path / "c")
    mfc.convert(source, tmp_path / "c", overwrite=True)
    with pytest.raises(mfc.FormatError):
        mfc.convert(source, tmp_path / "notes", overwrite=True)
    (tmp_path / "c" / "thesis.tex").write_text("years of work")
    with pytest.raises(mfc.FormatError, match=r"thesis\.tex"):
        mfc.convert(source, tmp_path / "c", overwrite=True)
    assert (tmp_path / "c" / "thesis.tex").read_text() == (tmp_path / "notes" / "thesis.tex").read_text()


def test_a_checkpoint_can_be_converted_onto_itself(source: Path) -> None:
    mfc.convert(source, source, overwrite=True, dtype="float64")
    assert mfc.open(source).tensors()["model_state_dict/module.l1.bias"].numpy().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("cast", [None, "float64"])
def test_damaged_values_stop_a_conversion_also_under_a_cast(source: Path, tmp_path: Path, cast: str | None) -> None:
    mfc.convert(source, tmp_path / "c")
    damaged = tmp_path / "c" / "model_state_dict" / "module.l1.weight" / "out"
    raw = bytearray(damaged.read_bytes())
    raw[-1] ^= 1
    damaged.write_bytes(raw)
    with pytest.raises(mfc.DamagedError, match=r"module\.l1\.weight: found bytes with digest"):
        mfc.convert(tmp_path / "c", tmp_path / "d.pt", dtype=cast)
    assert not (tmp_path / "d.pt").exists()
    report = mfc.verify(tmp_path / "c")
    assert (report.whole, len(report.problems)) == (False, 1)


def test_an_optimizer_crosses_into_oneflows_dialect_and_back(tmp_path: Path) -> None:
    adam = {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False, "maximize": False}
    adam |= {"foreach": None, "capturable": False, "differentiable": False, "fused": None}
    adam["decoupled_weight_decay"] = False  # torch 2.6 and newer
    tree = training_tree()
    tree["optimizer_class"] = "Adam"
    tree["optimizer_state_dict"]["param_groups"] = [{**adam, "params": [0]}]
    mfc.Checkpoint(tree).save(tmp_path / "a.pt")
    report = mfc.convert(tmp_path / "a.pt", tmp_path / "b")
    state = mfc.open(tmp_path / "b").tree["optimizer_state_dict"]
    assert state["state"]["step"] == 0
    assert state["param_groups"][0]["_options"]["lr"] == 0.1
    assert (len(report.translated), report.inexact, report.exact) == (1, (), True)
    mfc.convert(tmp_path / "b", tmp_path / "c.pt")
    assert (tmp_path / "c.pt").read_bytes() == (tmp_path / "a.pt").read_bytes()
    mfc.convert(tmp_path / "a.pt", tmp_path / "kept", backend="torch")
    assert_trees_equal(mfc.open(tmp_path / "kept").tree, tree)


def test_options_that_come_back_in_another_order_are_no_loss(tmp_path: Path) -> None:
    sgd = {"momentum": 0.9, "lr": 0.1, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False, "maximize": False}
    sgd |= {"foreach": None, "differentiable": False, "fused": None}  # torch has lr before momentum
    state = {"state": {}, "param_groups": [{**sgd, "params": [0]}]}
    mfc.Checkpoint({"optimizer_state_dict": state}).save(tmp_path / "a.pt")
    report = mfc.convert(tmp_path / "a.pt", tmp_path / "b")
    assert (report.inexact, report.exact, report.resumable) == ((), True, True)


@pytest.mark.parametrize("backend", ["numpy", "jax"])
def test_a_backend_without_a_dialect_is_refused(source: Path, tmp_path: Path, backend: str) -> None:
    with pytest.raises(mfc.UnknownNameError, match=f"found '{backend}', expected one of torch, oneflow"):
        mfc.convert(source, tmp_path / "x", backend=backend)


def test_what_cannot_cross_stays_and_is_named(source: Path, tmp_path: Path) -> None:
    tree = training_tree()
    tree["optimizer_state_dict"]["param_groups"][0]["max_iter"] = 20
    mfc.Checkpoint(tree).save(tmp_path / "lbfgs.pt")
    report = mfc.convert(tmp_path / "lbfgs.pt", tmp_path / "c")
    assert report.translated == ()
    assert "LBFGS" in report.untranslated[0]
    assert_trees_equal(mfc.open(tmp_path / "c").tree, tree)


def test_user_metadata_crosses_where_there_is_a_place_and_is_named_where_there_is_none(tmp_path: Path) -> None:
    checkpoint = mfc.Checkpoint({"w": tensor(2)}, {"metadata": {"licence": "CC0"}})
    checkpoint.save(tmp_path / "a.safetensors")
    assert mfc.convert(tmp_path / "a.safetensors", tmp_path / "b.h5").exact
    assert mfc.open(tmp_path / "b.h5").meta["metadata"] == {"licence": "CC0"}
    report = mfc.convert(tmp_path / "b.h5", tmp_path / "c.pt")
    assert (report.lost_metadata, report.exact) == (("licence",), False)


@pytest.mark.parametrize("to", ["torch", "oneflow-pickle", "hdf5", "npz", "json"])
def test_everything_a_tree_can_hold_comes_back_from_each_format(tmp_path: Path, to: str) -> None:
    held = [row for row in DTYPES if row.name not in ("uint64", "complex64", "complex128") or to != "oneflow-pickle"]
    mfc.Checkpoint(rich_tree(held)).save(tmp_path / "a.pt")
    report = mfc.convert(tmp_path / "a.pt", tmp_path / "b", format=to)
    mfc.convert(tmp_path / "b", tmp_path / "c.pt")
    assert report.exact
    assert_trees_equal(mfc.open(tmp_path / "c.pt").tree, rich_tree(held))


def test_diff_and_inspect_take_paths(source: Path, tmp_path: Path) -> None:
    mfc.convert(source, tmp_path / "c", backend="torch")
    assert mfc.diff(source, str(tmp_path / "c")).equal
    assert len(mfc.inspect(source).tensors) == 6


@pytest.mark.parametrize(("path", "name"), [("nothing", "torch"), ("folder", "torch"), ("run.pt", "oneflow")])
def test_a_format_named_for_what_cannot_be_it_is_a_clear_error(
    source: Path, tmp_path: Path, path: str, name: str
) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises((FileNotFoundError, mfc.FormatError), match=f"{path}: found .*, expected a "):
        mfc.open(tmp_path / path, format=name)


def net(width: int = 4) -> dict[str, Any]:
    return {"l1.weight": tensor(width, 3), "l1.bias": tensor(width)}


def gan() -> dict[str, Any]:
    return {"generator": net(), "discriminator": net(5), "epoch": 3}


#: What was left out entirely, or but for a fragment, and what there is to take.
TOO_LITTLE: dict[str, tuple[dict[str, Any], int]] = {
    "the average alone": ({"model": None, "ema": net(), "updates": 7}, 2),
    "both": ({"params": net(), "params_ema": net()}, 2),
    "nested": ({"model": {"scale": tensor(1), "encoder": net(), "decoder": net(5)}, "epoch": 3}, 5),
    "several under one name": ({"model": [net(), net(5)], "epoch": 3}, 4),
    "of an unknown name": ({"my_unet": net(), "lr": 0.1}, 2),
}


@pytest.mark.parametrize(("tree", "count"), TOO_LITTLE.values(), ids=TOO_LITTLE)
@pytest.mark.parametrize("target", ["w.pth", "w", "w.safetensors", "w.npz"])
def test_model_only_takes_all_of_a_model_under_whatever_name(
    tmp_path: Path, tree: dict[str, Any], count: int, target: str
) -> None:
    mfc.Checkpoint(tree).save(tmp_path / "run.pth")
    report = mfc.convert(tmp_path / "run.pth", tmp_path / target, model_only=True)
    assert report.tensors == len(mfc.open(tmp_path / target).tensors()) == count


@pytest.mark.parametrize(
    ("tree", "error"),
    [
        (gan(), mfc.KeyRefusedError),
        ({"student": net(), "teacher": net()}, mfc.KeyRefusedError),
        ({"optimizer": training_tree()["optimizer_state_dict"], "epoch": 3}, mfc.ValueRefusedError),
        ({"epoch": 3}, mfc.ValueRefusedError),
    ],
)
def test_model_only_writes_nothing_where_there_are_several_models_or_none(
    tmp_path: Path, tree: dict[str, Any], error: type[Exception]
) -> None:
    mfc.Checkpoint(tree).save(tmp_path / "run.pth")
    with pytest.raises(error, match=r"^weights: found "):
        mfc.convert(tmp_path / "run.pth", tmp_path / "w.pth", model_only=True)
    assert not (tmp_path / "w.pth").exists()


def test_model_only_takes_the_model_that_is_chosen(tmp_path: Path) -> None:
    mfc.Checkpoint(gan() | {"generator_ema": net(7)}).save(tmp_path / "gan.pth")
    for which, width in {"generator": 4, "discriminator": 5, "ema": 7}.items():
        mfc.convert(tmp_path / "gan.pth", tmp_path / f"{which}.pth", model_only=which)
        assert mfc.open(tmp_path / f"{which}.pth").tensors()["l1.weight"].shape == (width, 3)


def test_all_models_and_averages_are_cast_and_no_optimizer_is(tmp_path: Path) -> None:
    optimizer = training_tree()["optimizer_state_dict"]
    mfc.Checkpoint(gan() | {"generator_ema": net(), "optim": optimizer}).save(tmp_path / "gan.pth")
    mfc.Checkpoint(net() | {"optim": optimizer}).save(tmp_path / "loose.pth")
    for name, count in {"gan": 6, "loose": 2}.items():
        report = mfc.convert(tmp_path / f"{name}.pth", tmp_path / f"{name}_half.pth", dtype="float16")
        assert len(report.cast) == count
        assert not any(key.startswith("optim/") for key in report.cast)


def test_the_layout_of_a_model_beside_its_optimizer_leaves_that_in_its_place(tmp_path: Path) -> None:
    optimizer = {"state": {}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}
    mfc.Checkpoint(net() | {"optim": optimizer}).save(tmp_path / "loose.pth")
    mfc.convert(tmp_path / "loose.pth", tmp_path / "turned.pth", layout=["l1.weight=turn"])
    turned = mfc.open(tmp_path / "turned.pth")
    assert (turned.tree["l1.weight"].shape, turned.tree["optim"]) == ((3, 4), optimizer)
