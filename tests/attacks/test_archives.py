"""Hostile torch files: archives that lie about their members, and tensors that reach out of their storages."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import multiframe_ckpt as mfc

RECORDS = {"x/data.pkl": b"\x80\x02}.", "x/byteorder": b"little", "x/data/0": bytes(range(64)), "x/version": b"3\n"}
MAGIC = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")


def number(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8b" + struct.pack("<i", len(raw)) + raw


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


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
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def zipped(path: Path, records: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, raw in records.items():
            archive.writestr(name, raw)
    return path


def zip_of(ops: bytes, folder: Path) -> Path:
    return zipped(folder / "x.pt", RECORDS | {"x/data.pkl": b"\x80\x02}" + text("w") + ops + b"s."})


def legacy_of(
    ops: bytes, folder: Path, *, keys: bytes = b"\x80\x02]X\x01\x00\x00\x000a.", stored: bytes | None = None
) -> Path:
    header = [b"\x80\x02\x8a\x0a" + MAGIC + b".", b"\x80\x02M\xe9\x03.", pickle.dumps({"little_endian": True}, 2)]
    body = struct.pack("<q", 16) + bytes(range(64)) if stored is None else stored
    path = folder / "x.pth"
    path.write_bytes(b"".join(header) + b"\x80\x02}" + text("w") + ops + b"s." + keys + body)
    return path


def read_all(path: Path) -> dict[str, np.ndarray]:
    return {key: found.numpy() for key, found in mfc.open(path, allow_inert=True).tensors().items()}


FORGED = {
    "a negative offset": tensor(offset=number(-1)),
    "an offset past the end": tensor(offset=number(11)),
    "an offset past 2**63": tensor(offset=number(1 << 70)),
    "an offset of text": tensor(offset=text("0")),
    "an offset of True": tensor(offset=b"\x88"),
    "a negative stride": tensor(stride=(-3, 1)),
    "a stride that leaves the storage": tensor(stride=(16, 1)),
    "a stride that wraps around": tensor(stride=(1 << 62, 1)),
    "a stride too few": tensor(stride=(1,)),
    "a negative shape": tensor(shape=(-2, -3)),
    "a shape past any memory": tensor(shape=(1 << 62, 1 << 62)),
    "a shape whose product wraps to zero": tensor(shape=(1 << 32, 1 << 32), stride=(0, 0)),
    "a shape expanded past any memory": tensor(shape=(1 << 45,), stride=(0,)),
    "an empty shape of endless size": tensor(shape=(0, 1 << 62, 8)),
    "seventy dimensions": tensor(shape=(1,) * 70, stride=(1,) * 70),
    "a thousand endless dimensions": tensor(shape=(1 << 9000,) * 1000, stride=(0,) * 1000),
    "a shape of text": b"ctorch._utils\n_rebuild_tensor_v2\n("
    + storage()
    + b"K\x00"
    + text("ab")
    + text("ab")
    + b"\x89}tR",
    "too few arguments": b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage() + b"tR",
    "a tensor over a number": tensor(over=b"K\x01"),
    "a tensor over a tensor": tensor(over=tensor()),
    "a storage of a type of nobody": tensor(over=storage(kind="torch\nEvilStorage")),
    "a storage that is a class of another": tensor(over=storage(kind="os\nsystem")),
    "a storage of more elements than there are": tensor(over=storage(count=number(17))),
    "a storage of fewer elements than there are": tensor(over=storage(count=number(15))),
    "a storage of a negative count": tensor(over=storage(count=number(-16))),
    "a storage of a count in text": tensor(over=storage(count=text("16"))),
    "a storage of endless size": tensor(over=storage(count=number(1 << 90))),
    "a storage of a wider type": tensor(over=storage(kind="torch\nDoubleStorage")),
    "a storage of another key": tensor(over=storage(key=text("1"))),
    "a storage whose key leads outside": tensor(over=storage(key=text("../../etc/passwd"))),
    "a storage whose key is a number": tensor(over=storage(key=number(0))),
    "a reference of six parts or none": tensor(over=storage(more=b"NN")),
    "a conjugated float": tensor(rest=b"\x89}}" + text("conj") + b"\x88s"),
    "a negated bool": tensor(
        over=storage(kind="torch\nBoolStorage", count=number(64)), rest=b"\x89}}" + text("neg") + b"\x88s"
    ),
    "a third version without its dtype": b"ctorch._utils\n_rebuild_tensor_v3\n(" + storage() + b"K\x00))\x89}tR",
    "a third version of a dtype of nobody": b"ctorch._utils\n_rebuild_tensor_v3\n("
    + storage()
    + b"K\x00))\x89}cos\nsystem\ntR",
}


@pytest.mark.parametrize("ops", FORGED.values(), ids=FORGED)
def test_a_forged_tensor_of_an_archive_is_refused(ops: bytes, tmp_path: Path) -> None:
    with pytest.raises(mfc.FormatError):
        read_all(zip_of(ops, tmp_path))


@pytest.mark.parametrize("ops", FORGED.values(), ids=FORGED)
def test_a_forged_tensor_of_a_legacy_stream_is_refused(ops: bytes, tmp_path: Path) -> None:
    six = ops.replace(text("cpu") + number(16) + b"tQ", text("cpu") + number(16) + b"NtQ")
    with pytest.raises(mfc.FormatError):
        read_all(legacy_of(six, tmp_path))


@pytest.mark.parametrize("make", [zip_of, legacy_of])
def test_the_makers_make_files_that_are_read_where_nothing_is_forged(
    make: Callable[[bytes, Path], Path], tmp_path: Path
) -> None:
    ops = tensor(over=storage(more=b"" if make is zip_of else b"N"))
    expected = np.frombuffer(bytes(range(24)), np.float32).reshape(2, 3)
    np.testing.assert_array_equal(read_all(make(ops, tmp_path))["w"], expected)


STREAMS = {
    "keys that are no list": {"keys": b"\x80\x02N."},
    "a key that is a list": {"keys": b"\x80\x02]]a."},
    "a key that no tensor names": {"keys": b"\x80\x02]X\x01\x00\x00\x001a."},
    "no keys": {"keys": b"\x80\x02]."},
    "a count that is negative": {"stored": struct.pack("<q", -16) + bytes(64)},
    "a count that is too large": {"stored": struct.pack("<q", 1 << 62) + bytes(64)},
    "values cut short": {"stored": struct.pack("<q", 16) + bytes(63)},
    "a count cut short": {"stored": b"\x10\x00"},
    "nothing after the keys": {"stored": b""},
}


@pytest.mark.parametrize("parts", STREAMS.values(), ids=STREAMS)
def test_a_forged_legacy_stream_is_refused(parts: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(mfc.FormatError):
        read_all(legacy_of(tensor(over=storage(more=b"N")), tmp_path, **parts))


HEADERS = {
    "another protocol": b"\x80\x02\x8a\x0a" + MAGIC + b"." + b"\x80\x02K\x07." + b"\x80\x02}." * 2 + b"\x80\x02].",
    "a system that is a tower": b"\x80\x02\x8a\x0a"
    + MAGIC
    + b".\x80\x02M\xe9\x03.\x80\x02)"
    + b"2\x86" * 64
    + b".N.].",
    "a protocol that is a tower": b"\x80\x02\x8a\x0a" + MAGIC + b".\x80\x02)" + b"2\x86" * 64 + b".}.N.].",
    "an end after the magic number": b"\x80\x02\x8a\x0a" + MAGIC + b".",
}


@pytest.mark.parametrize("raw", HEADERS.values(), ids=HEADERS)
def test_a_forged_legacy_header_is_refused(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(raw)
    with pytest.raises(mfc.FormatError):
        mfc.open(tmp_path / "x.pth")


# Archives. Each maker takes the bytes of an honest one, whose tensor ``w`` is the whole of record data/0.


def honest() -> bytes:
    file = io.BytesIO()
    ops = b"\x80\x02}" + text("w") + tensor(shape=(16,), stride=(1,)) + b"s."
    with zipfile.ZipFile(file, "w") as archive:
        for name, raw in (RECORDS | {"x/data.pkl": ops}).items():
            archive.writestr(name, raw)
    return file.getvalue()


def central(raw: bytes, name: bytes) -> int:
    """Gives where a member's entry in the directory begins."""
    return raw.rindex(name) - 46


