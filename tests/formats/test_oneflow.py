"""OneFlow's formats as bytes on a disk, without OneFlow; test_real_oneflow.py reads the same with the real one."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.dtypes import DTYPES, dtype_named
from multiframe_ckpt.errors import DamagedError, RefusedError
from multiframe_ckpt.formats.base import ReadOptions
from multiframe_ckpt.formats.oneflow.folder import OneFlowFormat
from multiframe_ckpt.formats.oneflow.pickled import OneFlowPickleFormat
from multiframe_ckpt.testing import FormatContract, assert_trees_equal
from multiframe_ckpt.testing.formats import changes, read, recognises, write
from multiframe_ckpt.testing.trees import tensor_of_bytes
from multiframe_ckpt.tree import LazyTensor, Tree

FORMAT = OneFlowFormat()
HELD = [row for row in DTYPES if row.name not in ("uint64", "complex64", "complex128")]


def tensor(*shape: int, dtype: str = "float32") -> LazyTensor:
    row = dtype_named(dtype)
    assert row is not None
    return LazyTensor.from_array((np.arange(np.prod(shape, dtype=int)) % 7).astype(row.numpy).reshape(shape))


def listing(root: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(root.rglob("*"))
    }


def test_a_flat_state_dict_is_exactly_the_documented_bytes(tmp_path: Path) -> None:
    write(FORMAT, {"l1.weight": tensor(2, 3), "n": tensor(dtype="int64")}, tmp_path / "c")
    files = listing(tmp_path / "c")
    metas = {name: files.pop(f"{name}/meta").partition(b"# multiframe_ckpt {") for name in ("l1.weight", "n")}
    assert files == {
        "l1.weight": None,
        "l1.weight/out": np.arange(6, dtype="<f4").tobytes(),
        "n": None,
        "n/out": np.zeros(1, "<i8").tobytes(),
        "snapshot_done": b"",
    }
    assert metas["l1.weight"][0] == b"shape {\n  dim: 2\n  dim: 3\n}\ndata_type: kFloat\n"
    assert metas["n"][0] == b"shape {\n}\ndata_type: kInt64\n"
    assert all(comment.endswith(b"}\n") and comment.count(b"\n") == 1 for _, _, comment in metas.values())


def test_the_order_of_keys_survives_and_foreign_folders_are_sorted(tmp_path: Path) -> None:
    keys = ["z", "a", "m"]
    write(FORMAT, {key: tensor(2) for key in keys}, tmp_path / "c")
    assert list(read(FORMAT, tmp_path / "c")) == keys
    for key in keys:
        meta = tmp_path / "c" / key / "meta"
        meta.write_bytes(meta.read_bytes().partition(b"#")[0])
    assert list(read(FORMAT, tmp_path / "c")) == sorted(keys)


@pytest.mark.parametrize("tree", [{"epoch": 3, "net": {"w": tensor(2)}}, {"opt": {"state": {0: {"m": tensor(2)}}}}])
def test_a_nested_checkpoint_that_lost_its_pickle_is_damage_not_an_empty_one(tree: Tree, tmp_path: Path) -> None:
    write(FORMAT, tree, tmp_path / "c")
    (tmp_path / "c" / "pickled_data").unlink()
    with pytest.raises(DamagedError, match="pickled_data") as damage:
        read(FORMAT, tmp_path / "c")
    assert damage.value.missing == ("pickled_data",)


def test_a_nested_checkpoint_is_one_snapshot_a_mapping_under_a_pickle(tmp_path: Path) -> None:
    tree = {"epoch": 3, "model_state_dict": {"w": tensor(2)}, "opt": {"state": {0: {"m": tensor(2)}}, "lr": [0.1]}}
    write(FORMAT, tree, tmp_path / "c")
    assert [name for name, raw in listing(tmp_path / "c").items() if raw is not None] == [
        "model_state_dict/snapshot_done",
        "model_state_dict/w/meta",
        "model_state_dict/w/out",
        "opt/state/0/m/meta",
        "opt/state/0/m/out",
        "opt/state/0/snapshot_done",
        "pickled_data",
        "snapshot_done",
    ]
    assert_trees_equal(read(FORMAT, tmp_path / "c"), tree)
    assert_trees_equal(read(FORMAT, tmp_path / "c" / "model_state_dict"), tree["model_state_dict"])


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "../x", "/abs", "nul\0", "snapshot_done", "pickled_data", "x" * 256, "é" * 128, "\ud800"],
)
@pytest.mark.parametrize(
    "nest", [lambda t: t, lambda t: {"model": t}, lambda t: {"list": [t]}], ids=["flat", "in", "list"]
)
def test_a_name_that_no_folder_or_flow_load_can_hold_is_refused_by_name(
    tmp_path: Path, name: str, nest: Callable[[Tree], Tree]
) -> None:
    tree = nest({name: tensor(2)})
    with pytest.raises(mfc.KeyRefusedError, match="format='oneflow-pickle'") as caught:
        write(FORMAT, tree, tmp_path / "c")
    assert repr(name[:80]) in str(caught.value)
    assert listing(tmp_path) == {}


@pytest.mark.parametrize(
    "name", [".hidden", "é", "e\u0301", "a b", "new\nline", "back\\slash", "x" * 255, "out", "meta"]
)
def test_an_odd_name_that_a_folder_holds_is_written_verbatim(tmp_path: Path, name: str) -> None:
    write(FORMAT, {name: tensor(2)}, tmp_path / "c")
    assert sorted(os.listdir(tmp_path / "c")) == sorted([name, "snapshot_done"])
    assert list(read(FORMAT, tmp_path / "c")) == [name]


def test_two_names_that_the_disk_merges_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = os.mkdir

    def merging(path: Any, *args: Any, **kwargs: Any) -> None:
        make(path.lower() if path in ("W", "w") else path, *args, **kwargs)

    monkeypatch.setattr(os, "mkdir", merging)
    with pytest.raises(mfc.KeyRefusedError, match="this disk"):
        write(FORMAT, {"w": tensor(2), "W": tensor(2)}, tmp_path / "c")


def test_keys_that_would_be_one_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(mfc.KeyRefusedError, match="both become the folder"):
        write(FORMAT, {"s": {0: tensor(2), "0": tensor(2)}}, tmp_path / "c")


@pytest.mark.parametrize("dtype", ["uint64", "complex64", "complex128"])
def test_a_dtype_without_an_exact_wider_one_is_refused_by_name(tmp_path: Path, dtype: str) -> None:
    with pytest.raises(mfc.DtypeRefusedError, match=f"^w: found dtype {dtype}"):
        write(FORMAT, {"w": tensor(2, dtype=dtype)}, tmp_path / "c")


@pytest.mark.parametrize("row", [row for row in DTYPES if row.oneflow_wider], ids=lambda row: row.name)
def test_a_widened_dtype_is_planned_stored_and_comes_back_with_every_bit_pattern(tmp_path: Path, row: Any) -> None:
    pattern = np.arange(2 ** (8 * min(row.itemsize, 2)), dtype=f"u{min(row.itemsize, 2)}")
    raw = pattern.astype(f"u{row.itemsize}")
    tree = {"w": LazyTensor.from_array(raw.view(row.numpy))}
    assert changes(FORMAT, tree).widened == {"w": row.oneflow_wider}
    write(FORMAT, tree, tmp_path / "c")
    wider = dtype_named(row.oneflow_wider)
    assert wider is not None
    assert f"data_type: {wider.oneflow}\n" in (tmp_path / "c/w/meta").read_text()
    assert (tmp_path / "c/w/out").stat().st_size == raw.size * wider.itemsize
    assert read(FORMAT, tmp_path / "c")["w"].numpy().tobytes() == raw.tobytes()


def test_values_that_the_remembered_dtype_cannot_hold_are_damage(tmp_path: Path) -> None:
    write(FORMAT, {"w": tensor(1, dtype="bfloat16")}, tmp_path / "c")
    (tmp_path / "c/w/out").write_bytes(np.array([1.0000001], "<f4").tobytes())
    with pytest.raises(mfc.DamagedError, match="bfloat16 cannot hold"):
        read(FORMAT, tmp_path / "c")["w"].numpy()


def test_a_missing_variable_is_noticed(tmp_path: Path) -> None:
    write(FORMAT, {key: tensor(2) for key in "abc"}, tmp_path / "c")
    for name in ("meta", "out"):
        (tmp_path / "c" / "b" / name).unlink()
    (tmp_path / "c" / "b").rmdir()
    with pytest.raises(mfc.DamagedError, match="found 2 variables, expected 3"):
        read(FORMAT, tmp_path / "c")
    assert list(read(FORMAT, tmp_path / "c", ReadOptions(allow_incomplete=True))) == ["a", "c"]


def test_a_folder_without_its_marker_is_incomplete_and_can_be_looked_at(tmp_path: Path) -> None:
    write(FORMAT, {"w": tensor(2)}, tmp_path / "c")
    (tmp_path / "c" / "snapshot_done").unlink()
    assert recognises(FORMAT, tmp_path / "c")
    with pytest.raises(mfc.IncompleteError, match="allow_incomplete=True"):
        read(FORMAT, tmp_path / "c")
    assert list(read(FORMAT, tmp_path / "c", ReadOptions(allow_incomplete=True))) == ["w"]


@pytest.mark.parametrize("part", ["", "out", "meta"])
def test_a_link_that_leads_out_of_the_checkpoint_is_refused(tmp_path: Path, part: str) -> None:
    write(FORMAT, {"w": tensor(2), "v": tensor(2)}, tmp_path / "c")
    inside = tmp_path / "c" / "w" / part
    outside = tmp_path / f"outside{part}"
    inside.rename(outside)
    inside.symlink_to(outside)
    with pytest.raises(mfc.UnsafeError, match="leads out of"):
        read(FORMAT, tmp_path / "c")


@pytest.mark.parametrize("part", ["out", "meta"])
def test_a_part_that_is_a_link_within_the_checkpoint_is_read(tmp_path: Path, part: str) -> None:
    tree = {"w": tensor(2, 3), "v": tensor(2, 3)}
    write(FORMAT, tree, tmp_path / "c")
    inside = tmp_path / "c" / "w" / part
    inside.unlink()
    inside.symlink_to(f"../v/{part}")
    assert_trees_equal(read(FORMAT, tmp_path / "c")["w"], tree["w"])


def test_a_variable_replaced_after_it_was_opened_is_not_misread(tmp_path: Path) -> None:
    write(FORMAT, {"w": tensor(2)}, tmp_path / "c")
    opened = read(FORMAT, tmp_path / "c")["w"]
    (tmp_path / "c/w/new").write_bytes(bytes(8))
    (tmp_path / "c/w/new").rename(tmp_path / "c/w/out")
    with pytest.raises(mfc.DamagedError, match="replaced"):
        opened.numpy()


@pytest.mark.parametrize("format", [OneFlowFormat(), OneFlowPickleFormat()], ids=lambda format: format.name)
def test_a_checkpoint_is_let_go_of_as_soon_as_its_tensors_are(format: Any, tmp_path: Path) -> None:
    write(format, {"w": tensor(2), "deep": {"er": {"v": tensor(2)}}}, tmp_path / "c")
    gc.disable()
    try:
        before = len(os.listdir("/dev/fd"))
        held = read(format, tmp_path / "c")
        during = len(os.listdir("/dev/fd"))
        del held
        assert (during - before, len(os.listdir("/dev/fd")) - before) == (1, 0)
    finally:
        gc.enable()


@pytest.mark.parametrize("target", ["/etc", "../other", "a/../../other"])
def test_a_pickle_that_points_out_of_the_checkpoint_is_refused(tmp_path: Path, target: str) -> None:
    format = OneFlowPickleFormat()
    write(format, {"w": tensor(2)}, tmp_path / "c")
    write(FORMAT, {"w": tensor(2)}, tmp_path / "other")
    pickled = tmp_path / "c" / "pickled_data"
    name = target.encode()
    pickled.write_bytes(pickled.read_bytes().replace(b"\x08\0\0\0tensor_1", bytes([len(name), 0, 0, 0]) + name))
    with pytest.raises(mfc.UnsafeError, match="out of the checkpoint"):
        read(format, tmp_path / "c")


@pytest.mark.parametrize("format", [OneFlowFormat(), OneFlowPickleFormat()], ids=lambda format: format.name)
def test_a_changed_plain_value_in_the_pickle_is_damage(tmp_path: Path, format: Any) -> None:
    write(format, {"epoch": 3, "model": {"w": tensor(2)}}, tmp_path / "c")
    pickled = tmp_path / "c" / "pickled_data"
    raw = pickled.read_bytes()
    pickled.write_bytes(raw.replace(b"epochK\x03", b"epochK\x04"))
    assert pickled.read_bytes() != raw
    with pytest.raises(mfc.DamagedError, match="pickled_data: found a pickle with digest"):
        read(format, tmp_path / "c")


def test_one_tensor_under_two_keys_is_one_folder_in_the_pickled_format(tmp_path: Path) -> None:
    tied = tensor_of_bytes(DTYPES[0], (3,), [1], alias="tied")
    write(OneFlowPickleFormat(), {"a": tied, "b/c": [tied], "": tensor(1)}, tmp_path / "c")
    assert sorted(os.listdir(tmp_path / "c")) == ["pickled_data", "tensor_1", "tensor_2"]


class _OneFlowContract(FormatContract):
    dtypes = HELD

    def refused_trees(self) -> list[tuple[Tree, type[RefusedError]]]:
        """Adds the dtypes that OneFlow has nothing for."""
        return [*super().refused_trees(), ({"w": tensor(2, dtype="complex64")}, mfc.DtypeRefusedError)]


class TestOneFlowContract(_OneFlowContract):
    """Every promise of a format, but for names that no folder can have."""

    format = FORMAT
    may_refuse = (mfc.KeyRefusedError,)


class TestOneFlowPickleContract(_OneFlowContract):
    """Every promise of a format, for any key."""

    format = OneFlowPickleFormat()


def test_a_folder_that_may_not_be_entered_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(FORMAT, {"w": tensor(2)}, tmp_path / "c")
    (tmp_path / "c" / "lost+found").mkdir()
    real = os.open

    def refusing(name: Any, *arguments: Any, **options: Any) -> int:
        if name == "lost+found":
            raise PermissionError(13, "Permission denied", name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(os, "open", refusing)
    with pytest.warns(mfc.CheckpointWarning, match="skipped"):
        assert list(read(FORMAT, tmp_path / "c")) == ["w"]
