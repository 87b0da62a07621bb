"""Writes the zip archive that zip_read reads: the pickle opcode by opcode, and one stored record a storage."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ...dtypes import DType
from ...pickle.writer import PickleWriter, int_opcodes, name_opcodes, require_plain, str_opcodes, tuple_opcodes
from ...progress import OnProgress
from ...storage.zip_writer import NewMember, ZipWriter
from ...tree import LazyTensor, Sharing, Strided, Tree, tensors
from ...tree import Path as TreePath
from ...tree.boxes import c_strides
from ..base import Changes, Plan, ProgressMeter, Versions, WriteOptions
from ..tree_json import dump_json
from .tensors import most_expanded
from .zip_read import DIGESTS_RECORD

__all__ = ["TorchPlan", "plan_zip"]

_ROOT = "archive"

_REBUILD = name_opcodes("torch._utils", "_rebuild_tensor_v2")
_REBUILD_UNTYPED = name_opcodes("torch._utils", "_rebuild_tensor_v3")
_UNTYPED = name_opcodes("torch.storage", "UntypedStorage")
_ORDERED_DICT = name_opcodes("collections", "OrderedDict")
_STORAGE, _CPU = str_opcodes("storage"), str_opcodes("cpu")


class _TorchPickle(PickleWriter):
    """Writes tensors as ``_rebuild_tensor_v2`` over storages, and remembers the storages to write behind it.

    Tensors that share a storage share its record; a tensor alone in its storage is written densely, without the rest. What
    every tensor names is memoized.
    """

    def __init__(self, shared: Mapping[Hashable, bool], versions: Versions) -> None:
        super().__init__(versions)
        self._shared = shared  # identities that several keys have, or that others lie on → whether others do
        self._numbers: dict[Hashable, int] = {}
        self._constants: dict[bytes, bytes] = {}
        self._frames: dict[str, tuple[bytes, bytes, bytes]] = {}
        self.records: list[tuple[LazyTensor, LazyTensor]] = []  # a storage, and a tensor in it

    def tensor(self, tensor: LazyTensor, path: TreePath) -> None:
        """Write the call that rebuilds the tensor."""
        in_whole_storage = self._shared.get(tensor.identity)
        view = tensor.source if in_whole_storage and isinstance(tensor.source, Strided) else None
        storage, offset, strides = (
            (view.storage, view.offset, view.strides) if view else (tensor, 0, c_strides(tensor.shape))
        )
        dtype = tensor.dtype
        count = storage.nbytes // dtype.itemsize * (1 if dtype.torch_storage else dtype.itemsize)
        start, middle, end = self._frames.get(dtype.name) or self._new_frames(dtype)
        number = str_opcodes(str(self._record(tensor, storage, alone=in_whole_storage is None)))
        view_opcodes = (int_opcodes(offset), _sizes_opcodes(tensor.shape), _sizes_opcodes(strides))
        self.emit(b"".join((start, number, middle, int_opcodes(count), b"tQ", *view_opcodes, end)))

    def _new_frames(self, dtype: DType) -> tuple[bytes, bytes, bytes]:
        first = self._frame(dtype)
        self._frames[dtype.name] = self._frame(dtype)  # from now on all of it is in the memo
        return first

    def _frame(self, dtype: DType) -> tuple[bytes, bytes, bytes]:
        """Return what all tensors of a dtype have before a record's number, behind it, and at the end."""
        storage_type = dtype.torch_storage
        kind, rebuild = (
            (name_opcodes("torch", storage_type), _REBUILD) if storage_type else (_UNTYPED, _REBUILD_UNTYPED)
        )
        start = self._once(rebuild) + b"((" + self._once(_STORAGE) + self._once(kind)
        middle = self._once(_CPU)
        end = b"\x89" + self._once(_ORDERED_DICT) + b")R"  # requires no gradient, and has no hooks
        dtype_argument = b"" if storage_type else self._once(name_opcodes("torch", dtype.torch or ""))
        return start, middle, end + dtype_argument + b"tR"

    def _once(self, opcodes: bytes) -> bytes:
        """Return what pushes a name or fixed text: the opcodes the first time, then what takes it from the memo."""
        recall = self._constants.get(opcodes)
        if recall is not None:
            return recall
        index = len(self._constants)
        self._constants[opcodes] = b"h%c" % index
        return b"%bq%c" % (opcodes, index)

    def _record(self, tensor: LazyTensor, storage: LazyTensor, *, alone: bool) -> int:
        number = len(self.records)
        if not alone:
            # Two dtypes over one storage are two records: a record is of one storage type.
            owner = tensor.identity if storage is tensor else (tensor.alias, tensor.dtype.name)
            number = self._numbers.setdefault(owner, number)
        if number == len(self.records):
            self.records.append((storage, tensor))
        return number


