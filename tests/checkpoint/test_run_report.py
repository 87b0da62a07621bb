"""What a restore says of the run: hyper-parameters that it changed, facts as plain values, entries of the user's own."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import multiframe_ckpt as mfc

torch = pytest.importorskip("torch")
# torch 2.0 warns of its own storages when it loads with weights_only.
pytestmark = [
    pytest.mark.filterwarnings("ignore:TypedStorage is deprecated"),
    pytest.mark.filterwarnings("ignore:The epoch parameter"),  # of its own SequentialLR
]
nn, lr_scheduler = torch.nn, torch.optim.lr_scheduler


def run(scheduler: Any = None, optimizer: str = "SGD", **options: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    groups = [{"params": [net.weight]}, {"params": [net.bias]}]
    optim = getattr(torch.optim, optimizer)(groups, **{"lr": 0.1} | options)
    return {"model": net, "optimizer": optim} | ({} if scheduler is None else {"scheduler": scheduler(optim)})


def advance(live: dict[str, Any], steps: int = 3) -> dict[str, Any]:
    for _ in range(steps):
        live["model"](torch.ones(1, 3)).sum().backward()
        live["optimizer"].step()
        if "scheduler" in live:
            live["scheduler"].step()
    return live


def restored(saved: dict[str, Any], live: dict[str, Any]) -> mfc.RestoreReport:
    return mfc.Checkpoint.from_run(**advance(saved)).restore(**live)


def test_a_schedule_that_a_restore_replaces_is_named_once_with_both_values() -> None:
    report = restored(
        run(lambda optim: lr_scheduler.CosineAnnealingLR(optim, 10)),
        run(lambda optim: lr_scheduler.CosineAnnealingLR(optim, 20)),
    )
    assert report.changed == ("scheduler/T_max: 20 became 10",)
    assert str(report).count("T_max: 20 became 10") == 1


@pytest.mark.parametrize(
    ("saved", "live", "changed"),
    [
        ({"momentum": 0.9}, {"momentum": 0.5}, ["optimizer/param_groups/0/momentum: 0.5 became 0.9, and so in 1 more"]),
        ({"lr": 0.1}, {"lr": 0.3}, ["optimizer/param_groups/0/lr: 0.3 became 0.1, and so in 1 more"]),
        (
            {"weight_decay": 0.0},
            {"weight_decay": 0.1},
            ["optimizer/param_groups/0/weight_decay: 0.1 became 0.0, and so in 1 more"],
        ),
        ({}, {}, []),
    ],
)
def test_options_of_groups_are_named_once_for_all_groups(saved: Any, live: Any, changed: list[str]) -> None:
    assert [*restored(run(**saved), run(**live)).changed] == changed


def test_betas_are_options_and_a_step_of_a_group_alone_is_named_with_its_group() -> None:
    saved, live = (run(optimizer="AdamW", betas=betas) for betas in ((0.9, 0.99), (0.9, 0.999)))
    live["optimizer"].param_groups[1]["betas"] = (0.9, 0.99)
    assert restored(saved, live).changed == ("optimizer/param_groups/0/betas: (0.9, 0.999) became (0.9, 0.99)",)


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda optim: lr_scheduler.StepLR(optim, 1, 0.5),
        lambda optim: lr_scheduler.MultiStepLR(optim, [1, 2]),
        lambda optim: lr_scheduler.CosineAnnealingWarmRestarts(optim, 2),
        lambda optim: lr_scheduler.OneCycleLR(optim, 0.1, total_steps=20),
        lambda optim: lr_scheduler.SequentialLR(
            optim, [lr_scheduler.ConstantLR(optim), lr_scheduler.ExponentialLR(optim, 0.9)], [1]
        ),
    ],
)
def test_where_a_schedule_stands_is_no_change(scheduler: Any) -> None:
    assert restored(run(scheduler), run(scheduler)).changed == ()


def test_changes_inside_a_sequence_of_schedules_are_named() -> None:
    def sequence(gamma: float) -> Any:
        return lambda optim: lr_scheduler.SequentialLR(
            optim, [lr_scheduler.ConstantLR(optim), lr_scheduler.ExponentialLR(optim, gamma)], [1]
        )

    report = restored(run(sequence(0.9)), run(sequence(0.8)))
    assert report.changed == ("scheduler/_schedulers/1/gamma: 0.8 became 0.9",)


def test_the_learning_rate_that_a_schedule_begins_with_is_named_and_the_one_it_came_to_is_not() -> None:
    schedule = lambda optim: lr_scheduler.StepLR(optim, 1, 0.5)  # noqa: E731
    report = restored(run(schedule, lr=0.1), run(schedule, lr=0.3))
    assert [entry.partition(":")[0] for entry in report.changed] == [
        "optimizer/param_groups/0/initial_lr",
        "scheduler/base_lrs",
    ]


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Data:
    root: Path
    seen: set[int]
    mean: Any = None


VALUES = {
    "arguments": argparse.Namespace(lr=0.1, out=Path("x"), nested=argparse.Namespace(a={2, 1})),
    "data": Data(Path("d"), {3, 1}),
    "colour": Colour.RED,
    "when": datetime.date(2024, 5, 6),
    "device": torch.device("cpu"),
    "number": np.float32(0.5),
}
PLAIN = {
    "arguments": {"lr": 0.1, "out": "x", "nested": {"a": [1, 2]}},
    "data": {"root": "d", "seen": [1, 3], "mean": None},
    "colour": "red",
    "when": "2024-05-06",
    "device": "cpu",
    "number": 0.5,
}


def test_extra_takes_what_train_args_takes_and_both_come_back(tmp_path: Path) -> None:
    mfc.Checkpoint.from_run(epoch=1, train_args=VALUES, extra=VALUES).save(tmp_path / "run.pth")
    report = mfc.open(tmp_path / "run.pth").restore()
    assert report.train_args == PLAIN
    assert report.extra == PLAIN


def test_tensors_and_states_among_extra_come_back_live_and_whole(tmp_path: Path) -> None:
    ema = nn.Linear(3, 2)
    extra = {"ema": ema, "centre": torch.ones(1), "data": Data(Path("d"), set(), torch.zeros(3)), "position": [3, "a"]}
    live = run()
    mfc.Checkpoint.from_run(**live, epoch=1, extra=extra).save(tmp_path / "run.pth")
    extra = dict(mfc.open(tmp_path / "run.pth").restore(**live).extra)
    fresh = nn.Linear(3, 2)
    fresh.load_state_dict(extra.pop("ema"))
    assert torch.equal(fresh.weight, ema.weight)
    assert (extra["centre"].shape, extra["data"]["mean"].shape, extra["position"]) == ((1,), (3,), [3, "a"])


def test_states_among_extra_are_the_users_own_and_no_part_of_the_run() -> None:
    live, other = run(), advance(run(lambda optim: lr_scheduler.StepLR(optim, 1)))
    kept = {"other": other["optimizer"], "schedule": other["scheduler"], "net": other["model"]}
    checkpoint = mfc.Checkpoint.from_run(**live, extra=kept)
    fresh = run(lambda optim: lr_scheduler.StepLR(optim, 1))
    with pytest.warns(mfc.CheckpointWarning, match=r"^scheduler: found none in the checkpoint"):
        report = checkpoint.restore(**fresh)
    assert (report.restored, report.left_out, {*report.extra}) == (("model", "optimizer"), (), {*kept})
    assert fresh["scheduler"].last_epoch == 0


@pytest.mark.parametrize("name", ["loss", "model_state_dict", "rng_state", "within_epoch", "save_count"])
def test_extra_takes_no_name_of_the_layout_whether_or_not_that_is_there(name: str) -> None:
    with pytest.raises(mfc.ValueRefusedError, match=f"^extra: found the entry '{name}'"):
        mfc.Checkpoint.from_run(epoch=1, extra={name: 1})


def test_the_entries_of_a_manager_are_not_extra(tmp_path: Path) -> None:
    with mfc.CheckpointManager(tmp_path) as manager:
        manager.save(epoch=0, step=5, model=run()["model"], extra={"mine": 1}, loss=0.5, metrics={"a": 1})
        assert manager.restore(model=run()["model"]).extra == {"mine": 1}


@pytest.mark.parametrize("epoch", [7, torch.tensor(7), torch.tensor([7.0]), np.int64(7)])
def test_the_facts_of_another_program_are_plain_numbers(tmp_path: Path, epoch: Any) -> None:
    net = nn.Linear(3, 2)
    state = {"model": net.state_dict(), "epoch": epoch, "global_step": epoch, "loss": torch.tensor(0.5)}
    torch.save(
        state | {"metrics": {"accuracy": torch.tensor([0.25])}, "args": {"centre": torch.ones(2)}}, tmp_path / "x.pt"
    )
    report = mfc.open(tmp_path / "x.pt").restore(model=net)
    assert (report.epoch, report.step, report.loss, report.metrics) == (7, 7, 0.5, {"accuracy": 0.25})
    assert (type(report.epoch), type(report.loss)) == (int, float)
    assert torch.equal(report.train_args["centre"], torch.ones(2))
    assert report.extra == {}


@pytest.mark.parametrize(
    "state",
    [
        {"python": (3, (1, 2), None)},
        {"numpy": np.random.RandomState(0).get_state(), "torch": torch.get_rng_state()},
        {"torch": {"cpu": torch.zeros(3, dtype=torch.uint8)}},
        {"torch": torch.get_rng_state()},
    ],
)
def test_a_random_state_of_another_programs_making_is_left_out_and_nothing_else_is(state: Any) -> None:
    live, fresh = run(), run()
    nn.init.zeros_(fresh["model"].weight)
    states = {"model": live["model"], "optimizer": live["optimizer"], "rng_state": state}
    report = mfc.Checkpoint.from_objects(states).restore(**fresh)
    assert report.left_out == ("rng_state: a random state of another program's own making",)
    assert torch.equal(live["model"].weight, fresh["model"].weight)
