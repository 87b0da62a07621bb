"""Files that look odd and are honest: each must be read, and hold what its maker says."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np

import multiframe_ckpt as mfc

from . import benign_torch
from .archives import npy, one_deflated, zip64_throughout
from .case import Benign
from .opcodes import (
    META,
    RECORDS,
    legacy_of,
    name,
    number,
    numbers,
    oneflow_file,
    storage,
    tensor,
    text,
    torch_zip,
    zip_of,
    zipped,
)
from .safetensors_files import entry, raw_file

__all__ = ["CASES"]

Arrays = Mapping[str, np.ndarray]
_DATA = np.frombuffer(bytes(range(64)), np.float32)
_ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)


# torch


def _over(kind: str, dtype: Any, place: Path) -> Arrays:
    """A tensor of any dtype, over storage of that type."""
    array = np.frombuffer(RECORDS["x/data/0"], dtype)
    shape, over = (array.size,), storage(f"torch\n{kind}Storage", count=number(array.size))
    zip_of(tensor(shape, (1,), over=over), place)
    return {"w": array}


def _float8(place: Path) -> Arrays:
    """A dtype that has no storage of its own: a third version of the rebuilder over bytes."""
    over = storage("torch.storage\nUntypedStorage", count=number(64))
    ops = name("torch._utils", "_rebuild_tensor_v3") + b"(" + over + number(0) + numbers((64,)) + numbers((1,))
    zip_of(ops + b"\x89}" + name("torch", "float8_e4m3fn") + b"tR", place)
    return {"w": np.frombuffer(RECORDS["x/data/0"], ml_dtypes.float8_e4m3fn)}


def _views(place: Path) -> Arrays:
    """Three tensors over one storage: a slice, its transpose, and one row said again and again."""
    shared = storage() + b"q\x01"
    ops = (
        text("a") + tensor((2, 3), (3, 1), number(2), shared) + text("b") + tensor((3, 2), (1, 3), number(2), b"h\x01")
    )
    ops += text("c") + tensor((4, 3), (0, 1), number(1), b"h\x01") + text("d") + tensor((), (), number(5), b"h\x01")
    torch_zip(b"}(" + ops + b"u", place)
    rows = _DATA[2:8].reshape(2, 3)
    return {"a": rows, "b": rows.T, "c": np.broadcast_to(_DATA[1:4], (4, 3)), "d": _DATA[5]}


def _channels_last(place: Path) -> Arrays:
    zip_of(tensor((1, 2, 2, 4), (16, 1, 8, 2)), place)
    return {"w": _DATA.reshape(1, 2, 4, 2).transpose(0, 3, 1, 2)}


def _empty(place: Path) -> Arrays:
    zipped(
        place,
        RECORDS
        | {
            "x/data.pkl": b"\x80\x02}" + text("w") + tensor((0, 3), (3, 1), over=storage(count=number(0))) + b"s.",
            "x/data/0": b"",
        },
    )
    return {"w": np.zeros((0, 3), np.float32)}


def _big_endian(place: Path) -> Arrays:
    zipped(
        place, RECORDS | {"x/byteorder": b"big", "x/data.pkl": b"\x80\x02}" + text("w") + tensor((16,), (1,)) + b"s."}
    )
    return {"w": _DATA.view(">f4").astype(np.float32)}


def _without_crc(place: Path) -> Arrays:
    """A CRC of 0, as torch writes it with ``torch.serialization.set_crc32_options(False)``."""
    zip_of(tensor((16,), (1,)), place)
    raw = bytearray(place.read_bytes())
    raw[raw.index(b"x/data/0") - 16 :][:4] = bytes(4)
    at, entry_at = raw.index(b"x/data/0"), raw.rindex(b"x/data/0")
    raw[at - 16 : at - 12] = raw[entry_at - 30 : entry_at - 26] = bytes(4)
    place.write_bytes(raw)
    return {"w": _DATA}


def _deflated(place: Path) -> Arrays:
    zipped(place, RECORDS | {"x/data.pkl": b"\x80\x02}" + text("w") + tensor() + b"s."}, zipfile.ZIP_DEFLATED)
    return {"w": _DATA[:6].reshape(2, 3)}


class _Unseekable(io.RawIOBase):
    """A stream that a zip is written to as to a pipe: sizes come after the bytes."""

    def __init__(self) -> None:
        self.raw = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        self.raw += piece
        return len(piece)


def _with_data_descriptors(place: Path) -> Arrays:
    stream = _Unseekable()
    with zipfile.ZipFile(stream, "w") as archive:  # type: ignore[arg-type]
        for member, raw in (RECORDS | {"x/data.pkl": b"\x80\x02}" + text("w") + tensor() + b"s."}).items():
            archive.writestr(member, raw)
    place.write_bytes(stream.raw)
    return {"w": _DATA[:6].reshape(2, 3)}


def _zip64(place: Path) -> Arrays:
    """Members in zip64 although they are small, as writers that do not know their sizes have them."""
    with zipfile.ZipFile(place, "w") as archive:
        for member, raw in (RECORDS | {"x/data.pkl": b"\x80\x02}" + text("w") + tensor() + b"s."}).items():
            with archive.open(member, "w", force_zip64=True) as file:
                file.write(raw)
    return {"w": _DATA[:6].reshape(2, 3)}


def _zip64_throughout(place: Path) -> Arrays:
    zip64_throughout(None, place)
    return {"w": _DATA}


def _old_stream(place: Path) -> Arrays:
    legacy_of(tensor(over=storage(more=b"N")), place)
    return {"w": _DATA[:6].reshape(2, 3)}


def _unknown_classes(place: Path) -> Arrays:
    config = name("my.project", "Config") + b")\x81}" + text("lr") + b"K\x01sb"
    torch_zip(
        b"}(" + text("w") + tensor() + text("config") + config + text("fn") + name("my.project", "warmup") + b"u", place
    )
    return {"w": _DATA[:6].reshape(2, 3)}


def _beside_unicode(place: Path) -> Arrays:
    keys = ("größe", "层.权重", "🙂", "a b", "weight\u0301", "x/y", "~")
    torch_zip(b"}(" + b"".join(text(key) + tensor() for key in keys) + b"u", place)
    return {key.replace("~", "~0").replace("/", "~1"): _DATA[:6].reshape(2, 3) for key in keys}


def _bound_to_a_link(place: Path) -> Arrays:
    """A hub's cache: the name is a link to a blob elsewhere."""
    blobs = place.parent / "blobs"
    blobs.mkdir()
    zip_of(tensor(), blobs / "3f5a")
    place.symlink_to(Path("blobs", "3f5a"))
    return {"w": _DATA[:6].reshape(2, 3)}


