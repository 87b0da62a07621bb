"""Real OneFlow reads what we write, and we read what it writes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.dtypes import DTYPES, dtype_named
from multiframe_ckpt.testing.trees import tensor_of_bytes
from multiframe_ckpt.tree import LazyTensor

try:
    flow = pytest.importorskip("oneflow")
except RuntimeError as placeholder:  # what PyPI has for Python 3.11 and newer
    pytest.skip(str(placeholder), allow_module_level=True)

LOADABLE = [
    row
    for row in DTYPES
    if row.oneflow and not row.oneflow_wider and row.name not in ("uint64", "complex64", "complex128")
]
EACH_FORMAT = pytest.mark.parametrize("format", ["oneflow", "oneflow-pickle"])


def flow_load(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return flow.load(str(path))


def special(name: str) -> LazyTensor:
    row = dtype_named(name)
    assert row is not None
    pattern = [0x01, 0x00, 0xC0, 0x7F, 0x00, 0x00, 0x00, 0x80, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0xF0, 0x7F, 0xFF]
    return tensor_of_bytes(row, (3, 2, 5), pattern)


@EACH_FORMAT
def test_flow_load_reads_a_flat_state_dict_bit_for_bit_and_without_warning(tmp_path: Path, format: str) -> None:
    tree = {row.name: special(row.name) for row in LOADABLE}
    tree |= {"scalar": LazyTensor.from_array(np.array(5)), "empty": LazyTensor.from_array(np.empty((0, 3)))}
    mfc.Checkpoint(tree).save(tmp_path / "c", format=format)
    found = flow_load(tmp_path / "c")
    assert set(found) == set(tree)
    for key, tensor in tree.items():
        array = found[key].numpy()
        assert (array.shape, array.dtype) == (tensor.shape, tensor.dtype.numpy)
        assert array.tobytes() == tensor.numpy().tobytes(), key


@EACH_FORMAT
def test_flow_load_reads_a_nested_checkpoint_with_its_plain_values(tmp_path: Path, format: str) -> None:
    weight = LazyTensor.from_array(np.arange(6, dtype=np.float32), alias="tied")
    plain = {
        "epoch": 3,
        "lr": 0.1,
        "big": 2**70,
        "none": None,
        "text": "é☃",
        "raw": b"a\xff",
        "z": 1 + 2j,
        5: (1, [True]),
    }
    tree = {
        **plain,
        "model_state_dict": {"w": weight, "tied": weight},
        "opt": {"state": {0: {"m": special("float64")}}},
    }
    mfc.Checkpoint(tree).save(tmp_path / "c", format=format)
    found = flow_load(tmp_path / "c")
    assert {key: found[key] for key in plain} == plain
    assert list(found) == list(tree)
    assert found["model_state_dict"]["w"] is found["model_state_dict"]["tied"]
    assert found["opt"]["state"][0]["m"].numpy().tobytes() == special("float64").numpy().tobytes()


def test_flow_load_reads_each_part_of_a_nested_checkpoint_by_itself(tmp_path: Path) -> None:
    tree = {"epoch": 1, "model_state_dict": {"l1.weight": special("float32"), "l1.bias": special("float16")}}
    mfc.Checkpoint(tree).save(tmp_path / "c", format="oneflow")
    found = flow_load(tmp_path / "c" / "model_state_dict")
    assert {key: tensor.numpy().tobytes() for key, tensor in found.items()} == {
        key: tensor.numpy().tobytes() for key, tensor in tree["model_state_dict"].items()
    }


@EACH_FORMAT
@pytest.mark.parametrize("row", [row for row in DTYPES if row.oneflow_wider], ids=lambda row: row.name)
def test_flow_load_reads_widened_values(tmp_path: Path, format: str, row: Any) -> None:
    array = np.arange(5).astype(row.numpy)
    mfc.Checkpoint({"w": LazyTensor.from_array(array)}).save(tmp_path / "c", format=format)
    found = flow_load(tmp_path / "c")["w"].numpy()
    assert found.dtype == row.oneflow_wider
    np.testing.assert_array_equal(found, array.astype(np.float64))


def test_any_key_loads_from_the_pickled_format(tmp_path: Path) -> None:
    keys = ["", ".", "..", "a/b", "/abs", "nul\0", "snapshot_done", "pickled_data", "x" * 300, "W", "w", "\ud800"]
    mfc.Checkpoint({key: LazyTensor.from_array(np.full(2, i)) for i, key in enumerate(keys)}).save(
        tmp_path / "c", format="oneflow-pickle"
    )
    assert {key: tensor.numpy()[0] for key, tensor in flow_load(tmp_path / "c").items()} == {
        key: i for i, key in enumerate(keys)
    }


def test_what_flow_save_writes_is_read_with_its_ties(tmp_path: Path) -> None:
    net = flow.nn.Sequential(flow.nn.Linear(3, 4), flow.nn.BatchNorm1d(4))
    state = net.state_dict()
    state["tied"] = state["0.weight"]
    state["bf16"] = flow.tensor([1.0, -2.0], dtype=flow.bfloat16)
    flow.save({"model": state, "epoch": 2, "size": net[0].weight.shape, "dtype": flow.float16}, str(tmp_path / "c"))
    checkpoint = mfc.open(tmp_path / "c")
    assert checkpoint.meta["format"] == "oneflow-pickle"
    found = checkpoint.tree["model"]
    for key, tensor in state.items():
        array = tensor.numpy()
        assert found[key].numpy().astype(array.dtype).tobytes() == array.tobytes(), key
    assert found["bf16"].dtype.name == "bfloat16"
    assert found["tied"].identity == found["0.weight"].identity
    assert (checkpoint.tree["epoch"], checkpoint.tree["size"]) == (2, (4, 3))


def test_a_model_goes_from_oneflow_to_torch_and_back_and_gives_the_same_output(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    nets = {lib: lib.nn.Sequential(lib.nn.Linear(6, 5), lib.nn.ReLU(), lib.nn.Linear(5, 2)) for lib in (flow, torch)}
    mfc.save(nets[flow].state_dict(), tmp_path / "flow", format="oneflow")
    mfc.convert(tmp_path / "flow", tmp_path / "torch.pth")
    nets[torch].load_state_dict(torch.load(tmp_path / "torch.pth"))
    batch = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    expected = nets[flow](flow.tensor(batch)).numpy()
    np.testing.assert_allclose(nets[torch](torch.from_numpy(batch)).detach().numpy(), expected, rtol=1e-5, atol=1e-6)

    mfc.convert(tmp_path / "torch.pth", tmp_path / "again")
    fresh = flow.nn.Sequential(flow.nn.Linear(6, 5), flow.nn.ReLU(), flow.nn.Linear(5, 2))
    fresh.load_state_dict(flow_load(tmp_path / "again"))
    assert fresh(flow.tensor(batch)).numpy().tobytes() == expected.tobytes()
