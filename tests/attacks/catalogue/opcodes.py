"""Pickle opcodes put together by hand, and the four places where a checkpoint keeps a pickle."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

__all__ = [
    *("CONTAINERS", "LEGACY_HEAD", "META", "RECORDS", "call", "legacy_of", "name", "number", "numbers", "zipped"),
    *("oneflow_file", "oneflow_folder", "storage", "tensor", "text", "torch_legacy", "torch_zip", "zip_of"),
]

RECORDS = {"x/data.pkl": b"\x80\x02}.", "x/byteorder": b"little", "x/data/0": bytes(range(64)), "x/version": b"3\n"}
META = b"shape {\n  dim: 2\n}\ndata_type: kFloat\n"
LEGACY_HEAD = b"\x80\x02\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little") + b"."


def text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8b" + struct.pack("<i", len(raw)) + raw


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def call(module: str, attribute: str, *args: bytes) -> bytes:
    return name(module, attribute) + b"(" + b"".join(args) + b"tR"


def storage(
    kind: str = "torch\nFloatStorage", key: bytes = text("0"), count: bytes = number(16), more: bytes = b""
) -> bytes:
    return b"(" + text("storage") + b"c" + kind.encode() + b"\n" + key + text("cpu") + count + more + b"tQ"


def tensor(
    shape: tuple[int, ...] = (2, 3),
    stride: tuple[int, ...] = (3, 1),
    offset: bytes = number(0),
    over: bytes | None = None,
    rest: bytes = b"\x89}",
) -> bytes:
    arguments = (storage() if over is None else over) + offset + numbers(shape) + numbers(stride) + rest
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"tR"


# Where a pickle lies. Each takes the opcodes that leave an object on the stack.


def zipped(place: Path, records: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(place, "w", compression) as archive:
        for member, raw in records.items():
            archive.writestr(member, raw)
    return place


def torch_zip(ops: bytes, place: Path) -> Path:
    return zipped(place, RECORDS | {"x/data.pkl": b"\x80\x02" + ops + b"."})


def torch_legacy(ops: bytes, place: Path) -> Path:
    head = LEGACY_HEAD + b"\x80\x02M\xe9\x03." + pickle.dumps({"little_endian": True}, 2)
    place.write_bytes(head + b"\x80\x02" + ops + b"." + pickle.dumps([], 2))
    return place


def oneflow_folder(ops: bytes, place: Path) -> Path:
    variable = place / "tensor_1"
    variable.mkdir(parents=True)
    (variable / "out").write_bytes(bytes(8))
    (variable / "meta").write_bytes(META)
    (place / "pickled_data").write_bytes(_oneflow_header(b"", ops))
    return place


def oneflow_file(ops: bytes, place: Path) -> Path:
    place.write_bytes(_oneflow_header(b"X\x0b\x00\x00\x00__oneflow__N", ops))
    return place


def _oneflow_header(extra: bytes, ops: bytes) -> bytes:
    return b"\x80\x02}(X\x10\x00\x00\x00protocol_versionK\x01" + extra + b"X\x04\x00\x00\x00data" + ops + b"u."


CONTAINERS: dict[str, Callable[[bytes, Path], Path]] = {
    "torch zip": torch_zip,
    "torch legacy": torch_legacy,
    "oneflow folder": oneflow_folder,
    "oneflow file": oneflow_file,
}


# Where a tensor lies: a state dict whose one entry is ``w``.


def zip_of(ops: bytes, place: Path) -> Path:
    return torch_zip(b"}" + text("w") + ops + b"s", place)


def legacy_of(
    ops: bytes, place: Path, *, keys: bytes = b"\x80\x02]X\x01\x00\x00\x000a.", stored: bytes | None = None
) -> Path:
    head = LEGACY_HEAD + b"\x80\x02M\xe9\x03." + pickle.dumps({"little_endian": True}, 2)
    body = struct.pack("<q", 16) + bytes(range(64)) if stored is None else stored
    place.write_bytes(head + b"\x80\x02}" + text("w") + ops + b"s." + keys + body)
    return place
