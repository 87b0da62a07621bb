"""restore() and resume_check() with torch: what is restored, what is not, and that nothing is half done."""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import multiframe_ckpt as mfc

torch = pytest.importorskip("torch")
# torch 2.0 warns of its own storages when it loads with weights_only.
pytestmark = pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
nn = torch.nn


def build(optimizer: str = "AdamW", width: int = 5) -> tuple[Any, Any, Any]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 2))
    optim = getattr(torch.optim, optimizer)(net.parameters(), lr=0.01)
    return net, optim, torch.optim.lr_scheduler.StepLR(optim, 2, 0.5)


def train(net: Any, optim: Any, scheduler: Any, steps: int) -> float:
    for _ in range(steps):
        loss = net(torch.randn(8, 6)).square().mean()
        optim.zero_grad()
        loss.backward()
        optim.step()
        scheduler.step()
    return float(loss.detach())


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A run of three steps, saved whole."""
    net, optim, scheduler = build()
    loss = train(net, optim, scheduler, 3)
    path = tmp_path / "run.pt"
    mfc.Checkpoint.from_run(
        model=net,
        optimizer=optim,
        scheduler=scheduler,
        epoch=2,
        step=3,
        loss=torch.tensor(loss),
        metrics={"accuracy": np.float32(0.5), "seen": np.int64(24)},
        train_args=argparse.Namespace(lr=0.01, out=Path("x")),
        rng=True,
        extra={"vocabulary": {"a": 0}},
    ).save(path)
    return path


def test_a_training_checkpoint_is_an_ordinary_torch_file_under_the_usual_keys(kept: Path) -> None:
    found = torch.load(kept, weights_only=True)
    assert set(found) == {
        *("format_version", "framework", "framework_version", "timestamp", "epoch", "step", "loss", "metrics"),
        *("train_args", "model_state_dict", "optimizer_state_dict", "optimizer_class", "scheduler_state_dict"),
        *("scheduler_class", "rng_state", "vocabulary"),
    }
    assert (found["metrics"], found["train_args"]) == ({"accuracy": 0.5, "seen": 24}, {"lr": 0.01, "out": "x"})
    assert (type(found["loss"]), type(found["metrics"]["accuracy"])) == (float, float)
    assert (found["optimizer_class"], found["scheduler_class"]) == ("AdamW", "StepLR")


def test_a_restored_run_goes_on_bit_for_bit_random_numbers_included(kept: Path) -> None:
    first = build()
    mfc.open(kept).restore(model=first[0], optimizer=first[1], scheduler=first[2])
    train(*first, 5)
    second = build()
    train(*second, 2)  # stands elsewhere before
    report = mfc.open(kept).restore(model=second[0], optimizer=second[1], scheduler=second[2])
    train(*second, 5)
    for one, other in zip(first[0].parameters(), second[0].parameters(), strict=True):
        assert torch.equal(one, other)
    assert report.restored == ("model", "optimizer", "scheduler", "rng")
    assert (report.epoch, report.step, report.metrics) == (2, 3, {"accuracy": 0.5, "seen": 24})
    assert report.left_out == ()
    assert (report.exact, report.resumable, report.ok) == (True, True, True)
    assert report.resumable_because == (
        "the run goes on with model, optimizer, scheduler, progress (epoch 2, step 3), random state"
    )


def test_what_was_not_asked_for_is_named(kept: Path) -> None:
    net, _, _ = build()
    report = mfc.open(kept).restore(model=net, rng=False)
    assert report.restored == ("model",)
    assert [entry.partition(":")[0] for entry in report.left_out] == [
        "optimizer_state_dict",
        "scheduler_state_dict",
        "rng_state",
    ]
    assert (report.exact, report.resumable) == (True, False)
    assert "optimizer: not asked for; scheduler: not asked for; what goes on: model" in report.resumable_because
    assert "not decisive: random state: not set" in report.resumable_because
    assert "not resumable: the run does not go on: optimizer: not asked for" in str(report)


def test_weights_alone_are_restored_exactly_and_are_no_run(tmp_path: Path) -> None:
    net, *_ = build()
    mfc.Checkpoint.from_run(model=net).save(tmp_path / "w.pt")
    report = mfc.open(tmp_path / "w.pt").restore(model=net)
    assert (report.exact, report.resumable, report.ok) == (True, None, True)


def test_what_does_not_fit_without_strict_is_neither_exact_nor_resumable(kept: Path) -> None:
    net, *_ = build(width=7)
    report = mfc.open(kept).restore(model=net, rng=False, strict=False)
    assert (report.exact, report.resumable, report.ok) == (False, False, False)
    assert "mismatched" in report.exact_because
    assert "model: " in report.resumable_because and "not loaded" in report.resumable_because


@pytest.mark.parametrize(
    ("part", "found", "message"),
    [
        ("python", (3, (1, 2), None), "rng_state/python: found a tuple, expected a dict"),
        ("numpy", {"pos": 1}, "rng_state/numpy/key: found nothing, expected a tensor"),
        ("torch", {"cpu": [1]}, "rng_state/torch/cpu: found a list, expected a tensor"),
    ],
)
def test_a_random_state_that_another_program_keeps_so_is_refused_by_its_key(
    part: str, found: Any, message: str
) -> None:
    net, _, _ = build()
    states = mfc.Checkpoint.from_run(model=net, rng=True).tree
    checkpoint = mfc.Checkpoint(states | {"rng_state": states["rng_state"] | {part: found}})
    with pytest.raises(mfc.ValueRefusedError, match=message):
        checkpoint.restore(model=net)


def test_a_part_the_checkpoint_lacks_starts_fresh_with_a_warning(tmp_path: Path) -> None:
    net, optim, _ = build()
    mfc.Checkpoint.from_run(model=net, epoch=1).save(tmp_path / "w.pt")
    with pytest.warns(mfc.CheckpointWarning, match=r"optimizer: .*starts fresh, with the learning rate.*0\.01"):
        report = mfc.open(tmp_path / "w.pt").restore(model=net, optimizer=optim)
    assert report.restored == ("model",)
    assert (report.exact, report.exact_because, report.resumable) == (False, "optimizer was not restored", False)
    assert "optimizer: it starts fresh" in report.resumable_because


def test_a_strict_restore_that_does_not_fit_touches_nothing(kept: Path) -> None:
    net, optim, scheduler = build(width=7)
    before = [parameter.detach().clone() for parameter in net.parameters()]
    with pytest.raises(mfc.MismatchError):
        mfc.open(kept).restore(model=net, optimizer=optim, scheduler=scheduler)
    assert all(torch.equal(*pair) for pair in zip(before, net.parameters(), strict=True))
    assert optim.state_dict()["state"] == {}


@pytest.mark.parametrize("names", [("model", "optimizer", "scheduler"), ("net", "optimizer_state", "lr_scheduler")])
def test_files_written_by_hand_are_recognised(tmp_path: Path, names: tuple[str, str, str]) -> None:
    run = build()
    train(*run, 3)
    states = {name: part.state_dict() for name, part in zip(names, run, strict=True)}
    torch.save({**states, "epoch": 4}, tmp_path / "x.pt")
    fresh = build()
    report = mfc.open(tmp_path / "x.pt").restore(model=fresh[0], optimizer=fresh[1], scheduler=fresh[2])
    assert report.restored == ("model", "optimizer", "scheduler")
    assert report.epoch == 4
    assert mfc.open(tmp_path / "x.pt").resume_check(model=fresh[0], optimizer=fresh[1], scheduler=fresh[2]).warm


def test_lightnings_names_and_lists_are_recognised(tmp_path: Path) -> None:
    run = build()
    train(*run, 3)
    state = {
        "state_dict": run[0].state_dict(),
        "optimizer_states": [run[1].state_dict()],
        "lr_schedulers": [run[2].state_dict()],
        "epoch": 4,
        "global_step": 12,
    }
    torch.save(state, tmp_path / "x.ckpt")
    fresh = build()
    report = mfc.open(tmp_path / "x.ckpt").restore(model=fresh[0], optimizer=fresh[1], scheduler=fresh[2])
    assert (report.restored, report.epoch, report.step) == (("model", "optimizer", "scheduler"), 4, 12)


def test_a_cold_optimizer_is_caught(kept: Path) -> None:
    net, optim, _ = build()
    mfc.open(kept).restore(model=net)
    with pytest.raises(mfc.MismatchError, match="optimizer: found no state for state/0"):
        mfc.open(kept).resume_check(model=net, optimizer=optim)


def test_a_scheduler_built_after_restoring_the_optimizer_is_caught(kept: Path) -> None:
    net, optim, _ = build()
    mfc.open(kept).restore(model=net, optimizer=optim)
    late = torch.optim.lr_scheduler.StepLR(optim, 2, 0.5)
    check = mfc.open(kept).resume_check(model=net, optimizer=optim, scheduler=late, strict=False)
    assert not check.warm
    assert any("last_epoch" in key for key in check.differing)


@pytest.mark.parametrize("named", [True, False])
def test_the_state_of_another_optimizer_is_refused(tmp_path: Path, named: bool) -> None:
    net, optim, scheduler = build()
    train(net, optim, scheduler, 1)
    tree = dict(mfc.Checkpoint.from_run(model=net, optimizer=optim).tree)
    if not named:
        del tree["optimizer_class"]
    other = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    with pytest.raises(
        mfc.MismatchError, match=r"^optimizer_state_dict: found the state of AdamW, expected that of SGD"
    ):
        mfc.Checkpoint(tree).restore(model=net, optimizer=other)
    report = mfc.Checkpoint(tree).restore(model=net, optimizer=other, strict=False)
    assert report.restored == ("model",)
    assert "found the state of AdamW" in report.left_out[0]


def test_a_whole_model_is_built_only_when_trusted_and_its_weights_are_read_by_all(tmp_path: Path) -> None:
    net, _, _ = build()
    mfc.save_whole_model(net, tmp_path / "m.pth")
    assert list(mfc.load(tmp_path / "m.pth", backend="torch")) == list(net.state_dict())
    built = mfc.load(tmp_path / "m.pth", trusted=True)
    assert type(built) is type(net)
    batch = torch.ones(1, 6)
    assert torch.equal(built(batch), net(batch))
    with pytest.raises(mfc.TargetExistsError):
        mfc.save_whole_model(net, tmp_path / "m.pth")


@pytest.mark.parametrize("name", ["m.safetensors", "m", "m.npz"])
def test_a_whole_model_is_written_as_a_torch_file_alone(tmp_path: Path, name: str) -> None:
    with pytest.raises(mfc.ValueRefusedError, match=r"expected torch.*state dict"):
        mfc.save_whole_model(build()[0], tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_devices_dtypes_and_times_among_the_arguments_are_kept_as_text() -> None:
    when = datetime.datetime(2024, 5, 6, 7, 8)
    args = argparse.Namespace(device=torch.device("cpu"), dtype=torch.float16, begun=when, day=when.date())
    kept = mfc.Checkpoint.from_run(epoch=1, train_args=args).tree["train_args"]
    assert kept == {"device": "cpu", "dtype": "torch.float16", "begun": "2024-05-06T07:08:00", "day": "2024-05-06"}


def test_an_argument_that_cannot_be_kept_is_named_by_its_whole_key() -> None:
    with pytest.raises(mfc.ValueRefusedError, match=r"^train_args/hook: found builtins\."):
        mfc.Checkpoint.from_run(epoch=1, train_args={"hook": print})


def test_an_extra_entry_cannot_take_a_name_of_the_layout() -> None:
    with pytest.raises(mfc.ValueRefusedError, match="'epoch'"):
        mfc.Checkpoint.from_run(epoch=1, extra={"epoch": 2})
