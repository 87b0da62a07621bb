"""The zip archive that ``torch.save`` writes since 1.6: ``<root>/data.pkl`` and one stored record a storage.

docs/formats/torch.md describes the bytes. Source: torch 2.13 ``torch/serialization.py`` (``_save``, ``_load``) and
``caffe2/serialize/inline_container.cc``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..digests import digest_of_bytes, is_digest, require_digest, scheme_of
from ..errors import DamagedError, FormatError, UnsafeError
from ..progress import OnProgress, silent
from ..storage.archive import MappedArchive
from ..storage.archive_write import ArchiveWriter, NewMember
from ..tensor import LazyTensor, shared_storages
from ..tree import Path as TreePath
from ..tree import Tree, tensors_of
from .base import Meter, ReadOptions, WriteOptions, WritePlan
from .pickle.machine import PickleMachine
from .pickle.resolve import Resolver, module_state_dict
from .pickle.writer import PickleWriter
from .skeleton import dump_json, load_json
from .torch_tensors import TORCH_BUILDERS, TORCH_NAMES, UINT8, TorchStorage, dense_stride

__all__ = ["Archive", "plan_zip", "write_zip"]

_ROOT = "archive"
_PICKLE = "/data.pkl"
#: The record that this library adds; torch passes over what it does not know.
_DIGESTS = ".multiframe_ckpt"
_SMALL_LIMIT = 1 << 28  # torch compresses nothing; a small file could inflate to a thousand times its size


class Archive:
    """An opened torch zip archive; :meth:`tree` reads its headers."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._zip = MappedArchive(path)
        self._roots = [name[: -len(_PICKLE)] for name in self._zip.members if name.endswith(_PICKLE)]
        self.root = next(iter(self._roots), None)
        self._digests: Mapping[str, str] = {}
        self._verify = True

    def tree(self, options: ReadOptions) -> Tree:
        """Gives the tree, without moving a tensor byte."""
        if f"{self.root}/constants.pkl" in self._zip.members:
            raise FormatError(
                f"{self._path}: found a TorchScript archive, expected a checkpoint; "
                "with torch: torch.save(torch.jit.load(path).state_dict(), new_path)"
            )
        if len(self._roots) > 1:
            raise UnsafeError(
                f"{self._path}: found {len(self._roots)} records called data.pkl, expected one: readers would differ "
                "over which is meant; the file is forged"
            )
        self._digests, self._verify = self._read_digests(), options.verify
        pickled = self._small("data.pkl")
        if pickled is None:
            raise DamagedError(f"{self._path}: found no data.pkl in the archive, expected one; fetch the file again")
        order = (self._small("byteorder") or b"little").decode("ascii", "replace")
        if order not in ("little", "big"):
            raise DamagedError(f"{self._path}: found byte order {order!r}, expected little or big")
        storages: dict[str, TorchStorage] = {}
        stored = self._zip.file.size - len(pickled)
        machine = PickleMachine(
            pickled,
            where=str(self._path),
            builders=TORCH_BUILDERS,
            persistent=lambda identifier: self._storage(storages, identifier, order),
            stored=stored,
        )
        resolver = Resolver(
            str(self._path),
            len(pickled),
            allow_inert=options.allow_inert,
            names=TORCH_NAMES,
            collapse=module_state_dict,
            stored=stored,
        )
        return resolver.tree(machine.run())

    def _small(self, name: str) -> bytes | None:
        """Gives a record that holds no tensor, after checking its digest or CRC, or None where there is none."""
        member = f"{self.root}/{name}"
        if member not in self._zip.members:
            return None
        if self._zip.members[member].size > _SMALL_LIMIT and not self._zip.members[member].stored:
            raise UnsafeError(
                f"{self._path}: record {member}: found it compressed from more than {_SMALL_LIMIT} bytes, "
                "expected at most so many; zip the file again without compression"
            )
        raw = self._zip.head(member, self._zip.members[member].size)
        for promised in filter(None, (self._crc(member), self._digests.get(name))):
            require_digest(f"{self._path}: record {member}", digest_of_bytes(raw, scheme_of(promised)), promised)
        return raw

    def _read_digests(self) -> Mapping[str, str]:
        """Gives the digests of the records, by their name in the archive, where this library wrote them."""
        raw = self._small(_DIGESTS)
        found = {} if raw is None else load_json(raw, f"{self._path}: record {_DIGESTS}")
        records = found.get("digests", {}) if isinstance(found, dict) else None
        if not isinstance(records, dict) or not all(
            isinstance(digest, str) and is_digest(digest) for digest in records.values()
        ):
            raise DamagedError(
                f"{self._path}: record {_DIGESTS}: found no list of digests, expected one; the file is damaged: "
                "fetch it again"
            )
        missing = sorted(name for name in records if f"{self.root}/{name}" not in self._zip.members)
        if missing:
            raise DamagedError(
                f"{self._path}: found no record {missing[0]}, expected it as {_DIGESTS} says; fetch the file again"
            )
        return records

    def _crc(self, member: str) -> str | None:
        # torch can be told not to compute checksums; it then leaves this field zero.
        crc = self._zip.members[member].crc
        return f"crc32:{crc:08x}" if crc else None

    def _storage(self, storages: dict[str, TorchStorage], identifier: Any, order: str) -> TorchStorage:
        _, kind, key, _, count = identifier
        if key in storages:
            return storages[key]
        storage = storages[key] = TorchStorage(kind, key, count)
        member = f"{self.root}/data/{key}"
        if member not in self._zip.members:
            raise DamagedError(f"{self._path}: found no record {member}, expected one: the pickle refers to it")
        found = self._zip.members[member].size
        if found != storage.nbytes:
            raise DamagedError(
                f"{self._path}: record {member}: found {found} bytes, expected {storage.nbytes}; "
                "the file is damaged: fetch it again"
            )
        digest = self._digests.get(f"data/{key}") or self._crc(member)
        storage.raw = self._bytes(member, digest if self._verify else None)
        storage.swapped = order == "big"
        return storage

    def _bytes(self, member: str, digest: str | None) -> LazyTensor:
        nbytes = self._zip.members[member].size
        offset = self._zip.stored_at(member)
        if offset is None:
            return LazyTensor(UINT8, (nbytes,), lambda: self._zip.inflated(member), digest=digest)
        return self._zip.file.tensor(UINT8, (nbytes,), offset, what=f"record {member}", digest=digest)


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
        self.group(lambda: self._arguments(tensor, whole, number, offset, stride))
        self.emit(b"R")

    def _record(self, tensor: LazyTensor, whole: LazyTensor) -> int:
        # Two dtypes over one storage are two records: a record is of one storage type.
        alone = object() if tensor.identity is None else tensor.identity
        owner = alone if whole is tensor else (tensor.alias, tensor.dtype.name)
        if owner not in self._numbers:
            self._numbers[owner] = len(self.records)
            self.records.append((whole, tensor))
        return self._numbers[owner]

    def _arguments(
        self, tensor: LazyTensor, whole: LazyTensor, number: int, offset: int, stride: tuple[int, ...]
    ) -> None:
        self.group(lambda: self._persistent_id(tensor, whole, number))
        self.emit(b"Q")
        self._int(offset)
        self.group(lambda: self._children(tensor.shape, ()))
        self.group(lambda: self._children(stride, ()))
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
    lost = [group for group in shared_storages(table) if not _kept_together([table[key] for key in group])]
    return WritePlan(lost_ties=tuple(map(tuple, lost)))


