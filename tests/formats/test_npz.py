"""npz: the contract, NumPy as oracle, hostile archives."""

import io
import struct
import zipfile

import numpy as np
import pytest

from multiframe_ckpt.dtypes import DTYPES
from multiframe_ckpt.errors import DamagedError, FormatError, UnsafeError
from multiframe_ckpt.formats.numpy.npy import header_bytes
from multiframe_ckpt.formats.numpy.npz import NpzFormat
from multiframe_ckpt.testing import FormatContract, assert_trees_equal, flat_tree, rich_tree
from multiframe_ckpt.testing.formats import read, recognises, write
from multiframe_ckpt.tree import LazyTensor

FORMAT = NpzFormat()
NATIVE = [row for row in DTYPES if row.numpy.isbuiltin == 1]


class TestContract(FormatContract):
    format = FORMAT
    notices_every_flip = True


def archive_of(tmp_path, members, compression=zipfile.ZIP_STORED):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def npy(descr="<f4", shape="(2,)", fortran="False", data=bytes(8), more="", version=b"\x01\x00"):
    text = f"{{'descr': {descr!r}, 'fortran_order': {fortran}, 'shape': {shape}{more}}}\n".encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + data


def test_numpy_reads_a_state_dict_under_its_own_names_and_sees_nothing_else(tmp_path):
    write(FORMAT, flat_tree(), tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz", allow_pickle=False) as found:
        assert found.files == list(flat_tree())
        assert all(found[name].tobytes() == tensor.numpy().tobytes() for name, tensor in flat_tree().items())


def test_numpy_reads_every_tensor_of_a_training_checkpoint(tmp_path):
    tree = rich_tree()
    write(FORMAT, tree, tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz", allow_pickle=False) as found:
        for name, tensor in tree["model"]["dtypes"].items():
            array = found[f"model/dtypes/{name}"]
            assert array.tobytes() == tensor.numpy().tobytes()
            assert array.dtype.isbuiltin == 1


def test_the_archive_is_one_that_unzipping_programs_take(tmp_path):
    write(FORMAT, rich_tree(), tmp_path / "x.npz")
    with zipfile.ZipFile(tmp_path / "x.npz") as archive:
        assert archive.testzip() is None


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "deflated"])
def test_a_file_of_numpy_is_read_bit_for_bit(tmp_path, save):
    arrays = {row.name: (np.arange(24) % 2).reshape(2, 3, 4).astype(row.numpy) for row in NATIVE}
    arrays |= {"0-d": np.array(3.5), "empty": np.zeros((0, 3)), "rows": np.asfortranarray(arrays["float32"] * 7)}
    arrays |= {
        "big": arrays["int32"].astype(">i4"),
        "big rows": np.asfortranarray(arrays["float64"].astype(">f8") * 0.1),
    }
    save(tmp_path / "x.npz", **arrays)
    found = read(FORMAT, tmp_path / "x.npz")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].numpy().tobytes() == array.astype(array.dtype.newbyteorder("=")).tobytes()
        assert found[name].shape == array.shape


def test_stored_arrays_are_mapped_and_deflated_ones_are_not(tmp_path):
    np.savez(tmp_path / "stored.npz", a=np.ones(3))
    np.savez_compressed(tmp_path / "deflated.npz", a=np.ones(3))
    assert read(FORMAT, tmp_path / "stored.npz")["a"].extent is not None
    assert read(FORMAT, tmp_path / "deflated.npz")["a"].extent is None


def test_what_is_written_lies_aligned_for_any_use(tmp_path):
    write(FORMAT, rich_tree(), tmp_path / "x.npz")
    tensors = read(FORMAT, tmp_path / "x.npz")["model"]["dtypes"].values()
    assert all(tensor.extent.offset % 64 == 0 for tensor in tensors)


def test_arrays_of_text_become_plain_values(tmp_path):
    np.savez(tmp_path / "x.npz", name=np.array("net"), classes=np.array([["a", "bé"]]), raw=np.array([b"x"]))
    assert read(FORMAT, tmp_path / "x.npz") == {"name": "net", "classes": [["a", "bé"]], "raw": [b"x"]}


