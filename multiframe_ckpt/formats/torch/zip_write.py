"""Writes the zip archive that torch_zip reads: the pickle opcode by opcode, and one stored record a storage."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from ...dtypes import DType
from ...pickle.writer import PickleWriter, int_opcodes, name_opcodes, require_plain, str_opcodes, tuple_opcodes
from ...progress import OnProgress, silent
from ...storage.zip_writer import ArchiveWriter, NewMember
from ...tree import LazyTensor, Tree, shared_storages, tensors
from ...tree import Path as TreePath
from ..base import ProgressMeter, WriteOptions, WritePlan
from ..tree_json import dump_json
from .tensors import dense_stride
from .zip_read import DIGESTS

__all__ = ["plan_zip", "write_zip"]

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
        self._shared = shared  # aliases that several tensors have → whether these look at different places
        self._numbers: dict[Hashable, int] = {}
        self._constants: dict[bytes, bytes] = {}
        self._frames: dict[str, tuple[bytes, bytes, bytes]] = {}
        self.records: list[tuple[LazyTensor, LazyTensor]] = []  # what a record's bytes are of, and a tensor in it

    def tensor(self, tensor: LazyTensor, path: TreePath) -> None:
        """Write the call that rebuilds the tensor."""
        partly = self._shared.get(tensor.alias)
        whole, offset, stride = tensor.view if partly and tensor.view else (tensor, 0, dense_stride(tensor.shape))
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


def plan_zip(tree: Tree) -> WritePlan:
    """Refuse what the pickle cannot hold; sharing is kept but between tensors of different dtypes."""
    table = tensors(tree)
    require_plain(tree)
    lost = [group for group in shared_storages(table) if not _kept_together([table[key] for key in group])]
    return WritePlan(lost_ties=tuple(map(tuple, lost)))


def _kept_together(tensors: list[LazyTensor]) -> bool:
    """Return whether tensors of one storage share one record: those that are one tensor, or views of one dtype."""
    one = len({tensor.identity for tensor in tensors}) == 1
    return one or (len({tensor.dtype for tensor in tensors}) == 1 and all(tensor.view for tensor in tensors))


def write_zip(tree: Tree, path: Path, options: WriteOptions, *, on_progress: OnProgress = silent) -> None:
    """Write the archive; the same tree gives the same bytes."""
    table = tensors(tree)
    pickle = _TorchPickle(_shared(table))
    data = pickle.dump(tree)
    keys = {id(tensor): key for key, tensor in table.items()}
    fixed = {"data.pkl": data, ".format_version": b"1", ".storage_alignment": b"64", "byteorder": b"little"}
    members = [NewMember(f"{_ROOT}/{name}", raw) for name, raw in fixed.items()]
    for number, (whole, tensor) in enumerate(pickle.records):
        record = _whole_elements(whole, tensor.dtype.itemsize)
        members.append(NewMember(f"{_ROOT}/data/{number}", tensor=record, key=keys[id(tensor)]))
    members.append(NewMember(f"{_ROOT}/version", b"3\n"))
    meter = ProgressMeter({member.name: member.tensor for member in members if member.tensor}, on_progress)
    with path.open("xb", buffering=0) as file:
        archive = ArchiveWriter(file.fileno())
        digests = archive.add(members, digest=options.digest, moved=meter.moved)
        if options.digest:
            listed = {name.removeprefix(f"{_ROOT}/"): digest for name, digest in digests.items()}
            text = dump_json({"format_version": 1, "digests": listed})
            archive.add([NewMember(f"{_ROOT}/{DIGESTS}", text.encode("ascii"))])
        archive.finish()


def _whole_elements(storage: LazyTensor, itemsize: int) -> LazyTensor:
    """Return a storage without the bytes behind its last whole element."""
    nbytes = storage.nbytes // itemsize * itemsize
    if nbytes == storage.nbytes:
        return storage
    return replace(storage, shape=(nbytes,), source=lambda: storage.numpy()[:nbytes], digest=None)


def _shared(table: dict[str, LazyTensor]) -> dict[Hashable, bool]:
    """Return each storage of several tensors, and whether they look at different places: only then it is written whole."""
    groups = [[table[key] for key in group] for group in shared_storages(table)]
    return {group[0].alias: len({tensor.identity for tensor in group}) > 1 for group in groups}
