"""What an error advises is done, word for word, and ends well; the library speaks of no command, the command of no call."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.cli.flags import COMMANDS

W = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mfc.save({"model": {"l1.weight": W, "l1.bias": W[0]}, "epoch": 3}, "run.pth")
    mfc.save({"w": W}, "there.npz")
    mfc.save({"a": {"b": W}, "a/b": W}, "slash.pth")
    mfc.save({"w": W.astype(">f8")}, "model.bin")
    return tmp_path


#: A command that fails → what of its error is advice, and the command that follows it.
ADVICE = {
    "convert run.pth there.npz": (r"replace it: (--overwrite)$", "convert run.pth there.npz {0}"),
    "convert run.pth x.what": (r"such as (--to torch),", "convert run.pth x.what {0}"),
    "convert run.pth out --exclude 'nope*'": (r"with: multiframe-ckpt (inspect) PATH$", "{0} run.pth"),
    "convert run.pth out.pth --layout 'l1.weight=reshape:5,5'": (
        r"with: multiframe-ckpt (inspect) PATH$",
        "{0} run.pth",
    ),
    "convert slash.pth out": (r"use (--to oneflow-pickle),", "convert slash.pth out {0}"),
    "inspct run.pth": (r"did you mean '(\w+)'", "{0} run.pth"),
    "convert run.pth out.pth --to torhc": (r"did you mean '(\w+)'", "convert run.pth out.pth --to {0}"),
}


@pytest.mark.parametrize("line", ADVICE)
def test_the_command_that_an_error_advises_ends_well(line, folder, run):
    pattern, command = ADVICE[line]
    failed = run(*shlex.split(line))
    assert failed.exit_code in (1, 2)
    message = failed.stderr.strip().splitlines()[-1]
    found = re.search(pattern, message)
    assert found is not None, message
    done = run(*shlex.split(command.format(*found.groups())))
    assert done.exit_code == 0, done.stderr


@pytest.mark.parametrize(
    ("fail", "advised"),
    [
        (lambda: mfc.convert("run.pth", "there.npz"), lambda: mfc.convert("run.pth", "there.npz", overwrite=True)),
        (lambda: mfc.convert("run.pth", "x.what"), lambda: mfc.convert("run.pth", "x.what", format="torch")),
        (lambda: mfc.convert("run.pth", "out", exclude=["nope*"]), lambda: mfc.inspect("run.pth")),
        (lambda: mfc.open("run.pth")["l1.weight"], lambda: mfc.open("run.pth")["model/l1.weight"]),
    ],
)
def test_the_call_that_an_error_of_the_library_advises_ends_well(fail, advised, folder):
    with pytest.raises(mfc.MultiframeError) as caught:
        fail()
    message = str(caught.value)
    assert re.search(r"overwrite=True|format='torch'|mfc\.inspect\(path\)|'model/l1\.weight'", message)
    assert "multiframe-ckpt " not in message and " --" not in message
    assert advised() is not None


def test_no_message_of_the_library_names_a_command(folder):
    top = Path(mfc.__file__).parent
    said = [
        f"{path.name}: {line.strip()}"
        for path in top.rglob("*.py")
        if path.parent.name not in ("cli", "interactive")
        for line in path.read_text("utf-8").splitlines()
        if re.search(r"with: multiframe-ckpt|; multiframe-ckpt ", line)
    ]
    assert said == []
    assert all(command.startswith("multiframe-ckpt ") for command in COMMANDS.values())
