"""Runs that count epochs, steps or both: what saves are called, where a resume goes on, and what is kept of them."""

import subprocess
import sys

import numpy as np
import pytest
from saved_epochs import epochs_of, names_in, weights

import multiframe_ckpt as mfc
from multiframe_ckpt import CheckpointManager
from multiframe_ckpt.errors import CheckpointWarning, ValueRefusedError
from multiframe_ckpt.runs.names import position_named
from multiframe_ckpt.runs.survey import survey


def checkpoints_in(folder):
    return [name.removesuffix(".pth") for name in names_in(folder) if name.startswith("checkpoint")]


def positions_of(manager):
    return [str(record.position) for record in manager.checkpoints()]


def test_saves_within_an_epoch_and_after_it_are_three_checkpoints_and_each_says_where_to_go_on(tmp_path):
    manager = CheckpointManager(tmp_path)
    found = []
    for clocks in ({"step": 100}, {"step": 200}, {}):
        manager.save(0, weights(), **clocks)
        start = manager.resume(model=weights())
        found.append((start.epoch, start.within_epoch, start.ended.step))
    assert found == [(0, True, 100), (0, True, 200), (1, False, None)]
    assert checkpoints_in(tmp_path) == [
        "checkpoint_epoch_0000",
        "checkpoint_epoch_0000_step_00000100",
        "checkpoint_epoch_0000_step_00000200",
    ]


def test_a_run_that_counts_steps_has_names_of_steps_and_goes_on_with_the_next(tmp_path):
    manager = CheckpointManager(tmp_path)
    assert manager.resume(model=weights()).step == 0
    for step in (9_999, 12_000):
        manager.save(step=step, model=weights(step))
    model = weights()
    start = CheckpointManager(tmp_path).resume(model=model)
    assert (start.step, start.within_epoch, str(start)) == (12_001, False, "step 12001")
    assert model["l1.bias"].tolist() == [12_000] * 3
    assert checkpoints_in(tmp_path) == ["checkpoint_step_00009999", "checkpoint_step_00012000"]


def test_where_a_run_goes_on_is_one_short_line_however_much_was_restored(tmp_path):
    many = {f"l{number}": np.zeros(1, np.float32) for number in range(500)}
    manager = CheckpointManager(tmp_path)
    manager.save(1, many, step=7, extra={"large": np.zeros(1000)})
    start = manager.resume(model=many)
    assert (str(start), len(repr(start).splitlines())) == ("epoch 1, step 8, within the epoch", 1)
    assert repr(start).endswith("ended=Position(epoch=1, step=7, within_epoch=True))")


def test_asking_for_a_clock_that_the_checkpoint_does_not_say_is_an_error_and_no_beginning_at_0(tmp_path):
    CheckpointManager(tmp_path / "steps").save(step=5, model=weights())
    CheckpointManager(tmp_path / "epochs").save(5, weights())
    steps, epochs = (CheckpointManager(tmp_path / name).resume(model=weights()) for name in ("steps", "epochs"))
    with pytest.raises(ValueRefusedError, match=r"checkpoint_step_00000005\.pth: found no epoch in it but step 5"):
        _ = steps.epoch
    with pytest.raises(ValueRefusedError, match=r"checkpoint_epoch_0005\.pth: found no step in it but epoch 5"):
        _ = epochs.step


@pytest.mark.parametrize(
    ("clocks", "message"),
    [
        ({}, "epoch, step: found neither"),
        ({"epoch": 1.5}, "epoch: found a float, expected a whole number"),
        ({"epoch": weights()}, "epoch: found a dict, expected a whole number"),
        ({"step": "7"}, "step: found a str"),
        ({"epoch": -1}, "epoch: found -1, expected 0 or more"),
        ({"epoch": 0, "step": -1}, "step: found -1, expected 0 or more"),
    ],
    ids=str,
)
def test_what_is_no_epoch_and_no_step_is_refused_by_name_and_nothing_is_written(tmp_path, clocks, message):
    with pytest.raises(ValueRefusedError, match=message):
        CheckpointManager(tmp_path / "run").save(model=weights(), **clocks)
    assert names_in(tmp_path) == []


def test_a_save_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueRefusedError, match="model: found nothing to save"):
        CheckpointManager(tmp_path).save(3)


@pytest.mark.parametrize("number", [np.int64(3), np.array(3)], ids=["NumPy's", "of an array"])
def test_any_whole_number_is_an_epoch_and_a_step(tmp_path, number):
    CheckpointManager(tmp_path).save(number, weights(), step=number)
    assert checkpoints_in(tmp_path) == ["checkpoint_epoch_0003_step_00000003"]


