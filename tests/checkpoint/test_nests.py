"""What is saved is restored: lists, dicts and nestings of models, optimizers, schedulers and scalers, with real torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import multiframe_ckpt as mfc
from multiframe_ckpt.testing import assert_trees_equal
from multiframe_ckpt.tree import leaves, map_objects

torch = pytest.importorskip("torch")
# torch 2.0 warns of its own storages when it loads with weights_only, and of GradScaler without a GPU.
pytestmark = [
    pytest.mark.filterwarnings("ignore:TypedStorage is deprecated"),
    pytest.mark.filterwarnings("ignore:torch.cuda.amp.GradScaler"),
]
nn = torch.nn

# Older versions have one for GPUs alone, which without one is disabled.
GradScaler = partial(torch.amp.GradScaler, "cpu") if hasattr(torch.amp, "GradScaler") else torch.cuda.amp.GradScaler

OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "plain SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
    "NAdam": lambda parameters: torch.optim.NAdam(parameters, lr=0.01),
    "LBFGS": lambda parameters: torch.optim.LBFGS(parameters, lr=0.1, max_iter=2),
}
SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "StepLR": lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5),
    "MultiStepLR": lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 3]),
    "LambdaLR": lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step),
    "SequentialLR": lambda optimizer: torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [torch.optim.lr_scheduler.ConstantLR(optimizer), torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)],
        [2],
    ),
}


def nests(items: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    """One, or a list, tuple or dict of some, nested; names such as programs give them, and numbers."""
    names = st.sampled_from(["g", "d", "net", "model", "optimizer", "ema", 0, 7])

    def inside(child: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        some = st.lists(child, min_size=1, max_size=3)
        return some | some.map(tuple) | st.dictionaries(names, child, min_size=1, max_size=3)

    return st.recursive(items, inside, max_leaves=4)


@st.composite
def plans(draw: st.DrawFn) -> dict[str, Any]:
    """What a run is made of, by kinds: the same plan makes it again, elsewhere."""
    plan = {
        "model": draw(nests(st.sampled_from(["linear", "norm", "tied"]))),
        "optimizer": draw(nests(st.sampled_from([*OPTIMIZERS]))),
        "scheduler": draw(nests(st.sampled_from([*SCHEDULERS]))),
        "scaler": draw(nests(st.sampled_from(["on", "off"]))),
    }
    absent = draw(st.sets(st.sampled_from(["optimizer", "scheduler", "scaler"])))
    return {name: nest for name, nest in plan.items() if name not in absent}


class Tied(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight


def model(kind: str) -> Any:
    return {"linear": lambda: nn.Linear(3, 2), "norm": lambda: nn.BatchNorm1d(3), "tied": Tied}[kind]()


def made(plan: dict[str, Any], seed: int) -> dict[str, Any]:
    """Each optimizer has a model of its own, each scheduler an optimizer of its own; all of them went some steps."""
    torch.manual_seed(seed)
    makers = {
        "model": model,
        "optimizer": lambda kind: trained(OPTIMIZERS[kind], seed),
        "scheduler": lambda kind: advanced(SCHEDULERS[kind], seed),
        "scaler": lambda kind: GradScaler(init_scale=2.0**seed, enabled=kind == "on"),
    }
    return {name: map_objects(nest, lambda _, kind, name=name: makers[name](kind)) for name, nest in plan.items()}


def trained(make: Callable[[Any], Any], steps: int) -> Any:
    net = nn.Linear(3, 2)
    optimizer = make(net.parameters())

    def loss() -> Any:
        optimizer.zero_grad()
        value = net(torch.ones(4, 3)).square().sum()
        value.backward()
        return value

    for _ in range(steps):
        optimizer.step(loss)
    return optimizer


def advanced(make: Callable[[Any], Any], steps: int) -> Any:
    optimizer = trained(OPTIMIZERS["SGD"], 1)
    scheduler = make(optimizer)
    for _ in range(steps):
        scheduler.step()
    return scheduler


def states(run: dict[str, Any]) -> Any:
    return mfc.Checkpoint.from_objects(run).tree


@pytest.mark.filterwarnings("ignore:Detected call of")  # of schedulers that step before their optimizer
@pytest.mark.filterwarnings("ignore:The epoch parameter")  # of torch 2.0's own SequentialLR
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=plans())
def test_what_is_saved_is_restored_however_nested(tmp_path: Path, plan: dict[str, Any]) -> None:
    first, second = made(plan, seed=3), made(plan, seed=1)
    mfc.Checkpoint.from_run(**first).save(tmp_path / "run.pth", overwrite=True)
    report = mfc.open(tmp_path / "run.pth").restore(**second, rng=False)
    assert report.restored == tuple(plan)
    assert report.left_out == ()
    assert_trees_equal(states(second), states(first))


def test_empty_lists_are_nothing_to_restore() -> None:
    nothing: dict[str, Any] = {"model": [], "optimizer": [], "scheduler": {}, "scaler": ()}
    assert mfc.Checkpoint.from_run(**nothing, epoch=1).restore(**nothing).restored == ()
    assert mfc.Checkpoint.from_run(epoch=1).restore(**nothing).warnings == ()


def pair() -> tuple[Any, Any]:
    torch.manual_seed(0)
    return nn.Linear(3, 2), nn.Linear(3, 4)


def optimizers(nets: Any) -> list[Any]:
    return [torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9) for net in nets]


def test_a_gan_saved_by_a_manager_is_resumed(tmp_path: Path) -> None:
    nets = pair()
    with mfc.CheckpointManager(tmp_path, save_freq=1) as manager:
        manager.save(epoch=0, model=[*nets], optimizer=optimizers(nets))
    fresh = (nn.Linear(3, 2), nn.Linear(3, 4))
    with mfc.CheckpointManager(tmp_path) as manager:
        manager.resume(model=[*fresh], optimizer=optimizers(fresh))
    for one, other in zip(nets, fresh, strict=True):
        assert torch.equal(one.weight, other.weight)


def test_a_model_that_is_not_there_is_an_error_and_without_strict_a_warning() -> None:
    g, _ = pair()
    checkpoint = mfc.Checkpoint.from_run(optimizer=optimizers([g]), epoch=3)
    with pytest.raises(mfc.MismatchError, match=r"^model: found no weights in the checkpoint"):
        checkpoint.restore(model=g, optimizer=optimizers([g]))
    with pytest.warns(mfc.CheckpointWarning, match=r"^model: found none"):
        assert checkpoint.restore(model=g, strict=False).restored == ()


@pytest.mark.parametrize(
    "live",
    [lambda g, d: [g], lambda g, d: [g, d, g], lambda g, d: {"g": g, "d": d}, lambda g, d: [d, g], lambda g, d: g],
)
def test_models_nested_otherwise_than_saved_are_an_error_and_touch_nothing(live: Callable[..., Any]) -> None:
    g, _ = pair()
    checkpoint = mfc.Checkpoint.from_run(model=[g, g], epoch=3)
    fresh = (nn.Linear(3, 2), nn.Linear(3, 4))
    before = states({"models": [*fresh]})
    kept = [leaf.numpy().copy() for _, leaf in leaves(before)]
    with pytest.raises((mfc.MismatchError, mfc.RefusedError)):
        checkpoint.restore(model=live(*fresh))
    assert all((leaf.numpy() == old).all() for (_, leaf), old in zip(leaves(before), kept, strict=True))


@pytest.mark.parametrize("names", [("g", "d"), ("discriminator", "generator")])
def test_models_of_another_program_are_told_apart_by_name_or_shape(names: tuple[str, str]) -> None:
    g, d = pair()
    checkpoint = mfc.Checkpoint.from_objects({names[0]: g, names[1]: d, "epoch": torch.tensor(7)})
    for live in (
        lambda g, d: [d, g],
        lambda g, d: {names[0]: g, names[1]: d},
        lambda g, d: g,
        lambda g, d: {names[1]: d},
    ):
        fresh = (nn.Linear(3, 2), nn.Linear(3, 4))
        report = checkpoint.restore(model=live(*fresh))
        checkpoint.load_into(live(*fresh))
        assert report.epoch == 7
        filled = {id(leaf) for _, leaf in leaves(live(*fresh))}
        for one, other in zip((g, d), fresh, strict=True):
            assert torch.equal(one.weight, other.weight) == (id(other) in filled)


def test_optimizers_of_another_program_go_by_name_or_in_order_and_are_never_guessed() -> None:
    nets = pair()
    saved = dict(zip(["opt_d", "opt_g"], optimizers(nets), strict=True))
    for rate, optimizer in zip((0.3, 0.4), saved.values(), strict=True):
        optimizer.param_groups[0]["lr"] = rate
    checkpoint = mfc.Checkpoint.from_objects({"g": nets[0], "d": nets[1], **saved})
    rates = lambda live: [optimizer.param_groups[0]["lr"] for _, optimizer in leaves(live)]  # noqa: E731
    in_order, named = optimizers(nets), dict(zip(["opt_d", "opt_g"], optimizers(nets), strict=True))
    checkpoint.restore(optimizer=in_order)
    checkpoint.restore(optimizer=named)
    assert rates(in_order) == rates(named) == [0.3, 0.4]
    with pytest.raises(
        mfc.MismatchError, match=r"^optimizer: found opt_d, opt_g, expected the names of the live ones \(d, g\)"
    ):
        checkpoint.restore(optimizer=dict(zip(["d", "g"], optimizers(nets), strict=True)))


def test_like_models_of_another_program_are_never_guessed() -> None:
    nets = {"student": nn.Linear(3, 2), "teacher": nn.Linear(3, 2)}
    checkpoint = mfc.Checkpoint.from_objects(nets)
    live = nn.Linear(3, 2)
    for attempt in (lambda: checkpoint.restore(model=live), lambda: checkpoint.load_into(live)):
        with pytest.raises(mfc.MismatchError, match=r"'student' \(2 tensors, 32 B\), 'teacher'.*model_only='student'"):
            attempt()
    with pytest.raises(mfc.MismatchError, match=r"'student'.*pass a dict of models under these names$"):
        checkpoint.restore(model=[live, nn.Linear(3, 2)])
    checkpoint.load_into(live, model_only="teacher")
    assert torch.equal(live.weight, nets["teacher"].weight)
    checkpoint.restore(model={"student": live})
    assert torch.equal(live.weight, nets["student"].weight)


def test_weights_are_loaded_whatever_wraps_their_module() -> None:
    net = nn.Sequential(nn.Linear(3, 2))
    wrapped = {f"module._orig_mod.{key}": value for key, value in net.state_dict().items()}
    for saved, live in (
        (wrapped, nn.Sequential(nn.Linear(3, 2))),
        (
            {"state_dict": {f"model.{key}": value for key, value in net.state_dict().items()}},
            nn.Sequential(nn.Linear(3, 2)),
        ),
        (net.state_dict(), nn.DataParallel(nn.Sequential(nn.Linear(3, 2)))),
        ({"model": wrapped, "epoch": 3}, nn.DataParallel(nn.Sequential(nn.Linear(3, 2)))),
    ):
        assert mfc.Checkpoint.from_objects(saved).load_into(live).complete
        inside = live.module if isinstance(live, nn.DataParallel) else live
        assert torch.equal(inside[0].weight, net[0].weight)


def test_averaged_weights_are_loaded_into_the_model_that_they_are_averages_of() -> None:
    net = nn.Sequential(nn.Linear(3, 2))
    average = torch.optim.swa_utils.AveragedModel(net)
    checkpoint = mfc.Checkpoint.from_objects({"model": nn.Sequential(nn.Linear(3, 2)), "ema": average})
    live, again = nn.Sequential(nn.Linear(3, 2)), torch.optim.swa_utils.AveragedModel(nn.Sequential(nn.Linear(3, 2)))
    checkpoint.load_into(live, model_only="ema")
    checkpoint.load_into(again, model_only="ema")
    assert torch.equal(live[0].weight, net[0].weight)
    assert torch.equal(again.module[0].weight, net[0].weight)
    with pytest.raises(mfc.MismatchError, match="n_averaged"):  # a plain model has none to give
        checkpoint.load_into(again, model_only="model")


@pytest.mark.parametrize("nested", [False, True])
def test_the_advice_of_an_error_is_taken_by_restore_and_load_into(nested: bool) -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    saved = {f"backbone.{key}": value for key, value in net.state_dict().items()}
    checkpoint = mfc.Checkpoint.from_run(model=saved, epoch=1)
    live = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    with pytest.raises(mfc.MismatchError) as caught:
        checkpoint.restore(model=live) if nested else checkpoint.load_into(live)
    assert "rename=['backbone.*=*']" in str(caught.value)
    if nested:
        checkpoint.restore(model=live, rename=["backbone.*=*"])
        assert checkpoint.resume_check(model=live, rename=["backbone.*=*"]).warm
    else:
        checkpoint.load_into(live, rename=["backbone.*=*"])
    assert torch.equal(live[1].weight, net[1].weight)


def test_the_advice_is_taken_by_a_manager_too(tmp_path: Path) -> None:
    net, live = (nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)) for _ in range(2))
    saved = {f"backbone.{key}": value for key, value in net.state_dict().items()}
    with mfc.CheckpointManager(tmp_path) as manager:
        manager.save(epoch=0, model=saved)
        with pytest.raises(mfc.MismatchError, match=r"checkpoint_epoch_0000.*rename=\['backbone\.\*=\*'\]"):
            manager.resume(model=live)
        manager.resume(model=live, rename=["backbone.*=*"])
        manager.restore(model=live, rename=["backbone.*=*"])
    assert torch.equal(live[1].weight, net[1].weight)


def test_an_error_says_which_checkpoint_it_is(tmp_path: Path) -> None:
    mfc.Checkpoint.from_run(model=nn.Linear(3, 2)).save(tmp_path / "run.pth")
    checkpoint, live = mfc.open(tmp_path / "run.pth"), nn.Linear(3, 4)
    for attempt in (lambda: checkpoint.restore(model=live), lambda: checkpoint.load_into(live)):
        with pytest.raises(mfc.MismatchError, match=r"run\.pth: found ") as caught:
            attempt()
        assert caught.value.report.mismatched[0].found == "float32 (2, 3)"  # type: ignore[attr-defined]


def test_a_rename_rule_that_matches_nothing_is_refused() -> None:
    checkpoint = mfc.Checkpoint.from_run(model=[*pair()])
    with pytest.raises(mfc.KeyRefusedError, match=r"rename=\['nothing=x'\]"):
        checkpoint.restore(model=[*pair()], rename=["nothing=x"])
