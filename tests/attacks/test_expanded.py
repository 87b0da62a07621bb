"""What has no bytes of its own is never spelled out: a tensor of 256 MiB over a few bytes stays within the bounds.

Each verb is a process of its own; what it takes over what it has when it begins is measured, as for the catalogue.
SECURITY.md promises 64 MiB, or 4 times what the file takes.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from catalogue.opcodes import RECORDS, legacy_of, number, storage, tensor, text, torch_zip, zip_of, zipped

import multiframe_ckpt as mfc

MOST = 64 << 20
WIDE = 1 << 26  # elements of four bytes
COMPLEX = storage(kind="torch\nComplexFloatStorage", count=number(8))

MEASURE = """
import json, shutil, sys, warnings
from pathlib import Path
import numpy as np
import multiframe_ckpt as mfc
from multiframe_ckpt.cli import program
from multiframe_ckpt.testing import strategies as _
import h5py, click.testing

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))

def run(*words):
    result = click.testing.CliRunner().invoke(program, words)
    assert result.exit_code == 0, (words, result.output, result.stderr)

warnings.simplefilter("ignore", mfc.CheckpointWarning)
verb, work, more = sys.argv[1:4]
more, paths = json.loads(more), sys.argv[4:]
def job(path, name):
    if verb == "load":
        return mfc.load(path, backend=more[0])
    if verb == "copy":
        with mfc.CheckpointManager(f"{work}/{name}", async_save=True, rng=False) as manager:
            manager.save(0, mfc.load(path, backend=more[0]))
        return None
    if verb == "part":
        return [tensor[(slice(0, 3),) * len(tensor.shape)].numpy() for tensor in mfc.open(path).tensors().values()]
    run(verb, path, *{"diff": [path], "convert": [f"{work}/{name}", *more]}.get(verb, []))

mfc.save({"w": np.ones(3, np.float32)}, f"{work}/small.pth")
job(f"{work}/small.pth", "first")
peaks = {}
for path in paths:
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS:")
    kept = job(path, Path(path).name)
    peaks[Path(path).name] = memory("VmHWM:") - before
    shutil.rmtree(f"{work}/{Path(path).name}") if Path(f"{work}/{Path(path).name}").is_dir() else None
