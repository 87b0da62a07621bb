"""What is fuzzed: for each parser, where the fuzzer's bytes are put in an otherwise honest checkpoint, and its seeds."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

import multiframe_ckpt as mfc
from multiframe_ckpt.dtypes import FLOAT32
from multiframe_ckpt.formats.manifest import _header_digest, manifest_of

__all__ = ["TARGETS", "Target"]

Files = dict[str, bytes]  # by their path in the checkpoint, '' for one that is a single file

_GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden" / "oneflow.tar.gz"
_PLAIN = [0.5, None, (True, "x", 2**70), {3: b"b", "$": float("nan")}, 1 + 2j, "\ud800"]
_META = b"shape {\n  dim: 2\n}\ndata_type: kFloat\n"
_LEGACY = b"\x80\x02\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little") + b".\x80\x02M\xe9\x03."


class Target(NamedTuple):
    """One parser: the formats that are asked to read it, the checkpoint around the bytes, and bytes to begin with."""

    formats: tuple[str, ...]
    frame: Callable[[bytes], Files]
    seeds: Callable[[], Iterator[bytes]]


def _alone(data: bytes) -> Files:
    return {"": data}


def _zipped(members: Files) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, raw in members.items():
            archive.writestr(name, raw)
    return file.getvalue()


def _in_torch_zip(data: bytes) -> Files:
    members = {"x/data.pkl": data, "x/byteorder": b"little", "x/data/0": bytes(range(64)), "x/version": b"3\n"}
    return {"": _zipped(members)}


def _in_legacy_stream(data: bytes) -> Files:
    return {"": _LEGACY + pickle.dumps({"little_endian": True}, 2) + data}


def _as_meta(data: bytes) -> Files:
    return {"snapshot_done": b"", "w/out": bytes(8), "w/meta": data}


def _as_pickled_data(data: bytes) -> Files:
    return {"pickled_data": data, "tensor_1/out": bytes(8), "tensor_1/meta": _META, "tensor_0/out": bytes(24)}


def _in_npz(data: bytes) -> Files:
    return {"": _zipped({"a.npy": data})}


def _as_manifest(data: bytes) -> Files:
    """Take a manifest up to its header digest, which is added: no fuzzer finds one."""
    members = dict.fromkeys(("model/w", "model/t"), (FLOAT32, (2, 3)))
    text = data.decode("utf-8", "replace")
    text = f'{text},"seal":"{_header_digest(text, members)}"}}'
    entry = {"dtype": "F32", "shape": [2, 3]}
    offsets = zip(members, ([0, 24], [24, 48]), strict=True)
    tensors = {name: {**entry, "data_offsets": place} for name, place in offsets}
    header = json.dumps({"__metadata__": {"multiframe_ckpt": text}} | tensors).encode()
    return {"": struct.pack("<Q", len(header)) + header + bytes(48)}


def _trees() -> Iterator[mfc.Checkpoint]:
    weight = mfc.LazyTensor.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), alias="w")
    count = mfc.LazyTensor.from_array(np.array(7))
    half = mfc.LazyTensor.from_array(np.ones(3, np.float16))
    yield mfc.Checkpoint({"w": weight, "n": count})
    yield mfc.Checkpoint({"model": {"w": weight, "t": weight, "h": half}, "n": count, "lr": _PLAIN})


def _saved(*formats: str) -> Iterator[Files]:
    """Yield the files of honest checkpoints of ours."""
    for format in formats:
        for tree in _trees():
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "x")
                tree.save(path, format=format)
                yield {
                    "" if file == path else file.relative_to(path).as_posix(): file.read_bytes()
                    for file in [path, *path.rglob("*")]
                    if file.is_file()
                }


def _files_of(*formats: str) -> Callable[[], Iterator[bytes]]:
    return lambda: (files[""] for files in _saved(*formats))


def _members(files: Iterator[Files], suffix: str) -> Iterator[bytes]:
    for file in files:
        with zipfile.ZipFile(io.BytesIO(file[""])) as archive:
            yield from (archive.read(name) for name in archive.namelist() if name.endswith(suffix))


def _golden(name: str) -> Iterator[bytes]:
    """Yield the golden files of that name."""
    with tarfile.open(_GOLDEN) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() and Path(member.name).name == name else None
            if file is not None:
                yield file.read()


def _pickles() -> Iterator[bytes]:
    yield from _members(_saved("torch"), "data.pkl")
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    for protocol in range(6):
        yield pickle.dumps({"w": array, "s": np.float64(1), "x": [1, None, {2: (3, "é")}, {4}, 1.5, 2**70]}, protocol)


def _streams() -> Iterator[bytes]:
    kind = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06NtQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + kind + b"K\x00K\x02K\x03\x86K\x03K\x01\x86\x89}tR"
    keys = b"\x80\x02]X\x01\x00\x00\x000a."
    yield b"\x80\x02}X\x01\x00\x00\x00w" + tensor + b"s." + keys + b"\x06" + bytes(31)


def _metas() -> Iterator[bytes]:
    yield from _golden("meta")
    yield from (raw for files in _saved("oneflow") for name, raw in files.items() if name.endswith("meta"))
    yield b"shape: < dim: [0x2, 03], > ; data_type: 2 # note\n"


def _pickled_data() -> Iterator[bytes]:
    yield from _golden("pickled_data")
    yield from (files["pickled_data"] for files in _saved("oneflow-pickle", "oneflow") if "pickled_data" in files)


def _zips() -> Iterator[bytes]:
    yield from _files_of("torch", "npz")()
    file = io.BytesIO()
    np.savez_compressed(file, a=np.arange(50), b=np.asfortranarray(np.ones((3, 4))), c=np.array("text"))
    yield file.getvalue()


def _headers() -> Iterator[bytes]:
    yield from _members(_saved("npz"), ".npy")
    for array in (np.ones((2, 2), ">i4"), np.asfortranarray(np.ones((3, 2))), np.array(["ab", "c"]), np.array(b"x")):
        file = io.BytesIO()
        np.save(file, array)
        yield file.getvalue()


def _manifests() -> Iterator[bytes]:
    weight = mfc.LazyTensor.from_array(np.zeros((2, 3), np.float32), alias="w")
    for tree in ({"model/w": weight, "model/t": weight}, {"model": {"w": weight, "t": weight}, "lr": _PLAIN}):
        manifest = manifest_of(tree, fits=lambda _: True, stored_as=lambda dtype: dtype)[0]
        yield manifest.text({}, {}).rpartition(',"seal"')[0].encode()


TARGETS = {
    "pickle": Target(("torch",), _in_torch_zip, _pickles),
    "legacy": Target(("torch",), _in_legacy_stream, _streams),
    "zip": Target(("torch", "npz"), _alone, _zips),
    "meta": Target(("oneflow",), _as_meta, _metas),
    "pickled_data": Target(("oneflow-pickle",), _as_pickled_data, _pickled_data),
    "safetensors": Target(("safetensors",), _alone, _files_of("safetensors")),
    "npy": Target(("npz",), _in_npz, _headers),
    "json": Target(("json",), _alone, _files_of("json")),
    "manifest": Target(("safetensors",), _as_manifest, _manifests),
    "hdf5": Target(("hdf5",), _alone, _files_of("hdf5")),
}
