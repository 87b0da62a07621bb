"""What a killed save left is said by the verbs that look, and removed by the one they name; no other's is touched."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.storage.atomic import stage_for

KILLED = """
import os, signal, sys
import numpy as np
import multiframe_ckpt as mfc
def die(event):
    if event.finished:
        os.kill(os.getpid(), signal.SIGKILL)
mfc.save({"w": np.ones(1 << 20, np.float32)}, sys.argv[1], overwrite=True, on_progress=die)
"""


def killed(path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL


def stages(folder):
    return list(folder.rglob("*.multiframe-tmp"))


@pytest.fixture
def outputs(tmp_path):
    """A run with a checkpoint, a save to the same path that died, and one below that died before anything was there."""
    folder = tmp_path / "out puts"
    with mfc.CheckpointManager(folder / "run", rng=False) as manager:
        manager.save(0, {"w": np.zeros(4, np.float32)})
    killed(folder / "run" / "checkpoint_epoch_0000.pth")
    killed(folder / "run" / "deeper" / "export")
    assert len(stages(folder)) == 2
    return folder


def test_list_says_how_much_is_left_over_and_the_command_that_it_names_removes_it(run, outputs):
    said = run("list", outputs).stdout.splitlines()[-1]
    text, _, command = said.partition("; remove: ")
    assert text == "2 leftovers of killed saves, 8.4 MB, which nothing reads"
    found = json.loads(run("list", outputs, "--json").stdout)["leftovers"]
    assert sorted(record["path"] for record in found) == sorted(map(str, stages(outputs)))
    assert all(record["nbytes"] > 1 << 22 for record in found)
    program, *words = shlex.split(command)
    assert program == "multiframe-ckpt"
    result = run(*words)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{outputs}: removed 2 leftovers of killed saves, 8.4 MB\n  ")
    assert stages(outputs) == [] and mfc.open(outputs / "run" / "latest_checkpoint.pth")["epoch"] == 0
    assert "leftover" not in run("list", outputs).stdout
    assert run(*words).stdout == f"{outputs}: nothing is left over from saves that were killed\n"


@pytest.mark.parametrize("verb", ["inspect", "verify"])
@pytest.mark.parametrize(
    ("place", "number"), [("run/checkpoint_epoch_0000.pth", 1), ("run", 1), ("run/deeper/export", 1), ("run/deeper", 1)]
)
def test_looking_at_a_checkpoint_or_folder_says_what_is_left_beside_or_in_it(run, outputs, verb, place, number):
    said = run(verb, outputs / place).stderr
    (line,) = [line for line in said.splitlines() if line.startswith("warning: ")]
    assert f"found {number} leftover of killed saves, 4.2 MB" in line
    before = len(stages(outputs))
    assert run(*shlex.split(line.partition("; remove: ")[2])[1:]).exit_code == 0
    assert len(stages(outputs)) < before


def test_another_checkpoint_beside_is_not_told_of_it(run, outputs):
    mfc.save({"w": np.zeros(4, np.float32)}, outputs / "run" / "other.pth")
    assert run("inspect", outputs / "run" / "other.pth").stderr == ""


def test_a_dry_run_removes_nothing_and_a_save_under_way_is_no_leftover(run, outputs):
    with stage_for(outputs / "run" / "x.pth") as stage:
        (stage / "x.pth").write_bytes(bytes(1000))
        said = run("clean", outputs, "-n").stdout.splitlines()
        assert said[0] == f"{outputs}: would remove 2 leftovers of killed saves, 8.4 MB"
        assert sorted(line.strip() for line in said[1:]) == sorted(str(p) for p in stages(outputs) if p != stage)
        assert len(stages(outputs)) == 3
        report = mfc.clean(outputs)
        assert report.ok and len(report.removed) == 2 and (stage / "x.pth").exists()
    with pytest.raises(FileNotFoundError, match="found no folder"):
        mfc.clean(outputs / "nowhere")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may remove everything")
def test_what_cannot_be_removed_is_named(run, outputs):
    (outputs / "run").chmod(0o500)
    try:
        result = run("clean", outputs)
    finally:
        (outputs / "run").chmod(0o700)
    assert result.exit_code == 1 and "not removed (1)" in result.stdout
