"""Every golden file is read bit for bit, or refused as real OneFlow refuses it, and more safely where it obeys."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import multiframe_ckpt as mfc

ARCHIVE = Path(__file__).parents[1] / "golden" / "oneflow.tar.gz"

with tarfile.open(ARCHIVE) as _archive:
    NAMES = sorted(Path(name).parent.as_posix() for name in _archive.getnames() if name.endswith("/expected.json"))

#: What a reader without OneFlow's classes or out-of-spec input gets, by the last part of the name.
REFUSED = {
    "bad_missing_tensor_folder": mfc.DamagedError,
    "bad_truncated_pickle": mfc.DamagedError,
    "bad_version_2": mfc.FormatError,
    "hostile_global": mfc.UnsafeError,
    "bad_no_meta": mfc.DamagedError,
    "bad_no_snapshot_done": mfc.IncompleteError,
    "bad_out_empty": mfc.DamagedError,
    "bad_out_long": mfc.DamagedError,
    "bad_out_short": mfc.DamagedError,
    "bad_unknown_dtype_name": mfc.DamagedError,
    "bad_unknown_dtype_number": mfc.DamagedError,
    "bad_unknown_field": mfc.DamagedError,
    "graph_object": mfc.IncompleteError,
}
#: A whole model, which is read as its state dict and not as the object that it was.
MODELS = {"module_object"}
WARNED = {"extra_top_level": 4, "nested_slash_folder": 1, "out_missing": 1}


def plain(node: Any, arrays: Any) -> Any:
    """Rebuilds an expected tree: arrays for tensors, lists for sets, text for OneFlow's own objects."""
    kind = node["t"] if isinstance(node, dict) else None
    if kind in ("Tensor", "Parameter", "numpy.ndarray"):
        return arrays[node["npz"]]
    if kind in ("dict", "OrderedDict"):
        return {key_of(key): plain(value, arrays) for key, value in node["items"]}
    if kind in ("list", "tuple", "set"):
        values = [plain(value, arrays) for value in node["items"]]
        return sorted(values, key=repr) if kind == "set" else values
    return node


def key_of(key: Any) -> Any:
    return key["repr"] if isinstance(key, dict) else key


def check(tree: Any, node: Any, arrays: Any) -> int:
    """Compares a tree with an expected one; gives how many leaves it compared."""
    if isinstance(node, dict) and node.get("t") in ("dict", "OrderedDict"):
        assert [k if isinstance(k, str) else repr(k) for k in tree] == [key_of(key) for key, _ in node["items"]]
        return sum(check(value, want, arrays) for value, (_, want) in zip(tree.values(), node["items"], strict=True))
    want = plain(node, arrays)
    if isinstance(tree, mfc.LazyTensor):
        return int(check_array(tree, node, want))
    if isinstance(tree, list | tuple) and isinstance(want, list) and isinstance(node, dict) and "items" in node:
        items = node["items"] if node["t"] != "set" else sorted(node["items"], key=lambda item: repr(scalar(item)))
        return sum(check(value, item, arrays) for value, item in zip(tree, items, strict=True))
    found = scalar(node)
    assert tree == found or (tree != tree and found != found), (tree, node)
    return 1


def check_array(tensor: mfc.LazyTensor, node: Any, want: np.ndarray) -> bool:
    array = tensor.numpy()
    if node.get("dtype") == "bfloat16":
        assert tensor.dtype.name == "bfloat16"
        array = array.astype(np.float32)
    assert (array.dtype, array.shape, array.tobytes()) == (want.dtype, want.shape, want.tobytes())
    return True


