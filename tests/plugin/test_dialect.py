"""A stranger's dialect is found by entry point, and crosses to and from both built-in frameworks; nothing else knows it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multiframe_ckpt.backend import backend_named
from multiframe_ckpt.checkpoint.restore import restore, resume_parts
from multiframe_ckpt.checkpoint.run_state import RunState
from multiframe_ckpt.errors import MismatchError, ValueRefusedError
from multiframe_ckpt.training import (
    DIALECTS,
    dialect_named,
    find_parts,
    merged,
    optimizer_dialect,
    translate,
    translate_optimizer,
    translate_scheduler,
)
from multiframe_ckpt.training.dialects import Names, NeutralState, Notes
from multiframe_ckpt.tree import LazyTensor, map_leaves

TOY = Path(__file__).parent / "toy"
SHAPES = {"fc.weight": (3, 2), "fc.bias": (3,), "norm.weight": (3,), "head.weight": (1, 3)}
SCHEDULER = {"step_size": 3, "gamma": 0.5, "base_lrs": [0.1], "last_epoch": 4, "_step_count": 5}
SCHEDULER |= {"_get_lr_called_within_step": False, "_last_lr": [0.05]}
ADAM = {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False, "maximize": False}
ADAM |= {"foreach": None, "capturable": False, "differentiable": False, "fused": None}
SGD = {"lr": 0.1, "momentum": 0.9, "dampening": 0.0, "weight_decay": 0.01, "nesterov": True, "maximize": False}
SGD |= {"foreach": None, "differentiable": False, "fused": None}


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The dialect as pip would have left it; entry points are looked up once, so they are forgotten before and after."""
    info = tmp_path / "toy_dialect-1.0.dist-info"
    info.mkdir()
    shutil.copy(TOY / "toy_dialect.py", tmp_path)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy_dialect\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[multiframe_ckpt.dialects]\ntoy = toy_dialect:Toy\n")
    monkeypatch.syspath_prepend(tmp_path)
    vars(DIALECTS).pop("_plugins", None)
    yield
    vars(DIALECTS).pop("_plugins", None)


def tensor(name: str, seed: int) -> LazyTensor:
    return LazyTensor.from_array(np.random.default_rng(seed).normal(size=SHAPES[name]).astype(np.float32))


def torch_state(algorithm: str, *, step: int = 7, fresh: tuple[str, ...] = (), **options: Any) -> dict[str, Any]:
    entries: dict[int, Any] = {}
    for i, name in enumerate(SHAPES):
        if name in fresh:
            continue
        if algorithm == "SGD":
            entries[i] = {"momentum_buffer": tensor(name, i)}
        else:
            count = LazyTensor.from_array(np.array(step, np.float32))
            entries[i] = {"step": count, "exp_avg": tensor(name, i), "exp_avg_sq": tensor(name, i + 9)}
    group = (SGD if algorithm == "SGD" else ADAM) | options
    return {"state": entries, "param_groups": [group | {"params": list(range(len(SHAPES)))}]}


def checkpoint(optimizer: Any, **others: Any) -> dict[str, Any]:
    weights = {name: tensor(name, 50 + i) for i, name in enumerate(SHAPES)}
    return {"epoch": 3, "model": weights, "optimizer": optimizer} | others


def plain(tree: Any) -> Any:
    """A tree to be compared: tensors by dtype, shape and bytes."""
    return map_leaves(
        tree,
        lambda _, leaf: (leaf.dtype.name, leaf.shape, leaf.numpy().tobytes()) if isinstance(leaf, LazyTensor) else leaf,
    )


def shared(state: Any) -> Any:
    """A state without the names that a way through the third dialect adds to its group."""
    groups = [{name: group[name] for name in group if name != "param_names"} for group in state["param_groups"]]
    for group in groups:
        if "_options" in group:
            group["_options"] = {name: group["_options"][name] for name in group["_options"] if name != "param_names"}
    return plain({"state": state["state"], "param_groups": groups})


def oneflow_state(algorithm: str, **options: Any) -> Any:
    return translate_optimizer(torch_state(algorithm, **options), to="oneflow", class_name=algorithm)[0]


