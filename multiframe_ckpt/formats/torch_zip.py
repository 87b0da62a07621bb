"""The zip archive that ``torch.save`` writes since 1.6: ``<root>/data.pkl`` and one stored record a storage.

docs/formats/torch.md describes the bytes. Source: torch 2.13 ``torch/serialization.py`` (``_save``, ``_load``) and
``caffe2/serialize/inline_container.cc``.
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..dtypes import DTYPES
from ..errors import DamagedError, FormatError, UnsafeError
from ..progress import OnProgress, silent
from ..storage.extents import MappedFile
from ..storage.integrity import chunks_of
from ..tensor import LazyTensor, shared_storages
from ..tree import Path as TreePath
from ..tree import Tree, tensors_of
from .base import Meter, ReadOptions, WritePlan
from .pickle.machine import PickleMachine
from .pickle.resolve import Resolver, module_state_dict
from .pickle.writer import PickleWriter
from .torch_tensors import TORCH_BUILDERS, TORCH_NAMES, TorchStorage, dense_stride

__all__ = ["Archive", "plan_zip", "write_zip"]

_UINT8 = next(row for row in DTYPES if row.name == "uint8")
_ROOT = "archive"
_ALIGNMENT = 64  # torch aligns records so that they can be mapped
_PADDING_ID = 0x4246  # "FB", the extra field torch pads with
_LOCAL_HEADER = 30
_MAX_DEFLATE_RATIO = 1032  # what deflate can reach: more is a forged size


class Archive:
    """An opened torch zip archive; :meth:`tree` reads its headers."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = MappedFile(path)
        try:
            self._zip = zipfile.ZipFile(self._file.buffer)  # type: ignore[arg-type]  # a map reads and seeks
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, struct.error) as problem:
            raise DamagedError(
                f"{path}: found a zip file without a readable directory ({problem}), expected a whole one; "
                "the file is cut short: fetch it again"
            ) from problem
        self._records = {info.filename: info for info in self._zip.infolist()}
        if len(self._records) != len(self._zip.infolist()):
            raise UnsafeError(f"{path}: found two records of one name, expected distinct ones; this file is forged")
        self.root = next((name[: -len("/data.pkl")] for name in self._records if name.endswith("/data.pkl")), None)

    def record(self, name: str) -> bytes | None:
        """Gives a small record's bytes, or None where there is none."""
        info = self._records.get(f"{self.root}/{name}")
        return None if info is None else self._lazy_record(info).numpy().tobytes()

    def tree(self, options: ReadOptions) -> Tree:
        """Gives the tree, without moving a tensor byte."""
        if self.record("constants.pkl") is not None:
            raise FormatError(
                f"{self._path}: found a TorchScript archive, expected a checkpoint; "
                "with torch: torch.save(torch.jit.load(path).state_dict(), new_path)"
            )
        pickled = self.record("data.pkl")
        if pickled is None:
            raise DamagedError(f"{self._path}: found no data.pkl in the archive, expected one; fetch the file again")
        order = (self.record("byteorder") or b"little").decode("ascii", "replace")
        if order not in ("little", "big"):
            raise DamagedError(f"{self._path}: found byte order {order!r}, expected little or big")
        storages: dict[str, TorchStorage] = {}
        machine = PickleMachine(
            pickled,
            where=str(self._path),
            builders=TORCH_BUILDERS,
            persistent=lambda identifier: self._storage(storages, identifier, order),
        )
        resolver = Resolver(
            str(self._path),
            len(pickled),
            allow_inert=options.allow_inert,
            names=TORCH_NAMES,
            collapse=module_state_dict,
        )
        return resolver.tree(machine.run())

    def _storage(self, storages: dict[str, TorchStorage], identifier: Any, order: str) -> TorchStorage:
        _, kind, key, _, count = identifier
        if key in storages:
            return storages[key]
        storage = storages[key] = TorchStorage(kind, key, count)
        info = self._records.get(f"{self.root}/data/{key}")
        if info is None:
            raise DamagedError(f"{self._path}: found no record data/{key}, expected one: the pickle refers to it")
        if info.file_size != storage.nbytes:
            raise DamagedError(
                f"{self._path}: record data/{key}: found {info.file_size} bytes, expected {storage.nbytes}; "
                "the file is damaged: fetch it again"
            )
        storage.raw = self._lazy_record(info)
        storage.swapped = order == "big"
        # torch can be told not to compute checksums; it then leaves this field zero.
        storage.digest = f"crc32:{info.CRC:08x}" if info.CRC else None
        return storage

    def _lazy_record(self, info: zipfile.ZipInfo) -> LazyTensor:
        if info.flag_bits & 1:
            raise UnsafeError(f"{self._path}: {info.filename}: found an encrypted record, expected a plain one")
        if info.compress_type != zipfile.ZIP_STORED:
            return self._deflated(info)
        what = f"record {info.filename}"
        header = self._file.bytes(info.header_offset, _LOCAL_HEADER, what)
        signature, name_size, extra_size = struct.unpack("<4s22xHH", header)
        if signature != b"PK\x03\x04" or info.compress_size != info.file_size:
            raise DamagedError(f"{self._path}: {what}: found no such record where the directory says; fetch it again")
        offset = info.header_offset + _LOCAL_HEADER + name_size + extra_size
        return self._file.tensor(_UINT8, (info.file_size,), offset, what=what)

    def _deflated(self, info: zipfile.ZipInfo) -> LazyTensor:
        if info.file_size > _MAX_DEFLATE_RATIO * info.compress_size + 1024:
            raise UnsafeError(f"{self._path}: {info.filename}: found an impossible compressed size; this file is forged")

        def source() -> np.ndarray:
            try:
                return np.frombuffer(self._zip.read(info), np.uint8)
            except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError, ValueError) as problem:
                raise DamagedError(f"{self._path}: {info.filename}: {problem}; fetch the file again") from problem

        return LazyTensor(_UINT8, (info.file_size,), source)