def patched(raw: bytes, at: int, layout: str, *values: int) -> bytes:
    piece = struct.pack(layout, *values)
    return raw[:at] + piece + raw[at + len(piece) :]


def lying_size(raw: bytes) -> bytes:
    return patched(raw, central(raw, b"x/data/0") + 20, "<II", 1 << 30, 1 << 30)


def larger_than_stored(raw: bytes) -> bytes:
    return patched(raw, central(raw, b"x/data/0") + 24, "<I", 1 << 31)


def encrypted(raw: bytes) -> bytes:
    return patched(raw, central(raw, b"x/data/0") + 8, "<H", 1)


def of_another_offset(raw: bytes) -> bytes:
    return patched(raw, central(raw, b"x/data/0") + 42, "<I", 7)


def past_the_end(raw: bytes) -> bytes:
    return patched(raw, central(raw, b"x/data/0") + 42, "<I", 0x7FFFFFFF)


def over_another(raw: bytes) -> bytes:
    """The pickle's member reaches over the next one's header and bytes."""
    at = central(raw, b"x/data.pkl")
    size = struct.unpack_from("<I", raw, at + 20)[0] + 80
    return patched(raw, at + 20, "<II", size, size)


def of_unknown_compression(raw: bytes) -> bytes:
    return patched(raw, central(raw, b"x/data/0") + 10, "<H", 14)


