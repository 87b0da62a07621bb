"""What OneFlow's pickles name: tensors by the folder that holds them, sizes and dtypes.

Source: OneFlow 0.9 ``check_point_v2.py`` (``tensor_getstate``, ``tensor_setstate``), and 1.0; measured on 0.8 and 0.9.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeAlias

from ...dtypes import BFLOAT16, DTYPES, DType, narrow
from ...errors import DamagedError, FormatError, UnsafeError
from ...pickle.arrays import ArrayPart
from ...pickle.known import PLAIN
from ...pickle.machine import PickleMachine
from ...pickle.modules import module_state_dict
from ...pickle.raw import Builders, Pending
from ...pickle.resolve import Resolver
from ...pickle.writer import PickleWriter, name_opcodes, str_opcodes
from ...storage.folders import Folder
from ...tree import File, LazyTensor, Tree
from ...tree import Path as TreePath
from ...tree.digests import digest_of_bytes
from ..base import Versions
from .meta import Comment
from .variable import read_limited, read_variable

__all__ = ["OneFlowPickle", "read_folder_pickle", "read_single_file"]

_MAX_PICKLE = 1 << 30  # bytes; its tensors lie elsewhere: this is far more than the plain values of a run

_TENSOR_CLASSES = (
    ("oneflow", "Tensor"),
    ("oneflow.nn", "Parameter"),
    ("oneflow._oneflow_internal", "Tensor"),  # 0.6 and 0.7
    ("oneflow._oneflow_internal.nn", "Parameter"),
)


#: Gives the tensor that a pickle names by its folder.
_Load: TypeAlias = Callable[[object], LazyTensor]


class _DtypePart(Pending):
    """An ``oneflow.dtype`` in the making: its state is its number in ``data_type.proto``."""

    def __init__(self, *_: object) -> None:
        self.number: object = None

    def set_state(self, state: object) -> None:
        self.number = state

    def row(self) -> DType | None:
        return next((row for row in DTYPES if row.oneflow_number == self.number), None)

    def resolve(self) -> str:
        row = self.row()
        if row is None and type(self.number) is not int:
            raise TypeError("a dtype without its number")
        return f"oneflow.{row.name}" if row else f"oneflow.dtype({self.number})"


class _TensorPart(Pending):
    """A tensor in the making: its state is ``{"path": folder}``, or in 1.0 files ``{"data": array, "dtype": …}``."""

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._state: dict[str, Any] = {}
        self._tensor: LazyTensor | None = None

    def set_state(self, state: object) -> None:
        if not isinstance(state, dict):
            raise TypeError(f"a tensor whose state is a {type(state).__name__}")
        self._state = state

    def resolve(self) -> LazyTensor:
        if self._tensor is None:
            array = self._state.get("data")
            if isinstance(array, ArrayPart):
                self._tensor = _tensor_of_array(array, self._state.get("dtype"))
            else:
                self._tensor = self._load(self._state.get("path"))
        return self._tensor


def _tensor_of_array(part: ArrayPart, dtype: object) -> LazyTensor:
    array = part.array()
    if isinstance(dtype, _DtypePart) and dtype.row() is BFLOAT16:
        array = narrow(array.astype("float32"), BFLOAT16)  # 1.0 keeps bfloat16 as float32
    return LazyTensor.from_array(array, alias=object())


def _builders(load: _Load) -> Builders:
    return {
        **PLAIN,
        **{name: lambda *_: _TensorPart(load) for name in _TENSOR_CLASSES},
        ("oneflow", "Size"): lambda shape=(): tuple(shape),
        ("oneflow._oneflow_internal", "dtype"): _DtypePart,
    }


def read_folder_pickle(folder: Folder, name: str) -> tuple[Tree, Mapping[str, object]]:
    """Return the object of a folder's ``pickled_data``, whose tensors lie in the same folder, and facts of it."""
    raw = read_limited(folder.file(name), _MAX_PICKLE)
    variables = _Variables(folder, f"{folder.where}/{name}", digest_of_bytes(raw))
    return _read_object(raw, variables.pickle_path, variables.load)


def read_single_file(file: File) -> tuple[Tree, Mapping[str, object]]:
    """Return the object of a file of OneFlow 1.0, which holds its tensors, and facts of it."""

    def load(_: object) -> LazyTensor:
        raise DamagedError(
            f"{file.where}: found a tensor without its values, expected them in this file; fetch it again"
        )

    return _read_object(file.contents(), file.where, load)