# Pickles of NumPy, in OneFlow's single file and in torch's


def _arrays(protocol: int, module: str, place: Path) -> Arrays:
    """Arrays and scalars of NumPy as each of its versions names its own parts."""
    arrays = {"w": _ROWS, "f": np.asfortranarray(_ROWS), "s": np.float32(1.5), "b": np.arange(3, dtype=">i4")}
    raw = pickle.dumps({**arrays, "n": np.int64(3), "t": (1, None)}, protocol)
    for own in (b"numpy.core", b"numpy._core"):
        raw = raw.replace(b"c" + own + b".", b"c" + module.encode() + b".")
        raw = raw.replace(
            b"\x8c" + bytes([len(own) + 11]) + own + b".multiarray",
            b"\x8c" + bytes([len(module) + 11]) + module.encode() + b".multiarray",
        )
    zipped(place, RECORDS | {"x/data.pkl": _without_frames(raw)})
    return {"w": _ROWS, "f": _ROWS, "b": np.arange(3, dtype=np.int32)}


def _without_frames(raw: bytes) -> bytes:
    """Takes away the frame opcodes, whose lengths a changed name makes wrong; they are optional."""
    return raw[:2] + raw[11:] if raw[2:3] == b"\x95" else raw


def _single_file(place: Path) -> Arrays:
    oneflow_file(b"}" + text("lr") + b"K\x01s", place)
    return {}


