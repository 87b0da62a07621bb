"""A Lightning checkpoint is read although none of its classes exists here: they are Unknown, and refused as a whole."""

from __future__ import annotations

import collections
import datetime
import enum
import functools
import os
import pathlib
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.tree import Unknown

torch = pytest.importorskip("torch")
# torch 2.0 warns of its own storages when it loads with weights_only.
pytestmark = pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
CLASSES = (
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning.pytorch.trainer.states.TrainerFn",
    "my_project.schedules.Warmup",
    "my_project.schedules.linear",
    "my_project.schedules.Zone",
    "omegaconf.dictconfig.DictConfig",
    "functools.partial",
)


@contextmanager
def classes_of_another_world() -> Iterator[dict[str, Any]]:
    """Gives classes under the names of packages that are not here; afterwards they are gone."""
    made: dict[str, Any] = {
        "lightning.fabric.utilities.data.AttributeDict": type("AttributeDict", (dict,), {}),
        "lightning.pytorch.trainer.states.TrainerFn": enum.Enum("TrainerFn", {"FITTING": "fit", "TESTING": "test"}),
        "my_project.schedules.Warmup": type("Warmup", (), {}),
        "my_project.schedules.linear": types.FunctionType((lambda step: step / 10).__code__, {}, "linear"),
        "my_project.schedules.Zone": type("Zone", (datetime.tzinfo,), {"__reduce__": lambda self: (type(self), ())}),
        "omegaconf.dictconfig.DictConfig": type("DictConfig", (), {}),
    }
    modules: dict[str, types.ModuleType] = {}
    for path, item in made.items():
        module, _, name = path.rpartition(".")
        for end in range(module.count(".") + 1):
            part = ".".join(module.split(".")[: end + 1])
            modules.setdefault(part, types.ModuleType(part))
        item.__module__, item.__qualname__ = module, name
        setattr(modules[module], name, item)
    shadowed = {name: sys.modules[name] for name in modules if name in sys.modules}
    sys.modules.update(modules)
    try:
        yield made
    finally:
        for name in modules:
            del sys.modules[name]
        sys.modules.update(shadowed)


def weights() -> dict[str, Any]:
    torch.manual_seed(0)
    shared = torch.randn(4, 3)
    return collections.OrderedDict(
        {
            "net.0.weight": shared,
            "net.0.bias": torch.randn(4),
            "net.1.num_batches_tracked": torch.tensor(7),
            "decoder.weight": shared,
            "half": torch.randn(2, 3).to(torch.bfloat16),
        }
    )


def checkpoint(made: dict[str, Any], extra: object = None) -> dict[str, Any]:
    """Gives what Trainer.save_checkpoint of Lightning 2 writes, entry by entry."""
    config = made["omegaconf.dictconfig.DictConfig"]()
    config.__dict__ = {"_content": {"lr": 0.1, "layers": [1, 2]}, "_metadata": None}
    warmup = made["my_project.schedules.Warmup"]()
    warmup.steps = 10
    fitting = made["lightning.pytorch.trainer.states.TrainerFn"].FITTING
    state = {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(4, 3), "exp_avg_sq": torch.rand(4, 3)}}
    return {
        "epoch": 2,
        "global_step": 30,
        "pytorch-lightning_version": "2.2.0",
        "state_dict": weights(),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 3, "completed": 2}}}},
        "callbacks": {
            "ModelCheckpoint{'monitor': 'val_loss', 'mode': 'min'}": {
                "best_model_score": torch.tensor(0.25),
                "best_model_path": pathlib.PurePosixPath("runs/best.ckpt"),
                "best_k_models": {},
                "stage": fitting,
            },
            "by stage": {fitting: torch.tensor(1.5), None: np.float64(2.5)},
        },
        "optimizer_states": [{"state": state, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999), "params": [0]}]}],
        "lr_schedulers": [
            {"base_lrs": [0.1], "last_epoch": 3, "lr_lambdas": [None, {"steps": 10}]},
            {"warmup": warmup, "shape": functools.partial(made["my_project.schedules.linear"], 3)},
        ],
        "MixedPrecision": {"scale": 65536.0, "growth_factor": 2.0},
        "hparams_name": "kwargs",
        "started": datetime.datetime(2024, 2, 29, 12, tzinfo=made["my_project.schedules.Zone"]()),
        "hyper_parameters": made["lightning.fabric.utilities.data.AttributeDict"](lr=0.1, config=config, extra=extra),
        "datamodule_hparams_type": torch.float32,
    }


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    with classes_of_another_world() as made:
        torch.save(checkpoint(made), tmp_path / "last.ckpt", _use_new_zipfile_serialization=request.param)
    return tmp_path / "last.ckpt"


def same(found: mfc.LazyTensor, expected: Any) -> bool:
    raw = expected.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return found.shape == tuple(expected.shape) and found.numpy().tobytes() == raw


WHOLE = {
    "load": lambda path, target: mfc.load(path, backend="numpy"),
    "convert": lambda path, target: mfc.convert(path, target),
    "save": lambda path, target: mfc.open(path).save(target),
}


@pytest.mark.parametrize("ask", WHOLE.values(), ids=WHOLE)
def test_who_asks_for_all_of_it_is_told_every_place_and_both_ways_out(ask: Any, path: Path, tmp_path: Path) -> None:
    with pytest.raises(mfc.UnsafeError) as refusal:
        ask(path, tmp_path / "whole.pt")
    assert all(f": {name}" in str(refusal.value) for name in CLASSES)
    assert "hyper_parameters/entries/config: omegaconf.dictconfig.DictConfig" in str(refusal.value)
    assert "weights alone" in str(refusal.value)
    assert "allow_unknown=True" in str(refusal.value)
    assert not (tmp_path / "whole.pt").exists()


