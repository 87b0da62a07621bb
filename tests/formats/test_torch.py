"""The torch format against torch itself: what it writes we read, what we write it reads."""

from __future__ import annotations

import argparse
import collections
import datetime
import pathlib
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.dtypes import DTYPES
from multiframe_ckpt.formats.torch.format import TorchFormat
from multiframe_ckpt.testing import FormatContract
from multiframe_ckpt.testing.formats import read, write
from multiframe_ckpt.tree import LazyTensor

torch = pytest.importorskip("torch")
# torch 2.0 warns of its own storages when it loads with weights_only.
pytestmark = pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
FORMAT = TorchFormat()
CONTAINERS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def saved(obj: Any, path: Path, *, zipped: bool) -> Path:
    torch.save(obj, path, _use_new_zipfile_serialization=zipped)
    return path


def raw_bytes(tensor: Any) -> bytes:
    dense = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return bytes(dense.view(torch.uint8).numpy().tobytes())


def assert_same(tensor: LazyTensor, expected: Any) -> None:
    assert f"torch.{tensor.dtype.torch}" == str(expected.dtype)
    assert tensor.shape == tuple(expected.shape)
    assert tensor.numpy().tobytes() == raw_bytes(expected)


def odd_tensors() -> dict[str, Any]:
    whole = torch.arange(24.0).reshape(2, 3, 4)
    base = torch.arange(10, dtype=torch.int16)
    weight = torch.nn.Parameter(torch.randn(3, 4))
    tensors = {
        "transposed": whole.transpose(0, 2),
        "stepped": whole[:, ::2, 1:],
        "expanded": torch.tensor([7.0]).expand(5, 3),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 3),
        "of_empty": torch.empty(3, 0)[1:],
        "slice": base[2:5],
        "overlap": base[4:8],
        "tied": weight,
        "again": weight,
        "conjugate": torch.randn(3, dtype=torch.complex64).conj(),
        "negative": torch.randn(3, dtype=torch.complex64).conj().imag,
        "bool": torch.tensor([True, False, True]),
    }
    names = [row.torch for row in DTYPES if row.torch and hasattr(torch, row.torch)]
    return tensors | {name: torch.arange(6).to(getattr(torch, name)).reshape(2, 3) for name in names}


@CONTAINERS
def test_every_tensor_torch_saves_is_read_bit_for_bit(tmp_path: Path, zipped: bool) -> None:
    expected = odd_tensors()
    found = read(FORMAT, saved(expected, tmp_path / "x.pt", zipped=zipped))
    assert list(found) == list(expected)
    for key, tensor in expected.items():
        assert_same(found[key], tensor)


@CONTAINERS
def test_shared_storages_stay_shared_and_tied_tensors_tied(tmp_path: Path, zipped: bool) -> None:
    tree = read(FORMAT, saved(odd_tensors(), tmp_path / "x.pt", zipped=zipped))
    assert tree["tied"].identity == tree["again"].identity
    assert tree["slice"].alias == tree["overlap"].alias
    assert tree["slice"].identity != tree["overlap"].identity
    write(FORMAT, tree, tmp_path / "y.pt")
    back = torch.load(tmp_path / "y.pt", weights_only=True)
    assert back["tied"].data_ptr() == back["again"].data_ptr()
    assert back["overlap"].data_ptr() - back["slice"].data_ptr() == 2 * 2
    back["slice"][2] = 99
    assert back["overlap"][0] == 99


def test_torch_reads_what_we_write_weights_only_and_mapped(tmp_path: Path) -> None:
    expected = odd_tensors()
    tree = read(FORMAT, saved(expected, tmp_path / "x.pt", zipped=True))
    write(FORMAT, tree, tmp_path / "y.pt")
    options = [{"weights_only": True}]
    if "mmap" in torch.load.__code__.co_varnames:
        options.append({"weights_only": True, "mmap": True})
    for option in options:
        found = torch.load(tmp_path / "y.pt", **option)
        for key, tensor in expected.items():
            assert (found[key].dtype, found[key].shape) == (tensor.dtype, tensor.shape)
            assert raw_bytes(found[key]) == raw_bytes(tensor), key


def test_plain_values_survive_and_known_objects_become_plain(tmp_path: Path) -> None:
    obj = {
        "ordered": collections.OrderedDict(b=1, a=2),
        "default": collections.defaultdict(list, {1: [2]}),
        "args": argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("/x/y")),
        "when": datetime.datetime(2020, 1, 2, 3, 4, tzinfo=datetime.timezone.utc),
        "took": datetime.timedelta(seconds=90),
        "array": np.arange(6, dtype=">i4").reshape(2, 3),
        "scalars": [np.float32(2.5), np.int64(-3), np.bool_(True)],
        "torch": [torch.float16, torch.device("cuda:1"), torch.Size([2, 3])],
        "plain": [None, True, -5, 2**70, -(2**70), 1e300, 1 + 2j, "ÿ\ud800", b"a\xff", (1, (2,)), {3, 1}],
        1: {2: {(3, "x"): None}},
    }
    for protocol in (2, 4):
        torch.save(obj, tmp_path / "x.pt", pickle_protocol=protocol)
        tree = read(FORMAT, tmp_path / "x.pt")
        assert tree.pop("array").numpy().tolist() == [[0, 1, 2], [3, 4, 5]]
        assert tree == {
            "ordered": {"b": 1, "a": 2},
            "default": {1: [2]},
            "args": {"lr": 0.1, "out": "/x/y"},
            "when": "2020-01-02T03:04:00+00:00",
            "took": "0:01:30",
            "scalars": [2.5, -3, True],
            "torch": ["torch.float16", "cuda:1", (2, 3)],
            "plain": [None, True, -5, 2**70, -(2**70), 1e300, 1 + 2j, "ÿ\ud800", b"a\xff", (1, (2,)), [1, 3]],
            1: {2: {(3, "x"): None}},
        }