@lru_cache(maxsize=4096)
def _sizes_opcodes(sizes: tuple[int, ...]) -> bytes:
    return tuple_opcodes([*map(int_opcodes, sizes)])


def plan_zip(tree: Tree, options: WriteOptions) -> Plan:
    """Refuse what the pickle cannot hold; sharing is kept but between tensors of different dtypes."""
    table = tensors(tree)
    require_plain(tree)
    sharing = Sharing(table)
    lost = [group for group in sharing.overlaps if not _share_one_record([table[key] for key in group])]
    pickle = _TorchPickle(_shared_tensors(sharing), options.versions)
    pickled = pickle.dump(tree)
    keys = {id(tensor): key for key, tensor in table.items()}
    records = [
        (_whole_elements(storage, tensor.dtype.itemsize), keys[id(tensor)]) for storage, tensor in pickle.records
    ]
    changes = Changes(lost_ties=tuple(map(tuple, lost)), lost_metadata=tuple(options.metadata))
    return TorchPlan(pickled, tuple(records), options.digest, changes)


@dataclass(frozen=True, slots=True)
class TorchPlan(Plan):
    """The pickle, and the storages behind it with the keys that reports have for them; the same tree gives the same."""

    pickled: bytes
    records: tuple[tuple[LazyTensor, str], ...]
    digest: bool
    changes: Changes

    @property
    def nbytes(self) -> int:
        """Bytes of the storages."""
        return sum(storage.nbytes for storage, _ in self.records)

    def write(self, target: Path, on_progress: OnProgress) -> None:
        """Write the archive."""
        members = self._members()
        meter = ProgressMeter({member.name: member.tensor for member in members if member.tensor}, on_progress)
        with target.open("x+b", buffering=0) as file:
            archive = ZipWriter(file.fileno())
            digests = archive.add(members, digest=self.digest, moved=meter.moved)
            if self.digest:
                by_record = {name.removeprefix(f"{_ROOT}/"): digest for name, digest in digests.items()}
                text = dump_json({"format_version": 1, "digests": by_record})
                archive.add([NewMember(f"{_ROOT}/{DIGESTS_RECORD}", text.encode("ascii"))])
            archive.finish()

    def _members(self) -> list[NewMember]:
        small_records = {
            "data.pkl": self.pickled,
            ".format_version": b"1",
            ".storage_alignment": b"64",
            "byteorder": b"little",
        }
        return [
            *(NewMember(f"{_ROOT}/{name}", raw) for name, raw in small_records.items()),
            *(
                NewMember(f"{_ROOT}/data/{number}", tensor=storage, key=key)
                for number, (storage, key) in enumerate(self.records)
            ),
            NewMember(f"{_ROOT}/version", b"3\n"),
        ]


def _share_one_record(group: list[LazyTensor]) -> bool:
    """Return whether tensors of one storage share one record: those that are one tensor, or views of one dtype."""
    one_tensor = len({tensor.identity for tensor in group}) == 1
    views = all(isinstance(tensor.source, Strided) for tensor in group)
    return one_tensor or (len({tensor.dtype for tensor in group}) == 1 and views)


def _whole_elements(storage: LazyTensor, itemsize: int) -> LazyTensor:
    """Return a storage without the bytes behind its last whole element."""
    nbytes = storage.nbytes // itemsize * itemsize
    return storage if nbytes == storage.nbytes else storage[:nbytes]


def _shared_tensors(sharing: Sharing) -> dict[Hashable, bool]:
    """Return the tensors that share a record, and whether that is their whole storage: where others lie on them in it.

    So does one that is larger than its storage, as far as readers take it.
    """
    tied = {sharing.tensors[group[0]].identity: False for group in sharing.ties}
    overlapping = {sharing.tensors[key].identity: True for group in sharing.overlaps for key in group}
    return (
        tied | overlapping | {tensor.identity: True for tensor in sharing.tensors.values() if _stays_expanded(tensor)}
    )


def _stays_expanded(tensor: LazyTensor) -> bool:
    view = tensor.source
    if not (isinstance(view, Strided) and view.is_expanded and tensor.alias is not None):
        return False
    return tensor.nbytes <= most_expanded(view.storage.nbytes)
