"""json: the contract, Python's own reader as oracle, files that others wrote or laid out anew."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multiframe_ckpt.dtypes import DTYPES, dtype_named
from multiframe_ckpt.errors import DamagedError, FormatError, ValueRefusedError
from multiframe_ckpt.formats.base import WriteOptions
from multiframe_ckpt.formats.json.format import JsonFormat
from multiframe_ckpt.formats.json.values import parse_values, value_texts
from multiframe_ckpt.testing import FormatContract, assert_trees_equal, flat_tree, rich_tree
from multiframe_ckpt.testing.formats import changes, open_at, read, recognises, write
from multiframe_ckpt.tree import LazyTensor

FORMAT = JsonFormat()
SMALL = [row for row in DTYPES if row.itemsize <= 2 and row.kind != "bool"]


class TestContract(FormatContract):
    format = FORMAT
    notices_every_flip = True


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.json"


def strict(text):
    def refuse(name):
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


def written(tree, path):
    write(FORMAT, tree, path)
    return strict(path.read_text("utf-8"))


def layer(values, dtype="float32", shape=(2,), **more):
    return {"name": "x", "dtype": dtype, "shape": list(shape), "values": values} | more


def read_layers(path, *layers, **more):
    path.write_text(json.dumps({"format": "multiframe_ckpt", "format_version": 1, "layers": layers} | more))
    return read(FORMAT, path)


def reread(array):
    text = "".join(value_texts(LazyTensor.from_array(array))).encode()
    strict(text)
    return parse_values(text, LazyTensor.from_array(array).dtype, array.shape, "test")


def test_any_json_reader_finds_shape_dtype_and_nested_values(path):
    tree = {"net": {"w": LazyTensor.from_array(np.array([[0.1, 2, -3], [4, 5e-7, 6]], np.float32))}, "lr": 0.1}
    found = written(tree, path)
    assert found["tree"] == {"net": {"w": {"$tensor": "net/w"}}, "lr": 0.1}
    assert found["layers"][0]["shape"] == [2, 3]
    assert found["layers"][0]["dtype"] == "float32"
    assert found["layers"][0]["values"] == [[0.1, 2.0, -3.0], [4.0, 5e-7, 6.0]]


def test_a_row_stands_on_a_line(path):
    write(FORMAT, {"w": LazyTensor.from_array(np.arange(8).reshape(2, 2, 2))}, path)
    assert "\n[[0, 1],\n[2, 3]],\n[[4, 5],\n[6, 7]]\n]}\n" in path.read_text()


def test_ties_are_named_not_repeated(path):
    found = written(flat_tree(), path)
    assert found["layers"][2] == {"name": "a.weight", "tied_to": "z.weight"}
    assert changes(FORMAT, flat_tree()).duplicated == ()


@pytest.mark.parametrize(
    "layout",
    [{"indent": None, "separators": (",", ":")}, {"indent": 4}, {"sort_keys": True}, {"indent": 1, "sort_keys": True}],
    ids=str,
)
def test_a_file_laid_out_anew_by_another_tool_is_read_right(path, layout):
    sorted_tree = {name: flat_tree()[name] for name in sorted(flat_tree())} if "sort_keys" in layout else flat_tree()
    tree = {"dtypes": rich_tree()["model"]["dtypes"], "lr": 0.5, "net": sorted_tree}
    if "sort_keys" in layout:
        tree["dtypes"] = dict(sorted(tree["dtypes"].items()))
    found = written(tree, path)
    path.write_text(json.dumps(found, **layout))
    assert recognises(FORMAT, path)
    assert_trees_equal(read(FORMAT, path), tree)


def test_entries_that_a_person_adds_do_not_matter(path):
    found = written(flat_tree(), path)
    note = {"why": ["[", '"]}', {"layers": [{"name": "no"}]}], "escaped": '\\"['}
    found["layers"][0] |= {"note": note}
    path.write_text(json.dumps({"comment": note} | found | {"more": [note]}))
    assert_trees_equal(read(FORMAT, path), flat_tree())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        *(('"who"', '"whn"'), ('"you"', '"yov"'), ('"metadata"', '"metadatb"'), ('"xxh3:', '"xxh2:')),
        *(
            ('"lr": 0.1', '"lr": 0.2'),
            ('"lr": 1.0', '"lr": 1'),
            ('"lr"', '"mr"'),
            ('"w"', '"v"'),
            ('"float32"', '"int32"'),
        ),
        *(("[3, 4]", "[4, 3]"), ('"digest"', '"dihest"'), ('"tree"', '"tref"'), ('"seal"', '"real"')),
    ],
)
def test_a_change_of_anything_but_layout_is_damage(path, old, new):
    weight = LazyTensor.from_array(np.zeros((3, 4), np.float32), alias="w")
    tree = {"lr": 1.0 if "1.0" in old else 0.1, "w": weight, "again": weight}
    write(FORMAT, tree, path, WriteOptions(metadata={"who": "you"}))
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(FormatError):
        read(FORMAT, path)


def test_a_person_may_change_a_file_on_purpose_by_a_seal_of_null(path):
    found = written({"lr": 0.1, **flat_tree()}, path)
    found["tree"]["lr"] = 0.2
    path.write_text(json.dumps(found))
    with pytest.raises(DamagedError, match='"seal": null'):
        read(FORMAT, path)
    path.write_text(json.dumps(found | {"seal": None}))
    assert read(FORMAT, path)["lr"] == 0.2


def test_a_file_that_lost_its_seal_is_damage(path):
    found = written(flat_tree(), path)
    del found["seal"]
    path.write_text(json.dumps(found))
    with pytest.raises(DamagedError, match="seal"):
        read(FORMAT, path)


def test_a_file_of_version_1_has_no_seal_and_is_read(path):
    found = written(rich_tree(), path)
    del found["seal"]
    path.write_text(json.dumps(found | {"format_version": 1}))
    assert_trees_equal(read(FORMAT, path), rich_tree())


def test_without_digests_the_rest_is_sealed_all_the_same(path):
    write(FORMAT, flat_tree(), path, WriteOptions(digest=False))
    assert {tensor.digest for tensor in read(FORMAT, path).values()} == {None}
    path.write_text(path.read_text().replace("z.bias", "z.biar"))
    with pytest.raises(DamagedError, match="seal"):
        read(FORMAT, path)


def test_the_file_is_known_although_its_format_stands_last(path):
    found = written(flat_tree(), path)
    form = found.pop("format")
    path.write_text(json.dumps({"pad": "x" * 10_000} | found | {"format": form}))
    assert recognises(FORMAT, path)
    assert not recognises(FORMAT, path.with_name("missing"))


@pytest.mark.parametrize("text", ["{}", '{"format": "pt"}', '{"layers": {"format": "x"}}', "[1, 2]", "1", '"x"', "{"])
def test_other_json_is_left_alone(path, text):
    path.write_text(text)
    assert not recognises(FORMAT, path)
    with pytest.raises(FormatError):
        read(FORMAT, path)


@pytest.mark.parametrize("dtype", SMALL, ids=lambda row: row.name)
def test_every_bit_pattern_of_a_small_dtype_comes_back(dtype):
    bits = np.arange(2 ** (8 * dtype.itemsize), dtype=f"u{dtype.itemsize}")
    array = bits.view(dtype.numpy).reshape(16, -1)
    assert reread(array).tobytes() == array.tobytes()


@settings(deadline=None, max_examples=200)
@given(data=st.data(), dtype=st.sampled_from(["float32", "float64", "complex64", "complex128", "uint64", "int64"]))
def test_any_bits_of_a_wide_dtype_come_back(data, dtype):
    raw = data.draw(st.binary(min_size=64, max_size=64))
    array = np.frombuffer(raw, dtype)
    assert reread(array).tobytes() == raw


def test_float32_text_is_short_and_right_even_where_rounding_twice_would_miss(path):
    bits = np.random.default_rng(0).integers(0, 2**32, 200_000, dtype=np.uint32)
    array = np.where((bits >> 23) & 0xFF == 0xFF, 0, bits).astype(np.uint32).view(np.float32)
    assert reread(array).tobytes() == array.tobytes()
    assert "".join(value_texts(LazyTensor.from_array(np.array([0.1], np.float32)))) == "[\n0.1\n]"


def test_what_json_cannot_say_is_text():
    array = np.array([0x7FC00000, 0x7FC00001, 0xFFC00000, 0x7F800000, 0xFF800000, 0x80000000], np.uint32).view(
        np.float32
    )
    text = "".join(value_texts(LazyTensor.from_array(array)))
    assert strict(text) == ["NaN", "nan:0x7fc00001", "nan:0xffc00000", "Infinity", "-Infinity", -0.0]


@pytest.mark.parametrize(
    "shape", [(), (1,), (2, 3), (2, 1, 3), (1, 1, 1, 1), (5000,), (3, 20_000), (30_000, 2), (7, 11, 13, 17)]
)
def test_any_shape_comes_back_across_the_pieces_it_is_read_in(shape):
    array = np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)
    assert np.array_equal(strict("".join(value_texts(LazyTensor.from_array(array)))), array)
    assert np.array_equal(reread(array), array)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0), (2**40, 0)])
def test_an_empty_tensor_takes_no_text_whatever_its_shape(path, shape):
    tensor = LazyTensor.from_function(dtype_named("float32"), shape, lambda: np.zeros(shape, np.float32))
    assert written({"x": tensor}, path)["layers"][0]["values"] == []
    assert read(FORMAT, path)["x"].numpy().shape == shape


def test_values_written_by_hand_are_taken_in(path):
    found = read_layers(path, layer([[1, 2.5], ["NaN", -1e3]], shape=(2, 2)), comment="by hand")
    assert found["x"].numpy().tobytes() == np.array([[1, 2.5], [np.nan, -1000]], np.float32).tobytes()
    assert found["x"].digest is None


def test_a_file_without_a_tree_is_a_flat_dict_of_its_layers(path):
    found = read_layers(path, layer([1, 2]), {"name": "y", "tied_to": "x"})
    assert list(found) == ["x", "y"]
    assert found["x"].identity == found["y"].identity is not None


@pytest.mark.parametrize(
    ("values", "dtype", "shape"),
    [
        *(([1], "float32", [2]), ([1, 2, 3], "float32", [2]), ([[1, 2]], "float32", [2]), (1, "float32", [2])),
        *(
            ([1, 2], "float32", [2, 1]),
            ([[1, 2, 3], [4, 5, 6]], "float32", [3, 2]),
            ([[1], [2, 3, 4]], "float32", [2, 2]),
        ),
        *(
            ([1, "x"], "float32", [2]),
            ([1, "nan"], "float32", [2]),
            ([1, None], "float32", [2]),
            ([1, True], "float32", [2]),
        ),
        *(
            (["nan:0x1", 1], "float32", [2]),
            (["nan:0x7fc0", 1], "float32", [2]),
            (["Infinity", 1], "float8_e4m3fn", [2]),
        ),
        *(
            ([1e39, 1], "float32", [2]),
            ([1000, 1], "float8_e4m3fn", [2]),
            ([1e400, 1], "float64", [2]),
            ([{}, 1], "int8", [2]),
        ),
        *(([1.0, 2], "int64", [2]), ([256, 1], "uint8", [2]), ([-1, 1], "uint64", [2]), ([2**63, 1], "int64", [2])),
        *(
            ([1, 0], "bool", [2]),
            ([True, False], "int8", [2]),
            ([[1, 2], [3]], "complex64", [2]),
            ([1, 2], "complex64", [2]),
        ),
        *(
            ([1], "float32", []),
            ("[1", "float32", []),
            ([0], "float32", [0]),
            ([], "float32", [1]),
            ({"a": 1}, "int8", [1]),
        ),
    ],
    ids=str,
)
def test_values_of_another_shape_or_dtype_are_damage(path, values, dtype, shape):
    with pytest.raises(DamagedError):
        read_layers(path, layer(values, dtype, shape))["x"].numpy()


@pytest.mark.parametrize(
    "change",
    [
        *({"dtype": "float33"}, {"dtype": 1}, {"shape": [-2]}, {"shape": [2.0]}, {"shape": 2}, {"shape": [True, 2]}),
        *({"shape": [2**40, 2**40]}, {"shape": [0, 2**62, 8]}, {"shape": [1] * 100}, {"shape": [10**9]}),
        *({"name": 1}, {"name": None}, {"digest": "x"}, {"digest": 1}, {"tied_to": "x"}, {"tied_to": 1}),
    ],
    ids=str,
)
def test_a_layer_that_makes_no_sense_is_a_format_error(path, change):
    with pytest.raises(FormatError):
        read_layers(path, layer([1, 2]) | change)


@pytest.mark.parametrize(
    "text",
    [
        '{"format": "multiframe_ckpt", "format_version": 1}',
        '{"format": "multiframe_ckpt", "format_version": 1, "layers": {}}',
        '{"format": "multiframe_ckpt", "format_version": 1, "layers": [1]}',
        '{"format": "multiframe_ckpt", "format_version": 1, "layers": [{}]}',
        '{"format": "multiframe_ckpt", "format_version": 1, "layers": [], "tree": {"$tensor": "x"}}',
        '{"format": "multiframe_ckpt", "format_version": 1, "layers": [], "layers": []}',
        '{"format": "multiframe_ckpt", "format_version": 1, "layers": []} x',
        '{"format": "multiframe_ckpt", "format_version": 1, "layers": [] "x": 1}',
        '{"format": "multiframe_ckpt", "format_version": 3, "layers": []}',
        '{"format": "multiframe_ckpt", "format_version": 1, "layers": [], "x": ' + "[" * 100_000,
        '{"format": "multiframe_ckpt", "format_version": 1, "layers": [], "tree": ' + "[" * 9999 + "]" * 9999 + "}",
    ],
)
def test_a_file_that_makes_no_sense_is_a_format_error(path, text):
    path.write_text(text)
    with pytest.raises(FormatError):
        read(FORMAT, path)


def test_metadata_come_back_and_other_json_under_that_name_does_not_matter(path):
    write(FORMAT, flat_tree(), path, WriteOptions(metadata={"who": "☃"}))
    assert open_at(FORMAT, path).metadata == {"who": "☃"}
    path.with_name("y").write_text(
        json.dumps(strict(path.read_text("utf-8")) | {"metadata": {"a": 1, "b": "c"}, "seal": None})
    )
    assert open_at(FORMAT, path.with_name("y")).metadata == {"b": "c"}
    with pytest.raises(ValueRefusedError):
        write(FORMAT, flat_tree(), path.with_name("z"), WriteOptions(metadata={"a": 1}))


def test_reading_and_writing_take_little_more_memory_than_the_tensor(path):
    array = np.linspace(0, 1, 1 << 19)
    tracemalloc.start()
    try:
        write(FORMAT, {"x": LazyTensor.from_array(array)}, path)
        wrote = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        found = read(FORMAT, path)["x"].numpy()
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert np.array_equal(found, array)
    assert wrote < 1.5 * array.nbytes
    assert peak < 2 * array.nbytes
