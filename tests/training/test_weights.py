"""Where the weights are, told by what a checkpoint holds: shapes of many programs' files, each with what is found in it."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest

from multiframe_ckpt.errors import KeyRefusedError, ValueRefusedError
from multiframe_ckpt.training import candidates, choose_weights, find_parts
from multiframe_ckpt.tree import LazyTensor, Unknown, tensors


def tensor(*shape: int) -> LazyTensor:
    return LazyTensor.from_array(np.ones(shape, np.float32))


def model(width: int = 4, prefix: str = "") -> dict[str, Any]:
    return {f"{prefix}l1.weight": tensor(width, 3), f"{prefix}l1.bias": tensor(width)}


NET, OTHER = model(), model(5)
MOMENTS = {"step": tensor(), "exp_avg": tensor(4, 3)}
OPTIMIZER = {"state": {0: MOMENTS}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}
SCHEDULER = {"last_epoch": 3, "_last_lr": [0.1], "gamma": 0.9}
SCALER = {"scale": 2.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 9, "_growth_tracker": 0}
NESTED = {"scale": tensor(1), "encoder": NET, "decoder": OTHER}

#: What is found in each: the keys of its models.
SHAPES: dict[str, tuple[Any, list[str]]] = {
    "ultralytics": ({"model": None, "ema": NET, "epoch": 3, "optimizer": OPTIMIZER}, ["ema"]),
    "a GAN": ({"generator": NET, "discriminator": OTHER}, ["generator", "discriminator"]),
    "a GAN of short names": ({"g": NET, "d": OTHER, "optim_g": OPTIMIZER, "optim_d": OPTIMIZER}, ["g", "d"]),
    "a GAN and the average of one": ({"g": NET, "d": OTHER, "g_ema": NET}, ["g", "d"]),
    "BasicSR": ({"params": NET, "params_ema": NET}, ["params"]),
    "BasicSR, the average alone": ({"params_ema": NET}, ["params_ema"]),
    "DINO": ({"student": NET, "teacher": NET, "optimizer": OPTIMIZER, "epoch": 3}, ["student", "teacher"]),
    "nested": ({"model": NESTED}, ["model"]),
    "nested, and nothing around": (NESTED, ["(top)"]),
    "nested, and a state around": ({"unet": NESTED, "optimizer": OPTIMIZER}, ["unet"]),
    "flax": ({"params": {"Dense_0": {"kernel": tensor(3, 4), "bias": tensor(4)}}, "step": 3}, ["params"]),
    "timm": ({"state_dict": NET, "state_dict_ema": NET, "amp_scaler": SCALER, "epoch": 3}, ["state_dict"]),
    "Lightning": (
        {"pytorch-lightning_version": "2.0", "state_dict": NET, "callbacks": {"x": NET}, "critic": OTHER},
        ["state_dict"],
    ),
    "ours": (
        {"format_version": 1, "framework": "torch", "model_state_dict": NET, "codebook": OTHER},
        ["model_state_dict"],
    ),
    "ours, several": (
        {"format_version": 1, "framework": "torch", "model_state_dict": [NET, {"d": OTHER}]},
        ["model_state_dict"],
    ),
    "a list of models": ([NET, OTHER], ["0", "1"]),
    "a pair of model and optimizer": ((NET, OPTIMIZER), ["0"]),
    "a dict of models": ({"model": {"a": NET, "b": OTHER}, "epoch": 3}, ["model"]),
    "a dict of models with numbers for names": ({0: NET, 1: OTHER}, ["0", "1"]),
    "a checkpoint in a checkpoint": ({"epoch": 3, "run": {"net": NET, "opt": OPTIMIZER}}, ["run/net"]),
    "two checkpoints in one": (
        {"g": {"net": NET, "opt": OPTIMIZER}, "d": {"net": OTHER, "opt": OPTIMIZER}},
        ["g/net", "d/net"],
    ),
    "an object around": (Unknown("app.Trainer", state={"net": NET, "opt": OPTIMIZER}), ["state/net"]),
    "a state dict and its optimizer in one dict": ({**NET, "optimizer": OPTIMIZER}, ["(top)"]),
    "counters that are tensors": ({"epoch": tensor(), "loss": tensor(1), "unet": NET}, ["unet"]),
    "MMEngine": ({"meta": {}, "state_dict": NET, "message_hub": {"logs": {"loss": tensor(90)}}}, ["state_dict"]),
    "histories": ({"net_g": NET, "losses": [tensor(), tensor()], "optimizer": OPTIMIZER}, ["net_g"]),
    "random states": ({"net_g": NET, "rng_state": tensor(9), "torch_rng": {"cpu": tensor(9)}}, ["net_g"]),
    "Accelerate": ({"unet": NET, "random_states": {"cuda": tensor(9)}, "ema_unet": NET}, ["unet"]),
    "Composer": (
        {"state": {"model": NET, "optimizers": {"AdamW": OPTIMIZER}}, "rng": [{"cuda": tensor(9)}]},
        ["state/model"],
    ),
    "fairseq": (
        {"model": NET, "extra_state": {"metrics": []}, "last_optimizer_state": OPTIMIZER, "cfg": {}},
        ["model"],
    ),
    "reinforcement": (
        {"actor": NET, "critic": OTHER, "actor_optimizer": OPTIMIZER, "temperature": tensor(1)},
        ["actor", "critic"],
    ),
    "a state dict and statistics": ({"state_dict": NET, "mean": tensor(3), "std": tensor(3)}, ["state_dict"]),
    "an unknown optimizer by its name": ({"net_g": NET, "optimizer_G": {"shadow": NET}}, ["net_g"]),
    "scheduler, scaler and optimizer alone": ({"a": OPTIMIZER, "b": SCHEDULER, "c": SCALER}, []),
    "one tensor": (tensor(3), ["(top)"]),
    "wrapped in every way": ({"model": model(prefix="module._orig_mod.model.")}, ["model"]),
    "nothing": ({"epoch": 3}, []),
}


@pytest.mark.parametrize(("tree", "keys"), SHAPES.values(), ids=SHAPES)
def test_models_are_found_by_what_they_hold(tree: Any, keys: list[str]) -> None:
    assert [part.key for part in find_parts(tree).models] == keys


@pytest.mark.parametrize(("tree", "keys"), SHAPES.values(), ids=SHAPES)
def test_one_model_is_chosen_and_several_or_none_are_an_error_that_lists_them(tree: Any, keys: list[str]) -> None:
    if len(keys) == 1:
        assert choose_weights(tree).key == keys[0]
        return
    with pytest.raises(KeyRefusedError if keys else ValueRefusedError, match=r"^weights: found ") as caught:
        choose_weights(tree)
    for key in keys:
        assert f"'{key}' (2 tensors, " in str(caught.value)


def test_records_are_not_each_asked_for_states_and_layers_neither() -> None:
    layers = {f"layer{i}": {"kernel": tensor(2, 2)} for i in range(2_000)}
    tree = {"params": layers, "vocabulary": [{"word": i} for i in range(5_000)], "opt": OPTIMIZER}
    with mock.patch.object(candidates, "is_optimizer_state", wraps=candidates.is_optimizer_state) as asked:
        assert [part.key for part in find_parts(tree).models] == ["params"]
    assert asked.call_count < 100


def test_a_nested_model_is_taken_whole() -> None:
    assert len(tensors(choose_weights({"model": NESTED, "optimizer": OPTIMIZER}).tree)) == 5


def test_a_model_loose_beside_a_state_is_taken_without_it() -> None:
    assert choose_weights({**NET, "optimizer": OPTIMIZER}).tree == NET


@pytest.mark.parametrize(
    "name", ["ema", "model_ema", "params_ema", "ema_state_dict", "netEMA", "swa_model", "averaged"]
)
def test_an_average_is_told_apart_and_may_be_chosen(name: str) -> None:
    tree = {"model": NET, name: OTHER, "optimizer": OPTIMIZER}
    assert choose_weights(tree).key == "model"
    assert [part.key for part in find_parts(tree).averages] == [name]
    assert choose_weights(tree, "ema").key == choose_weights(tree, name).key == name


def test_a_path_chooses_whatever_holds_tensors() -> None:
    tree = {"generator": NET, "all": NESTED, "run": {"net": NET, "opt": OPTIMIZER}}
    paths = {"generator": "generator", "all/encoder": "all/encoder", "all": "all", "run": "run/net", "net": "run/net"}
    assert {which: choose_weights(tree, which).key for which in paths} == paths


@pytest.mark.parametrize("which", ["critic", "generator/none", "epoch", "ema", ""])
def test_a_path_at_which_no_weights_are_is_an_error_that_lists_what_there_is(which: str) -> None:
    with pytest.raises(KeyRefusedError, match=rf"^model_only='{which}': .*'generator' \(2 tensors, 64 B\)"):
        choose_weights({"generator": NET, "discriminator": OTHER, "epoch": 3}, which)


def test_two_averages_are_listed_and_one_is_chosen_by_its_name() -> None:
    tree = {"g": NET, "d": OTHER, "g_ema": NET, "d_ema": OTHER}
    with pytest.raises(KeyRefusedError, match=r"'g_ema'.*'d_ema'"):
        choose_weights(tree, "ema")
    assert choose_weights(tree, "d_ema").tree == OTHER


def test_the_advice_of_every_error_chooses_a_model() -> None:
    for tree, keys in SHAPES.values():
        if len(keys) > 1:
            with pytest.raises(KeyRefusedError) as caught:
                choose_weights(tree)
            advice = str(caught.value).rpartition("model_only='")[2].partition("'")[0]
            assert choose_weights(tree, advice).key == advice