@pytest.mark.parametrize("algorithm", ["SGD", "Adam", "AdamW"])
@pytest.mark.parametrize("framework", ["torch", "oneflow"])
@pytest.mark.parametrize("step", [0, 1, 7, 100_000])
def test_a_state_goes_there_and_back_to_the_bit(algorithm: str, framework: str, step: int) -> None:
    state, _ = translate_optimizer(torch_state(algorithm, step=step), to="oneflow", class_name=algorithm)
    state, _ = translate_optimizer(state, to=framework, class_name=algorithm)
    there, report = translate(checkpoint(state, optimizer_class=algorithm), to="toy")
    assert report.converted == (f"optimizer: {algorithm}, from {framework} to toy",)
    back, _ = translate(there, to=framework)
    assert shared(back["optimizer"]) == shared(state)
    assert "optimizer_names" not in back
    assert plain(translate(back, to="toy")[0]["optimizer"]) == plain(there["optimizer"])


def test_the_third_dialect_is_what_it_says() -> None:
    state = torch_state("Adam")
    there, _ = translate(checkpoint(state), to="toy")
    hyper, slots, schedule = there["optimizer"]
    assert (hyper.algorithm, hyper.learning_rate, schedule) == ("Adam", 0.1, None)
    assert slots.powers == (0.9**7, 0.999**7)
    assert list(slots.tensors)[:2] == ["m/fc.weight", "v/fc.weight"]
    assert slots.tensors["m/fc.weight"].shape == (2, 3)
    np.testing.assert_array_equal(
        slots.tensors["m/fc.weight"].numpy(), state["state"][0]["exp_avg"].numpy().T, strict=True
    )
    assert there["optimizer_names"] == list(SHAPES)


def test_momentum_that_points_the_other_way_is_turned() -> None:
    state = torch_state("SGD")
    there, _ = translate(checkpoint(state), to="toy")
    velocity = there["optimizer"][1].tensors["velocity/fc.bias"].numpy()
    np.testing.assert_array_equal(velocity, -state["state"][1]["momentum_buffer"].numpy())


def test_names_come_from_beside_the_state_and_parameters_without_a_state_are_not_forgotten() -> None:
    state = torch_state("SGD", fresh=("fc.bias",))
    there, _ = translate(checkpoint(state), to="toy")
    (part,) = find_parts(there).optimizers
    assert (part.path, part.beside) == (("optimizer",), (("optimizer_names",),))
    assert [part.key for part in find_parts(there).rest] == []
    back, _ = translate(there, to="torch")
    assert shared(back["optimizer"]) == shared(state)
    assert back["optimizer"]["param_groups"][0]["param_names"] == list(SHAPES)


def test_parameters_are_numbered_in_the_order_of_the_weights_whatever_the_order_of_the_accumulators() -> None:
    state = torch_state("Adam")
    there, _ = translate(checkpoint(state), to="toy")
    there["optimizer_names"].reverse()
    back, _ = translate(there, to="torch")
    assert plain(back["optimizer"]["state"]) == plain(state["state"])
    assert back["optimizer"]["param_groups"][0]["param_names"] == list(SHAPES)


def test_a_scheduler_goes_inside_its_optimizers_state_and_comes_out_again() -> None:
    tree = checkpoint(torch_state("Adam"), scheduler=SCHEDULER)
    there, report = translate(tree, to="toy")
    assert "scheduler" not in there
    assert there["optimizer"][2].count == 4
    assert len(report.converted) == 2 and not report.left_out
    parts = find_parts(there)
    assert (parts.optimizers[0].path, parts.schedulers[0].path) == (("optimizer",), ("optimizer",))
    assert resume_parts(there)["scheduler"]
    back, _ = translate(there, to="torch")
    assert back["scheduler"] == SCHEDULER
    assert list(back) == ["epoch", "model", "optimizer", "scheduler"]
    over, _ = translate(there, to="oneflow")
    assert over["scheduler"]["last_step"] == 4