# No save replaces another


def content(folder):
    return {path.name: path.read_bytes() for path in folder.glob("checkpoint*")}


def test_an_epoch_or_step_that_is_saved_once_more_replaces_nothing_and_is_the_latest(tmp_path):
    manager = CheckpointManager(tmp_path)
    clocks = ({"epoch": 5}, {"step": 5}, {"epoch": 5, "step": 5})
    for value, each in enumerate(clocks):
        manager.save(model=weights(value), **each)
    before = content(tmp_path)
    for value, each in enumerate(clocks, 10):
        path = CheckpointManager(tmp_path).save(model=weights(value), **each)
        model = weights()
        assert CheckpointManager(tmp_path).resume(model=model).path == path
        assert model["l1.bias"].tolist() == [value] * 3
    after = content(tmp_path)
    assert {name: after[name] for name in before} == before
    assert sorted(set(after) - set(before)) == [
        "checkpoint_epoch_0005_save_0004.pth",
        "checkpoint_epoch_0005_step_00000005_save_0006.pth",
        "checkpoint_step_00000005_save_0005.pth",
    ]


def test_the_branch_that_goes_on_after_going_back_leaves_the_other_as_it_is(tmp_path):
    manager = CheckpointManager(tmp_path)
    for epoch in range(4):
        manager.save(epoch, weights(epoch))
    before = content(tmp_path)
    start = manager.resume(model=weights(), which=1)
    for epoch in range(start.epoch, 4):
        manager.save(epoch, weights(10 + epoch))
    assert {name: content(tmp_path)[name] for name in before} == before
    model = weights()
    assert manager.restore(model=model, which=3).epoch == 3
    assert model["l1.bias"].tolist() == [13] * 3
    manager.restore(model=model, which="checkpoint_epoch_0003")
    assert model["l1.bias"].tolist() == [3] * 3


@pytest.mark.parametrize("there", ["damaged", "of the user's own", "in another format"])
def test_what_stands_under_a_name_is_never_replaced(tmp_path, there):
    if there == "in another format":
        CheckpointManager(tmp_path, format="oneflow").save(0, weights())
    else:
        CheckpointManager(tmp_path).save(0, weights())
        taken = tmp_path / "checkpoint_epoch_0000.pth"
        taken.write_bytes(b"mine" if there == "of the user's own" else taken.read_bytes()[:100])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()}
    manager = CheckpointManager(tmp_path)
    path = manager.save(0, weights())
    assert position_named(path.name) == position_named("checkpoint_epoch_0000")
    assert {path: path.read_bytes() for path in before} == before
    assert manager.latest().path == path


TWO_AT_ONCE = """
import sys, numpy as np
from multiframe_ckpt import CheckpointManager
one, other = (CheckpointManager(sys.argv[1], async_save=True) for _ in range(2))
from multiframe_ckpt.formats.torch.zip_write import TorchPlan
from threading import Barrier
both, real = Barrier(2), TorchPlan.write
TorchPlan.write = lambda self, *rest: (both.wait(60), real(self, *rest))
for value, manager in enumerate((one, other)):
    manager.save(0, {"w": np.full(3, value, np.float32)})
lost = []
for manager in (one, other):
    try:
        manager.wait()
    except FileExistsError as problem:
        lost.append(str(problem))
print(len(lost), "checkpoint_epoch_0000.pth: found something there already" in "".join(lost))
"""


def test_of_two_managers_that_save_one_name_at_once_the_second_is_told_and_replaces_nothing(tmp_path):
    done = subprocess.run([sys.executable, "-c", TWO_AT_ONCE, tmp_path], capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.stderr) == (["1", "True"], "")


@pytest.mark.parametrize(
    "name",
    [
        *("checkpoint_epoch_3", "checkpoint", "checkpoint_step_12000", "checkpoint_epoch_0003_step_1"),
        *("checkpoint_save_0001", "checkpoint_epoch_00003", "checkpoint_step_00000001_epoch_0001"),
        "checkpoint_epoch_0003.pth.bak",
    ],
)
def test_a_name_that_is_nearly_one_of_ours_is_none(name):
    assert position_named(name) is None


def test_names_of_one_clock_sort_as_they_were_saved(tmp_path):
    manager = CheckpointManager(tmp_path)
    steps = [(0, 7), (0, 99), (1, 100), (1, 2_000), (2, 30_000), (11, 31_000)]
    saved = [manager.save(epoch, weights(), step=step).name for epoch, step in steps]
    saved_by_step = [manager.save(step=step, model=weights()).name for _, step in steps]
    assert sorted(saved) == saved and sorted(saved_by_step) == saved_by_step
    assert [name.removesuffix(".pth") for name in (*saved, *saved_by_step)] == [
        path.path.stem for path in manager.checkpoints()
    ]


