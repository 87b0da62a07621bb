"""Every name that a pickle may mention, called with anything: a value or a FormatError comes out, and nothing else."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import multiframe_ckpt as mfc
from multiframe_ckpt.formats.oneflow.objects import _builders
from multiframe_ckpt.formats.torch.tensors import TORCH_BUILDERS, TORCH_NAMES
from multiframe_ckpt.pickle.writer import PickleWriter, name_opcodes
from multiframe_ckpt.testing.strategies import plain_values


def torch_zip(pickled: bytes, folder: Path) -> Path:
    records = {"data.pkl": pickled, "data/0": bytes(range(64)), "version": b"3\n"}
    path = folder / "x.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name, raw in records.items():
            archive.writestr(f"x/{name}", raw)
    return path


def oneflow_folder(pickled: bytes, folder: Path) -> Path:
    variable = folder / "ckpt" / "tensor_1"
    variable.mkdir(parents=True)
    (variable / "out").write_bytes(bytes(8))
    (variable / "meta").write_bytes(b"shape {\n  dim: 2\n}\ndata_type: kFloat\n")
    (folder / "ckpt" / "pickled_data").write_bytes(pickled)
    return folder / "ckpt"


def oneflow_file(pickled: bytes, folder: Path) -> Path:
    (folder / "file").write_bytes(pickled)
    return folder / "file"


@dataclass(frozen=True)
class Name:
    """A global name, written as one."""

    module: str
    attribute: str


@dataclass(frozen=True)
class Call:
    """A known name called with arguments of any kind, and given a state."""

    name: Name
    args: tuple[Any, ...]
    state: Any = None


@dataclass(frozen=True)
class Reference:
    """A persistent id."""

    parts: Any


class Forger(PickleWriter):
    """Writes what a pickler never would."""

    def tensor(self, tensor: Any, path: tuple[Any, ...]) -> None:
        raise NotImplementedError

    def value(self, node: Any, path: tuple[Any, ...]) -> None:
        if isinstance(node, Name):
            self.emit(name_opcodes(node.module, node.attribute))
        elif isinstance(node, Call):
            self.value(node.name, path)
            self.value(node.args, path)
            self.emit(b"R")
            if node.state is not None:
                self.value(node.state, path)
                self.emit(b"b")
        elif isinstance(node, Reference):
            self.value(node.parts, path)
            self.emit(b"Q")
        elif isinstance(node, bytes) and node in TOWERS:
            self.emit(node)
        else:
            super().value(node, path)


#: Opcodes of containers of two that hold one container twice, 64 times over.
TOWERS = (
    b")" + b"2\x86" * 64,
    b"]" + b"q\x000]h\x00ah\x00a" * 64,
    b"}" + b"q\x000}K\x01h\x00sK\x02h\x00s" * 64,
)
STORAGE = Reference(("storage", Name("torch", "FloatStorage"), "0", "cpu", 16))
TENSOR = Call(Name("torch._utils", "_rebuild_tensor_v2"), (STORAGE, 0, (2, 3), (3, 1), False, {}))
ARRAY = Call(Name("numpy", "ndarray"), (), (1, (2,), Call(Name("numpy", "dtype"), ("f4",)), False, b"12345678"))
VARIABLE = Call(Name("oneflow", "Tensor"), (), {"path": "tensor_1"})
SEEDS = (
    *(STORAGE, TENSOR, ARRAY, VARIABLE, *TOWERS),
    *("cpu", "f4", "float32", "latin1", "tensor_1", "../tensor_1", "/dev/zero", "C", "=", ">"),
    *((), (2, 3), (-1, 2), (2**62, 2**62), (0,) * 70, 2**63, -(2**63), 2**7000),
    *(b"12345678", b"\x07\xe4\x01\x02\x03\x04\x05\x06\x07\x08", {"path": "tensor_1"}, {"conj": True, "neg": True}),
    *(Name(*known) for known in TORCH_NAMES),
    *(Name("torch", "FloatStorage"), Name("torch.storage", "UntypedStorage"), Name("os", "system")),
)


def known_names() -> list[Name]:
    names = {**TORCH_BUILDERS, **_builders(lambda _: None)}  # type: ignore[arg-type, return-value]
    return [Name(*known) for known in names]


def forged_values() -> st.SearchStrategy[Any]:
    known = st.sampled_from(known_names())

    def inside(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        items = st.lists(inner, max_size=6)
        state = st.none() | items.map(tuple) | st.dictionaries(st.text(max_size=3), inner, max_size=3) | inner
        return (
            items
            | items.map(tuple)
            | st.builds(Call, known, items.map(tuple), state)
            | st.builds(Reference, items.map(tuple))
        )

    return st.recursive(st.sampled_from(SEEDS) | plain_values() | known, inside, max_leaves=12)


CALLS = st.builds(
    Call, st.sampled_from(known_names()), st.lists(forged_values(), max_size=7).map(tuple), st.none() | forged_values()
)


@settings(deadline=None, max_examples=200, suppress_health_check=list(HealthCheck))
@given(container=st.sampled_from([torch_zip, oneflow_folder, oneflow_file]), called=CALLS)
def test_a_known_name_called_with_anything_gives_a_value_or_a_format_error(
    container: Callable[[bytes, Path], Path], called: Call
) -> None:
    header = {} if container is torch_zip else {"protocol_version": 1, "__oneflow__": None}
    pickled = Forger().dump({**header, "data": called})
    with tempfile.TemporaryDirectory() as folder, suppress(mfc.FormatError):
        for tensor in mfc.open(container(pickled, Path(folder))).tensors().values():
            tensor.numpy()
