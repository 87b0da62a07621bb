"""The codec of trees and the manifest: exact one way, strict the other."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings

from multiframe_ckpt.errors import DamagedError, FormatError, KeyRefusedError, ValueRefusedError
from multiframe_ckpt.formats.manifest import assemble, check_metadata, manifest_of, member_names
from multiframe_ckpt.formats.tree_json import decode, dump_json, encode, load_json
from multiframe_ckpt.testing import assert_trees_equal, flat_tree
from multiframe_ckpt.testing.strategies import HOSTILE_NAMES, trees
from multiframe_ckpt.tree import MAX_DEPTH, LazyTensor, TensorRef, Unknown, partition
from multiframe_ckpt.tree.digests import digest_of, digest_of_bytes


def reread(tree):
    return decode(load_json(dump_json(encode(tree)), "test"), "test")


@settings(deadline=None, max_examples=200)
@given(tree=trees())
def test_any_tree_of_references_comes_back_exactly(tree):
    tree = partition(tree)[0]
    assert dump_json(encode(reread(tree))) == dump_json(encode(tree))


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, False, 0, 1, -1, 2**53, 2**53 + 1, -(2**64), 10**5000, -(10**5000)),
        *(0.0, -0.0, 0.1, 1e300, 5e-324, math.inf, -math.inf, math.nan, -math.nan),
        *(1 + 2j, complex(-0.0, math.nan), "", "\x00", "\ud800", "☃", b"", b"\x00\xff"),
        *(
            [],
            (),
            {},
            [[]],
            ((),),
            {"$tensor": 1},
            {"$": 1, "a": 0},
            {1: 2, "1": 3},
            {None: 1, True: 2, (1, ("x",)): 3},
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_keeps_its_type_and_its_bits(value):
    assert_trees_equal(reread({"x": value}), {"x": value})


def test_text_that_most_readers_refuse_never_stands_in_the_json():
    text = dump_json(encode({"\ud800": "\udfff", "x": TensorRef("\ud800")}))
    assert "\\ud8" not in text.lower() and "\\udf" not in text.lower()


@pytest.mark.parametrize("wrap", [lambda t: [t], lambda t: (t,), lambda t: {"a": t}, lambda t: {0: t}])
def test_a_tree_of_the_greatest_depth_comes_back_and_a_deeper_one_is_refused(wrap):
    tree = 1
    for _ in range(MAX_DEPTH):
        tree = wrap(tree)
    assert reread(tree) == tree
    with pytest.raises(ValueRefusedError, match="deeper"):
        encode(wrap(tree))


def test_a_deeper_tree_in_a_file_is_damage():
    with pytest.raises(DamagedError, match="deeper"):
        decode(json.loads("[" * 300 + "]" * 300), "test")


@pytest.mark.parametrize("value", [Unknown("a.B"), object(), {1, 2}, range(3)], ids=lambda value: type(value).__name__)
def test_an_object_is_refused_with_its_type(value):
    with pytest.raises(ValueRefusedError, match=type(value).__name__):
        encode({"x": value})


@pytest.mark.parametrize(
    "text",
    [
        *('{"$int": "12"}', '{"$int": 12}', '{"$int": "0x1g"}', '{"$float": "nan"}', '{"$float": "nan:0x1"}', "1e999"),
        *('{"$float": 1.0}', '{"$complex": [1.0]}', '{"$complex": [1, 2]}', '{"$bytes": "!"}', '{"$bytes": 1}'),
        *(
            '{"$str": "/w=="}',
            '{"$tuple": {}}',
            '{"$dict": [[1]]}',
            '{"$dict": [[[], 1]]}',
            '{"$dict": [[1, 2], [1, 3]]}',
        ),
        *('{"$tensor": 1}', '{"$unknown": 1}', '{"$": 1}'),
    ],
)
def test_what_this_version_does_not_write_is_damage(text):
    with pytest.raises(DamagedError):
        decode(load_json(text, "test"), "test")


@pytest.mark.parametrize("text", ["", "{", "NaN", "[Infinity]", '{"a": 1, "a": 2}', "[" * 100_000, b"\xff", "1" * 5000])
def test_json_that_is_not_strict_is_damage(text):
    with pytest.raises(DamagedError):
        decode(load_json(text, "test"), "test") if text != "1" * 5000 else load_json(text + "x", "test")


@pytest.mark.parametrize("names", [HOSTILE_NAMES, ("a", "\x00", "tensor_1", "tensor_1_"), ("\x00", "tensor_0/x")])
def test_neutral_member_names_never_meet_another_name(names):
    members = member_names(names, lambda name: name.isalnum() or name.startswith("tensor_"))
    assert len(set(members.values())) == len(names)
    assert not any(member.startswith(f"{other}/") for member in members.values() for other in members.values())


def document_text(tree, metadata=None):
    manifest, members = manifest_of(tree, fits=lambda name: True, stored_as=lambda dtype: dtype)
    outline = {name: (tensor.dtype, tensor.shape) for name, tensor in members.items()}
    digests = {name: digest_of(tensor.numpy()) for name, tensor in members.items()}
    return manifest.text(outline, digests, metadata), members


def test_a_document_of_other_tensors_than_the_files_is_damage():
    text, members = document_text(flat_tree())
    with pytest.raises(DamagedError, match=r"no 'z\.bias'") as damage:
        assemble(text, {"new" if name == "z.bias" else name: tensor for name, tensor in members.items()}, "test")
    assert (damage.value.missing, damage.value.extra) == (("z.bias",), ("new",))


def test_a_document_of_tensors_of_another_shape_or_dtype_is_damage():
    text, members = document_text(flat_tree())
    members["z.bias"] = LazyTensor.from_array(members["z.bias"].numpy().reshape(2, 2))
    with pytest.raises(DamagedError, match="digest of other headers"):
        assemble(text, members, "test")


def test_a_document_tells_metadata_that_were_changed_added_or_lost():
    written = {"who": "a person"}
    text, members = document_text(flat_tree(), metadata=written)
    assert_trees_equal(assemble(text, members, "test", written), flat_tree())
    for changed in ({"who": "a persom"}, {"whn": "a person"}, {}, {**written, "format": "qt"}):
        with pytest.raises(DamagedError, match="metadata"):
            assemble(text, members, "test", changed)


def test_a_document_of_version_1_says_nothing_of_metadata_and_is_read():
    members = {"x": LazyTensor.from_array(np.zeros(3, np.float32))}
    body = f'{{"format_version":1,"tensors":[{{"name":"x","digest":"{digest_of(members["x"].numpy())}"}}]'
    outline = '[["x","float32",[3]]]'
    text = f'{body},"seal":"{digest_of_bytes((body + outline).encode())}"}}'
    assert_trees_equal(assemble(text, members, "test", {"who": "anybody"}), members)


def test_a_document_without_digests_reads_back_as_tensors_without():
    manifest, members = manifest_of(flat_tree(), fits=lambda name: True, stored_as=lambda dtype: dtype)
    text = manifest.text({name: (tensor.dtype, tensor.shape) for name, tensor in members.items()}, None)
    found = assemble(text, members, "test")
    assert_trees_equal(found, flat_tree())
    assert {tensor.digest for tensor in found.values()} == {None}


def test_a_changed_document_is_damage():
    text, members = document_text({"lr": 1, **flat_tree()})
    with pytest.raises(DamagedError, match="digest of other headers"):
        assemble(text.replace('"lr":1', '"lr":2'), members, "test")


def test_a_document_of_a_later_version_says_to_upgrade():
    text, members = document_text(flat_tree())
    with pytest.raises(FormatError, match="upgrade"):
        assemble(text.replace('"format_version":2', '"format_version":3'), members, "test")


@pytest.mark.parametrize(
    ("metadata", "error"),
    [
        ({"multiframe_ckpt": "x"}, KeyRefusedError),
        ({"x": 1}, ValueRefusedError),
        ({"x": "\ud800"}, ValueRefusedError),
    ],
)
def test_metadata_that_a_slot_cannot_hold_is_refused(metadata, error):
    with pytest.raises(error):
        check_metadata(metadata)