# What is saved and kept


def test_save_freq_and_keep_every_count_steps_where_steps_are_counted(tmp_path):
    manager = CheckpointManager(tmp_path, save_freq=10, keep_every=30, max_to_keep=1, keep_best=0)
    for step in range(1, 75):
        manager.save(step=step, model=weights())
    assert positions_of(manager) == ["step 30", "step 60", "step 70"]


def test_a_run_that_counts_both_has_a_number_for_each(tmp_path):
    options = {"save_freq": {"step": 10, "epoch": 2}, "keep_every": {"epoch": 4}, "max_to_keep": 2, "keep_best": 0}
    manager, step = CheckpointManager(tmp_path, **options), 0
    for epoch in range(7):
        for _ in range(7):
            step += 1
            manager.save(epoch, weights(), step=step)
        manager.save(epoch, weights())
    assert positions_of(manager) == ["epoch 0", "epoch 4", "epoch 5, step 40", "epoch 6"]


def test_a_clock_of_which_save_freq_says_nothing_is_saved_whenever_it_is_asked_for(tmp_path):
    manager = CheckpointManager(tmp_path, save_freq={"step": 100})
    assert manager.save(step=7, model=weights()) is None
    assert manager.save(7, weights()) is not None


@pytest.mark.parametrize("option", ["save_freq", "keep_every"])
@pytest.mark.parametrize("every", [{"batch": 3}, {"step": 0}, {"epoch": 1, "step": -1}], ids=str)
def test_a_clock_that_there_is_not_is_refused(tmp_path, option, every):
    with pytest.raises(ValueRefusedError, match=option):
        CheckpointManager(tmp_path, **{option: every})


def test_the_last_and_the_best_are_those_of_either_clock(tmp_path):
    manager = CheckpointManager(tmp_path, max_to_keep=1)
    manager.save(0, weights(), step=100, loss=0.1)
    manager.save(0, weights(), loss=0.5)
    manager.save(step=300, model=weights(), loss=0.4)
    assert positions_of(manager) == ["epoch 0, step 100", "step 300"]
    assert (str(manager.best().position), str(manager.latest().position)) == ("epoch 0, step 100", "step 300")
    assert mfc.open(tmp_path / "best_model.pth").tree["step"] == 100


def test_a_monitor_that_is_nan_is_said_with_the_step(tmp_path):
    with pytest.warns(CheckpointWarning, match="'loss': found NaN at epoch 2, step 30"):
        CheckpointManager(tmp_path).save(2, weights(), step=30, loss=float("nan"))


# Which one


def test_a_number_is_an_epoch_and_in_a_run_that_counts_none_a_step(tmp_path):
    both, steps = CheckpointManager(tmp_path / "both"), CheckpointManager(tmp_path / "steps")
    both.save(3, weights(1), step=40)
    both.save(3, weights(2))
    both.save(4, weights(3), step=50)
    both.save(4, weights(4), step=60)
    steps.save(step=40, model=weights(5))
    model = weights()
    expected = {(both, 3): 2, (both, "4"): 4, (steps, 40): 5, (both, "checkpoint_epoch_0003_step_00000040"): 1}
    for (manager, which), value in expected.items():
        manager.restore(model=model, which=which)
        assert model["l1.bias"].tolist() == [value] * 3
    with pytest.raises(FileNotFoundError, match="no checkpoint of epoch 40"):
        both.restore(model=model, which=40)
    with pytest.raises(FileNotFoundError, match="no checkpoint of step 3"):
        steps.restore(model=model, which=3)


# What checkpoints of other programs say


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"epoch": 7}, "epoch 8"),
        ({"epoch": np.array([7])}, "epoch 8"),
        ({"epoch": 7.0}, "epoch 8"),
        ({"epoch": 2.5}, "epoch 2, within the epoch"),
        ({"epoch": 7, "global_step": 800}, "epoch 8, step 801"),
        ({"epoch": -1, "iteration": 12}, "step 13"),
    ],
    ids=str,
)
def test_a_checkpoint_of_another_program_says_where_to_go_on(tmp_path, entries, expected):
    mfc.save({"model": weights(), **entries}, tmp_path / "theirs.pth")
    start = CheckpointManager(tmp_path / "run").resume(model=weights(), which=tmp_path / "theirs.pth")
    assert str(start) == expected


def lightning(ready, *, is_last_batch):
    """Gives what a Trainer writes of its loops, as far as it says where its batches stood."""
    counts = {"ready": ready, "started": ready, "processed": ready, "completed": ready}
    progress = {"total": counts, "current": counts, "is_last_batch": is_last_batch}
    return {"fit_loop": {"state_dict": {}, "epoch_loop.batch_progress": progress}}