def _kept_together(tensors: list[LazyTensor]) -> bool:
    """Says whether tensors of one storage share one record: those that are one tensor, or views of one dtype."""
    one = len({tensor.identity for tensor in tensors}) == 1
    return one or (len({tensor.dtype for tensor in tensors}) == 1 and all(tensor.view for tensor in tensors))


def write_zip(tree: Tree, path: Path, options: WriteOptions, *, on_progress: OnProgress = silent) -> None:
    """Writes the archive; the same tree gives the same bytes."""
    table = tensors_of(tree)
    pickle = _TorchPickle(_partly_shared(table))
    data = pickle.dump(tree)
    keys = {id(tensor): key for key, tensor in table.items()}
    fixed = {"data.pkl": data, ".format_version": b"1", ".storage_alignment": b"64", "byteorder": b"little"}
    members = [NewMember(f"{_ROOT}/{name}", raw) for name, raw in fixed.items()]
    for number, (whole, tensor) in enumerate(pickle.records):
        record = _whole_elements(whole, tensor.dtype.itemsize)
        members.append(NewMember(f"{_ROOT}/data/{number}", tensor=record, key=keys[id(tensor)]))
    members.append(NewMember(f"{_ROOT}/version", b"3\n"))
    meter = Meter({member.name: member.tensor for member in members if member.tensor}, on_progress)
    with path.open("xb", buffering=0) as file:
        archive = ArchiveWriter(file.fileno())
        digests = archive.add(members, digest=options.digest, moved=meter.moved)
        if options.digest:
            listed = {name.removeprefix(f"{_ROOT}/"): digest for name, digest in digests.items()}
            text = dump_json({"format_version": 1, "digests": listed})
            archive.add([NewMember(f"{_ROOT}/{_DIGESTS}", text.encode("ascii"))])
        archive.finish()


def _whole_elements(storage: LazyTensor, itemsize: int) -> LazyTensor:
    """Gives a storage without the bytes behind its last whole element."""
    nbytes = storage.nbytes // itemsize * itemsize
    if nbytes == storage.nbytes:
        return storage
    return replace(storage, shape=(nbytes,), source=lambda: storage.numpy()[:nbytes], extent=None, digest=None)


def _partly_shared(table: dict[str, LazyTensor]) -> set[Any]:
    """Gives the aliases of storages that tensors look into at different places: only these are written whole."""
    seen: dict[Any, Any] = {}
    shared = set()
    for tensor in table.values():
        if tensor.alias is not None and seen.setdefault(tensor.alias, tensor.identity) != tensor.identity:
            shared.add(tensor.alias)
    return shared