@pytest.mark.parametrize("name", ["", "..", "../up", "/root", "a\\b", "a\nb", "x.npy", "\ud800", "x" * 2000])
def test_a_name_that_unpackers_trip_over_lies_under_a_neutral_one(tmp_path, name):
    tree = {name: LazyTensor.from_array(np.ones(2))}
    write(FORMAT, tree, tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as found:
        assert found.files == ["tensor_0"]
    assert_trees_equal(read(FORMAT, tmp_path / "x.npz"), tree)


def test_an_archive_whose_document_another_tool_dropped_is_told_of(tmp_path):
    write(FORMAT, {"lr": 0.1, **flat_tree()}, tmp_path / "x.npz")
    with zipfile.ZipFile(tmp_path / "x.npz") as old, zipfile.ZipFile(tmp_path / "y.npz", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        new.comment = old.comment
    with pytest.raises(DamagedError):
        read(FORMAT, tmp_path / "y.npz")


def test_a_member_past_four_gigabytes_is_announced_as_zip64(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)
    tree = {"big": LazyTensor.from_array(np.arange(1000.0)), "small": LazyTensor.from_array(np.ones(2))}
    write(FORMAT, tree, tmp_path / "x.npz")
    found = read(FORMAT, tmp_path / "x.npz")
    assert_trees_equal(found, tree)
    assert found["big"].extent.offset % 64 == 0


def test_sniff_leaves_other_zip_archives_alone(tmp_path):
    assert not recognises(FORMAT, archive_of(tmp_path, {"archive/data.pkl": b"x", "archive/version": b"3"}))
    assert not recognises(FORMAT, archive_of(tmp_path, {}))


def test_headers_are_as_numpy_writes_them():
    array = np.ones((3, 4), np.float32)
    stream = io.BytesIO(header_bytes("<f4", (3, 4)) + array.tobytes())
    assert np.array_equal(np.lib.format.read_array(stream, allow_pickle=False), array)


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\x93NUMPY", b"not npy at all", npy(version=b"\x04\x00"), npy(version=b"\x01\x01"), npy(data=b"\x00")),
        *(npy(shape="(2"), npy(shape="(-2,)"), npy(shape="(2.0,)"), npy(shape="[2]"), npy(shape="(True,)")),
        *(npy(shape="(2**70,)"), npy(shape=f"({2**62}, 8)"), npy(shape=f"(0, {2**62}, 8)", data=b"")),
        *(npy(shape="(" + "1," * 100 + ")", data=bytes(4)), npy(shape=str((10**9,)))),
        *(
            npy(fortran="1"),
            npy(more=", 'x': 1"),
            npy(descr="<f3"),
            npy(descr="<x4"),
            npy(descr="<M9[s]"),
            npy(descr="|V5"),
            npy(descr="|O8"),
            npy(descr=[("a", "|O8")]),
            npy(descr=[("a", "<f4", 2, 3)]),
        ),
        *(
            npy(descr=[("a", "<f8")]),
            npy(descr="<f16", data=bytes(31)),
            npy(descr="f4,f4"),
            npy(descr="<U2", data=b"\xff" * 16),
        ),
        *(b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, npy(more=" " * 20_000)),
    ],
)
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def test_a_hostile_member_is_a_format_error(tmp_path, data, compression):
    path = archive_of(tmp_path, {"a.npy": data}, compression)
    with pytest.raises(FormatError):
        read(FORMAT, path)["a"].numpy()


def test_a_compressed_size_that_lies_is_refused_before_anything_is_allocated(tmp_path):
    header = header_bytes("|u1", (2**40,))
    path = archive_of(tmp_path, {"a.npy": header + bytes(64)}, zipfile.ZIP_DEFLATED)
    blob = bytearray(path.read_bytes())
    struct.pack_into("<I", blob, blob.index(b"PK\x03\x04") + 22, 0xFFFF_FFF0)
    struct.pack_into("<I", blob, blob.index(b"PK\x01\x02") + 24, 0xFFFF_FFF0)
    path.write_bytes(blob)
    with pytest.raises(DamagedError, match="said to hold"):
        read(FORMAT, path)


@pytest.mark.parametrize(
    ("at", "value", "error"),
    [(8, b"\x01\x00", UnsafeError), (10, b"\x0c\x00", FormatError), (42, b"\xff\xff\xff\x7f", DamagedError)],
    ids=["encrypted", "bzip2", "elsewhere"],
)
def test_a_directory_entry_that_cannot_be_followed_is_refused(tmp_path, at, value, error):
    path = archive_of(tmp_path, {"a.npy": npy()})
    blob = bytearray(path.read_bytes())
    entry = blob.index(b"PK\x01\x02")
    blob[entry + at : entry + at + len(value)] = value
    path.write_bytes(blob)
    with pytest.raises(error):
        read(FORMAT, path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", npy())
        archive.writestr("a.npy", npy())
    with pytest.raises(UnsafeError, match="two members"):
        read(FORMAT, path)


def test_a_deflated_member_whose_bytes_were_changed_is_told_of_by_its_crc(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", a=np.arange(1000))
    with zipfile.ZipFile(tmp_path / "x.npz") as archive:
        info = archive.infolist()[0]
    blob = bytearray((tmp_path / "x.npz").read_bytes())
    for crc in (blob.index(b"PK\x03\x04") + 14, blob.index(b"PK\x01\x02") + 16):
        blob[crc] ^= 1
    (tmp_path / "x.npz").write_bytes(blob)
    with pytest.raises(DamagedError, match=f"expected {info.file_size} bytes with CRC"):
        read(FORMAT, tmp_path / "x.npz")["a"].numpy()


def test_a_flipped_bit_in_an_array_that_numpy_stored_is_told_of_by_the_members_crc(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.arange(1000))
    blob = bytearray((tmp_path / "x.npz").read_bytes())
    blob[4000] ^= 1
    (tmp_path / "x.npz").write_bytes(blob)
    with pytest.raises(DamagedError, match="digest crc32"):
        read(FORMAT, tmp_path / "x.npz")["a"].numpy()