print(json.dumps(peaks))
"""


def big_endian(place: Path) -> Path:
    ops = b"}" + text("w") + tensor((WIDE,), (0,)) + b"s"
    return zipped(place, RECORDS | {"x/data.pkl": b"\x80\x02" + ops + b".", "x/byteorder": b"big"})


def deflated(place: Path) -> Path:
    ops = b"}" + text("w") + tensor((WIDE,), (0,)) + b"s"
    return zipped(place, RECORDS | {"x/data.pkl": b"\x80\x02" + ops + b"."}, 8)


def of_several(place: Path) -> Path:
    entries = [text(f"w{n}") + tensor((n + 1, WIDE // 4), (0, 0), number(n)) + b"s" for n in range(3)]
    return torch_zip(b"}" + b"".join(entries), place)


FILES: dict[str, Callable[[Path], object]] = {
    "one element": lambda at: zip_of(tensor((WIDE,), (0,)), at),
    "a row": lambda at: zip_of(tensor((WIDE // 8, 8), (0, 1)), at),
    "a column": lambda at: zip_of(tensor((8, WIDE // 8), (1, 0)), at),
    "in the middle": lambda at: zip_of(tensor((2, WIDE // 4, 2), (4, 0, 2)), at),
    "overlapping and repeated": lambda at: zip_of(tensor((4, 4, WIDE // 16), (1, 1, 0)), at),
    "conjugated": lambda at: zip_of(
        tensor((WIDE // 2,), (0,), over=COMPLEX, rest=b"\x89}}" + text("conj") + b"\x88s"), at
    ),
    "negated": lambda at: zip_of(tensor((WIDE,), (0,), rest=b"\x89}}" + text("neg") + b"\x88s"), at),
    "big-endian": big_endian,
    "of a deflated record": deflated,
    "of a legacy stream": lambda at: legacy_of(
        tensor((WIDE,), (0,), over=storage(more=b"N")), at, keys=pickle.dumps(["0"], 2)
    ),
    "three of one storage": of_several,
}


def peaks(verb: str, paths: list[Path], work: Path, *more: str) -> dict[str, int]:
    """Gives what each file took, by its name."""
    work.mkdir()
    command = [sys.executable, "-c", MEASURE, verb, str(work), json.dumps(more), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-1000:]
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("verb", "more"),
    [
        ("inspect", ()),
        ("verify", ()),
        ("diff", ()),
        ("part", ()),
        ("convert", ("--overwrite",)),
        ("load", ("numpy",)),
        ("load", ("torch",)),
        ("copy", ("numpy",)),
        ("copy", ("torch",)),
    ],
)
def test_no_verb_spells_it_out(verb, more, tmp_path):
    if "torch" in more:
        pytest.importorskip("torch")
    for name, make in FILES.items():
        make(tmp_path / f"{name}.pth")
    taken = peaks(verb, [tmp_path / f"{name}.pth" for name in FILES], tmp_path / "work", *more)
    assert {name: nbytes >> 20 for name, nbytes in taken.items() if nbytes > MOST} == {}
    assert len(taken) == len(FILES)


@pytest.mark.parametrize("dtype", [[], ["--dtype", "float16"]])
@pytest.mark.parametrize("format", ["safetensors", "npz", "hdf5", "oneflow", "oneflow-pickle", "json"])
def test_no_format_is_written_by_spelling_it_out(format, dtype, tmp_path):
    count = 1 << 22 if format == "json" else 1 << 26  # text takes a second for a million numbers
    zip_of(tensor((count,), (0,)), tmp_path / "x")
    taken = peaks("convert", [tmp_path / "x"], tmp_path / "work", "--to", format, *dtype)
    assert taken["x"] < (count * 4 if format == "json" else MOST)


def test_arrays_and_tensors_that_repeat_elements_are_kept_as_such(tmp_path):
    row = np.arange(8, dtype=np.float32)
    arrays = {
        "row": np.broadcast_to(row, (1 << 20, 8)),
        "column": np.broadcast_to(row[:, None], (8, 1 << 20)),
        "one": np.broadcast_to(np.float64(3), (5, 1 << 20)),
        "bool": np.broadcast_to(np.array([True, False])[None, :, None], (3, 2, 1 << 20)),
    }
    mfc.save(arrays, tmp_path / "x.pth")
    assert (tmp_path / "x.pth").stat().st_size < 10_000
    loaded = mfc.load(tmp_path / "x.pth", backend="numpy")
    for key, array in arrays.items():
        assert loaded[key].strides == array.strides
        np.testing.assert_array_equal(loaded[key], array)
    assert mfc.diff(mfc.Checkpoint.from_objects(arrays), tmp_path / "x.pth").ok


def test_a_difference_in_what_repeats_is_counted_as_often_as_it_repeats(tmp_path):
    row = np.arange(8, dtype=np.float32)
    mfc.save({"w": np.broadcast_to(row, (1 << 10, 8))}, tmp_path / "a.pth")
    mfc.save({"w": np.broadcast_to(row + (row == 3), (1 << 10, 8))}, tmp_path / "b.pth")
    mfc.save({"w": np.array(np.broadcast_to(row + (row == 3), (1 << 10, 8)))}, tmp_path / "c.pth")
    mfc.save({"w": np.array(np.broadcast_to(row, (1 << 10, 8)))}, tmp_path / "d.npz")
    for other in ("b.pth", "c.pth"):
        (change,) = mfc.diff(tmp_path / "a.pth", tmp_path / other).changed
        assert f"{1 << 10} of {8 << 10} values differ" in str(change) and change.largest == 1.0
    assert mfc.diff(tmp_path / "a.pth", tmp_path / "d.npz").ok


@pytest.mark.parametrize("verb", ["verify", "diff", "load"])
def test_damage_to_the_few_bytes_is_noticed(verb, tmp_path):
    mfc.save({"w": np.broadcast_to(np.arange(8, dtype=np.float32), (1 << 10, 8))}, tmp_path / "a.pth")
    raw = (tmp_path / "a.pth").read_bytes()
    stored = np.arange(8, dtype=np.float32).tobytes()
    assert raw.count(stored) == 1
    (tmp_path / "a.pth").write_bytes(raw.replace(stored, stored[:9] + b"\x01" + stored[10:]))
    if verb == "verify":
        assert mfc.verify(tmp_path / "a.pth").damaged == ("w",)
        return
    with pytest.raises(mfc.DamagedError, match="digest"):
        mfc.diff(tmp_path / "a.pth", tmp_path / "a.pth") if verb == "diff" else mfc.load(tmp_path / "a.pth")
