"""Runs of real OneFlow: nests of objects come back, and what its own loading would take and go wrong is known before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.testing import assert_trees_equal
from multiframe_ckpt.tree import LazyTensor, leaves

flow = pytest.importorskip("oneflow", exc_type=ImportError)
nn, optim = flow.nn, flow.optim


def net(width: int = 4) -> Any:
    return nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, width))


def trained(make: Callable[[Any], Any], *, steps: int = 2, width: int = 4) -> dict[str, Any]:
    model = net(width)
    optimizer = make(model)
    for _ in range(steps):
        optimizer.zero_grad()
        model(flow.ones(2, 3)).sum().backward()
        optimizer.step()
    return {"model": model, "optimizer": optimizer}


def adam(model: Any) -> Any:
    return optim.AdamW(model.parameters(), lr=0.01)


def backwards(model: Any) -> Any:
    return optim.AdamW([*model.parameters()][::-1], lr=0.01)


def bits(live: Any) -> list[Any]:
    tree = mfc.Checkpoint.from_objects(live).tree
    return [(path, leaf.numpy().tobytes() if isinstance(leaf, LazyTensor) else leaf) for path, leaf in leaves(tree)]


@pytest.mark.parametrize("nest", [list, tuple, lambda items: {"g": items[0], "d": {"inner": [items[1]]}}])
@pytest.mark.parametrize("name", ["run", "run.pth", "run.safetensors"])
def test_what_is_saved_is_restored_however_nested(tmp_path: Path, nest: Callable[[Any], Any], name: str) -> None:
    def made(steps: int) -> dict[str, Any]:
        runs = [
            trained(adam, steps=steps),
            trained(lambda model: optim.SGD(model.parameters(), lr=0.1, momentum=0.9), steps=steps),
        ]
        schedulers = [optim.lr_scheduler.StepLR(run["optimizer"], 2) for run in runs]
        models, optimizers = ([run[kind] for run in runs] for kind in ("model", "optimizer"))
        return {"model": nest(models), "optimizer": nest(optimizers), "scheduler": nest(schedulers)}

    first, second = made(3), made(1)
    mfc.Checkpoint.from_run(**first).save(tmp_path / name)
    report = mfc.open(tmp_path / name).restore(**second, rng=False)
    assert (report.restored, report.left_out) == (("model", "optimizer", "scheduler"), ())
    assert_trees_equal(mfc.Checkpoint.from_objects(second).tree, mfc.Checkpoint.from_objects(first).tree)


def test_the_generators_of_several_models_go_on_where_they_stood() -> None:
    first, second = ([nn.Dropout(0.5), {"inner": nn.Dropout(0.5)}] for _ in range(2))
    batch = flow.ones(64)
    drawn = lambda models: [models[0](batch).numpy().tolist(), models[1]["inner"](batch).numpy().tolist()]  # noqa: E731
    drawn(first)
    checkpoint = mfc.Checkpoint.from_run(model=first, rng=True)
    checkpoint.restore(model=second)
    assert drawn(second) == drawn(first)


def test_a_nest_of_torchs_is_restored_into_oneflows() -> None:
    torch = pytest.importorskip("torch")
    models = [torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3), torch.nn.Linear(3, w)) for w in (2, 4)]
    optimizers = {
        "g": torch.optim.AdamW(models[0].parameters(), lr=0.03),
        "d": torch.optim.SGD(models[1].parameters(), lr=0.1),
    }
    for model, optimizer in zip(models, optimizers.values(), strict=True):
        model(torch.ones(2, 3)).sum().backward()
        optimizer.step()
    live = [trained(adam, steps=0, width=2), trained(lambda model: optim.SGD(model.parameters(), lr=0.5), steps=0)]
    own = {"g": live[0]["optimizer"], "d": live[1]["optimizer"]}
    saved = mfc.Checkpoint.from_run(model={"a": models}, optimizer=optimizers)
    report = saved.restore(model={"a": [run["model"] for run in live]}, optimizer=own)
    assert report.restored == ("model", "optimizer")
    assert "optimizer/g/param_groups/0/_options/lr: 0.01 became 0.03" in report.changed
    assert np.array_equal(live[1]["model"][2].weight.numpy(), models[1][2].weight.detach().numpy())


def test_models_are_told_apart_by_shape_and_never_guessed() -> None:
    pair = {"generator": net(2), "discriminator": net(4)}
    checkpoint, live = mfc.Checkpoint.from_objects(pair), net(4)
    checkpoint.load_into(live)
    assert np.array_equal(live[2].weight.numpy(), pair["discriminator"][2].weight.numpy())
    with pytest.raises(mfc.MismatchError, match=r"'a' \(6 tensors"):
        mfc.Checkpoint.from_objects({"a": net(), "b": net()}).load_into(net())


@pytest.mark.parametrize("kind", [optim.Adam, optim.AdamW, optim.Adagrad, optim.RMSprop, optim.SGD])
@pytest.mark.parametrize("steps", [0, 2])
def test_moments_of_another_shape_are_a_mismatch_before_anything_is_touched(kind: Any, steps: int) -> None:
    options = {"lr": 0.01} | ({"momentum": 0.9} if kind is optim.SGD else {})
    saved = trained(lambda model: kind([*model.parameters()][::-1], **options))
    live = trained(lambda model: kind(model.parameters(), **options), steps=steps)
    before = bits(live)
    with pytest.raises(
        mfc.MismatchError, match=r"optimizer/state/0/.*: found float32 \(4,\), expected float32 \(3, 3\)"
    ):
        mfc.Checkpoint.from_run(**saved).restore(**live)
    assert bits(live) == before


def test_a_schedule_that_a_restore_replaces_is_named_with_both_values() -> None:
    saved, live = trained(adam), trained(adam, steps=0)
    saved["scheduler"] = optim.lr_scheduler.CosineAnnealingLR(saved["optimizer"], 10)
    live["scheduler"] = optim.lr_scheduler.CosineAnnealingLR(live["optimizer"], 20)
    for group in live["optimizer"].param_groups:
        group["weight_decay"] = 0.5
    changed = mfc.Checkpoint.from_run(**saved).restore(**live).changed
    assert "scheduler/T_max: 20 became 10" in changed
    assert [entry for entry in changed if "weight_decay" in entry] == [
        f"optimizer/param_groups/0/_options/weight_decay: 0.5 became {saved['optimizer'].param_groups[0]['weight_decay']}"
    ]


def test_the_state_of_another_schedule_is_refused_before_anything_is_touched() -> None:
    saved, live = trained(adam), trained(adam, steps=1)
    saved["scheduler"] = optim.lr_scheduler.StepLR(saved["optimizer"], 2)
    live["scheduler"] = optim.lr_scheduler.CosineAnnealingLR(live["optimizer"], 20)
    before = bits(live)
    with pytest.raises(mfc.MismatchError, match="scheduler: found the state of a scheduler with"):
        mfc.Checkpoint.from_run(**saved).restore(**live)
    assert bits(live) == before


@pytest.mark.parametrize("name", ["_options", "_enable_clip_grad"])
def test_groups_without_what_oneflow_asks_for_are_refused(name: str) -> None:
    saved, live = trained(adam), trained(adam, steps=1)
    tree = mfc.Checkpoint.from_objects(saved["optimizer"]).tree
    groups = [{key: value for key, value in group.items() if key != name} for group in tree["param_groups"]]
    before = bits(live)
    with pytest.raises(mfc.MismatchError):
        mfc.Checkpoint({**tree, "param_groups": groups}).load_into(live["optimizer"])
    assert bits(live) == before


def test_a_tied_model_takes_no_two_values() -> None:
    model = net()
    model[1].weight = model[0].weight
    before = model[0].weight.numpy().copy()
    with pytest.raises(mfc.MismatchError, match=r"'0\.weight' and '1\.weight' are one tensor"):
        mfc.Checkpoint.from_objects(net()).load_into(model)
    assert np.array_equal(model[0].weight.numpy(), before)


def test_extra_comes_back_live() -> None:
    live = trained(adam, steps=0)
    extra = (
        mfc.Checkpoint.from_run(**live, epoch=1, extra={"centre": flow.ones(2), "seen": {1, 2}}).restore(**live).extra
    )
    assert isinstance(extra["centre"], flow.Tensor)
    assert (extra["centre"].numpy().tolist(), extra["seen"]) == ([1, 1], [1, 2])
