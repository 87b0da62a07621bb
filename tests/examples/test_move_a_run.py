"""``examples/move_a_run.py``: a run that changes its framework, as `make demo ONEFLOW=1` shows it."""

import re
import struct

import pytest

pytest.importorskip("torch")
pytest.importorskip("mlxtend")
pytest.importorskip("matplotlib")

import multiframe_ckpt as mfc

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def played(tmp_path_factory, play_in):
    pytest.importorskip("oneflow")
    folder = tmp_path_factory.mktemp("move_a_run")
    return folder, play_in(folder, "move_a_run.py")


@pytest.mark.parametrize("way", ["PyTorch to OneFlow", "OneFlow to PyTorch"])
def test_a_moved_run_ends_where_the_one_that_stayed_does_and_the_control_elsewhere(played, way):
    assert played[1].status == 0, played[1].errors
    moved, control = map(float, re.search(rf"{way}: moved (\S+), by weights only (\S+)", played[1].output).groups())
    assert moved <= 5e-6
    assert control > 1e-3


def test_the_curves_are_a_picture_of_a_size_to_look_at(played):
    head = (played[0] / "outputs" / "move_a_run" / "loss_curves.png").read_bytes()[:24]
    assert head.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", head[16:])
    assert width >= 1000 and height >= 600


def test_the_curves_of_the_moved_run_lie_on_that_of_the_run_that_stayed(played):
    folder = played[0] / "outputs" / "move_a_run" / "torch_to_oneflow"
    stayed, moved = (mfc.open(folder / name).tree["metrics"]["held_out_loss"] for name in ("stayed.pt", "moved"))
    assert moved == pytest.approx(stayed[400:], abs=1e-5)


def test_without_oneflow_it_ends_with_what_was_said(tmp_path, play_in):
    failing = tmp_path / "python"
    failing.write_text("#!/bin/sh\necho 'no such framework' >&2\nexit 3\n")
    failing.chmod(0o755)
    played = play_in(tmp_path, "move_a_run.py", "--oneflow-python", failing, "--steps_before", 1, "--steps_after", 1)
    assert played.status == 1
    assert "no such framework" in played.errors
    assert "found exit status 3" in played.errors
