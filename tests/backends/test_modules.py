"""What stands beside tensors: the versions of modules are kept, and what a whole model loses as its state dict is named."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import multiframe_ckpt as mfc

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")  # torch 2.0, of its own storages
TARGETS = ["a.pth", "a.safetensors", "a.npz", "a.h5", "a.json", "folder"]


class Picky(torch.nn.Linear):  # type: ignore[name-defined, misc]
    """A module that asks for the version it was saved by, as torchvision's MNASNet does."""

    _version = 2

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *rest: Any) -> None:
        if local_metadata.get("version") not in (1, 2):
            raise ValueError(f"version should be set to 1 or 2 instead of {local_metadata.get('version')}")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


def network() -> Any:
    return torch.nn.Sequential(Picky(3, 4), torch.nn.ReLU(), torch.nn.BatchNorm1d(4))


def load(path: Path) -> Any:
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("target", TARGETS)
def test_versions_of_modules_go_through_every_format(tmp_path: Path, target: str, legacy: bool) -> None:
    net = network()
    torch.save(net.state_dict(), tmp_path / "net.pt", _use_new_zipfile_serialization=not legacy)
    report = mfc.convert(tmp_path / "net.pt", tmp_path / target)
    assert (report.exact, report.lost_versions) == (True, ())
    mfc.convert(tmp_path / target, tmp_path / "back.pt")
    state = load(tmp_path / "back.pt")
    assert state._metadata == net.state_dict()._metadata
    network().load_state_dict(state)
    assert mfc.verify(tmp_path / target).whole


@pytest.mark.parametrize("target", TARGETS)
def test_versions_go_along_in_a_training_checkpoint_and_with_the_model_alone(tmp_path: Path, target: str) -> None:
    net = network()
    torch.save({"epoch": 3, "nets": [net.state_dict(), {"x": torch.ones(2)}]}, tmp_path / "run.pt")
    mfc.convert(tmp_path / "run.pt", tmp_path / target)
    mfc.convert(tmp_path / target, tmp_path / "back.pt")
    assert load(tmp_path / "back.pt")["nets"][0]._metadata == net.state_dict()._metadata
    mfc.convert(tmp_path / target, tmp_path / "model.pt", model_only="nets/0")
    network().load_state_dict(load(tmp_path / "model.pt"))


@pytest.mark.parametrize(
    ("rule", "rename"), [("module.*=*", "module.{}"), ("*=backbone.*", "{}"), ("nothing.*=x.*", "{}")]
)
def test_versions_get_the_new_names_of_their_modules(tmp_path: Path, rule: str, rename: str) -> None:
    wrapped = network()
    if rename != "{}":
        wrapped = torch.nn.Sequential()
        wrapped.add_module("module", network())
    torch.save(wrapped.state_dict(), tmp_path / "net.pt")
    rules = [] if rule.startswith("nothing") else [rule]
    mfc.convert(tmp_path / "net.pt", tmp_path / "renamed.pt", rename=rules)
    state = load(tmp_path / "renamed.pt")
    target = network()
    if rule == "*=backbone.*":
        target = torch.nn.Sequential()
        target.add_module("backbone", network())
    target.load_state_dict(state)


def test_versions_of_very_many_modules_fit_beside_a_folder_of_variables(tmp_path: Path) -> None:
    net = torch.nn.Sequential(*(torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.ReLU()) for _ in range(700)))
    mfc.save(net.state_dict(), tmp_path / "many")
    assert mfc.convert(tmp_path / "many", tmp_path / "many.pt").exact
    assert load(tmp_path / "many.pt")._metadata == net.state_dict()._metadata


@pytest.mark.parametrize("shape", ["module", "state dict", "list"])
def test_a_save_of_live_objects_keeps_versions_as_torch_does(tmp_path: Path, shape: str) -> None:
    net = network()
    live = {"module": net, "state dict": net.state_dict(), "list": [net]}[shape]
    mfc.save(live, tmp_path / "net.pt")
    saved = load(tmp_path / "net.pt")
    state = saved[0] if shape == "list" else saved
    assert state._metadata == net.state_dict()._metadata


@pytest.mark.parametrize("target", TARGETS)
def test_a_live_state_dict_and_its_versions_are_saved_in_every_format(tmp_path: Path, target: str) -> None:
    state = network().state_dict()
    assert type(state._metadata) is not dict  # torch's own is an OrderedDict
    mfc.save(state, tmp_path / target)
    mfc.convert(tmp_path / target, tmp_path / "back.pt")
    assert load(tmp_path / "back.pt")._metadata == state._metadata


def test_a_run_that_is_kept_keeps_the_versions_of_its_model(tmp_path: Path) -> None:
    net = network()
    with mfc.CheckpointManager(tmp_path, rng=False) as manager:
        path = manager.save(epoch=0, model=net)
    assert path is not None
    network().load_state_dict(load(path)["model_state_dict"])


def test_odd_metadata_of_a_state_dict_is_left_alone(tmp_path: Path) -> None:
    state = network().state_dict()
    state._metadata = {"": {"version": 1, "hook": torch.nn.Linear}, 3: "x"}
    torch.save(state, tmp_path / "odd.pt")
    assert list(mfc.open(tmp_path / "odd.pt").tree) == list(state)
    assert "module_versions" not in mfc.open(tmp_path / "odd.pt").meta


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A file of a whole model, with a tensor, a buffer and plain values that no state dict has."""
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh())
    net.stride, net.names = torch.tensor([8.0, 16.0]), {0: "cat"}
    net.register_buffer("grid", torch.ones(2), persistent=False)
    torch.save({"model": net, "epoch": 3}, tmp_path / "whole.pt")
    return tmp_path / "whole.pt"


@pytest.mark.parametrize("target", TARGETS)
def test_a_whole_model_is_never_exact_and_what_is_left_of_it_is_named(whole: Path, target: str) -> None:
    report = mfc.convert(whole, whole.with_name(target))
    assert not report.exact
    assert report.left_behind == (
        "model: the classes of its 3 modules",
        "model: 3 attributes of these, such as sizes and names",
        "model: grid, a buffer that no state dict has",
        "model: stride, a tensor that is no parameter and no buffer",
    )
    assert "4 parts of whole models left behind" in report.exact_because
    assert "left behind of whole models (4), which become their state dicts:" in str(report)


def test_inspect_says_that_a_model_is_whole_of_which_class_and_what_it_leaves(whole: Path) -> None:
    report = mfc.inspect(whole)
    assert report.meta["whole_models"] == {"model": "torch.nn.modules.container.Sequential"}
    assert len(report.left_behind) == 4
    assert "\nwhole models, read as their state dicts\n  model = 'torch.nn.modules.container.Sequential'\n" in str(
        report
    )


def test_a_state_dict_leaves_nothing_behind(tmp_path: Path) -> None:
    torch.save({"model": network().state_dict()}, tmp_path / "a.pt")
    report = mfc.inspect(tmp_path / "a.pt")
    assert (report.left_behind, report.meta.get("whole_models")) == ((), None)
    assert "version" not in str(report)


def test_a_whole_model_whose_odd_attribute_is_damaged_still_opens(tmp_path: Path) -> None:
    net = torch.nn.Linear(2, 2)
    net.odd = np.float64  # a name, and no value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(net, tmp_path / "odd.pt")
    assert list(mfc.open(tmp_path / "odd.pt").tree) == ["weight", "bias"]
