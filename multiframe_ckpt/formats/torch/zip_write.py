"""Writes the zip archive that torch_zip reads: the pickle opcode by opcode, and one stored record a storage."""

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
from ..base import Changes, Plan, ProgressMeter, WriteOptions
from ..tree_json import dump_json
from .zip_read import DIGESTS

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

    def __init__(self, shared: Mapping[Hashable, bool]) -> None:
        super().__init__()
        self._shared = shared  # identities that several keys have, or that others lie on → whether others do
        self._numbers: dict[Hashable, int] = {}
        self._constants: dict[bytes, bytes] = {}
        self._frames: dict[str, tuple[bytes, bytes, bytes]] = {}
        self.records: list[tuple[LazyTensor, LazyTensor]] = []  # what a record's bytes are of, and a tensor in it

    def tensor(self, tensor: LazyTensor, path: TreePath) -> None:
        """Write the call that rebuilds the tensor."""
        partly = self._shared.get(tensor.identity)
        view = tensor.source if partly and isinstance(tensor.source, Strided) else None
        whole, offset, stride = (
            (view.storage, view.offset, view.strides) if view else (tensor, 0, c_strides(tensor.shape))
        )
        dtype = tensor.dtype
        count = whole.nbytes // dtype.itemsize * (1 if dtype.torch_storage else dtype.itemsize)
        start, middle, end = self._frames.get(dtype.name) or self._new_frames(dtype)
        number = str_opcodes(str(self._record(tensor, whole, alone=partly is None)))
        place = (int_opcodes(offset), _sizes(tensor.shape), _sizes(stride))
        self.emit(b"".join((start, number, middle, int_opcodes(count), b"tQ", *place, end)))

    def _new_frames(self, dtype: DType) -> tuple[bytes, bytes, bytes]:
        first = self._frame(dtype)
        self._frames[dtype.name] = self._frame(dtype)  # from now on all of it is in the memo
        return first

    def _frame(self, dtype: DType) -> tuple[bytes, bytes, bytes]:
        """Return what all tensors of a dtype have before a record's number, behind it, and at the end."""
        typed = dtype.torch_storage
        kind, rebuild = (name_opcodes("torch", typed), _REBUILD) if typed else (_UNTYPED, _REBUILD_UNTYPED)
        start = self._once(rebuild) + b"((" + self._once(_STORAGE) + self._once(kind)
        middle = self._once(_CPU)
        end = b"\x89" + self._once(_ORDERED_DICT) + b")R"  # requires no gradient, and has no hooks
        return start, middle, end + (b"tR" if typed else self._once(name_opcodes("torch", dtype.torch or "")) + b"tR")

    def _once(self, opcodes: bytes) -> bytes:
        """Return what pushes a name or fixed text: the opcodes the first time, then what takes it from the memo."""
        recall = self._constants.get(opcodes)
        if recall is not None:
            return recall
        index = len(self._constants)
        self._constants[opcodes] = b"h%c" % index
        return b"%bq%c" % (opcodes, index)

    def _record(self, tensor: LazyTensor, whole: LazyTensor, *, alone: bool) -> int:
        number = len(self.records)
        if not alone:
            # Two dtypes over one storage are two records: a record is of one storage type.
            owner = tensor.identity if whole is tensor else (tensor.alias, tensor.dtype.name)
            number = self._numbers.setdefault(owner, number)
        if number == len(self.records):
            self.records.append((whole, tensor))
        return number


@lru_cache(maxsize=4096)
def _sizes(sizes: tuple[int, ...]) -> bytes:
    return tuple_opcodes([*map(int_opcodes, sizes)])


def plan_zip(tree: Tree, options: WriteOptions) -> Plan:
    """Refuse what the pickle cannot hold; sharing is kept but between tensors of different dtypes."""
    table = tensors(tree)
    require_plain(tree)
    sharing = Sharing(table)
    lost = [group for group in sharing.overlaps if not _kept_together([table[key] for key in group])]
    pickle = _TorchPickle(_shared(sharing))
    data = pickle.dump(tree)
    keys = {id(tensor): key for key, tensor in table.items()}
    records = [(_whole_elements(whole, tensor.dtype.itemsize), keys[id(tensor)]) for whole, tensor in pickle.records]
    changes = Changes(lost_ties=tuple(map(tuple, lost)), lost_metadata=tuple(options.metadata))
    return TorchPlan(data, tuple(records), options.digest, changes)


@dataclass(frozen=True, slots=True)
class TorchPlan(Plan):
    """The pickle, and the storages behind it with the keys that reports have for them; the same tree gives the same."""

    data: bytes
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
        with target.open("xb", buffering=0) as file:
            archive = ZipWriter(file.fileno())
            digests = archive.add(members, digest=self.digest, moved=meter.moved)
            if self.digest:
                listed = {name.removeprefix(f"{_ROOT}/"): digest for name, digest in digests.items()}
                text = dump_json({"format_version": 1, "digests": listed})
                archive.add([NewMember(f"{_ROOT}/{DIGESTS}", text.encode("ascii"))])
            archive.finish()

    def _members(self) -> list[NewMember]:
        fixed = {"data.pkl": self.data, ".format_version": b"1", ".storage_alignment": b"64", "byteorder": b"little"}
        return [
            *(NewMember(f"{_ROOT}/{name}", raw) for name, raw in fixed.items()),
            *(
                NewMember(f"{_ROOT}/data/{number}", tensor=storage, key=key)
                for number, (storage, key) in enumerate(self.records)
            ),
            NewMember(f"{_ROOT}/version", b"3\n"),
        ]


def _kept_together(group: list[LazyTensor]) -> bool:
    """Return whether tensors of one storage share one record: those that are one tensor, or views of one dtype."""
    one = len({tensor.identity for tensor in group}) == 1
    views = all(isinstance(tensor.source, Strided) for tensor in group)
    return one or (len({tensor.dtype for tensor in group}) == 1 and views)


def _whole_elements(storage: LazyTensor, itemsize: int) -> LazyTensor:
    """Return a storage without the bytes behind its last whole element."""
    nbytes = storage.nbytes // itemsize * itemsize
    return storage if nbytes == storage.nbytes else storage[:nbytes]


def _shared(sharing: Sharing) -> dict[Hashable, bool]:
    """Return the tensors that share a record, and whether that is their whole storage: where others lie on them in it."""
    tied = {sharing.tensors[group[0]].identity: False for group in sharing.ties}
    return tied | {sharing.tensors[key].identity: True for group in sharing.overlaps for key in group}