# OneFlow's folders


def _snapshot(place: Path, metas: Mapping[str, bytes], out: bytes = bytes(8)) -> None:
    for variable, meta in metas.items():
        (place / variable).mkdir(parents=True)
        (place / variable / "out").write_bytes(out)
        (place / variable / "meta").write_bytes(meta)
    (place / "snapshot_done").touch()


def _odd_metas(place: Path) -> Arrays:
    metas = {
        "a": b"shape { dim: [1, 0x2] } data_type: 2",
        "b": b"data_type: kFloat shape: < dim: 1, dim: 02; >",
        "c": b"# a comment }\nshape{dim:1dim:2}data_type:kFloat".replace(b"1dim", b"1 dim"),
        "d": b"shape {\r\n  dim: 1\r\n  dim: 2\r\n}\r\ndata_type: kFloat\r\n",
    }
    _snapshot(place, metas)
    return {key: np.zeros((1, 2), np.float32) for key in metas}


def _odd_names(place: Path) -> Arrays:
    names = ("größe", "层.权重", "a b", "weight\u0301", "~", "System-Train-TrainStep", "out", "meta", "-rf")
    _snapshot(place, dict.fromkeys(names, META))
    return {key.replace("~", "~0"): np.zeros(2, np.float32) for key in names}


def _scalar_and_empty(place: Path) -> Arrays:
    _snapshot(place, {"s": b"shape {\n}\ndata_type: kDouble\n"})
    (place / "e").mkdir()
    (place / "e" / "out").touch()
    (place / "e" / "meta").write_bytes(b"shape {\n  dim: 0\n  dim: 3\n}\ndata_type: kInt64\n")
    return {"s": np.zeros((), np.float64), "e": np.zeros((0, 3), np.int64)}


def _linked_within(place: Path) -> Arrays:
    _snapshot(place, {"w": META})
    (place / "v").symlink_to("w")
    return {"w": np.zeros(2, np.float32), "v": np.zeros(2, np.float32)}


def _folder_behind_a_link(place: Path) -> Arrays:
    _snapshot(place.parent / "blob", {"w": META})
    place.symlink_to("blob")
    return {"w": np.zeros(2, np.float32)}


# safetensors


def _any_order(place: Path) -> Arrays:
    header = {
        "z": {"data_offsets": [8, 16], "shape": [2], "dtype": "F32"},
        "__metadata__": {"format": "pt", "größe": "é"},
        "a": {"shape": [2], "dtype": "F32", "data_offsets": [0, 8]},
    }
    place.write_bytes(raw_file(json.dumps(header, indent=3).encode() + b" \n" * 31, bytes(range(16))))
    return {"z": _DATA[2:4], "a": _DATA[:2]}


def _odd_safetensors_names(place: Path) -> Arrays:
    names = ("", " ", "größe", "层", '"', "\\", "a\tb", "x" * 3000, "__metadata", "$tensor")
    header = {key: entry("U8", [0], [0, 0]) for key in names}
    place.write_bytes(raw_file(json.dumps(header, ensure_ascii=False).encode()))
    return {key: np.zeros(0, np.uint8) for key in names}


def _unaligned(place: Path) -> Arrays:
    header = {"a": entry("U8", [1], [0, 1]), "w": entry("F64", [2], [1, 17]), "e": entry("BF16", [], [17, 19])}
    place.write_bytes(raw_file(json.dumps(header).encode() + b" ", bytes(range(19))))
    raw = bytes(range(19))
    return {
        "a": np.array([0], np.uint8),
        "w": np.frombuffer(raw[1:17], np.float64),
        "e": np.frombuffer(raw[17:], ml_dtypes.bfloat16).reshape(()),
    }