@pytest.mark.parametrize(
    ("loops", "expected"),
    [
        (lightning(250, is_last_batch=False), "epoch 1, step 751, within the epoch"),
        (lightning(500, is_last_batch=True), "epoch 2, step 751"),
        (lightning(0, is_last_batch=False), "epoch 2, step 751"),
        ({"fit_loop": {"epoch_progress": {}}}, "epoch 2, step 751"),
        ("?", "epoch 2, step 751"),
    ],
    ids=["between batches", "after the last", "before the first", "of an old version", "something else"],
)
def test_a_checkpoint_of_lightning_says_whether_it_was_saved_within_its_epoch(tmp_path, loops, expected):
    mfc.save({"state_dict": weights(), "epoch": 1, "global_step": 750, "loops": loops}, tmp_path / "theirs.ckpt")
    start = CheckpointManager(tmp_path / "run").resume(model=weights(), which=tmp_path / "theirs.ckpt")
    assert str(start) == expected


NOTHING_DONE = [
    {},
    {"epoch": -1},
    {"epoch": -1.0},
    {"step": -1},
    {"epoch": True},
    {"epoch": float("nan")},
    {"epoch": "?"},
]


@pytest.mark.parametrize("entries", NOTHING_DONE, ids=str)
def test_a_number_below_0_and_what_is_none_is_no_progress_and_nothing_to_go_on_from(tmp_path, entries):
    path = tmp_path / "theirs.pth"
    mfc.save({"model": weights(), **entries}, path)
    assert not mfc.inspect(path).resume["progress"]
    model = weights(9)
    with pytest.raises(ValueRefusedError, match="found no epoch and no step"):
        CheckpointManager(tmp_path / "run").resume(model=model, which=path)
    assert model["l1.bias"].tolist() == [9] * 3


@pytest.mark.parametrize("entries", [{"epoch": 0}, {"global_step": 0}, {"epoch": -1, "step": 5}], ids=str)
def test_a_number_from_0_on_is_progress(tmp_path, entries):
    mfc.save({"model": weights(), **entries}, tmp_path / "theirs.pth")
    assert mfc.inspect(tmp_path / "theirs.pth").resume["progress"]


# Every format, and what lists runs


@pytest.mark.parametrize("format", ["torch", "oneflow", "oneflow-pickle", "safetensors", "hdf5", "npz", "json"])
def test_every_format_says_that_a_save_was_within_an_epoch(tmp_path, format):
    manager = CheckpointManager(tmp_path, format=format)
    manager.save(2, weights(1), step=7)
    start = CheckpointManager(tmp_path, format=format).resume(model=weights())
    assert (start.epoch, start.step, start.within_epoch) == (2, 8, True)


def test_the_entry_that_says_so_cannot_be_taken(tmp_path):
    with pytest.raises(ValueRefusedError, match="within_epoch"):
        CheckpointManager(tmp_path).save(0, weights(), extra={"within_epoch": 1})


def test_runs_that_count_steps_are_found(tmp_path):
    CheckpointManager(tmp_path / "a").save(step=1200, model=weights(), loss=0.5)
    (run,) = survey(tmp_path)
    assert (run.name, run.latest) == ("a", tmp_path / "a" / "checkpoint_step_00001200.pth")


@pytest.mark.parametrize("format", ["torch", "oneflow", "safetensors", "json"])
def test_what_extra_took_comes_back_with_resume_and_nothing_of_the_managers_own(tmp_path, format):
    manager = CheckpointManager(tmp_path, format=format)
    assert manager.resume(model=weights()).extra == {}
    loader = {"taken": 7, "order": np.arange(3), "nested": [{"name": "x"}, None]}
    manager.save(0, weights(), step=3, extra={"loader": loader, "words": ["a"]})
    extra = manager.resume(model=weights()).extra
    assert sorted(extra) == ["loader", "words"]
    assert extra["loader"].pop("order").tolist() == [0, 1, 2]
    assert (extra["loader"], extra["words"]) == ({"taken": 7, "nested": [{"name": "x"}, None]}, ["a"])


def test_a_damaged_checkpoint_stands_where_its_name_says(tmp_path):
    manager = CheckpointManager(tmp_path)
    for step in (10, 20, 30):
        path = manager.save(step=step, model=weights(step))
        if step == 20:
            path.write_bytes(path.read_bytes()[:50])
    assert positions_of(manager) == ["step 10", "step 20", "step 30"]
    assert epochs_of(manager) == [None] * 3