def said_to_be_deflated(raw: bytes) -> bytes:
    return patched(raw, central(raw, b"x/data/0") + 10, "<H", 8)


def zip64_of_endless_size(raw: bytes) -> bytes:
    at = central(raw, b"x/version")
    return patched(raw, at + 20, "<II", 0xFFFFFFFF, 0xFFFFFFFF)


def with_a_directory_elsewhere(raw: bytes) -> bytes:
    return patched(raw, raw.rindex(b"PK\x05\x06") + 16, "<I", 0x7FFFFFFF)


def of_other_local_names(raw: bytes) -> bytes:
    return raw.replace(b"x/data/0", b"x/data/9", 1)


def without_a_pickle(raw: bytes) -> bytes:
    return raw.replace(b"x/data.pkl", b"x/date.pkl")


TAMPERED = (
    *(lying_size, larger_than_stored, encrypted, of_another_offset, past_the_end, over_another, of_unknown_compression),
    *(said_to_be_deflated, zip64_of_endless_size, with_a_directory_elsewhere, of_other_local_names, without_a_pickle),
)


@pytest.mark.parametrize("tamper", TAMPERED, ids=lambda tamper: tamper.__name__)
def test_a_tampered_archive_is_refused(tamper: Callable[[bytes], bytes], tmp_path: Path) -> None:
    raw = honest()
    tampered = tamper(raw)
    assert tampered != raw
    (tmp_path / "x.pt").write_bytes(tampered)
    with pytest.raises(mfc.FormatError):
        read_all(tmp_path / "x.pt")


