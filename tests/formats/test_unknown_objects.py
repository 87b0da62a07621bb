"""Honest files with what is not built: it stands in the tree as what it is, and keeps nobody from the rest."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.tree import MAX_DEPTH, LazyTensor, Unknown, leaves

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore")  # torch warns of its prototypes, and of pickled source code


class Config(dict):  # as addict's Dict and OmegaConf's DictConfig: each part knows what it lies in
    def __init__(self, *args: Any, parent: Any = None) -> None:
        super().__init__(*args)
        self.__dict__["parent"] = parent

    def __reduce__(self) -> Any:
        return Config, (), self.__dict__, None, iter(self.items())


class Fused(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 3)
        self.forward = self.forward_fused  # a bound method among the attributes, as ultralytics leaves it

    def forward_fused(self, x: Any) -> Any:
        return self.layer(x)


class Tagged(torch.Tensor):
    pass


def tagged(**attributes: object) -> Any:
    tensor = torch.ones(2).as_subclass(Tagged)
    tensor.__dict__.update(attributes)
    return tensor


def config() -> Config:
    whole = Config({"lr": 0.1})
    whole["model"] = Config({"size": 3}, parent=whole)
    return whole


def ring() -> list[Any]:
    ring: list[Any] = [1]
    ring.append({"back": (ring,)})
    return ring


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[object], mfc.Checkpoint]:
    """Opens what torch saves, after every verb that needs none of the unknown objects has passed."""

    def save_and_open(value: object) -> mfc.Checkpoint:
        path = tmp_path / "x.pth"
        torch.save({"value": value, "w": torch.arange(6.0)}, path, _use_new_zipfile_serialization=request.param)
        checkpoint = mfc.open(path)
        np.testing.assert_array_equal(checkpoint.tree["w"].numpy(), np.arange(6, dtype=np.float32))
        assert mfc.inspect(path).tensors
        assert mfc.diff(path, path).equal
        assert mfc.verify(path).whole
        return checkpoint

    return save_and_open


@pytest.mark.parametrize("value", [config, ring], ids=["a configuration", "a list"])
def test_what_points_to_what_it_lies_in_ends_in_an_unknown_object(value: Any, opened: Any) -> None:
    endings = [leaf for _, leaf in leaves(opened(value()).tree) if str(leaf).endswith(", which holds this")]
    assert len(endings) == 1


def test_what_a_configuration_holds_is_read(opened: Any) -> None:
    tree = opened(config()).tree["value"]
    assert tree.entries["lr"] == 0.1
    assert tree.entries["model"].entries == {"size": 3}
    assert tree.entries["model"].state["parent"].type_name.endswith("Config, which holds this")


ARRAYS = {
    "text": (np.array([["B cell", "T cell"], ["", "Ω"]]), [["B cell", "T cell"], ["", "Ω"]]),
    "big-endian text": (np.array(["a", "bc"], ">U2"), ["a", "bc"]),
    "bytes": (np.array([b"a", b"bc"]), [b"a", b"bc"]),
    "objects": (np.array([None, "x", {"a": [1]}], object), [None, "x", {"a": [1]}]),
    "objects in two dimensions": (np.array([[1, "x"], [None, 2.5]], object), [[1, "x"], [None, 2.5]]),
    "objects in Fortran's order": (np.array([[1, "x"], [None, 2.5]], object, order="F"), [[1, "x"], [None, 2.5]]),
    "one object": (np.array(None, object), None),
    "no objects": (np.empty((0, 3), object), []),
    "dates": (np.array(["2024-02-29", "NaT"], "M8[D]"), ["2024-02-29", "NaT"]),
    "moments in nanoseconds": (np.array(["2024-02-29T12"], "M8[ns]"), ["2024-02-29T12:00:00.000000000"]),
    "time spans of a unit of their own": (np.array([3], "m8[25s]"), ["3 units of 25 seconds"]),
    "one text": (np.array("x"), "x"),
    "a scalar of text": (np.str_("x"), "x"),
    "a scalar of a date": (np.datetime64("2024-02-29"), "2024-02-29"),
    "a dtype of dates": (np.dtype("M8[ns]"), "datetime64[ns]"),
    "a dtype of objects": (np.dtype(object), "object"),
    "a dtype of fields": (np.dtype([("a", "f4"), ("b", "U3")]), "[('a', '<f4'), ('b', '<U3')]"),
}


@pytest.mark.parametrize(("value", "expected"), ARRAYS.values(), ids=ARRAYS)
def test_an_array_of_other_things_than_numbers_is_plain_values(value: Any, expected: object, opened: Any) -> None:
    if isinstance(value, np.ndarray) and value.dtype.kind == "m":
        expected = [str(span) for span in value]
    assert opened(value).tree["value"] == expected


@pytest.mark.parametrize("record", [False, True])
def test_an_array_of_fields_is_an_unknown_object_with_a_column_for_each(record: bool, opened: Any) -> None:
    dtype = np.dtype([("x", ">f4"), ("at", "M8[s]"), ("name", "U3"), ("box", "i2", (2, 2)), ("in", [("y", "i4")])])
    array = np.zeros(3, dtype)
    array["x"], array["name"], array["box"][1] = [1, 2, 3], ["a", "b", "c"], [[1, 2], [3, 4]]
    tree = opened(array.view(np.recarray) if record else array).tree["value"]
    assert isinstance(tree, Unknown)
    np.testing.assert_array_equal(tree.state["x"].numpy(), np.array([1, 2, 3], np.float32))
    np.testing.assert_array_equal(tree.state["box"].numpy(), array["box"])
    assert (tree.state["name"], tree.state["at"][0]) == (["a", "b", "c"], "1970-01-01T00:00:00")
    assert isinstance(tree.state["in"].state["y"], LazyTensor)


def test_numbers_that_no_row_of_the_table_has_are_listed_as_bytes(opened: Any) -> None:
    array = np.array([1, 2], np.longdouble)
    tree = opened(array).tree["value"]
    assert tree.state["bytes"].numpy().tobytes() == array.tobytes()


def test_an_array_of_text_for_which_there_is_no_room_is_named_and_not_spelled_out(tmp_path: Path) -> None:
    torch.save({"many": np.zeros((300, 3000), "U1"), "w": torch.ones(2)}, tmp_path / "x.pth")
    tree = mfc.open(tmp_path / "x.pth").tree
    assert tree["many"].type_name == "numpy.ndarray of <U1 (300, 3000)"
    assert tree["w"].shape == (2,)


@pytest.mark.parametrize("protocol", range(2, 6))
def test_a_bound_method_is_unknown_and_the_weights_of_its_model_are_read(protocol: int, tmp_path: Path) -> None:
    model = Fused()
    torch.save({"model": model, "hook": model.forward_fused}, tmp_path / "x.pth", pickle_protocol=protocol)
    tree = mfc.open(tmp_path / "x.pth").tree
    assert list(tree["model"]) == ["layer.weight", "layer.bias"]
    assert (tree["hook"].type_name.rpartition(".")[2], tree["hook"].args[1]) == ("getattr", "forward_fused")
    mfc.open(tmp_path / "x.pth").load_into(model)


def test_a_module_that_is_not_initialized_yet_is_read(opened: Any) -> None:
    tree = opened(torch.nn.LazyLinear(3)).tree["value"]
    assert {node.type_name for node in tree.values()} == {"torch.nn.parameter.UninitializedParameter"}


def odd_tensors() -> dict[str, Callable[[], Any]]:
    return {
        "complex32": lambda: torch.zeros(2, dtype=torch.complex32),
        "quantized": lambda: torch.quantize_per_tensor(torch.arange(4.0), 0.1, 0, torch.quint8),
        "quantized by channel": lambda: torch.quantize_per_channel(
            torch.ones(2, 3), torch.tensor([0.1, 0.2]), torch.tensor([0, 1]), 0, torch.qint32
        ),
        "sparse": lambda: torch.eye(3).to_sparse(),
        "sparse by rows": lambda: torch.eye(3).to_sparse_csr(),
        "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "on no device": lambda: torch.empty(2, 3, device="meta"),
        "of a class with attributes": lambda: tagged(unit="m"),
    }


@pytest.mark.parametrize("make", odd_tensors().values(), ids=odd_tensors())
def test_one_odd_tensor_keeps_nobody_from_the_others(make: Callable[[], Any], opened: Any) -> None:
    try:
        torch.save(make(), io.BytesIO())
    except (KeyError, RuntimeError):  # torch 2.0: complex32, nested
        pytest.skip("this torch saves no such tensor")
    tree = opened(make()).tree["value"]
    assert isinstance(tree, Unknown)
    with pytest.raises(mfc.UnsafeError, match=r"value: .*as plain dicts of their parts: allow_unknown=True"):
        opened(make()).to_backend("numpy")
    parts = opened(make()).to_backend("numpy", allow_unknown=True)["value"]
    assert (type(parts), parts["__unknown__"]) == (dict, tree.type_name)


def test_the_values_of_an_odd_tensor_are_listed(opened: Any) -> None:
    quantized = torch.quantize_per_tensor(torch.arange(4.0), 0.1, 0, torch.quint8)
    tree = opened(quantized).tree["value"]
    np.testing.assert_array_equal(tree.args[0].numpy(), quantized.int_repr().numpy())


@pytest.mark.parametrize("make", [tagged, lambda: torch.nn.Parameter(tagged())], ids=["a tensor", "a parameter"])
def test_a_tensor_of_a_class_without_attributes_is_a_tensor(make: Callable[[], Any], opened: Any) -> None:
    np.testing.assert_array_equal(opened(make()).tree["value"].numpy(), np.ones(2, np.float32))


class _OfDevice:
    """What a tensor of XLA is pickled as, which no build for processors makes."""

    def __init__(self, name: str, data: object, dtype: Any) -> None:
        self._reduced = getattr(torch._utils, name), (data, dtype, "xla:0", False)

    def __reduce__(self) -> Any:
        return self._reduced


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("_rebuild_device_tensor_from_numpy", np.array([1, 2.5], np.float32)),
        ("_rebuild_device_tensor_from_cpu_tensor", torch.tensor([1, 2.5])),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tensor_of_a_device_without_storages_is_a_tensor(name: str, data: Any, dtype: Any, opened: Any) -> None:
    if not hasattr(torch._utils, name):
        pytest.skip("another version of torch")
    tensor = opened(_OfDevice(name, data, dtype)).tree["value"]
    assert f"torch.{tensor.dtype.torch}" == str(dtype)
    np.testing.assert_array_equal(tensor.numpy().astype(np.float32), np.array([1, 2.5], np.float32))


def test_objects_that_are_keys_are_told_apart(opened: Any) -> None:
    tensors = [torch.full((2,), float(n)) for n in range(1500)]
    tree = opened({tensor: n for n, tensor in enumerate(tensors)}).tree["value"]
    assert list(tree)[:3] == ["LazyTensor", "LazyTensor (2)", "LazyTensor (3)"]
    assert list(tree.values()) == list(range(1500))


def weights_with_an_odd_tensor(folder: Path) -> Path:
    quantized = torch.quantize_per_tensor(torch.arange(4.0), 0.1, 0, torch.quint8)
    model = {"q": quantized, "w": torch.ones(2, 2), "extra_state": torch.nn.functional.relu}
    torch.save({"model": model, "epoch": 3}, folder / "x.pth")
    return folder / "x.pth"


def test_an_odd_tensor_among_the_weights_is_not_left_out_unasked(tmp_path: Path) -> None:
    path = weights_with_an_odd_tensor(tmp_path)
    with pytest.raises(
        mfc.UnsafeError, match=r"x\.pth: found objects .*\(q: torch\._utils\._rebuild_qtensor\).*exclude"
    ):
        mfc.convert(path, tmp_path / "y.safetensors", model_only=True)
    assert not (tmp_path / "y.safetensors").exists()


def test_an_odd_tensor_among_the_weights_is_left_out_or_taken_apart_on_request(tmp_path: Path) -> None:
    path = weights_with_an_odd_tensor(tmp_path)
    report = mfc.convert(path, tmp_path / "y.safetensors", model_only=True, exclude=["q/*"])
    assert list(mfc.open(tmp_path / "y.safetensors").tree) == ["w"]
    assert "q/args/0" in report.excluded
    mfc.convert(path, tmp_path / "z.safetensors", model_only=True, allow_unknown=True)
    assert list(mfc.open(tmp_path / "z.safetensors").tree) == ["q", "w"]


@pytest.mark.parametrize("name", ["x.pth", "x_oneflow", "x.h5", "x.npz", "x.safetensors"])
def test_a_tree_that_nests_as_deep_as_any_may_is_read_to_its_end(name: str, tmp_path: Path) -> None:
    tree: Any = {"w": LazyTensor.from_array(np.ones(2, np.float32))}
    for _ in range(MAX_DEPTH - 1):
        tree = {"a": tree}
    mfc.Checkpoint(tree).save(tmp_path / name)
    assert list(mfc.open(tmp_path / name).tensors()) == ["a/" * (MAX_DEPTH - 1) + "w"]


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
def test_an_old_stream_of_any_protocol_is_read(protocol: int, tmp_path: Path) -> None:
    torch.save({"w": torch.arange(6.0)}, tmp_path / "x", pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    np.testing.assert_array_equal(mfc.open(tmp_path / "x").tree["w"].numpy(), np.arange(6, dtype=np.float32))
    assert mfc.verify(tmp_path / "x").whole


def old_views(views: dict[str, tuple[int, int]]) -> bytes:
    """Gives a stream as torch 0.3 wrote it: storages that are parts of one, which lies behind all pickles."""
    name = b"ctorch\nFloatStorage\n"

    def text(value: str) -> bytes:
        return b"X" + len(value).to_bytes(4, "little") + value.encode()

    tensors = b""
    for number, (key, (offset, size)) in enumerate(views.items()):
        view = b"(" + text(f"v{number}") + b"K%cK%ct" % (offset, size)
        storage = b"(" + text("storage") + name + text("root") + text("cpu") + b"K\x08" + view + b"tQ"
        tensor = b"ctorch._utils\n_rebuild_tensor\n(" + storage + b"K\x01K%c\x85K\x01\x85tR" % (size - 1)
        tensors += text(key) + tensor
    head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}]
    pickles = [pickle.dumps(value, 2) for value in head]
    stored = (8).to_bytes(8, "little") + np.arange(8, dtype=np.float32).tobytes()
    return b"".join(pickles) + b"\x80\x02}(" + tensors + b"u." + pickle.dumps(["root"], 2) + stored


def test_storages_that_lie_in_others_are_read_as_torch_reads_them(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(old_views({"a": (0, 4), "b": (3, 5)}))
    expected = torch.load(tmp_path / "x.pth", weights_only=False)
    tree = mfc.open(tmp_path / "x.pth").tree
    for key in ("a", "b"):
        np.testing.assert_array_equal(tree[key].numpy(), expected[key].numpy())
    assert tree["a"].alias == tree["b"].alias


def test_a_storage_that_reaches_out_of_the_one_that_it_lies_in_is_damage(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(old_views({"a": (4, 5)}))
    with pytest.raises(mfc.DamagedError, match="reaches out of storage"):
        mfc.open(tmp_path / "x.pth")


def test_an_optimizer_that_was_pickled_is_its_state_dict(opened: Any) -> None:
    parameters = [torch.nn.Parameter(torch.ones(2) * n) for n in range(1100)]
    optimizer = torch.optim.Adam([{"params": parameters[:3], "lr": 0.5}, {"params": parameters[3:]}])
    for parameter in parameters:
        parameter.grad = torch.ones(2)
    optimizer.step()
    tree, expected = opened(optimizer).tree["value"], optimizer.state_dict()
    assert list(tree["state"]) == list(expected["state"])
    assert [group["params"] for group in tree["param_groups"]] == [
        group["params"] for group in expected["param_groups"]
    ]
    assert tree["param_groups"][0]["lr"] == 0.5
    np.testing.assert_array_equal(tree["state"][7]["exp_avg"].numpy(), expected["state"][7]["exp_avg"].numpy())