def _nothing(place: Path) -> Arrays:
    place.write_bytes(raw_file(b"{}"))
    return {}


# npz, HDF5, JSON


def _savez(save: Callable[..., None], place: Path) -> Arrays:
    arrays = {
        "w": _ROWS,
        "f": np.asfortranarray(_ROWS),
        "b": np.arange(3, dtype=">i4"),
        "s": np.float64(2.5),
        "e": np.zeros((0, 3)),
        "größe": np.array([True, False]),
        "c": np.array([1 + 2j]),
    }
    file = io.BytesIO()
    save(file, **arrays)
    place.write_bytes(file.getvalue())
    return arrays | {"b": np.arange(3, dtype=np.int32), "s": np.array(2.5)}


def _npy_of_versions(place: Path) -> Arrays:
    array = npy(_ROWS)
    size = struct.unpack_from("<H", array, 8)[0]
    second = b"\x93NUMPY\x02\x00" + struct.pack("<I", size) + array[10:]
    zipped(place, {"a.npy": array, "b.npy": second, "c.npy": second.replace(b"\x02", b"\x03", 1)})
    return {"a": _ROWS, "b": _ROWS, "c": _ROWS}


def _deflated_by_hand(place: Path) -> Arrays:
    import zlib

    raw = npy(_ROWS)
    squeezed = zlib.compressobj(9, zlib.DEFLATED, -15)
    place.write_bytes(one_deflated(b"a.npy", squeezed.compress(raw) + squeezed.flush(), zlib.crc32(raw), len(raw)))
    return {"a": _ROWS}


def _hdf5(place: Path) -> Arrays:
    with h5py.File(place, "w") as file:
        file.create_dataset("chunks", data=_ROWS, chunks=(1, 2), compression="gzip", shuffle=True, fletcher32=True)
        file.create_dataset("lzf", data=np.arange(1000), compression="lzf")
        file.create_dataset("big", data=np.arange(3, dtype=">f8"))
        file.create_dataset("scalar", data=np.float32(1.5))
        file.create_dataset("empty", shape=(0, 3), dtype=np.int16)
        file.create_dataset("unwritten", shape=(4,), dtype=np.float32, fillvalue=2)
        file.create_dataset("enum", data=np.array([True, False]))
        file.create_dataset("a/b/c", data=np.ones(2, np.float16))
        file["tied"] = file["scalar"]
        file["text"] = "größe"
        file["type"] = np.dtype("f4")
        file.create_group("nothing")
    return {
        "chunks": _ROWS,
        "lzf": np.arange(1000),
        "big": np.arange(3.0),
        "scalar": np.float32(1.5),
        "empty": np.zeros((0, 3), np.int16),
        "unwritten": np.full(4, 2, np.float32),
        "enum": np.array([True, False]),
        "a/b/c": np.ones(2, np.float16),
        "tied": np.float32(1.5),
    }


def _behind_a_user_block(place: Path) -> Arrays:
    with h5py.File(place, "w", userblock_size=1024, libver="latest") as file:
        file["w"] = _ROWS
    raw = bytearray(place.read_bytes())
    raw[:22] = b"#!/bin/sh\nexec true\n\n\n"
    place.write_bytes(raw)
    return {"w": _ROWS}


def _json(place: Path) -> Arrays:
    layers = [{"values": [[1, 2.0, 3e0], [0, -0.0, "NaN"]], "shape": [2, 3], "dtype": "float32", "name": "größe"}]
    body = {"made_by": {"hand": [1, {"[": '"}{'}]}, "layers": layers, "format_version": 1, "format": "multiframe_ckpt"}
    place.write_text(json.dumps(body, indent=4), "utf-8")
    return {"größe": np.array([[1, 2, 3], [0, -0.0, np.nan]], np.float32)}