def test_nothing_that_needs_none_of_them_asks_for_an_option(path: Path, tmp_path: Path) -> None:
    model = torch.nn.ParameterDict({"a": torch.zeros(4, 3), "b": torch.zeros(4)})
    report = mfc.inspect(path)
    assert report.values["epoch"] == 2
    assert mfc.diff(path, path).equal
    assert mfc.verify(path).whole
    mfc.convert(path, tmp_path / "weights.pt", model_only=True, rename=["net.0.weight=a", "net.0.bias=b"])
    assert mfc.open(tmp_path / "weights.pt").load_into(model, strict=False).loaded == ("a", "b")


def test_every_tensor_is_there_bit_for_bit(path: Path) -> None:
    opened = mfc.open(path)
    expected = weights()
    assert list(opened.tree["state_dict"]) == list(expected)
    assert all(same(opened.tree["state_dict"][key], tensor) for key, tensor in expected.items())
    assert opened.weights() is opened.tree["state_dict"]
    tied = opened.tree["state_dict"]
    assert tied["net.0.weight"].identity == tied["decoder.weight"].identity
    assert {key.split("/")[0] for key in opened.tensors()} == {"state_dict", "callbacks", "optimizer_states"}


def test_what_is_plain_around_its_objects_is_read_and_the_objects_are_inert(path: Path) -> None:
    tree = mfc.open(path).tree
    assert (tree["epoch"], tree["pytorch-lightning_version"]) == (2, "2.2.0")
    assert tree["loops"]["fit_loop"]["epoch_progress"] == {"total": {"ready": 3, "completed": 2}}
    assert tree["lr_schedulers"][0]["lr_lambdas"] == [None, {"steps": 10}]
    saved, by_stage = tree["callbacks"].values()
    assert saved["best_model_path"] == "runs/best.ckpt"
    assert (saved["stage"].type_name, saved["stage"].args) == ("lightning.pytorch.trainer.states.TrainerFn", ("fit",))
    assert list(by_stage) == ["lightning.pytorch.trainer.states.TrainerFn('fit')", None]
    settings = tree["hyper_parameters"]
    assert (type(settings), settings.type_name) == (Unknown, "lightning.fabric.utilities.data.AttributeDict")
    assert settings.entries["lr"] == 0.1
    assert settings.entries["config"].state["_content"] == {"lr": 0.1, "layers": [1, 2]}
    assert tree["lr_schedulers"][1]["warmup"].state == {"steps": 10}
    assert (tree["started"].type_name, tree["started"].args[1].type_name) == (
        "datetime.datetime",
        "my_project.schedules.Zone",
    )


@pytest.mark.parametrize("to", ["torch", "oneflow", "oneflow-pickle", "safetensors", "npz", "hdf5", "json"])
def test_its_weights_alone_go_to_every_layout(path: Path, to: str, tmp_path: Path) -> None:
    report = mfc.convert(path, tmp_path / "weights", format=to, model_only=True)
    tree = mfc.open(tmp_path / "weights").tree
    assert list(tree) == list(weights())
    assert all(same(tree[key], tensor) for key, tensor in weights().items())
    assert "epoch" in report.excluded


def test_torch_reads_its_weights_alone_with_weights_only(path: Path, tmp_path: Path) -> None:
    mfc.convert(path, tmp_path / "weights.pt", model_only=True)
    found = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert all(torch.equal(found[key], tensor) for key, tensor in weights().items())


def test_the_whole_of_it_converts_with_its_objects_as_plain_dicts_and_the_report_says_so(
    path: Path, tmp_path: Path
) -> None:
    report = mfc.convert(path, tmp_path / "whole.pt", allow_unknown=True)
    assert not report.exact
    assert any(line.endswith("lightning.fabric.utilities.data.AttributeDict") for line in report.unknown)
    tree = mfc.open(tmp_path / "whole.pt").tree
    assert tree["hyper_parameters"]["__unknown__"] == "lightning.fabric.utilities.data.AttributeDict"
    assert same(tree["state_dict"]["net.0.bias"], weights()["net.0.bias"])


class Canary:
    """Creates a file where it is unpickled by one that obeys."""

    def __init__(self, call: Any, *args: Any) -> None:
        self._reduced = (call, args)

    def __reduce__(self) -> Any:
        return self._reduced


@pytest.mark.parametrize("trap", ["os.system", "builtins.exec", "a call inside a call"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_trap_in_it_is_refused_and_nothing_that_it_names_is_imported_or_run(
    trap: str, zipped: bool, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    code = f"open({str(canary)!r}, 'w').close()"
    canaries = {
        "os.system": Canary(os.system, f"touch {canary}"),
        "builtins.exec": Canary(exec, code),
        "a call inside a call": Canary(list, Canary(map, exec, [code])),
    }
    with classes_of_another_world() as made:
        torch.save(checkpoint(made, canaries[trap]), tmp_path / "x.ckpt", _use_new_zipfile_serialization=zipped)
    before = set(sys.modules)
    with pytest.raises(mfc.UnsafeError):
        mfc.open(tmp_path / "x.ckpt")
    for allow_unknown in (False, True):
        with pytest.raises(mfc.UnsafeError):
            mfc.convert(tmp_path / "x.ckpt", tmp_path / "y.pt", allow_unknown=allow_unknown)
    assert not (tmp_path / "y.pt").exists()
    assert not canary.exists()
    assert not {
        name for name in set(sys.modules) - before if name.split(".")[0] in ("lightning", "omegaconf", "my_project")
    }
