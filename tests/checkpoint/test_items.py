"""A checkpoint by name: what lies under it, how it is shown on one line, and what an error says where nothing does."""

from __future__ import annotations

import numpy as np
import pytest

import multiframe_ckpt as mfc

W = np.arange(6, dtype=np.float32).reshape(2, 3)
TREE = {"model": {"l1.weight": W, "l1.bias": W[0]}, "epoch": 7, "a/b": {"~": [W, {"x": (1, W)}]}, 3: W}


@pytest.fixture(params=["torch", "safetensors", "oneflow-pickle"])
def checkpoint(tmp_path, request):
    mfc.save(TREE, tmp_path / "run", format=request.param)
    return mfc.open(tmp_path / "run")


def test_a_name_at_the_top_gives_what_lies_there_and_a_key_any_tensor(checkpoint):
    assert checkpoint["epoch"] == 7
    assert list(checkpoint["model"]) == ["l1.weight", "l1.bias"]
    assert checkpoint["model"]["l1.weight"] is checkpoint["model/l1.weight"] is checkpoint.tensors()["model/l1.weight"]
    assert checkpoint["a/b"]["~"][0].shape == (2, 3)
    assert checkpoint[3].shape == checkpoint["3"].shape == (2, 3)
    assert all(checkpoint[key] is tensor for key, tensor in checkpoint.tensors().items())
    assert checkpoint["a~1b/~0/1/x/0"] == 1
    assert list(checkpoint) == checkpoint.keys() == ["model", "epoch", "a/b", 3]
    assert dict(checkpoint) == dict(checkpoint.tree)
    assert (
        "model" in checkpoint and "model/l1.bias" in checkpoint and "l1.bias" not in checkpoint and [] not in checkpoint
    )


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("l1.weight", "'model/l1.weight', 'model', 'epoch'"),
        ("modle", "'model', 'epoch'"),
        ("model/l1.wieght", "'model/l1.weight'"),
        (("model",), "'model', 'epoch'"),
        ([], "'model', 'epoch'"),
        (4, "'model', 'epoch'"),
        ("epoch/0", "'epoch', "),
    ],
)
def test_a_name_that_is_not_there_is_a_key_error_with_the_nearest_ones(checkpoint, key, nearest):
    with pytest.raises(KeyError) as problem:
        checkpoint[key]
    assert isinstance(problem.value, mfc.UnknownKeyError)
    start = f"{checkpoint.meta['path']}: found no key {key!r}, expected one that it has; the nearest: {nearest}"
    assert str(problem.value).startswith(start)


def test_lists_and_single_values_have_items_too(tmp_path):
    mfc.save([W, {"b": 2}], tmp_path / "list.pth")
    checkpoint = mfc.open(tmp_path / "list.pth")
    assert checkpoint[0].shape == checkpoint[-2].shape == (2, 3) and checkpoint["1/b"] == 2
    with pytest.raises(mfc.UnknownKeyError, match=r"found no key 2.*nearest: 0, 1$"):
        checkpoint[2]
    with pytest.raises(mfc.UnknownKeyError, match="none, as it is empty or one value"):
        mfc.Checkpoint(None)["x"]
    with pytest.raises(mfc.UnknownKeyError, match=r"^in memory: .*nearest: 'a'$"):
        mfc.Checkpoint({"a": 1})[True]


def test_of_two_keys_that_read_the_same_the_later_one_has_a_mark():
    checkpoint = mfc.Checkpoint.from_objects({1: W, "1": W[0]})
    assert checkpoint[1].shape == (2, 3) and checkpoint["1"].shape == (3,)
    assert checkpoint["1~"] is checkpoint.tensors()["1~"]


def test_a_checkpoint_of_twenty_thousand_tensors_is_shown_on_one_line(tmp_path):
    mfc.save({f"layers.{n}.weight": W for n in range(20_000)}, tmp_path / "many.safetensors", durable=False)
    shown = repr(mfc.open(tmp_path / "many.safetensors"))
    assert shown == f"<Checkpoint {tmp_path / 'many.safetensors'}: safetensors, 20,000 tensors, 480.0 kB>"
    assert str(mfc.open(tmp_path / "many.safetensors")) == shown
    assert repr(mfc.Checkpoint.from_objects({"w": W})) == "<Checkpoint in memory: numpy, 1 tensor, 24 B>"
    assert repr(mfc.Checkpoint({}, {"path": "a\x1b\n", "format": "\x07"})) == (
        r"<Checkpoint a\x1b\n: \x07, 0 tensors, 0 B>"
    )


def test_a_tensor_says_on_one_line_what_it_is_and_where_it_lies(tmp_path):
    path = tmp_path / "x\n.safetensors"
    mfc.save({"w": W, "t": W}, path)
    extent = mfc.open(path)["w"].extent
    where = str(path).replace("\n", r"\n")
    assert repr(mfc.open(path)["w"]) == f"LazyTensor(float32, (2, 3), 24 bytes, {where} at byte {extent.offset})"
    assert repr(mfc.LazyTensor.from_array(W)) == "LazyTensor(float32, (2, 3), 24 bytes, in memory)"
    read = mfc.LazyTensor.from_function(mfc.LazyTensor.from_array(W).dtype, (2, 3), lambda: pytest.fail("it was read"))
    assert repr(read) == "LazyTensor(float32, (2, 3), 24 bytes, read when asked for)"


NUMPY_2 = int(np.__version__.split(".")[0]) >= 2


def test_numpy_reads_a_tensor_wherever_it_takes_an_array(tmp_path):
    mfc.save({"w": W}, tmp_path / "x.safetensors")
    tensor = mfc.open(tmp_path / "x.safetensors")["w"]
    for array in (
        np.asarray(tensor),
        np.array(tensor),
        np.stack([tensor, tensor])[1],
        tensor + np.zeros(1, np.float32),
    ):
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, W)
    assert np.asarray(tensor, dtype=np.float64).dtype == np.asarray(tensor, dtype="f8").dtype == np.float64
    assert np.array(tensor).flags.writeable
    np.testing.assert_array_equal(np.asarray(tensor[:, 1]), W[:, 1])


def test_a_copy_is_made_where_numpy_asks_for_one_and_refused_where_it_forbids_one(tmp_path):
    live = mfc.LazyTensor.from_array(W)
    assert np.shares_memory(np.asarray(live), W) and not np.shares_memory(np.array(live), W)
    assert live.__array__(copy=False) is not None and not np.shares_memory(live.__array__(copy=True), W)
    mfc.save({"w": W}, tmp_path / "x.safetensors")
    for tensor, dtype in ((live, np.float64), (mfc.open(tmp_path / "x.safetensors")["w"], None)):
        with pytest.raises(ValueError, match="leave out copy=False"):
            tensor.__array__(dtype, copy=False)
    if NUMPY_2:
        assert np.shares_memory(np.asarray(live, copy=False), W)
        with pytest.raises(ValueError, match="leave out copy=False"):
            np.asarray(live, dtype=np.float64, copy=False)