class _TorchPickle(PickleWriter):
    """Writes tensors as ``_rebuild_tensor_v2`` over storages, and remembers the storages to write behind it.

    Tensors that share a storage share its record; a tensor alone in its storage is written densely, without the rest.
    """

    def __init__(self, shared: set[Any]) -> None:
        super().__init__()
        self._shared = shared
        self._numbers: dict[Any, int] = {}
        self.records: list[tuple[LazyTensor, LazyTensor]] = []  # what a record's bytes are of, and a tensor in it

    def tensor(self, tensor: LazyTensor, path: TreePath) -> None:
        """Writes the call that rebuilds the tensor."""
        whole = tensor.view.storage if tensor.view is not None and tensor.alias in self._shared else tensor
        offset, stride = 0, dense_stride(tensor.shape)
        if whole is not tensor and tensor.view is not None:
            offset, stride = tensor.view.offset, tensor.view.stride
        number = self._record(tensor, whole)
        typed = tensor.dtype.torch_storage
        self.name("torch._utils", "_rebuild_tensor_v2" if typed else "_rebuild_tensor_v3")
        self.tuple(lambda: self._arguments(tensor, whole, number, offset, stride))
        self.emit(b"R")

    def _record(self, tensor: LazyTensor, whole: LazyTensor) -> int:
        # Two dtypes over one storage are two records: a record is of one storage type.
        owner = (tensor.alias, tensor.dtype.name) if whole is not tensor else tensor.identity or object()
        if owner not in self._numbers:
            self._numbers[owner] = len(self.records)
            self.records.append((whole, tensor))
        return self._numbers[owner]

    def _arguments(
        self, tensor: LazyTensor, whole: LazyTensor, number: int, offset: int, stride: tuple[int, ...]
    ) -> None:
        self.tuple(lambda: self._persistent_id(tensor, whole, number))
        self.emit(b"Q")
        self._int(offset)
        self.tuple(lambda: self._children(tensor.shape, ()))
        self.tuple(lambda: self._children(stride, ()))
        self._bool(False)
        self.name("collections", "OrderedDict")
        self.emit(b")R")
        if tensor.dtype.torch_storage is None:
            self.name("torch", tensor.dtype.torch or "")

    def _persistent_id(self, tensor: LazyTensor, whole: LazyTensor, number: int) -> None:
        typed = tensor.dtype.torch_storage
        self._str("storage")
        self.name(*(("torch", typed) if typed else ("torch.storage", "UntypedStorage")))
        self._str(str(number))
        self._str("cpu")
        count = whole.nbytes // tensor.dtype.itemsize
        self._int(count if typed else count * tensor.dtype.itemsize)


def plan_zip(tree: Tree) -> WritePlan:
    """Refuses what the pickle cannot hold; sharing is kept but between tensors of different dtypes."""
    table = tensors_of(tree)
    _TorchPickle(set()).dump(tree)
    mixed = [group for group in shared_storages(table) if len({table[key].dtype for key in group}) > 1]
    return WritePlan(lost_ties=tuple(map(tuple, mixed)))


def write_zip(tree: Tree, path: Path, *, on_progress: OnProgress = silent) -> None:
    """Writes the archive; the same tree gives the same bytes."""
    table = tensors_of(tree)
    pickle = _TorchPickle(_partly_shared(table))
    data = pickle.dump(tree)
    meter = Meter({str(i): whole for i, (whole, _) in enumerate(pickle.records)}, on_progress)
    with path.open("xb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, raw in (("data.pkl", data), (".format_version", b"1"), (".storage_alignment", b"64")):
            _write_record(archive, file, name, np.frombuffer(raw, np.uint8))
        _write_record(archive, file, "byteorder", np.frombuffer(b"little", np.uint8))
        for number, (whole, tensor) in enumerate(pickle.records):
            count = whole.nbytes // tensor.dtype.itemsize  # a storage of bytes may end within an element
            array = whole.numpy() if whole is tensor else whole.numpy()[: count * tensor.dtype.itemsize]
            _write_record(archive, file, f"data/{number}", array)
            meter.moved(str(number), whole)
        _write_record(archive, file, "version", np.frombuffer(b"3\n", np.uint8))


def _partly_shared(table: dict[str, LazyTensor]) -> set[Any]:
    """Gives the aliases of storages that tensors look into at different places: only these are written whole."""
    seen: dict[Any, Any] = {}
    shared = set()
    for tensor in table.values():
        if tensor.alias is not None and seen.setdefault(tensor.alias, tensor.identity) != tensor.identity:
            shared.add(tensor.alias)
    return shared


def _write_record(archive: zipfile.ZipFile, file: BinaryIO, name: str, array: np.ndarray) -> None:
    info = zipfile.ZipInfo(f"{_ROOT}/{name}", (1980, 1, 1, 0, 0, 0))
    info.file_size = array.nbytes
    large = array.nbytes >= zipfile.ZIP64_LIMIT // 2
    start = file.tell() + _LOCAL_HEADER + len(info.filename) + (20 if large else 0)  # 20: the zip64 extra field
    padding = -(start + 4) % _ALIGNMENT
    info.extra = struct.pack("<HH", _PADDING_ID, padding) + bytes(padding)
    with archive.open(info, "w", force_zip64=large) as record:
        for chunk in chunks_of(array):
            record.write(chunk)
