"""list, from the command line."""

import json

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt import CheckpointManager, RunFolder


@pytest.fixture
def outputs(tmp_path):
    """Two seeds of one method; the newest checkpoint of the second is cut short."""
    for seed in (0, 1):
        folder = RunFolder.of(tmp_path / "outputs", method="intent", dataset="clinc", seed=seed).models
        manager = CheckpointManager(folder, monitor="val/acc", mode="max")
        for epoch in range(2):
            metrics = {"val": {"acc": 0.5 + 0.25 * seed - 0.125 * epoch}}
            manager.save(epoch, {"w": np.zeros(4, np.float32)}, loss=0.5 - 0.25 * epoch, metrics=metrics)
    newest = folder / "checkpoint_epoch_0001.pth"
    newest.write_bytes(newest.read_bytes()[:500])
    mfc.save({"w": np.zeros(4, np.float32)}, folder / "pytorch_model.bin")
    return tmp_path / "outputs"


def test_runs_are_listed_with_their_checkpoints(run, outputs):
    said = run("list", outputs).stdout.splitlines()
    assert said[0] == "intent_clinc_seed0: loss 0.25, val/acc 0.375"
    assert said[1].split()[:5] == ["checkpoint", "epoch", "size", "optimizer", "state"]
    assert said[2].split()[0] == "checkpoint_epoch_0000.pth"
    assert "complete best" in said[2]
    assert said[2].endswith("loss 0.5, val/acc 0.5")
    assert "complete latest" in said[3]


def test_steps_have_a_column_where_a_run_counts_them(run, tmp_path):
    weights = {"w": np.zeros(4, np.float32)}
    CheckpointManager(tmp_path / "a").save(step=1200, model=weights, loss=0.5)
    CheckpointManager(tmp_path / "b").save(3, weights, step=40)
    said = run("list", tmp_path).stdout.splitlines()
    assert said[1].split()[:4] == ["checkpoint", "epoch", "step", "size"]
    assert said[2].split()[:3] == ["checkpoint_step_00001200.pth", "-", "1200"]
    assert said[6].split()[:3] == ["checkpoint_epoch_0003_step_00000040.pth", "3", "40"]
    (record,) = json.loads(run("list", tmp_path, "--json").stdout)["runs"][1]["checkpoints"]
    assert (record["epoch"], record["step"], record["within_epoch"]) == (3, 40, True)


def test_a_damaged_checkpoint_is_listed_as_unusable_with_the_reason(run, outputs):
    result = run("list", outputs)
    (line,) = [line for line in result.stdout.splitlines() if "unusable" in line]
    assert "checkpoint_epoch_0001.pth" in line
    assert "cut short" in line
    assert result.exit_code == 0


def test_seeds_are_compared(run, outputs):
    said = run("list", outputs).stdout.splitlines()
    where = said.index("over seeds")
    assert said[where + 1].split() == ["runs", "metric", "n", "mean", "±", "std", "min", "max"]
    assert said[where + 2].split() == ["intent_clinc", "loss", "2", "0.375", "±", "0.177", "0.25", "0.5"]
    assert said[where + 3].split() == ["intent_clinc", "val/acc", "2", "0.5625", "±", "0.265", "0.375", "0.75"]


def test_the_document_says_everything(run, outputs):
    document = json.loads(run("list", outputs, "--json").stdout)
    first, second = document["runs"]
    assert (first["name"], first["seed"], first["metrics"]) == (
        "intent_clinc_seed0",
        0,
        {"loss": 0.25, "val/acc": 0.375},
    )
    assert [row["complete"] for row in second["checkpoints"]] == [True, False]
    assert (second["model"]["epoch"], second["model"]["has_optimizer"]) == (None, False)
    assert document["seeds"][0]["seeds"] == [0, 1]


def test_quiet_says_nothing(run, outputs):
    assert run("list", outputs, "--quiet").stdout == ""


def test_a_folder_without_runs_says_so(run, tmp_path):
    result = run("list", tmp_path)
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path}: no run with checkpoints below it\n")


def test_a_folder_that_is_not_there_is_not_usable(run):
    result = run("list", "nowhere")
    assert result.exit_code == 2
    assert result.stderr == "error: nowhere: found no folder, expected one with runs below it; check the path\n"


def test_the_names_of_runs_reach_no_terminal_raw(run, tmp_path):
    CheckpointManager(tmp_path / "a\x1b[31mb").save(
        0, {"w": np.zeros(1, np.float32)}, metrics={"\x1b[2J": 1.0, "loss": 1.0}
    )
    assert "\x1b" not in run("list", tmp_path).stdout