def test_the_honest_archive_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(honest())
    assert read_all(tmp_path / "x.pt")["w"].tobytes() == RECORDS["x/data/0"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        for name, raw in (*RECORDS.items(), ("x/data/0", bytes(64))):
            archive.writestr(name, raw)
    with pytest.raises(mfc.FormatError, match="two members of one name"):
        mfc.open(tmp_path / "x.pt", format="torch")


def test_two_pickles_are_refused_since_readers_differ_over_which_is_meant(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.pt", RECORDS | {"y/data.pkl": b"\x80\x02}."})
    with pytest.raises(mfc.UnsafeError, match=r"2 records called data\.pkl"):
        mfc.open(path)


def test_members_whose_names_lead_outside_are_never_unpacked(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    path = zipped(inside / "x.pt", RECORDS | {"../escaped": b"x", "/tmp/escaped": b"x", "x/../../escaped": b"x"})
    mfc.convert(path, inside / "y.pt")
    assert sorted(place.name for place in tmp_path.rglob("*")) == ["inside", "x.pt", "y.pt"]


def test_a_pickle_that_inflates_past_any_use_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    squeezed = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = bytes(1 << 24)
    raw = b"".join(squeezed.compress(piece) for _ in range(20)) + squeezed.flush()
    crc = 0
    for _ in range(20):
        crc = zlib.crc32(piece, crc)
    (tmp_path / "x.pt").write_bytes(one_deflated(b"x/data.pkl", raw, crc, 20 << 24))
    with pytest.raises(mfc.UnsafeError, match="compressed from more than"):
        mfc.open(tmp_path / "x.pt")


def one_deflated(name: bytes, raw: bytes, crc: int, size: int) -> bytes:
    """Gives an archive of one deflated member."""
    same = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 0, crc, len(raw), size, len(name), 0)
    local = b"PK\x03\x04" + same + name + raw
    entry = b"PK\x01\x02" + struct.pack("<H", 20) + same + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name
    return local + entry + b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(entry), len(local), 0)


def test_a_member_that_inflates_to_more_than_it_says_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.npz", {"a.npy": npy(np.zeros(5000))}, zipfile.ZIP_DEFLATED)
    raw = path.read_bytes()
    path.write_bytes(patched(raw, central(raw, b"a.npy") + 24, "<I", 4000))
    with pytest.raises(mfc.FormatError):
        read_all(path)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("layout", ["torch", "safetensors", "npz", "json"])
def test_a_file_that_holds_the_signature_of_another_layout_is_still_its_own(layout: str, tmp_path: Path) -> None:
    signature = np.frombuffer(b"\x89HDF\r\n\x1a\n" * 1024, np.uint8)
    weights = {"a": mfc.LazyTensor.of_array(signature)}
    for shift in range(0, 512, 8):  # HDF5's may stand at any power of two from 512 on
        weights["b"] = mfc.LazyTensor.of_array(signature[: 1 + shift])
        mfc.Checkpoint(weights).save(tmp_path / "x", format=layout, overwrite=True)
        assert mfc.open(tmp_path / "x").meta["format"] == layout


def test_an_npz_of_a_pickle_is_refused(tmp_path: Path) -> None:
    objects = np.empty(1, object)
    np.savez(tmp_path / "x.npz", a=objects)
    with pytest.raises(mfc.UnsafeError, match="pickle"):
        mfc.open(tmp_path / "x.npz")


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1," * 70 + ")}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 9223372036854775807)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}",
        "{'descr': '<M8[9999999999999999999Y]', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '|S999999999999999', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<U9', 'fortran_order': False, 'shape': (0, 9223372036854775807)}",
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '|V4', 'fortran_order': False, 'shape': (1,)}",
        "__import__('os').abort()",
        "(" * 5000,
        "-" * 5000 + "1",
        "[" * 2000 + "]" * 2000,
        "{" * 100,
        "1" * 9000,
        "'\\ud800'",
    ],
)
def test_a_forged_npy_header_is_refused(header: str, tmp_path: Path) -> None:
    raw = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode("latin-1") + bytes(16)
    with pytest.raises(mfc.FormatError):
        read_all(zipped(tmp_path / "x.npz", {"a.npy": raw}))
