"""safetensors: the contract, the real library as oracle, hostile headers."""

import json
import struct
from itertools import islice, product
from time import process_time

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from multiframe_ckpt.dtypes import DTYPES, UINT8
from multiframe_ckpt.errors import DamagedError, DtypeRefusedError, FormatError, KeyRefusedError, ValueRefusedError
from multiframe_ckpt.formats import safetensors as module
from multiframe_ckpt.formats.base import WriteOptions
from multiframe_ckpt.formats.safetensors import SafetensorsFormat
from multiframe_ckpt.testing import FormatContract, assert_trees_equal, flat_tree, rich_tree
from multiframe_ckpt.testing.formats import changes, open_at, read, write
from multiframe_ckpt.tree import LazyTensor, Strided
from multiframe_ckpt.tree.digests import digest_of

FORMAT = SafetensorsFormat()
HELD = tuple(row for row in DTYPES if row.safetensors)


class TestContract(FormatContract):
    format = FORMAT
    dtypes = HELD
    notices_every_flip = True

    def refused_trees(self):
        complex128 = LazyTensor.from_array(np.zeros(2, np.complex128))
        return [*super().refused_trees(), ({"x": complex128}, DtypeRefusedError)]


def file_of(tmp_path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(dtype="U8", shape=(1,), offsets=(0, 1)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_the_real_library_reads_a_state_dict_under_its_own_names(tmp_path):
    write(FORMAT, flat_tree(), tmp_path / "x.safetensors")
    found = safetensors.numpy.load_file(tmp_path / "x.safetensors")
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: tensor.numpy().tobytes() for name, tensor in flat_tree().items()
    }


def test_the_real_library_reads_every_tensor_of_a_training_checkpoint(tmp_path):
    tree = rich_tree([row for row in HELD if row.numpy.isbuiltin == 1])
    write(FORMAT, tree, tmp_path / "x.safetensors")
    found = safetensors.numpy.load_file(tmp_path / "x.safetensors")
    assert found["model/dtypes/float64"].tobytes() == tree["model"]["dtypes"]["float64"].numpy().tobytes()
    assert found["optimizer/state/0/step"].shape == (3, 2, 5)


def test_a_file_of_the_real_library_is_read_and_mapped(tmp_path):
    arrays = {row.name: np.arange(6).reshape(2, 3).astype(row.numpy) for row in HELD if row.numpy.isbuiltin == 1}
    safetensors.numpy.save_file(arrays, tmp_path / "x.safetensors", metadata={"format": "pt"})
    found = read(FORMAT, tmp_path / "x.safetensors")
    assert found.keys() == arrays.keys()
    assert all(tensor.extent is not None and tensor.digest is None for tensor in found.values())
    assert all(np.array_equal(found[name].numpy(), array) for name, array in arrays.items())
    assert open_at(FORMAT, tmp_path / "x.safetensors").metadata == {}
    assert open_at(FORMAT, tmp_path / "x.safetensors").facts == {"framework": "torch"}


def test_torch_reads_every_dtype_it_has(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file  # needs torch

    rows = [row for row in HELD if hasattr(torch, row.torch)]
    tree = rich_tree(rows)["model"]["dtypes"]
    write(FORMAT, tree, tmp_path / "x.safetensors")
    found = load_file(tmp_path / "x.safetensors")
    assert {name: str(tensor.dtype) for name, tensor in found.items()} == {
        row.name: f"torch.{row.torch}" for row in rows
    }
    assert all(
        found[name].contiguous().view(torch.uint8).numpy().tobytes() == tensor.numpy().tobytes()
        for name, tensor in tree.items()
    )


def test_the_header_keeps_the_tensors_order_and_the_data_their_alignment(tmp_path):
    tree = {name: LazyTensor.from_array(np.ones(3, name)) for name in ("uint8", "float64", "float16", "float32")}
    write(FORMAT, tree, tmp_path / "x.safetensors")
    found = read(FORMAT, tmp_path / "x.safetensors")
    assert list(found) == list(tree)
    assert all(tensor.extent.offset % tensor.dtype.itemsize == 0 for tensor in found.values())
    assert struct.unpack("<Q", (tmp_path / "x.safetensors").read_bytes()[:8])[0] % 8 == 0


def test_digests_are_those_of_the_bytes(tmp_path):
    write(FORMAT, flat_tree(), tmp_path / "x.safetensors")
    found = read(FORMAT, tmp_path / "x.safetensors")
    assert {name: tensor.digest for name, tensor in found.items()} == {
        name: digest_of(tensor.numpy()) for name, tensor in flat_tree().items()
    }


def test_every_file_says_format_pt_and_the_users_metadata_comes_back(tmp_path):
    write(FORMAT, flat_tree(), tmp_path / "plain")
    write(FORMAT, flat_tree(), tmp_path / "told", WriteOptions(metadata={"format": "np", "Ü": "☃"}))
    with safetensors.safe_open(tmp_path / "plain", "np") as file:
        assert file.metadata()["format"] == "pt"  # without it transformers refuses the file
    assert open_at(FORMAT, tmp_path / "plain").metadata == {}
    assert open_at(FORMAT, tmp_path / "told").metadata == {"format": "np", "Ü": "☃"}
    assert open_at(FORMAT, tmp_path / "plain").facts == {}


def test_metadata_under_this_librarys_own_key_is_refused_before_a_byte_is_written(tmp_path):
    with pytest.raises(KeyRefusedError, match="multiframe_ckpt"):
        write(FORMAT, flat_tree(), tmp_path / "x", WriteOptions(metadata={"multiframe_ckpt": "x"}))
    assert not (tmp_path / "x").exists()


def test_names_the_real_library_refuses_lie_under_neutral_ones(tmp_path):
    tree = {"\ud800": LazyTensor.from_array(np.ones(1)), "__metadata__": LazyTensor.from_array(np.zeros(2))}
    write(FORMAT, tree, tmp_path / "x")
    assert sorted(safetensors.numpy.load_file(tmp_path / "x")) == ["tensor_0", "tensor_1"]
    assert_trees_equal(read(FORMAT, tmp_path / "x"), tree)


def test_complex128_is_refused_with_the_way_out():
    with pytest.raises(DtypeRefusedError, match=r"w: found dtype complex128.*format=.hdf5."):
        changes(FORMAT, {"w": LazyTensor.from_array(np.zeros(1, np.complex128))})


def test_a_header_past_the_cap_is_refused(monkeypatch):
    monkeypatch.setattr(module, "MAX_HEADER_NBYTES", 1000)
    with pytest.raises(ValueRefusedError, match="at most 1000"):
        changes(FORMAT, {"notes": "x" * 1000})


def test_views_of_one_storage_are_told_of():
    storage = LazyTensor.from_array(np.zeros(8, np.uint8))
    looks = {"a": Strided(storage, UINT8, (8,), 0, (1,)), "b": Strided(storage, UINT8, (4,), 0, (1,))}
    parts = {name: LazyTensor(UINT8, look.shape, look, "s") for name, look in looks.items()}
    assert changes(FORMAT, parts).lost_ties == (("a", "b"),)


def test_views_of_one_storage_that_do_not_overlap_lose_nothing():
    storage = LazyTensor.from_array(np.zeros(32, np.uint8))
    left, right = (Strided(storage, UINT8, (4, 4), offset, (8, 1)) for offset in (0, 4))
    parts = {name: LazyTensor(UINT8, (4, 4), look, "s") for name, look in (("left", left), ("right", right))}
    assert changes(FORMAT, parts).lost_ties == ()


def test_ties_are_written_twice_and_told_of():
    assert changes(FORMAT, flat_tree()).duplicated == (("z.weight", "a.weight"),)


def test_a_file_that_another_tool_changed_but_whose_notes_it_kept_is_told_of(tmp_path):
    write(FORMAT, flat_tree(), tmp_path / "x")
    with safetensors.safe_open(tmp_path / "x", "np") as file:
        metadata = file.metadata()
    safetensors.numpy.save_file({"z.weight": np.zeros(3)}, tmp_path / "y", metadata=metadata)
    with pytest.raises(DamagedError, match="another tool"):
        read(FORMAT, tmp_path / "y")


@pytest.mark.parametrize(
    ("header", "data"),
    [
        (b"[]", b""),
        (b'\x0b{"a": 1}', b""),
        (b"{", b""),
        (b'{"a": NaN}', b""),
        (b"{" + b'"a": {' * 50_000, b""),
        (b'{"a": {"dtype":"U8","shape":[1],"data_offsets":[0,1]}, "a": {}}', b"\x00"),
        ({"__metadata__": {"a": 1}}, b""),
        ({"__metadata__": []}, b""),
        ({"a": []}, b""),
        ({"a": {"dtype": "U8", "shape": [1]}}, b""),
        ({"a": entry() | {"more": 1}}, b"\x00"),
        ({"a": entry("F4", offsets=[1, 0])}, b"\x00"),
        ({"a": entry("F4", offsets=[0, 2])}, b"\x00"),
        ({"a": entry("F4", shape=[1] * 100)}, b"\x00"),
        ({"a": entry(["U8"])}, b"\x00"),
        ({"a": entry(shape=[-1])}, b"\x00"),
        ({"a": entry(shape=[True])}, b"\x00"),
        ({"a": entry(shape=[1.0])}, b"\x00"),
        ({"a": entry(shape=[2**32, 2**32])}, b"\x00"),
        ({"a": entry(shape=[0, 2**62, 8], offsets=[0, 0])}, b""),
        ({"a": entry(shape=[1] * 100)}, b"\x00"),
        ({"a": entry(shape=[2])}, b"\x00\x00"),
        ({"a": entry(offsets=[1, 2])}, b"\x00\x00"),
        ({"a": entry(offsets=[1, 0])}, b"\x00"),
        ({"a": entry(offsets=[0])}, b"\x00"),
        ({"a": entry(offsets=[0, 1, 2])}, b"\x00"),
        ({"a": entry(), "b": entry(offsets=[2, 3])}, b"\x00" * 3),
        ({"a": entry(), "b": entry(offsets=[0, 1])}, b"\x00"),
        ({"a": entry()}, b""),
        ({"a": entry()}, b"\x00\x00"),
    ],
)
def test_a_hostile_header_is_a_format_error(tmp_path, header, data):
    with pytest.raises(FormatError):
        read(FORMAT, file_of(tmp_path, header, data))


@pytest.mark.parametrize("length", [0, 1, 100, 100_000_001, 2**63, 2**64 - 1])
def test_a_header_length_that_lies_is_a_format_error(tmp_path, length):
    (tmp_path / "x").write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(FormatError):
        read(FORMAT, tmp_path / "x")


def test_metadata_that_stands_first_is_read_whatever_white_space_is_about_it(tmp_path):
    text = b'{"__metadata__": \n {"who": "a person"}, "w": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}'
    (tmp_path / "x").write_bytes(len(text).to_bytes(8, "little") + text)
    assert open_at(FORMAT, tmp_path / "x").metadata == {"who": "a person"}


def test_shapes_that_hash_alike_take_no_time_that_grows_with_their_square(tmp_path):
    prime = (1 << 61) - 1  # by which Python reduces an int to its hash
    shapes = islice(product([prime * factor for factor in range(5)], repeat=9), 20_000)
    entries = {str(at): entry("U8", [*shape, 0], (0, 0)) for at, shape in enumerate(shapes)}
    path = file_of(tmp_path, entries)
    start = process_time()
    with pytest.raises(DamagedError):
        read(FORMAT, path)
    assert process_time() - start < 3  # 7 s where all are compared with all, 0.3 where not
