"""Checkpoints to run the command line on, and the two ways to run it: in this process, and as a process of its own."""

import os
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

import multiframe_ckpt as mfc
from multiframe_ckpt.cli import program


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the command line in this process, in a fresh folder."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments):
        return CliRunner().invoke(program, [str(argument) for argument in arguments])

    return invoke


@pytest.fixture
def spawn(tmp_path):
    """Runs the command line as a user does, as a process of its own in a fresh folder."""

    def start(*arguments, **options):
        command = [sys.executable, "-m", "multiframe_ckpt", *arguments]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.run(command, cwd=tmp_path, check=False, **{**streams, **options})

    return start


@pytest.fixture
def weights():
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    return {"module.l1.weight": rows, "module.l1.bias": np.array([0.5, -0.0, np.nan], np.float32)}


@pytest.fixture
def model(tmp_path, weights):
    """A state dict of two tensors."""
    mfc.save(weights, tmp_path / "model.pth")
    return tmp_path / "model.pth"


@pytest.fixture
def training(tmp_path, weights):
    """A training checkpoint: weights, optimizer state and plain values that JSON has no word for."""
    optimizer = {
        "state": {0: {"exp_avg": np.ones((3, 4), np.float32)}},
        "param_groups": [{"lr": 0.1, "params": [0, 1]}],
    }
    odd = {
        "epoch": 3,
        "loss": float("nan"),
        "best": float("-inf"),
        "raw": b"\x00\xff",
        "z": 1 + 2j,
        "long": 1 << 40_000,
    }
    mfc.save({"model_state_dict": weights, "optimizer_state_dict": optimizer, **odd}, tmp_path / "train.pth")
    return tmp_path / "train.pth"


@pytest.fixture
def hostile(tmp_path):
    """A checkpoint whose keys and values would drive a terminal if they reached it raw."""
    tensor = np.zeros((2, 2), np.float32)
    tree = {
        "\x1b[31mred\x1b]0;title\x07": tensor,
        "two\nlines\r\x9b": tensor,
        "right\u202eleft": tensor,
        "half\ud800": 1,
        "value": "\x1b[2J",
        "[bold]markup": tensor,
    }
    mfc.save(tree, tmp_path / "hostile.pth")
    return tmp_path / "hostile.pth"


@pytest.fixture
def cut_short(model):
    """A torch file that lost its end."""
    path = model.with_name("cut.pth")
    path.write_bytes(model.read_bytes()[:400])
    return path


@pytest.fixture
def flipped(model):
    """A torch file in which a bit of a tensor flipped."""
    path = model.with_name("flipped.pth")
    raw = bytearray(model.read_bytes())
    raw[raw.index(np.arange(12, dtype=np.float32).tobytes()) + 5] ^= 1
    path.write_bytes(raw)
    return path


@pytest.fixture
def listing(tmp_path):
    """Gives what lies in the fresh folder, temporaries included."""
    return lambda: sorted(os.listdir(tmp_path))
