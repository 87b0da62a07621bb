"""One odd variable in a file of a flat format: it is listed, and its neighbours are read as if it were not there."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.tree import LazyTensor, Unknown, has_tensors

HONEST = np.arange(6, dtype=np.float32).reshape(2, 3)


def opened(path: Path) -> Any:
    """Gives the node beside the honest tensor, after every verb that does not need it has passed."""
    checkpoint = mfc.open(path)
    np.testing.assert_array_equal(checkpoint.tree["honest"].numpy(), HONEST)
    assert mfc.inspect(path).tensors
    assert mfc.diff(path, path).equal
    assert mfc.verify(path).whole
    return checkpoint.tree["odd"]


def require_unknown(path: Path, title: str) -> Unknown:
    node = opened(path)
    assert isinstance(node, Unknown)
    assert title in node.type_name + str(node.args)
    with pytest.raises(mfc.UnsafeError, match=f"{path.name}: found objects of types .*odd: "):
        mfc.load(path, backend="numpy")
    excluded = ["odd/*"] if has_tensors(node) else []
    mfc.convert(path, path.with_suffix(".weights.npz"), model_only=True, exclude=excluded)
    assert list(mfc.open(path.with_suffix(".weights.npz")).tree) == ["honest"]
    return node


# HDF5


def h5(fill: Callable[[Any], object], folder: Path, **options: Any) -> Path:
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_dataset("honest", data=HONEST, **options)
        fill(file)
    return folder / "x.h5"


def of_type(kind: Any) -> Callable[[Any], object]:
    return lambda file: file.create_dataset("odd", (2, 3), kind)


def of_time(file: Any) -> None:
    space = h5py.h5s.create_simple((3,))
    h5py.h5d.create(file.id, b"odd", h5py.h5t.UNIX_D32LE, space)


def behind_itself(file: Any) -> None:
    file["odd"] = file["/"]


BYTES = np.arange(6, dtype=np.uint16).reshape(2, 3)
H5: dict[str, tuple[Callable[[Any], object], str]] = {
    "opaque bytes": (lambda file: file.create_dataset("odd", data=BYTES.view("V2")), "|V2"),
    "chunks of opaque bytes": (lambda file: file.create_dataset("odd", data=BYTES.view("V2"), chunks=(1, 3)), "|V2"),
    "compounds": (of_type([("a", "f4"), ("b", "i4")]), "('a', '<f4')"),
    "arrays for elements": (of_type(np.dtype(("f4", (2, 2)))), "(2, 2)"),
    "numbers of sixteen bytes": (of_type(np.longdouble), "float128"),
    "references": (of_type(h5py.ref_dtype), "object"),
    "lists of any length": (of_type(h5py.vlen_dtype(np.float32)), "object"),
    "times": (of_time, "Time"),
    "a soft link": (lambda file: file.__setitem__("odd", h5py.SoftLink("/honest")), "a link to '/honest'"),
    "a group that is the whole file": (behind_itself, "'/' under another name"),
    "more than is stored": (lambda file: file.create_dataset("odd", (1 << 40,), "u1"), "1,099,511,627,776 bytes"),
}


@pytest.mark.parametrize(("fill", "title"), H5.values(), ids=H5)
def test_an_odd_dataset_is_listed(fill: Callable[[Any], object], title: str, tmp_path: Path) -> None:
    require_unknown(h5(fill, tmp_path), title.replace("a link", "link"))


@pytest.mark.parametrize("chunks", [None, (1, 3)])
def test_the_bytes_of_an_opaque_dataset_can_be_had(chunks: Any, tmp_path: Path) -> None:
    path = h5(lambda file: file.create_dataset("odd", data=BYTES.view("V2"), chunks=chunks), tmp_path)
    assert opened(path).state["bytes"].numpy().tobytes() == BYTES.tobytes()


def test_opaque_bytes_that_an_attribute_calls_bfloat16_are_as_keras_means_them(tmp_path: Path) -> None:
    values = np.array([[1, 2.5, -3]], ml_dtypes.bfloat16)

    def as_keras(file: Any) -> None:
        dataset = file.create_dataset("odd", data=values)  # h5py makes opaque bytes of it
        dataset.attrs["dtype"] = "bfloat16"

    tensor = opened(h5(as_keras, tmp_path))
    assert (tensor.dtype.name, tensor.numpy().tolist()) == ("bfloat16", values.tolist())


def test_an_attribute_of_a_type_that_nothing_reads_is_left_out(tmp_path: Path) -> None:
    def fill(file: Any) -> None:
        file["odd"] = HONEST
        file.attrs["said"] = "x"
        h5py.h5a.create(file.id, b"when", h5py.h5t.UNIX_D32LE, h5py.h5s.create(h5py.h5s.SCALAR))

    path = h5(fill, tmp_path)
    assert isinstance(opened(path), LazyTensor)
    assert mfc.open(path).meta["metadata"] == {"said": "x"}


# npz

NPZ: dict[str, tuple[Any, str]] = {
    "bytes, as MLX and ml_dtypes write bfloat16": (np.ones((2, 3), ml_dtypes.bfloat16), "|V2"),
    "bytes in Fortran's order": (np.asfortranarray(BYTES.view("V2")), "|V2"),
    "fields": (np.zeros(2, [("x", "f4"), ("y", "U3"), ("z", "i2", (2,))]), "('x', '<f4')"),
    "numbers of sixteen bytes": (np.longdouble([1, 2]), "float128"),
    "very many texts": (np.zeros(100_001, "U1"), "<U1"),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(("array", "title"), NPZ.values(), ids=NPZ)
def test_an_odd_member_is_listed_with_its_bytes(save: Any, array: Any, title: str, tmp_path: Path) -> None:
    save(tmp_path / "x.npz", honest=HONEST, odd=array)
    stored = require_unknown(tmp_path / "x.npz", title).state["bytes"].numpy()
    assert stored.tobytes() == array.tobytes(order="F" if array.flags.fnc else "C")


PLAIN: dict[str, tuple[Any, object]] = {
    "None, as Chainer writes it": (np.array(None), None),
    "objects": (np.array([1, "x", {"a": [None]}], object), [1, "x", {"a": [None]}]),
    "dates": (np.array(["2024-02-29", "NaT"], "M8[D]"), ["2024-02-29", "NaT"]),
    "no text": (np.array([], "U3"), []),
    "one text": (np.array("x"), "x"),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(("array", "expected"), PLAIN.values(), ids=PLAIN)
def test_a_member_of_other_things_than_numbers_is_plain_values(
    save: Any, array: Any, expected: object, tmp_path: Path
) -> None:
    save(tmp_path / "x.npz", honest=HONEST, odd=array)
    assert opened(tmp_path / "x.npz") == expected


def test_an_object_of_nobody_in_an_array_is_listed(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", honest=HONEST, odd=np.array([io.StringIO], object))
    assert opened(tmp_path / "x.npz")[0].type_name == "_io.StringIO"


def test_code_in_an_array_of_objects_is_refused_and_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return exec, (f"open({str(tmp_path / 'canary')!r}, 'w').close()",)

    np.savez(tmp_path / "x.npz", honest=HONEST, odd=np.array([Trap()], object))
    with pytest.raises(mfc.UnsafeError, match=r"x\.npz: 'odd\.npy': found builtins\.exec"):
        mfc.open(tmp_path / "x.npz")
    assert not (tmp_path / "canary").exists()


def test_a_file_among_the_members_that_is_no_array_is_listed(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", honest=HONEST)
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        archive.writestr("odd", "{}")
    assert require_unknown(tmp_path / "x.npz", "a file that is no array").state["bytes"].numpy().tobytes() == b"{}"


# safetensors


def safetensors(odd: dict[str, Any], data: bytes, place: Path, before: bytes = b"") -> Path:
    honest = {"dtype": "F32", "shape": [2, 3], "data_offsets": [len(data), len(data) + HONEST.nbytes]}
    header = before + json.dumps({"odd": {**odd, "data_offsets": [0, len(data)]}, "honest": honest}).encode()
    place.write_bytes(struct.pack("<Q", len(header)) + header + data + HONEST.tobytes())
    return place


@pytest.mark.parametrize(("tag", "nbytes"), [("F4", 2), ("F6_E2M3", 3), ("F6_E3M2", 3), ("I4", 2), ("F128", 64)])
def test_a_tensor_of_an_unknown_dtype_is_listed_with_its_bytes(tag: str, nbytes: int, tmp_path: Path) -> None:
    path = safetensors({"dtype": tag, "shape": [4]}, bytes(range(nbytes)), tmp_path / "x.safetensors")
    node = require_unknown(path, f"safetensors dtype {tag}")
    assert node.args == ((4,),)
    assert node.state["bytes"].numpy().tobytes() == bytes(range(nbytes))


def test_e8m0_is_a_dtype_like_others(tmp_path: Path) -> None:
    values = np.array([1, 2, 0.25, 2.0**-127, np.nan], ml_dtypes.float8_e8m0fnu)
    path = safetensors({"dtype": "F8_E8M0", "shape": [5]}, values.tobytes(), tmp_path / "x.safetensors")
    assert opened(path).numpy().tobytes() == values.tobytes()
    for name in ("x.pth", "x_oneflow", "x.h5", "x.npz", "x.json"):
        mfc.convert(path, tmp_path / name)
        mfc.convert(tmp_path / name, tmp_path / f"{name}.back.safetensors")
        assert mfc.open(tmp_path / f"{name}.back.safetensors").tree["odd"].numpy().tobytes() == values.tobytes()


@pytest.mark.parametrize("space", [b" ", b"\n\t", b" " * 5000])
def test_a_header_may_begin_with_white_space(space: bytes, tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.numpy")
    path = safetensors({"dtype": "U8", "shape": [2]}, b"ab", tmp_path / "x.safetensors", space)
    np.testing.assert_array_equal(library.load_file(path)["honest"], HONEST)
    if len(space) > 4000:  # not to be told by its start: the format is named
        np.testing.assert_array_equal(mfc.open(path, format="safetensors").tree["honest"].numpy(), HONEST)
    else:
        assert opened(path).numpy().tobytes() == b"ab"