def scalar(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    return SCALARS.get(node["t"], lambda same: same)(node["v"])


SCALARS = {
    "float": float.fromhex,
    "bytes": bytes.fromhex,
    "numpy.float64": float,
    "numpy.int32": int,
    "oneflow.Size": tuple,
}


@pytest.mark.parametrize("name", [name for name in NAMES if name.split("/")[1] not in {*REFUSED, *WARNED, *MODELS}])
def test_a_golden_file_is_read_bit_for_bit(golden: Path, name: str) -> None:
    expected = json.loads((golden / name / "expected.json").read_text())
    checkpoint = mfc.open(golden / name / "ckpt")
    with np.load(golden / name / "expected.npz", allow_pickle=False) as arrays:
        if expected["layout"] == "legacy" and expected["tree"]:  # OneFlow's order there is the file system's
            expected["tree"]["items"].sort(key=lambda item: item[0].encode("utf-8", "surrogateescape"))
        if expected["tree"] is not None:
            assert check(checkpoint.tree, expected["tree"], arrays) >= len(expected["tensors"])


@pytest.mark.parametrize("name", [name for name in NAMES if name.split("/")[1] in REFUSED])
def test_a_bad_or_hostile_golden_file_is_refused(golden: Path, name: str) -> None:
    with pytest.raises(REFUSED[name.split("/")[1]]) as caught:
        mfc.open(golden / name / "ckpt")
    assert type(caught.value) is REFUSED[name.split("/")[1]]
    assert str(golden / name / "ckpt") in str(caught.value)


@pytest.mark.parametrize("name", [name for name in NAMES if name.split("/")[1] in WARNED])
def test_what_oneflow_warns_about_and_skips_is_warned_about_and_skipped(golden: Path, name: str) -> None:
    expected = json.loads((golden / name / "expected.json").read_text())
    with pytest.warns(mfc.CheckpointWarning) as warnings:
        checkpoint = mfc.open(golden / name / "ckpt")
    assert len(warnings) == WARNED[name.split("/")[1]]
    assert list(checkpoint.tensors()) == [tensor["path"][0] for tensor in expected["tensors"]]


def test_tied_parameters_are_one_tensor(golden: Path) -> None:
    for version in ("0.8.0", "0.9.0"):
        expected = json.loads((golden / f"oneflow-{version}" / "tied_parameters" / "expected.json").read_text())
        objects = {tensor["path"][-1]: tensor["obj"] for tensor in expected["tensors"]}
        tensors = mfc.open(golden / f"oneflow-{version}" / "tied_parameters" / "ckpt").tensors()
        for one in tensors:
            for other in tensors:
                same = tensors[one].identity == tensors[other].identity
                assert same == (objects[one] == objects[other])


@pytest.mark.parametrize(("name", "dtype"), [("bad_bfloat16_2byte", "bfloat16"), ("bad_int16", "int16")])
def test_dtypes_that_no_real_oneflow_reads_are_read(golden: Path, name: str, dtype: str) -> None:
    tensors = mfc.open(golden / "legacy" / name / "ckpt").tensors()
    assert {tensor.dtype.name for tensor in tensors.values()} >= {dtype}
    assert all(tensor.numpy().size == tensor.size for tensor in tensors.values())


def test_bfloat16_that_oneflow_wrote_and_cannot_read_is_read_right(golden: Path) -> None:
    folder = golden / "oneflow-0.9.0" / "bfloat16_unreadable"
    with np.load(folder / "state.npz", allow_pickle=False) as state:
        tensors = mfc.open(folder / "ckpt").tensors()
        for key in state.files:
            assert tensors[key].dtype.name == "bfloat16"
            assert tensors[key].numpy().astype(np.float32).tobytes() == state[key].tobytes()


def test_a_graph_export_can_be_looked_at_when_asked(golden: Path) -> None:
    folder = golden / "oneflow-0.9.0" / "graph_object"
    with pytest.warns(mfc.CheckpointWarning, match=r"model\.mlir"):
        tensors = mfc.open(folder / "ckpt", allow_incomplete=True).tensors()
    with np.load(folder / "state.npz", allow_pickle=False) as state:
        assert {key.removeprefix("model.") for key in tensors} == {key.removeprefix("model.") for key in state.files}


@pytest.mark.parametrize("version", ["0.8.0", "0.9.0"])
def test_a_pickled_oneflow_module_is_read_as_its_state_dict(golden: Path, version: str) -> None:
    tensors = mfc.open(golden / f"oneflow-{version}" / "module_object" / "ckpt").tensors()
    assert {"weight", "bias"} <= {key.rpartition("/")[2] for key in tensors}
