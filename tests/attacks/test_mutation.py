"""Files of every format with bytes changed, cut, moved and put in: an error of ours or the system's, and nothing else."""

from __future__ import annotations

import itertools
import pickle
import shutil
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import multiframe_ckpt as mfc
from multiframe_ckpt.formats import FORMATS

MAGIC = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
#: Numbers that sizes, counts and offsets go wrong at.
EDGES = [
    n.to_bytes(w, "little")
    for w in (1, 2, 4, 8)
    for n in (0, 1, (1 << 8 * w) - 1, 1 << 8 * w - 1, (1 << 8 * w - 1) - 1)
]


def checkpoint() -> mfc.Checkpoint:
    weight = mfc.LazyTensor.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), alias="w")
    count = mfc.LazyTensor.from_array(np.array(7))
    return mfc.Checkpoint({"model": {"w": weight, "t": weight}, "n": count, "lr": [0.5, None, (True, "x", 2**70)]})


def of_format(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        checkpoint().save(folder / "checkpoint", format=name)
        return folder / "checkpoint"

    return make


def deflated_npz(folder: Path) -> Path:
    np.savez_compressed(folder / "x.npz", a=np.arange(50), b=np.asfortranarray(np.ones((3, 4))), c=np.array("text"))
    return folder / "x.npz"


def legacy(folder: Path) -> Path:
    """What torch wrote before 1.6: a float tensor of six elements."""
    kind = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06NtQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + kind + b"K\x00K\x02K\x03\x86K\x03K\x01\x86\x89}tR"
    head = b"\x80\x02\x8a\x0a" + MAGIC + b".\x80\x02M\xe9\x03." + pickle.dumps({"little_endian": True}, 2)
    body = b"\x80\x02}X\x01\x00\x00\x00w" + tensor + b"s.\x80\x02]X\x01\x00\x00\x000a."
    (folder / "x.pth").write_bytes(head + body + b"\x06" + bytes(7) + np.arange(6, dtype=np.float32).tobytes())
    return folder / "x.pth"


def single_file(folder: Path) -> Path:
    """What OneFlow 1.0 writes, with an array in its pickle."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    raw = pickle.dumps({"protocol_version": 1, "__oneflow__": None, "data": {"w": array, "lr": 0.5}}, 4)
    (folder / "single").write_bytes(raw)
    return folder / "single"


MAKERS: dict[str, Callable[[Path], Path]] = {
    **{name: of_format(name) for name in ("torch", "oneflow", "oneflow-pickle", "safetensors", "npz", "hdf5", "json")},
    "legacy": legacy,
    "single file": single_file,
    "deflated npz": deflated_npz,
}


@cache
def honest(name: str) -> dict[str, bytes]:
    """Gives the files of an honest checkpoint, by their path in it ('' where it is one file)."""
    with tempfile.TemporaryDirectory() as folder:
        path = MAKERS[name](Path(folder))
        if path.is_file():
            return {"": path.read_bytes()}
        return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def laid_out(files: dict[str, bytes], path: Path) -> Path:
    for name, raw in files.items():
        place = path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(raw)
    return path


@st.composite
def mutations(draw: st.DrawFn, size: int) -> tuple[Any, ...]:
    at, end = draw(st.integers(0, size)), draw(st.integers(0, size))
    kind = draw(st.sampled_from(["put", "insert", "cut", "end", "copy"]))
    return kind, at, end, draw(st.sampled_from(EDGES) | st.binary(min_size=1, max_size=9))


def mutated(raw: bytes, mutation: tuple[Any, ...]) -> bytes:
    kind, at, end, piece = mutation
    start, stop = min(at, end), max(at, end)
    return {
        "put": raw[:at] + piece + raw[at + len(piece) :],
        "insert": raw[:at] + piece + raw[at:],
        "cut": raw[:start] + raw[stop:],
        "end": raw[:at],
        "copy": raw[:at] + raw[start:stop] + raw[at:],
    }[kind]


def read_everything(path: Path, name: str | None) -> None:
    """Opens, reads and verifies; only an error of ours or the system's may stop it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mfc.CheckpointWarning)
        for options in ({"allow_incomplete": True}, {}):
            with suppress(mfc.MultiframeError, OSError):
                for tensor in mfc.open(path, format=name, **options).tensors().values():
                    tensor.numpy()
        with suppress(mfc.MultiframeError, OSError):
            mfc.verify(path)


@pytest.mark.parametrize("name", MAKERS)
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_mutated_checkpoint_gives_values_or_an_error_of_ours(name: str, data: st.DataObject) -> None:
    files = dict(honest(name))
    for _ in range(data.draw(st.integers(1, 3))):
        which = data.draw(st.sampled_from(sorted(files)))
        files[which] = mutated(files[which], data.draw(mutations(len(files[which]))))
    with tempfile.TemporaryDirectory() as folder:
        read_everything(laid_out(files, Path(folder) / "mutant"), name if name in FORMATS.names() else None)


@pytest.mark.parametrize("name", [name for name in MAKERS if len(honest(name)) > 1])
def test_a_folder_without_any_one_of_its_files_gives_values_or_an_error_of_ours(name: str, tmp_path: Path) -> None:
    for number, missing in enumerate(honest(name)):
        files = {file: raw for file, raw in honest(name).items() if file != missing}
        read_everything(laid_out(files, tmp_path / str(number)), None)


def test_a_file_of_every_format_read_as_every_other_is_an_error_of_ours(tmp_path: Path) -> None:
    for number, (made, read) in enumerate(itertools.product(MAKERS, FORMATS.names())):
        path = laid_out(honest(made), tmp_path / str(number))
        read_everything(path, read)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