class Net(torch.nn.Module):
    """A model whose class a reader does not need."""

    def __init__(self) -> None:
        super().__init__()
        self.block = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        self.head = torch.nn.Linear(4, 3)
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("transient", torch.ones(2), persistent=False)
        self.scheme = collections.namedtuple  # an object that is no value


@CONTAINERS
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_a_whole_model_is_read_as_its_state_dict(tmp_path: Path, zipped: bool) -> None:
    torch.save(torch.nn.DataParallel(Net()), tmp_path / "m.pt", pickle_module=_ByName, **_container(zipped))
    tree = read(FORMAT, tmp_path / "m.pt")
    torch.manual_seed(0)
    assert list(tree) == list(torch.nn.DataParallel(Net()).state_dict())


def _container(zipped: bool) -> dict[str, bool]:
    return {"_use_new_zipfile_serialization": zipped}


class _ByName(pickle.Pickler):
    """A pickle module that writes Net, which a test module cannot import by name, as the class it is."""

    Pickler: Any
    dump = staticmethod(pickle.dump)
    load = staticmethod(pickle.load)


_ByName.Pickler = type(
    "Pickler",
    (pickle._Pickler,),
    {
        "save_global": lambda self, obj, name=None: (
            self.write(b"c__main__\nNet\n") and self.memoize(obj)
            if obj is Net
            else pickle._Pickler.save_global(self, obj, name)
        )
    },
)


def test_the_tensors_beside_unknown_objects_are_read_and_those_are_unknown(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2), "f": torch.nn.functional.relu, "g": [collections.namedtuple]}, tmp_path / "x.pt")
    tree = read(FORMAT, tmp_path / "x.pt")
    assert_same(tree["w"], torch.ones(2))
    assert [node.type_name for node in (tree["f"], *tree["g"])] == [
        "torch.nn.functional.relu",
        "collections.namedtuple",
    ]


def test_a_torchscript_archive_is_told_apart(tmp_path: Path) -> None:
    record = {"m/data.pkl": b"\x80\x02}.", "m/constants.pkl": b"\x80\x02).", "m/version": b"3\n"}
    with zipfile.ZipFile(tmp_path / "j.pt", "w") as archive:
        for name, raw in record.items():
            archive.writestr(name, raw)
    with pytest.raises(mfc.FormatError, match="TorchScript"):
        read(FORMAT, tmp_path / "j.pt")


def test_a_big_endian_file_is_read_right(tmp_path: Path) -> None:
    expected = {"f": torch.arange(6.0).reshape(2, 3), "t": torch.arange(6, dtype=torch.int16), "c": torch.ones(2) * 1j}
    torch.save(expected, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as little, zipfile.ZipFile(tmp_path / "big.pt", "w") as big:
        sizes = {"0": 4, "1": 2, "2": 4}
        for name in little.namelist():
            part = name.partition("/data/")[2]
            raw = little.read(name)
            if not name.endswith("/byteorder"):
                big.writestr(name, np.frombuffer(raw, f"u{sizes[part]}").byteswap().tobytes() if part else raw)
        big.writestr("x/byteorder", b"big")
    tree = read(FORMAT, tmp_path / "big.pt")
    for key, tensor in expected.items():
        assert_same(tree[key], tensor)


def test_a_deflated_archive_is_read(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(1000.0)}, tmp_path / "x.pt")
    deflate = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(tmp_path / "x.pt") as stored, zipfile.ZipFile(tmp_path / "d.pt", "w", deflate) as deflated:
        for name in stored.namelist():
            deflated.writestr(name, stored.read(name))
    assert_same(read(FORMAT, tmp_path / "d.pt")["w"], torch.arange(1000.0))


@pytest.mark.parametrize("shape", [(10**12,), (10**9, 10**9), (2**62, 4)])
def test_an_expanded_tensor_that_would_fill_the_memory_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as archive:
        pickled = archive.read("x/data.pkl")
        records = {name: archive.read(name) for name in archive.namelist()}
    dims = b"".join(b"\x8a\x09" + dim.to_bytes(9, "little") for dim in shape)
    start = pickled.index(b"QK\x00K\x01") + 3
    forged = (
        pickled[:start] + b"(" + dims + b"t(" + b"K\x00" * len(shape) + b"t\x89" + pickled[pickled.index(b"\x89") + 1 :]
    )
    records["x/data.pkl"] = forged
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w") as archive:
        for name, raw in records.items():
            archive.writestr(name, raw)
    with pytest.raises(mfc.UnsafeError, match="fill the memory"):
        read(FORMAT, tmp_path / "bomb.pt")


def test_a_record_is_aligned_so_that_it_can_be_mapped(tmp_path: Path) -> None:
    write(
        FORMAT, {f"t{i}": LazyTensor.from_array(np.arange(i + 1, dtype=np.int8)) for i in range(9)}, tmp_path / "x.pt"
    )
    with zipfile.ZipFile(tmp_path / "x.pt") as archive:
        assert archive.testzip() is None
        raw = (tmp_path / "x.pt").read_bytes()
        for info in archive.infolist():
            name, extra = struct.unpack("<HH", raw[info.header_offset + 26 : info.header_offset + 30])
            assert (info.header_offset + 30 + name + extra) % 64 == 0


class TestTorchContract(FormatContract):
    """Every promise of a format."""

    format = FORMAT
