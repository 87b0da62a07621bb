"""Whose tensors ``load`` gives where no backend is named: each case in a process of its own, which imports what it says."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import multiframe_ckpt as mfc

#: Suffix → a format of the file; a torch file's own framework is torch, a folder's is OneFlow, others have none.
SUFFIXES = (".pth", "", ".safetensors", ".npz", ".h5", ".json")
LOAD = (
    "import sys\n"
    "import multiframe_ckpt as mfc\n"
    "before = set(sys.modules)\n"
    "kinds = {type(mfc.load(path)['w']).__module__ for path in sys.argv[1:]}\n"
    "print(*sorted(kinds), *sorted({'torch', 'oneflow'} & (set(sys.modules) - before)))\n"
)


@pytest.fixture
def paths(tmp_path):
    for suffix in SUFFIXES:
        mfc.save({"w": np.float32([1, 2])}, tmp_path / f"x{suffix}")
    return [str(tmp_path / f"x{suffix}") for suffix in SUFFIXES]


def kinds(code: str, *arguments: str, **environment: str) -> list[str]:
    known = {name: value for name, value in os.environ.items() if name != "MULTIFRAME_CKPT_BACKEND"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=known | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_program_without_a_framework_gets_arrays_and_none_is_imported_for_it(paths):
    assert kinds(LOAD, *paths) == ["numpy"]


@pytest.mark.parametrize("framework", ["torch", "oneflow"])
def test_a_program_with_one_framework_gets_its_tensors_whichever_wrote_the_file(paths, framework):
    pytest.importorskip(framework)
    assert kinds(f"import {framework}\n{LOAD}", *paths) == [framework]


def test_a_program_with_two_frameworks_gets_the_files_own(paths):
    pytest.importorskip("torch")
    pytest.importorskip("oneflow")
    code = f"import oneflow, torch\n{LOAD}"
    assert [kinds(code, path) for path in paths] == [["torch"], ["oneflow"], *([["numpy"]] * 4)]


def test_what_is_loaded_so_goes_into_a_model_of_the_program(tmp_path):
    pytest.importorskip("torch")
    mfc.save({"weight": np.ones((1, 2), np.float32), "bias": np.zeros(1, np.float32)}, tmp_path / "x.safetensors")
    code = (
        "import torch, sys\nimport multiframe_ckpt as mfc\n"
        "print(torch.nn.Linear(2, 1).load_state_dict(mfc.load(sys.argv[1])))\n"
    )
    assert kinds(code, str(tmp_path / "x.safetensors")) == ["<All", "keys", "matched", "successfully>"]


def test_the_environment_and_the_argument_name_another(paths):
    pytest.importorskip("torch")
    assert kinds(f"import torch\n{LOAD}", *paths, MULTIFRAME_CKPT_BACKEND="numpy") == ["numpy"]
    assert kinds(LOAD, *paths, MULTIFRAME_CKPT_BACKEND="torch") == ["torch", "torch"]  # and imported for it
    named = LOAD.replace("(path)", "(path, backend='numpy')")
    assert kinds(f"import torch\n{named}", *paths) == ["numpy"]