def test_a_scheduler_that_has_no_place_inside_stays_behind_by_name() -> None:
    cosine = {"T_max": 10, "eta_min": 0, "last_epoch": 4, "_last_lr": [0.05], "base_lrs": [0.1]}
    tree = checkpoint(torch_state("Adam"), scheduler=cosine)
    with pytest.raises(ValueRefusedError, match="scheduler: found CosineAnnealingLR, which Toyframe does not have"):
        translate(tree, to="toy")
    there, report = translate(tree, to="toy", strict=False)
    assert there["optimizer"][2] is None and "scheduler" not in there
    assert report.left_out[0].startswith("scheduler: found CosineAnnealingLR")


def test_a_scheduler_without_the_optimizer_that_would_hold_it_stays_behind_or_stays_as_it_is() -> None:
    tree = checkpoint(torch_state("Adam", amsgrad=True), scheduler=SCHEDULER)
    there, report = translate(tree, to="toy", strict=False)
    assert list(there) == ["epoch", "model"]
    assert [entry.partition(":")[0] for entry in report.left_out] == ["optimizer/param_groups/0", "scheduler"]
    kept, _ = translate(tree, to="toy", strict=False, keep=True)
    assert kept["optimizer"] is tree["optimizer"] and kept["scheduler"] is SCHEDULER


def test_the_scheduler_inside_is_translated_by_itself_and_named_beside_an_optimizer_alone() -> None:
    there, _ = translate(checkpoint(torch_state("Adam"), scheduler=SCHEDULER), to="toy")
    assert translate_scheduler(there["optimizer"], to="torch")[0] == SCHEDULER
    _, report = translate_optimizer(there["optimizer"], to="torch")
    assert report.left_out == ("optimizer: the scheduler inside it, which is translated as a scheduler",)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (torch_state("Adam", amsgrad=True), "Adam with amsgrad = True, expected False: Toyframe's has no counterpart"),
        (torch_state("SGD", dampening=0.5), "SGD with dampening = 0.5"),
        (torch_state("Adam", step=10**6), "step 1000000, expected one that powers of beta can tell"),
    ],
)
def test_what_the_dialect_cannot_hold_is_refused_with_the_reason(state: Any, reason: str) -> None:
    source = optimizer_dialect(state)
    assert source is not None
    neutral = source.read(state, notes=Notes("optimizer"))
    holding = dialect_named("toy").holds(neutral, "optimizer")
    assert not holding.ok and reason in holding.refused[0]
    with pytest.raises(ValueRefusedError, match=reason.partition("(")[0]):
        translate(checkpoint(state), to="toy")


def test_parameters_of_different_steps_and_several_groups_are_refused() -> None:
    state = torch_state("Adam")
    state["state"][1]["step"] = LazyTensor.from_array(np.array(2, np.float32))
    with pytest.raises(ValueRefusedError, match=r"different steps \(fc.bias: 2, fc.weight: 7\).*Toyframe's Adam"):
        translate(checkpoint(state), to="toy")
    state = torch_state("Adam")
    state["param_groups"] = [ADAM | {"params": [0, 1]}, ADAM | {"params": [2, 3]}]
    with pytest.raises(ValueRefusedError, match="found 2 groups, expected one"):
        translate(checkpoint(state), to="toy")


def test_what_has_no_place_is_left_out_by_name() -> None:
    _, report = translate(checkpoint(torch_state("Adam", initial_lr=0.5)), to="toy")
    assert report.left_out == ("optimizer: initial_lr, for which Toyframe has no place",)


