"""hdf5: the contract, h5py as oracle, files that lead elsewhere."""

import zlib

import h5py
import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.dtypes import DTYPES, dtype_named
from multiframe_ckpt.errors import DamagedError, FormatError, UnsafeError, ValueRefusedError
from multiframe_ckpt.formats.base import WriteOptions
from multiframe_ckpt.formats.hdf5.format import Hdf5Format
from multiframe_ckpt.testing import FormatContract, assert_trees_equal, flat_tree, rich_tree
from multiframe_ckpt.testing.formats import changes, open_at, read, recognises, write
from multiframe_ckpt.tree import MAX_DEPTH, LazyTensor, Unknown, has_tensors, has_unknown, tensors

FORMAT = Hdf5Format()
NATIVE = [row for row in DTYPES if row.numpy.isbuiltin == 1]


class TestContract(FormatContract):
    format = FORMAT
    notices_every_flip = True

    def refused_trees(self):
        deep = LazyTensor.from_function(dtype_named("uint8"), (1,) * 33, lambda: np.zeros(1))
        return [*super().refused_trees(), ({"x": deep}, ValueRefusedError)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.h5"


def test_h5py_reads_a_state_dict_under_its_own_names(path):
    write(FORMAT, flat_tree(), path)
    with h5py.File(path) as file:
        assert list(file) == list(flat_tree())
        assert all(file[name][()].tobytes() == tensor.numpy().tobytes() for name, tensor in flat_tree().items())


def test_h5py_reads_every_tensor_of_a_training_checkpoint(path):
    tree = rich_tree()
    write(FORMAT, tree, path)
    with h5py.File(path) as file:
        for name, tensor in tree["model"]["dtypes"].items():
            dataset = file[f"model/dtypes/{name}"]
            assert dataset[()].tobytes() == tensor.numpy().tobytes()
            assert dataset.attrs.get("dtype", str(dataset.dtype)) == name
        assert "step" in file["optimizer/state/0"]


def test_tied_tensors_are_one_dataset_under_two_names(path):
    write(FORMAT, flat_tree(), path)
    assert changes(FORMAT, flat_tree()).duplicated == ()
    with h5py.File(path) as file:
        assert file["z.weight"] == file["a.weight"]


def test_a_name_that_was_linked_to_another_tensor_is_damage(path):
    write(FORMAT, {"a": LazyTensor.from_array(np.zeros(4)), "b": LazyTensor.from_array(np.ones(4))}, path)
    with h5py.File(path, "r+") as file:
        del file["a"]
        file["a"] = file["b"]
    found = read(FORMAT, path)
    assert found["b"].numpy().tolist() == [1, 1, 1, 1]
    with pytest.raises(DamagedError, match="digest"):
        found["a"].numpy()


def test_plain_values_past_the_64_kilobytes_of_usual_attributes_come_back(path):
    tree = {"notes": "x" * 3_000_000, **flat_tree()}
    write(FORMAT, tree, path)
    assert_trees_equal(read(FORMAT, path), tree)


def test_large_datasets_are_mapped_aligned(path):
    write(
        FORMAT, {name: LazyTensor.from_array(np.ones(1000, name)) for name in ("uint8", "float64", "complex128")}, path
    )
    assert all(tensor.extent.offset % 64 == 0 for tensor in read(FORMAT, path).values())


def test_a_tensor_on_the_way_to_another_leaves_both_readable(path):
    one = LazyTensor.from_array(np.ones(1))
    two = LazyTensor.from_array(np.zeros(2))
    for number, tree in enumerate(
        [{1: one, "1": {"b": two}}, {"a": one, "a/b": two}, {"a/b": {"tensor_0": one}, "x/": two}]
    ):
        write(FORMAT, tree, path.with_name(str(number)))
        assert_trees_equal(read(FORMAT, path.with_name(str(number))), tree)


@pytest.mark.parametrize("name", ["", ".", "..", "a//b", "/a", "a/", "a\x00b", "\ud800", "x" * 2000])
def test_a_name_that_hdf5_cannot_hold_lies_under_a_neutral_one(path, name):
    tree = {name: LazyTensor.from_array(np.ones(2))}
    write(FORMAT, tree, path)
    with h5py.File(path) as file:
        assert list(file) == ["tensor_0"]
    assert_trees_equal(read(FORMAT, path), tree)


def test_metadata_are_root_attributes_of_text(path):
    write(FORMAT, flat_tree(), path, WriteOptions(metadata={"backend": "x", "long": "y" * 100_000}))
    assert open_at(FORMAT, path).metadata == {"backend": "x", "long": "y" * 100_000}
    with h5py.File(path) as file:
        assert file.attrs["backend"] == "x"


def test_metadata_that_another_program_changed_are_damage(path):
    write(FORMAT, flat_tree(), path, WriteOptions(metadata={"who": "a person"}))
    with h5py.File(path, "r+") as file:
        file.attrs["who"] = "another"
    with pytest.raises(DamagedError, match="'who'"):
        read(FORMAT, path)


def test_without_digests_a_file_has_none_and_its_headers_are_sealed(path):
    write(FORMAT, flat_tree(), path, WriteOptions(digest=False))
    found = read(FORMAT, path)
    assert_trees_equal(found, flat_tree())
    assert {tensor.digest for tensor in found.values()} == {None}
    with h5py.File(path, "r+") as file:
        del file["z.bias"]
    with pytest.raises(DamagedError, match=r"z\.bias"):
        read(FORMAT, path)


@pytest.mark.parametrize("metadata", [{"": "x"}, {"x": "\x00"}, {"\x00": "x"}])
def test_metadata_that_an_attribute_cannot_hold_is_refused_before_anything_is_written(path, metadata):
    with pytest.raises(ValueRefusedError):
        write(FORMAT, {}, path, WriteOptions(metadata=metadata))
    assert not path.exists()


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_a_file_of_h5py_is_read_bit_for_bit(path, libver):
    arrays = {row.name: (np.arange(24) % 2).reshape(2, 3, 4).astype(row.numpy) for row in NATIVE}
    arrays |= {"0-d": np.array(3.5), "empty": np.zeros((0, 3)), "big": np.arange(5, dtype=">f4")}
    with h5py.File(path, "w", libver=libver) as file:
        for name, array in arrays.items():
            file[f"group/{name}"] = array
        for name, array in arrays.items():
            if array.size > 1:
                file.create_dataset(f"packed/{name}", data=array, chunks=True, compression="gzip", shuffle=True)
    found = tensors(read(FORMAT, path))
    for key, tensor in found.items():
        array = arrays[key.split("/")[1]]
        assert tensor.numpy().tobytes() == array.astype(array.dtype.newbyteorder("=")).tobytes()
        assert tensor.shape == array.shape
    assert found["group/float32"].extent is not None
    assert found["packed/float32"].extent is None
    assert found["group/big"].extent is None


def test_a_keras_like_file_is_nested_dicts_with_text_as_plain_values(path):
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = "3"
        file["layers/dense/vars/0"] = np.ones((2, 3), np.float32)
        file["layers/none"] = h5py.Empty("f4")
        file["config"] = '{"units": 3}'
        file["names"] = np.array([b"a", b"bc"])
        file["texts"] = np.array([["ü"]], dtype=h5py.string_dtype())
        file.create_group("empty")
        file["type"] = np.dtype("f4")
    found = read(FORMAT, path)
    assert found["layers"]["dense"]["vars"]["0"].shape == (2, 3)
    assert found["layers"]["none"] is None
    assert found["empty"] == {}
    assert (found["config"], found["names"], found["texts"]) == ('{"units": 3}', ["a", "bc"], [["ü"]])
    assert "type" not in found
    assert open_at(FORMAT, path).metadata == {"keras_version": "3"}


def test_hard_links_of_others_are_ties(path):
    with h5py.File(path, "w") as file:
        file["a"] = np.ones(3)
        file["g/b"] = file["a"]
        file["c"] = np.ones(3)
    found = tensors(read(FORMAT, path))
    assert found["a"].identity == found["g/b"].identity != found["c"].identity


def test_a_file_behind_a_user_block_is_found_and_read(path):
    with h5py.File(path, "w", userblock_size=1024) as file:
        file["a"] = np.arange(3)
    assert recognises(FORMAT, path)
    assert read(FORMAT, path)["a"].numpy().tolist() == [0, 1, 2]


def test_an_attribute_called_dtype_means_something_only_where_this_library_would_have_put_it(path):
    with h5py.File(path, "w") as file:
        for name, array, value in [
            ("bits", np.array([0x3F80], np.uint16), "bfloat16"),
            ("other size", np.zeros(2, np.uint8), "bfloat16"),
            ("other word", np.zeros(2, np.uint16), "half"),
            ("other type", np.zeros(2, np.uint16), 3),
        ]:
            file[name] = array
            file[name].attrs["dtype"] = value
    found = {name: tensor.dtype.name for name, tensor in read(FORMAT, path).items()}
    assert found == {"bits": "bfloat16", "other size": "uint8", "other word": "uint16", "other type": "uint16"}
    assert float(read(FORMAT, path)["bits"].numpy()[0]) == 1.0


def soft_link(file, outside):
    file["x"] = h5py.SoftLink("/elsewhere")


def external_link(file, outside):
    file["x"] = h5py.ExternalLink(str(outside), "/secret")


def virtual_dataset(file, outside):
    layout = h5py.VirtualLayout((3,), np.float64)
    layout[:] = h5py.VirtualSource(str(outside), "secret", (3,))
    file.create_virtual_dataset("x", layout)


def external_storage(file, outside):
    file.create_dataset("x", (3,), np.float64, external=[(str(outside), 0, 24)])


def group_cycle(file, outside):
    file.create_group("x")["up"] = file["/"]


def group_twice(file, outside):
    file["y"] = file.create_group("x")


def too_deep(file, outside):
    file.create_group("/".join("x" * (MAX_DEPTH + 2)))


def sparse_bomb(file, outside):
    file.create_dataset("x", (2**50,), np.uint8, chunks=(1024,))


def never_written(file, outside):
    file.create_dataset("x", (2**50,), np.uint8)


def large_chunk(file, outside):
    file.create_dataset("x", (1,), np.uint8, maxshape=(None,), chunks=(2**31,))


@pytest.mark.parametrize(
    "make",
    [
        *(external_link, virtual_dataset, external_storage),
    ],
)
def test_what_leads_out_of_the_file_is_refused_by_name(path, make):
    outside = path.with_name("outside.h5")
    with h5py.File(outside, "w") as file:
        file["secret"] = np.arange(3.0)
    with h5py.File(path, "w") as file:
        make(file, outside)
    with pytest.raises(UnsafeError, match="/x"):
        read(FORMAT, path)


@pytest.mark.parametrize(
    "make", [soft_link, group_cycle, group_twice, too_deep, sparse_bomb, never_written, large_chunk]
)
def test_what_leads_about_in_the_file_or_claims_more_than_it_holds_is_an_unknown_object(path, make):
    with h5py.File(path, "w") as file:
        make(file, None)
    tree = read(FORMAT, path)
    assert has_unknown(tree)
    assert not has_tensors(tree)


def test_text_that_is_not_utf8_is_a_format_error(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=b"\xff\xfe", dtype=h5py.string_dtype())
    with pytest.raises(FormatError, match="/x"):
        read(FORMAT, path)


def test_texts_that_are_blown_up_are_never_made(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.zeros(10_000, "S2000"), chunks=True, compression="gzip")
    assert path.stat().st_size < 1 << 20
    assert isinstance(read(FORMAT, path)["x"], Unknown)


def test_a_dataset_whose_filter_is_a_plugin_is_listed_and_not_read(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.arange(1000), chunks=True, compression="lzf")
    raw = path.read_bytes()
    at = raw.rindex((32000).to_bytes(2, "little"), 0, raw.index(b"lzf\0"))
    path.write_bytes(raw[:at] + (32001).to_bytes(2, "little") + raw[at + 2 :])
    assert "filter 32001" in read(FORMAT, path)["x"].type_name


def test_a_document_that_is_not_bytes_is_damage(path):
    with h5py.File(path, "w") as file:
        file.attrs["multiframe_ckpt"] = "text"
    with pytest.raises(DamagedError, match="multiframe_ckpt"):
        read(FORMAT, path)


def test_a_dataset_of_another_filter_fails_when_it_is_read_not_before(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.arange(1000), chunks=True, compression="gzip", fletcher32=True)
        file.create_dataset("y", data=np.arange(3))
    blob = bytearray(path.read_bytes())
    at = blob.index(b"deflate")
    blob[at - 8 : at - 6] = (32000).to_bytes(2, "little")
    path.write_bytes(blob)
    found = read(FORMAT, path)
    assert found["y"].numpy().tolist() == [0, 1, 2]
    with pytest.raises(DamagedError, match="/x"):
        found["x"].numpy()


def test_a_heap_that_the_library_would_walk_for_ever_is_damage(tmp_path):
    path = tmp_path / "x.h5"
    write(FORMAT, flat_tree(), path, WriteOptions(metadata={"who": "x" * 300}))
    blob = bytearray(path.read_bytes())
    heap = blob.index(b"GCOL")
    free = heap + 16 + 16 + int.from_bytes(blob[heap + 24 : heap + 32], "little") // 8 * 8 + 8
    while blob[free : free + 2] != b"\0\0":
        free += 8
    blob[free + 8 : free + 16] = bytes(8)
    path.write_bytes(blob)
    with pytest.raises(DamagedError, match="global heap"):
        read(FORMAT, path)


FILTERS = {
    "gzip": {"compression": "gzip"},
    "gzip, shuffled and checked": {"compression": "gzip", "shuffle": True, "fletcher32": True},
    "lzf": {"compression": "lzf"},
    "lzf, shuffled and checked": {"compression": "lzf", "shuffle": True, "fletcher32": True},
    "checked": {"fletcher32": True},
    "shuffled": {"shuffle": True},
    "szip": {"compression": "szip"},
    "scaleoffset": {"scaleoffset": 0},
}


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("chunks", [(7, 11), (300, 400), (1, 400)])
def test_what_the_librarys_filters_packed_is_read_whole_and_in_part(filters, chunks, tmp_path):
    if filters == "szip" and not h5py.h5z.filter_avail(h5py.h5z.FILTER_SZIP):
        pytest.skip("this h5py has no szip")
    array = np.random.default_rng(7).integers(0, 1000, (300, 400), dtype=np.int32)
    array[100:200] = 5
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("w", data=array, chunks=chunks, **FILTERS[filters])
        file.create_dataset("sparse", (300, 400), "i4", chunks=chunks, fillvalue=9, **FILTERS[filters])[20:30] = 4
    tensors = mfc.open(tmp_path / "x.h5").tensors()
    for index in (..., (slice(290, None), 3), (slice(5, 200, 7), slice(None, None, -3)), (slice(0, 0), 1), (0, 0)):
        np.testing.assert_array_equal(tensors["w"][index].numpy(), array[index])
    np.testing.assert_array_equal(tensors["w"].numpy(), array)
    assert (tensors["sparse"].numpy() == 4).sum() == 4000 and tensors["sparse"][50:52].numpy().tolist() == [
        [9] * 400
    ] * 2


def test_a_large_chunk_that_lzf_could_not_make_much_smaller_is_read(tmp_path):
    array = np.random.default_rng(7).integers(0, 16, 1 << 21, dtype=np.uint8)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset("w", data=array, chunks=array.shape, compression="lzf")
        assert 1 << 19 < dataset.id.get_storage_size() < array.nbytes
    np.testing.assert_array_equal(mfc.open(tmp_path / "x.h5")["w"].numpy(), array)


def test_a_part_looks_into_no_other_chunks_than_it_crosses(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset("w", data=np.arange(100.0), chunks=(10,), compression="gzip")
        dataset.id.write_direct_chunk((50,), zlib.compress(bytes(1 << 20)))
    tensor = mfc.open(tmp_path / "x.h5")["w"]
    assert tensor[:50].numpy().tolist() == list(range(50)) and tensor[99].numpy() == 99
    for index in (slice(49, 51), 55, slice(None, None, -30)):
        with pytest.raises(UnsafeError, match=r"'/w': found a chunk at \(50,\) that unpacks to more than the 80 bytes"):
            tensor[index].numpy()


def test_a_chunk_that_a_filter_was_left_out_for_is_read_as_it_is(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset("w", data=np.arange(20.0), chunks=(10,), compression="gzip")
        dataset.id.write_direct_chunk((10,), np.arange(10.0).tobytes(), filter_mask=1)
    assert mfc.open(tmp_path / "x.h5")["w"].numpy().tolist() == [*range(10), *range(10)]


def test_filters_that_nobody_can_look_through_are_refused_by_name(tmp_path):
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_chunk((64,))
    creation.set_deflate(9)
    creation.set_scaleoffset(h5py.h5z.SO_INT, 0)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        h5py.h5d.create(file.id, b"w", h5py.h5t.STD_I32LE, h5py.h5s.create_simple((64,)), creation)
    node = mfc.open(tmp_path / "x.h5")["w"]
    assert isinstance(node, mfc.Unknown)
    assert node.type_name.startswith("an HDF5 dataset behind filters 1, 6, of which one alone can compress")
