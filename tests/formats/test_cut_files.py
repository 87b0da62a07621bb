"""A file that is cut short after it was opened is told of as damage, by every way to read it, and never kills a program."""

import json
import subprocess
import sys

import numpy as np
import pytest

import multiframe_ckpt as mfc

# In a process of its own: reading past the end of a map would end it by a signal. For each part that is left of each file
# it prints what each way to read gave: "whole", "damaged", or what must not be.
CUT = """
import json, os, shutil, sys
from pathlib import Path
import numpy as np
import multiframe_ckpt as mfc
from multiframe_ckpt.storage.transfer import read_once

path, whole, verify = Path(sys.argv[1]), Path(sys.argv[1] + ".whole"), sys.argv[2] == "verify"
WAYS = {
    "numpy": lambda tensor: tensor.numpy(),
    "row": lambda tensor: tensor[-2:].numpy(),
    "column": lambda tensor: tensor[:, 3].numpy(),
    "every other": lambda tensor: tensor[::2, ::-3].numpy(),
    "pieces": lambda tensor: [None for _ in tensor.pieces(memoryview(bytearray(1 << 16)))],
    "read once": lambda tensor: read_once("w", tensor),
    "into": lambda tensor: tensor.source.into(np.empty(tensor.shape, tensor.dtype.numpy, order="F")),
    "save": lambda tensor: mfc.Checkpoint({"w": tensor}).save(f"{path}.copy", format="safetensors", overwrite=True),
    "load": lambda tensor: mfc.Checkpoint({"w": tensor}).to_backend("numpy"),
}


def restore():
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    shutil.copytree(whole, path) if whole.is_dir() else shutil.copy(whole, path)


def files():
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file() and file.stat().st_size)


def outcome(read, tensor):
    try:
        read(tensor)
    except mfc.DamagedError:
        return "damaged"
    except BaseException as problem:
        return f"{type(problem).__name__}: {problem}"
    return "whole"


restore()
results = {}
for file, size in [(file, file.stat().st_size) for file in files()]:
    for left in sorted({0, 1, 5000, size // 2, size - 9000, size - 1}):
        if not 0 <= left < size:
            continue
        for way, read in WAYS.items():
            restore()
            tensor = mfc.open(path, verify=verify).tensors()["w"]
            os.truncate(file, left)
            results[f"{file.name} {left} of {size}: {way}"] = outcome(read, tensor)
print(json.dumps(results))
"""


def npz(path, array):
    np.savez_compressed(path, w=array)


def fortran(path, array):
    np.savez(path, w=np.asfortranarray(array))


def chunked(path, array):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.create_dataset("w", data=array, chunks=(16, 64), compression="gzip")


def legacy(path, array):
    torch = pytest.importorskip("torch")
    torch.save({"w": torch.from_numpy(array)}, path, _use_new_zipfile_serialization=False)


def views(path, array):
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(array)
    torch.save({"w": tensor.t().contiguous().t(), "v": tensor}, path)


FOREIGN = {
    "compressed.npz": npz,
    "fortran.npz": fortran,
    "chunked.h5": chunked,
    "legacy.pth": legacy,
    "views.pth": views,
}
NAMES = ["torch", "oneflow", "oneflow-pickle", "safetensors", "npz", "hdf5", "json", *FOREIGN]


@pytest.mark.parametrize("verify", ["verify", "no digests"])
@pytest.mark.parametrize("name", NAMES)
def test_a_file_cut_short_after_it_was_opened_is_damage_whichever_way_it_is_read(name, verify, tmp_path):
    array = np.random.default_rng(0).normal(size=(128, 96)).astype(np.float32)
    path = tmp_path / name
    if name in FOREIGN:
        FOREIGN[name](path, array)
    else:
        mfc.save({"w": array}, path, format=name)
    path.rename(f"{path}.whole")
    done = subprocess.run([sys.executable, "-c", CUT, str(path), verify], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert {way: result for way, result in results.items() if result not in ("whole", "damaged")} == {}
    cut = {
        way: result for way, result in results.items() if " 0 of " in way and not way.startswith(("meta", "pickled"))
    }
    assert cut and {way: result for way, result in cut.items() if result != "damaged"} == {}