def _ours(format: str, place: Path) -> Arrays:
    """A tree of ours with all that is odd in it, written in this format."""
    arrays = {
        "a": _ROWS,
        "h": np.array([1, -2], np.float16),
        "b": np.array([1, -2], ml_dtypes.bfloat16),
        "s": np.array(7),
        "e": np.zeros((0, 2), np.uint8),
        "n": np.array([np.nan, np.inf, -0.0]),
    }
    tensors = {key: mfc.LazyTensor.from_array(array) for key, array in arrays.items()}
    tied = mfc.LazyTensor.from_array(_ROWS, alias="x")
    tree = {"model": tensors | {"t": tied, "u": tied}, "epoch": 3, "big": 2**70, "odd": [(1, None), {3: b"x"}, 1 + 2j]}
    mfc.Checkpoint(tree).save(place, format=format)
    return {f"model/{key}": array for key, array in arrays.items()} | {"model/t": _ROWS, "model/u": _ROWS}


_DTYPES: dict[str, Any] = {
    "Double": np.float64,
    "Half": np.float16,
    "BFloat16": ml_dtypes.bfloat16,
    "ComplexFloat": np.complex64,
    "ComplexDouble": np.complex128,
    "Long": np.int64,
    "Byte": np.uint8,
    "Char": np.int8,
    "Short": np.int16,
}
_FORMATS = ("torch", "oneflow", "oneflow-pickle", "safetensors", "hdf5", "npz", "json")

CASES: dict[str, Benign] = {
    **{f"torch: {kind}Storage": Benign(partial(_over, kind, dtype)) for kind, dtype in _DTYPES.items()},
    "torch: float8": Benign(_float8),
    "torch: views of one storage": Benign(_views),
    "torch: channels last": Benign(_channels_last),
    "torch: an empty tensor": Benign(_empty),
    "torch: big-endian records": Benign(_big_endian),
    "torch: CRCs of 0": Benign(_without_crc),
    "torch: deflated records": Benign(_deflated),
    "torch: data descriptors": Benign(_with_data_descriptors),
    "torch: zip64": Benign(_zip64),
    "torch: zip64 in the directory too": Benign(_zip64_throughout),
    "torch: a stream of before 1.6": Benign(_old_stream),
    "torch: classes of nobody": Benign(_unknown_classes, has_unknown=True),
    "torch: keys of every script": Benign(_beside_unicode),
    "torch: a link to a blob": Benign(_bound_to_a_link),
    **{
        f"torch: arrays of {module} in protocol {protocol}": Benign(partial(_arrays, protocol, module))
        for module in ("numpy.core", "numpy._core")
        for protocol in (2, 3, 4)
    },
    "torch: arrays in protocol 5": Benign(partial(_arrays, 5, "numpy._core")),
    **{f"torch: {title}": case for title, case in benign_torch.CASES.items()},
    "oneflow: a single file": Benign(_single_file),
    "oneflow: protobuf text in every spelling": Benign(_odd_metas),
    "oneflow: names of every script": Benign(_odd_names),
    "oneflow: a scalar and an empty tensor": Benign(_scalar_and_empty),
    "oneflow: a link within": Benign(_linked_within),
    "oneflow: a folder behind a link": Benign(_folder_behind_a_link),
    "safetensors: any order and much padding": Benign(_any_order),
    "safetensors: odd names": Benign(_odd_safetensors_names),
    "safetensors: unaligned tensors": Benign(_unaligned),
    "safetensors: nothing": Benign(_nothing),
    "npz: savez": Benign(partial(_savez, np.savez)),
    "npz: savez_compressed": Benign(partial(_savez, np.savez_compressed)),
    "npz: headers of versions 1 to 3": Benign(_npy_of_versions),
    "npz: another packer's deflate": Benign(_deflated_by_hand),
    "hdf5: chunks, filters, fill values and links": Benign(_hdf5),
    "hdf5: behind a user block": Benign(_behind_a_user_block),
    "json: written by hand": Benign(_json),
    **{f"{format}: a tree of ours": Benign(partial(_ours, format)) for format in _FORMATS},
}