def _read_object(pickled: bytes | mmap.mmap, where: str, load: _Load) -> tuple[Tree, Mapping[str, object]]:
    machine = PickleMachine(pickled, where=where, builders=_builders(load))
    raw = machine.run()
    version = raw.get("protocol_version") if isinstance(raw, dict) else None
    if type(version) is not int or version != 1 or "data" not in raw:
        header = f"protocol_version {version}" if type(version) is int and abs(version) < 1 << 32 else "another header"
        raise FormatError(
            f"{where}: found a pickle with {header}, expected OneFlow's protocol_version 1 with its data; "
            "if another program wrote it, name its format"
        )
    resolver = Resolver(where, machine.end, simplify=module_state_dict, versions=machine.versions)
    return resolver.tree(raw["data"]), resolver.facts


class _Variables:
    """The variables of a folder to which its pickle points; ``digest`` is the pickle's own."""

    def __init__(self, root: Folder, pickle_path: str, digest: str) -> None:
        self.pickle_path = pickle_path
        self._root, self._digest = root, digest
        # That of the variable before, with its folder: the variables of one snapshot follow each other.
        self._snapshot: tuple[str, Folder] = "", root

    def load(self, path: object) -> LazyTensor:
        """Return the tensor that the pickle names by its folder."""
        if not isinstance(path, str) or not path:
            raise DamagedError(
                f"{self.pickle_path}: found a tensor that points to no folder, expected one beside the pickle"
            )
        key = os.path.normpath(path)
        if os.path.isabs(key) or key.split(os.sep)[0] == "..":
            raise UnsafeError(
                f"{self.pickle_path}: found a tensor that points to {path!r}, out of the checkpoint, expected a folder "
                "inside it; this file is forged: do not load it with OneFlow"
            )
        variable = self._variable(key)
        if variable is None:
            raise DamagedError(
                f"{self._root.where}/{key}: found no file 'out', expected one: {os.path.basename(self.pickle_path)} points "
                "there; restore it"
            )
        tensor, comment = variable
        if comment is not None and comment.pickle not in (None, self._digest):
            raise DamagedError(
                f"{self.pickle_path}: found a pickle with digest {self._digest}, expected {comment.pickle} as {key}/meta "
                "says; its plain values cannot be trusted: restore it from a copy"
            )
        return tensor

    def _variable(self, key: str) -> tuple[LazyTensor, Comment | None] | None:
        snapshot_key, _, name = key.rpartition("/")
        try:
            if snapshot_key != self._snapshot[0]:
                self._snapshot = snapshot_key, self._root.folder(snapshot_key) if snapshot_key else self._root
            return read_variable(self._snapshot[1], name)
        except (OSError, ValueError):  # ValueError: damage, or a name that no disk can hold
            if self._root.has(f"{key}/out"):
                raise
            return None


class OneFlowPickle(PickleWriter):
    """Writes ``{"protocol_version": 1, "data": tree}`` with tensors as references to folders.

    ``folder_of`` gives each tensor's folder. One tensor under several keys is one object of the pickle: memoized.
    """

    def __init__(self, folder_of: Callable[[TreePath, LazyTensor], str], versions: Versions) -> None:
        super().__init__({f"data/{key}" if key else "data": facts for key, facts in versions.items()})
        self._folder_of = folder_of
        self._memo: dict[Hashable, int] = {}

    def dump(self, tree: Tree) -> bytes:
        """Return the bytes of ``pickled_data``."""
        return super().dump({"protocol_version": 1, "data": tree})

    def tensor(self, tensor: LazyTensor, path: TreePath) -> None:
        """Write the reference: the opcodes that OneFlow's own pickler gives."""
        folder = self._folder_of(path[1:], tensor)
        owner = object() if tensor.identity is None else tensor.identity
        if owner in self._memo:
            self.emit(b"j", self._memo[owner].to_bytes(4, "little"))
            return
        self.emit(name_opcodes("oneflow", "Tensor"), b")\x81}", str_opcodes("path"), str_opcodes(folder), b"sb")
        self._memo[owner] = len(self._memo)  # of every tensor: whether it is tied must not show in other bytes
        self.emit(b"r", self._memo[owner].to_bytes(4, "little"))
