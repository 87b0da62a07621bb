"""What is no checkpoint of any format here is called what it plainly is, with what to do: never damaged or forged."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import sqlite3
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.formats import FORMATS

HARD_WORDS = ("damage", "forged", "hostile", "broken", "fetch it again", "do not load")


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, raw in members.items():
            archive.writestr(name.replace("__", "/"), raw)
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model/weights.bin"), io.BytesIO())
    return file.getvalue()


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.ones(3))
    return file.getvalue()


def sqlite(place: Path) -> None:
    connection = sqlite3.connect(place)
    connection.execute("create table t (x)")
    connection.commit()
    connection.close()


INDEX = {"metadata": {"total_size": 8}, "weight_map": {"w": "model-00001-of-00002.safetensors"}}
FILES: dict[str, tuple[str, bytes, str]] = {
    "a pointer of Git LFS": (
        "model.safetensors",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
        "git lfs pull",
    ),
    "a page": (
        "model.pth",
        b"<!DOCTYPE html>\n<html><title>Sign in</title></html>",
        "a web page.*fetch the file itself",
    ),
    "a page after a line": ("model.pth", b"\n<html lang='en'>", "a web page"),
    "a store's answer": ("model.pth", b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "object store"),
    "gzip": ("model.pth.gz", gzip.compress(b"x" * 100), "gunzip"),
    "xz": ("model.pth.xz", lzma.compress(b"x" * 100), "unxz"),
    "bzip2": ("model.pth.bz2", bz2.compress(b"x" * 100), "bunzip2"),
    "zlib": ("model.z", zlib.compress(b"x" * 100), "zlib"),
    "tar": ("model.tar", tarred(), "tar -xf"),
    "GGUF": ("model.gguf", b"GGUF\x03\0\0\0" + bytes(16), "llama.cpp.*gguf"),
    "ONNX": ("model.onnx", b"\x08\x09\x12\x07pytorch\x1a\x05", "ONNX"),
    "ONNX under any name": ("model", b"\x08\x07\x12\x07pytorch\x1a\x03", "ONNX"),
    "a graph of TensorFlow": ("saved_model.pb", b"\x08\x01\x12\xf1\x0a", "tf.saved_model.load"),
    "TensorFlow Lite": ("model.tflite", b"\x1c\0\0\0TFL3" + bytes(20), "TensorFlow Lite"),
    "one array": ("w.npy", npy(), "numpy.savez"),
    "Keras 3": ("m.keras", zipped(**{"config.json": b"{}", "model.weights.h5": b""}), "open model.weights.h5"),
    "torch.export": (
        "m.pt2",
        zipped(m__archive_format=b"pt2", **{"m__models__model.json": b"{}"}),
        "torch.export.load",
    ),
    "TorchServe": ("m.mar", zipped(**{"MAR-INF__MANIFEST.json": b"{}", "m.pth": b""}), "TorchServe"),
    "a zipped folder": ("run.zip", zipped(run__readme=b"x", run__w=b"y"), "a zip archive of a folder.*unzip it"),
    "an index": ("model.safetensors.index.json", json.dumps(INDEX).encode(), "index of safetensors"),
    "an index of many lines": (
        "model.safetensors.index.json",
        json.dumps(INDEX, indent=2).encode(),
        "index of safetensors",
    ),
    "Flax": ("m.msgpack", b"\x81\xa6params\x80", "flax"),
    "PDF": ("m.pdf", b"%PDF-1.7\n", "PDF"),
    "an empty archive": ("m.zip", zipped(), "an empty zip archive"),
}


def require_plain_speech(path: Path, pattern: str) -> None:
    with pytest.raises(mfc.FormatError, match=pattern) as refusal:
        mfc.open(path)
    assert path.name in str(refusal.value)
    assert not any(word in str(refusal.value) for word in HARD_WORDS), str(refusal.value)


@pytest.mark.parametrize(("name", "raw", "pattern"), FILES.values(), ids=FILES)
def test_a_file_of_a_stranger_is_called_what_it_is(name: str, raw: bytes, pattern: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(raw)
    require_plain_speech(tmp_path / name, pattern)


def test_a_database_is_called_one(tmp_path: Path) -> None:
    sqlite(tmp_path / "x.db")
    require_plain_speech(tmp_path / "x.db", "SQLite")


def test_a_file_that_joblib_wrote_is_called_one(tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib")
    joblib.dump({"w": np.ones(1000)}, tmp_path / "x.joblib")
    require_plain_speech(tmp_path / "x.joblib", r"a file of joblib.*joblib\.load")


def test_a_pickle_of_cloudpickle_is_called_one(tmp_path: Path) -> None:
    cloudpickle = pytest.importorskip("cloudpickle")
    (tmp_path / "x.pkl").write_bytes(cloudpickle.dumps(lambda x: x + 1))
    require_plain_speech(tmp_path / "x.pkl", "functions and classes as code")


def test_a_model_saved_with_a_pickler_of_code_is_not_called_hostile(tmp_path: Path) -> None:
    torch, cloudpickle = pytest.importorskip("torch"), pytest.importorskip("cloudpickle")
    torch.save({"w": torch.ones(2), "f": lambda x: x}, tmp_path / "x.pth", pickle_module=cloudpickle)
    require_plain_speech(tmp_path / "x.pth", "cloudpickle.*keeps functions and classes as code.*state dict")


@pytest.mark.filterwarnings("ignore")
def test_a_program_of_torch_is_told_apart_by_what_torch_writes(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 3)), tmp_path / "x.pt")
    require_plain_speech(tmp_path / "x.pt", r"TorchScript.*torch\.jit\.load")


@pytest.mark.filterwarnings("ignore")
def test_a_program_of_torch_export_is_told_apart_by_what_torch_writes(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if not hasattr(torch, "export"):
        pytest.skip("another version of torch")
    torch.export.save(torch.export.export(torch.nn.Linear(2, 3), (torch.ones(1, 2),)), tmp_path / "x.pt2")
    require_plain_speech(tmp_path / "x.pt2", r"a program of torch\.export.*torch\.export\.load")


@pytest.mark.filterwarnings("ignore")
def test_a_folder_and_a_shard_of_torch_distributed_are_told_apart_by_what_torch_writes(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    dcp = pytest.importorskip("torch.distributed.checkpoint")
    state = {"w": torch.ones(2), "b": torch.ones(3)}
    if hasattr(dcp, "save"):
        dcp.save(state, checkpoint_id=tmp_path / "dcp", no_dist=True)
    else:  # torch 2.0
        dcp.save_state_dict(state, dcp.FileSystemWriter(str(tmp_path / "dcp")), no_dist=True)
    if "dcp" not in FORMATS.names():  # which this library may read by now
        require_plain_speech(tmp_path / "dcp", "a folder of torch.distributed.checkpoint.*dcp_to_torch_save")
    require_plain_speech(next((tmp_path / "dcp").glob("*.distcp")), "a shard of torch.distributed.checkpoint")


FOLDERS: dict[str, tuple[tuple[str, ...], str]] = {
    "Orbax": (("_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt", "d/x"), "Orbax"),
    "TensorFlow": (("checkpoint", "ckpt-1.index", "ckpt-1.data-00000-of-00001"), "tf.train.load_checkpoint"),
    "SavedModel": (("saved_model.pb", "variables/variables.index"), "tf.saved_model.load"),
    "DeepSpeed": (("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"), "DeepSpeed"),
    "Hugging Face": (("config.json", "model.safetensors"), r"with model\.safetensors in it.*open one of them"),
    "Hugging Face in parts": (("config.json", "model.safetensors.index.json", "model-1.safetensors"), "several files"),
    "a run": (
        ("checkpoint_epoch_0001/notes/x", "latest_checkpoint/notes/x"),
        "open one of them: checkpoint_epoch_0001",
    ),
    "weights among others": (("readme.md", "a.pth", "b.pth", "c.pt", "d.pt"), r"a\.pth, b\.pth, c\.pt and 1 more"),
}


@pytest.mark.parametrize(("names", "pattern"), FOLDERS.values(), ids=FOLDERS)
def test_a_folder_of_a_stranger_is_called_what_it_is(names: tuple[str, ...], pattern: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(b"\0")
    require_plain_speech(tmp_path / "folder", pattern)
