"""Files that hold little and claim much, or hold much: looked at in no more memory than their size allows."""

from __future__ import annotations

import json
import struct
import zipfile
from functools import partial
from pathlib import Path

import h5py
import numpy as np

import multiframe_ckpt as mfc

from .case import Hostile
from .opcodes import call, number, storage, tensor, text, torch_zip
from .safetensors_files import raw_file

__all__ = ["CASES", "LISTED"]

_TIB = 1 << 40


def _sparse(place: Path, head: bytes, tail: bytes = b"") -> None:
    """Writes a file of a terabyte whose middle is a hole."""
    with place.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + _TIB)
        file.seek(0, 2)
        file.write(tail)


def sparse_safetensors(place: Path) -> None:
    header = {"w": {"dtype": "U8", "shape": [_TIB], "data_offsets": [0, _TIB]}}
    _sparse(place, raw_file(json.dumps(header).encode()))


def sparse_zip(place: Path) -> None:
    """A torch file of one storage of a terabyte, in zip64, as torch.save lays it out."""
    ops = b"\x80\x02}" + text("w")
    ops += tensor((_TIB,), (1,), over=storage("torch\nByteStorage", count=number(_TIB))) + b"s."
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr("x/data.pkl", ops)
    raw = place.read_bytes()
    first = raw[: raw.index(b"PK\x01\x02")]
    sizes = struct.pack("<HHQQ", 1, 16, _TIB, _TIB)
    same = struct.pack("<HHHHHIIIHH", 45, 0, 0, 0, 33, 0, 0xFFFFFFFF, 0xFFFFFFFF, 8, len(sizes))
    head = first + b"PK\x03\x04" + same + b"x/data/0" + sizes
    entry = b"PK\x01\x02" + struct.pack("<H", 45) + same + struct.pack("<HHHII", 0, 0, 0, 0, len(first))
    directory = raw[raw.index(b"PK\x01\x02") : raw.rindex(b"PK\x05\x06")] + entry + b"x/data/0" + sizes
    start = len(head) + _TIB
    end64 = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 2, 2, len(directory), start)
    locator = b"PK\x06\x07" + struct.pack("<IQI", 0, start + len(directory), 1)
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 2, 2, len(directory), 0xFFFFFFFF, 0)
    _sparse(place, head, directory + end64 + locator + end)


def sparse_oneflow(data_type: str, place: Path) -> None:
    """A snapshot with one variable, four bytes an element."""
    (place / "w").mkdir(parents=True)
    (place / "w" / "meta").write_text(f"shape {{\n  dim: {_TIB // 4}\n}}\ndata_type: {data_type}\n")
    _sparse(place / "w" / "out", b"")
    (place / "snapshot_done").touch()


def sparse_hdf5(place: Path) -> None:
    """A dataset whose place in the file was taken and never written."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    with h5py.File(place, "w") as file:
        h5py.h5d.create(file.id, b"w", h5py.h5t.STD_U8LE, h5py.h5s.create_simple((_TIB,)), creation)


def many_safetensors(count: int, floats: int, place: Path) -> None:
    """As many tensors of so many floats."""
    size = 4 * floats
    parts = (
        f'"layer.{n // 4}.{n % 4}.weight":{{"dtype":"F32","shape":[{floats}],'
        f'"data_offsets":[{size * n},{size * n + size}]}}'
        for n in range(count)
    )
    place.write_bytes(raw_file(f"{{{','.join(parts)}}}".encode()) + bytes(size * count))


def many_in_torch(count: int, place: Path) -> None:
    """As many tensors of one byte, as this library writes them."""
    mfc.save({f"layer.{n}": np.zeros((), np.uint8) for n in range(count)}, place, format="torch", digest=False)


def many_views(count: int, place: Path) -> None:
    """As many tensors over one storage of a torch file."""
    shared = storage() + b"q\x000"
    views = b"".join(text(f"w{n}") + tensor(over=b"h\x00") for n in range(count))
    torch_zip(shared + b"}(" + views + b"u", place)


def header_of_99_megabytes(place: Path) -> None:
    text = json.dumps({"__metadata__": {"x": "y" * 99_000_000}}).encode()
    place.write_bytes(raw_file(text))


def many_values(place: Path) -> None:
    """A pickle of many small objects."""
    torch_zip(b"](" + b"K\x01" * 200_000 + b"e", place)


CASES: dict[str, Hostile] = {
    "a list of 200,000 numbers": Hostile(many_values, "never"),
    "an OrderedDict of 20,000 entries": Hostile(
        partial(
            torch_zip,
            call("collections", "OrderedDict") + b"(" + b"".join(number(n) + b"N" for n in range(20_000)) + b"u",
        ),
        "never",
    ),
    "5,000 views of one storage": Hostile(partial(many_views, 5_000), "never"),
}
#: Only listed: reading them whole takes what it takes.
LISTED: dict[str, Hostile] = {
    "a safetensors file of a terabyte": Hostile(sparse_safetensors, "never"),
    "a torch file of a terabyte": Hostile(sparse_zip, "never"),
    "a OneFlow folder with a variable of a terabyte": Hostile(partial(sparse_oneflow, "kFloat"), "never"),
    "a OneFlow folder with a bfloat16 variable of a terabyte": Hostile(partial(sparse_oneflow, "kBFloat16"), "never"),
    "an HDF5 dataset of a terabyte": Hostile(sparse_hdf5, "never"),
    "a safetensors header of 99 MB": Hostile(header_of_99_megabytes, "never"),
    "300,000 tensors of 16 floats": Hostile(partial(many_safetensors, 300_000, 16), "never"),
    "300,000 tensors of a float": Hostile(partial(many_safetensors, 300_000, 1), "never", room=512 * 300_000),
    "100,000 tensors of a byte in a torch file": Hostile(
        partial(many_in_torch, 100_000), "never", room=1_400 * 100_000
    ),
}