def test_an_algorithm_that_the_dialect_lacks_is_refused() -> None:
    state = {"state": {}, "param_groups": [{"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0, "params": [0]}]}
    with pytest.raises(
        ValueRefusedError, match="Adadelta, which Toyframe does not have, expected one of Adam, AdamW, SGD"
    ):
        translate_optimizer(state, to="toy", class_name="Adadelta")


def test_stored_names_come_before_the_order_of_the_weights() -> None:
    names = ["head.weight", "fc.weight", "norm.weight", "fc.bias"]
    state = {
        "state": {0: {"momentum_buffer": tensor("head.weight", 1)}},
        "param_groups": [SGD | {"params": [0, 1, 2, 3]}],
    }
    state["param_groups"][0]["param_names"] = names
    there, _ = translate(checkpoint(state), to="toy")
    assert list(there["optimizer"][1].tensors) == ["velocity/head.weight"]
    assert there["optimizer_names"] == names


def test_names_given_serve_where_none_are_stored() -> None:
    there, _ = translate_optimizer(torch_state("SGD"), to="toy", names="abcd")
    assert list(there[1].tensors) == [f"velocity/{name}" for name in "abcd"]
    there, _ = translate_optimizer(torch_state("SGD"), to="toy")
    assert list(there[1].tensors) == [f"velocity/{number}" for number in range(4)]
    with pytest.raises(MismatchError, match="optimizer: found 4 parameters, expected 2"):
        translate_optimizer(torch_state("SGD"), to="toy", names=["a", "b"])


def test_a_live_optimizer_takes_the_state_by_name_not_by_place() -> None:
    state = torch_state("Adam")
    there, _ = translate(checkpoint(state), to="toy")
    (part,) = find_parts(there).optimizers
    own = torch_state("Adam", lr=9.0, foreach=True)
    names = ("norm.weight", "head.weight", "fc.weight", "fc.bias")
    crossed, _ = merged(own, part.tree, class_name="Adam", names=names)
    for number, name in enumerate(names):
        expected = state["state"][[*SHAPES].index(name)]
        assert plain(crossed["state"][number]) == plain(expected)
    group = crossed["param_groups"][0]
    assert (group["lr"], group["foreach"], "param_names" in group) == (0.1, True, False)


def test_neutral_states_are_equal_whichever_dialect_they_were_read_from() -> None:
    def neutral(tree: Any) -> NeutralState:
        (part,) = find_parts(tree).optimizers
        dialect = optimizer_dialect(part.tree)
        assert dialect is not None
        return dialect.read(part.tree, Names(tuple(SHAPES)), class_name="Adam", notes=Notes("optimizer"))

    here = checkpoint(torch_state("Adam"))
    states = [
        neutral(tree).optimizer for tree in (here, translate(here, to="toy")[0], translate(here, to="oneflow")[0])
    ]
    first = states[0]
    assert first is not None
    for other in states:
        assert other is not None
        assert (other.algorithm, other.names, other.steps) == (first.algorithm, first.names, first.steps)
        assert plain(other.tensors) == plain(first.tensors)


@pytest.mark.parametrize("framework", ["torch", "oneflow"])
def test_a_run_goes_through_the_third_dialect_and_ends_where_it_would_have_ended(framework: str) -> None:
    """Restored into an optimizer that has its parameters in another order, with the scheduler out of its state."""
    try:
        flow: Any = __import__(framework)
        backend = backend_named(framework)
    except Exception:  # absent, or the placeholder wheel, which raises RuntimeError
        pytest.skip(f"needs {framework}")
    inputs = flow.tensor(np.random.default_rng(0).normal(size=(40, 8, 4)).astype(np.float32))

    def run(order: int) -> Any:
        model = flow.nn.Sequential(flow.nn.Linear(4, 4), flow.nn.Tanh(), flow.nn.Linear(4, 4))
        optimizer = flow.optim.Adam(list(model.parameters())[::order], lr=0.05)
        return model, optimizer, flow.optim.lr_scheduler.StepLR(optimizer, step_size=6, gamma=0.5)

    def train(run: Any, steps: range) -> list[bytes]:
        model, optimizer, scheduler = run
        for i in steps:
            optimizer.zero_grad()
            ((model(inputs[i]) - inputs[i]) ** 2).mean().backward()
            optimizer.step()
            scheduler.step()
        return [parameter.detach().numpy().tobytes() for parameter in model.parameters()]

    stays, moves = run(1), run(-1)
    train(stays, range(15))
    model, optimizer, scheduler = map(backend.to_tree, stays)
    tree = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "optimizer_class": "Adam"}
    there, report = translate(tree, to="toy")
    assert [entry.partition(":")[0] for entry in report.left_out] == ["optimizer"]  # initial_lr
    restored = restore(there, RunState(*moves, rng=True))
    assert restored.restored == ("model", "optimizer", "scheduler")
    assert train(moves, range(15, 40)) == train(stays, range(15, 40))
