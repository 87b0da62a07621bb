"""hdf5: one dataset a tensor, groups for what nests, hard links for ties.

Files are written in HDF5 1.8's second object format, whose headers carry checksums; order is tracked. bfloat16 and
float8, which HDF5 does not have, lie as unsigned ints with an attribute ``dtype``. What datasets and groups cannot say
stands as a document (see ``document.py``) in the root attribute ``multiframe_ckpt``. docs/formats/hdf5.md has more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from ...dtypes import DType
from ...errors import ValueRefusedError
from ...progress import OnProgress, silent
from ...storage.files import open_regular
from ...tree import LazyTensor, Tree, partition
from ...tree.digests import digest_of
from ..base import ProgressMeter, ReadOptions, WriteOptions, WritePlan, duplicated_ties
from ..manifest import METADATA_KEY, Manifest, assemble, check_metadata, manifest_of, named_tensors
from ..tree_json import is_utf8
from .deferred_file import DeferredErrorFile
from .read import Hdf5Reader

__all__ = ["Hdf5Format"]

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
#: Where the signature may stand: at the start, or behind a user block of a power of two.
_STARTS = (0, *(512 << power for power in range(12)))
_NAME_CAP = 1000
_MAX_DIMENSIONS = 32  # H5S_MAX_RANK
_BITS: dict[int, np.dtype] = {1: np.dtype(np.uint8), 2: np.dtype(np.uint16)}


class Hdf5Format:
    """A dataset a tensor, and a group for each nesting."""

    name = "hdf5"
    suffixes = (".h5", ".hdf5")

    def sniff(self, path: Path) -> bool:
        """Return whether HDF5's signature stands where it may."""
        try:
            with open_regular(path) as file:
                return any(file.seek(start) == start and file.read(8) == _SIGNATURE for start in _STARTS)
        except (OSError, ValueError):  # ValueError: a path with a NUL in it
            return False

    def read(self, path: Path, options: ReadOptions = ReadOptions()) -> Tree:
        """Return the tree; in a file of another writer groups are dicts, and datasets of text are plain values."""
        reader = Hdf5Reader(path)
        document = reader.root_attribute(METADATA_KEY)
        if document is None:
            return reader.nested()
        where = f"{path}: attribute {METADATA_KEY!r}"
        return assemble(document, reader.tensors(), where, reader.text_attributes())

    def plan(self, tree: Tree) -> WritePlan:
        """Return which tensors lose a shared storage; those that are one and the same stay so, as hard links."""
        document, members = _document_of(tree)
        document.text(_outline(members), {})
        return WritePlan(lost_ties=duplicated_ties(partition(tree)[1]).lost_ties)

    def read_metadata(self, path: Path) -> dict[str, str]:
        """Return the root attributes that are text."""
        return Hdf5Reader(path).text_attributes()

    def write(
        self, tree: Tree, path: Path, options: WriteOptions = WriteOptions(), *, on_progress: OnProgress = silent
    ) -> None:
        """Write the tree with root attributes of text, such as the ``backend`` that Keras looks for."""
        import h5py  # import cost: a fifth of a second that other formats need not pay

        document, members = _document_of(tree)
        document.text(_outline(members), {})  # raises for what it cannot hold before anything is written
        _check_attributes(options.metadata)
        order = {"track_order": True, "libver": ("v108", "v108")}
        # Aligned, datasets can be used where they are mapped; small ones are cheaper to copy than to pad.
        aligned = {"alignment_threshold": 512, "alignment_interval": 64}
        with DeferredErrorFile(path) as disk:
            with h5py.File(disk, "w", **aligned, **order) as file:
                meter = ProgressMeter(members, on_progress)
                digests = _write_members(file, disk, document, members, meter, digest=options.digest)
                text = document.text(_outline(members), digests, options.metadata).encode("ascii")
                file.attrs.create(METADATA_KEY, np.frombuffer(text, np.uint8))
                for key, value in options.metadata.items():
                    file.attrs[key] = value
            disk.check()  # after HDF5 wrote the rest


def _write_members(
    file: Any,
    disk: DeferredErrorFile,
    document: Manifest,
    members: Mapping[str, LazyTensor],
    meter: ProgressMeter,
    *,
    digest: bool,
) -> dict[str, str] | None:
    """Write each member as a dataset, or as another link to the one it is tied to; return the digests, if asked for."""
    member_of = {note.name: note.member for note in document.notes}
    digests: dict[str, str] = {}
    for note in document.notes:
        tensor = members[note.member]
        group, name = _group_for(file, note.member)
        if note.tied_to is not None:
            group[name] = file[member_of[note.tied_to]]
        else:
            array = tensor.numpy()
            _write_dataset(group, name, tensor.dtype, array)
            digests |= {note.name: digest_of(array)} if digest else {}
            disk.check()
        meter.moved(note.member, tensor)
    return (
        {note.member: digests[note.name if note.tied_to is None else note.tied_to] for note in document.notes}
        if digest
        else None
    )


def _group_for(file: Any, member: str) -> tuple[Any, str]:
    *parents, name = member.split("/")
    group = file
    for parent in parents:
        group = group[parent] if parent in group else group.create_group(parent, track_order=True)
    return group, name


def _write_dataset(group: Any, name: str, dtype: DType, array: np.ndarray) -> None:
    bits = _bits(dtype)
    dataset = group.create_dataset(name, data=array if bits is None else array.view(bits), track_times=False)
    if bits is not None:
        dataset.attrs["dtype"] = dtype.name


def _bits(dtype: DType) -> np.dtype | None:
    """Return the unsigned int that stands in for a dtype which HDF5 does not have, or None."""
    return None if dtype.numpy.isbuiltin == 1 else _BITS[dtype.itemsize]


def _document_of(tree: Tree) -> tuple[Manifest, dict[str, LazyTensor]]:
    names = named_tensors(tree)
    document, members = manifest_of(tree, fits=_fits_beside(names), stored_as=lambda dtype: dtype)
    for name, tensor in names.items():
        if len(tensor.shape) > _MAX_DIMENSIONS:
            raise ValueRefusedError(
                f"{name}: found {len(tensor.shape)} dimensions, expected at most {_MAX_DIMENSIONS}; "
                "reshape it, or write another layout, such as format='npz'"
            )
    return document, members


def _outline(members: Mapping[str, LazyTensor]) -> dict[str, tuple[DType, tuple[int, ...]]]:
    return {member: (tensor.dtype, tensor.shape) for member, tensor in members.items()}


def _fits_beside(names: Mapping[str, LazyTensor]) -> Callable[[str], bool]:
    """Return the test of a name: whether its parts can be groups and a dataset, and no other tensor lies on the way."""

    def fits(name: str) -> bool:
        *parents, last = name.split("/")
        above = accumulate(parents, "{}/{}".format)
        return all(map(_is_link_name, (*parents, last))) and not any(group in names for group in above)

    return fits


def _is_link_name(part: str) -> bool:
    return part not in ("", ".", "..") and "\x00" not in part and is_utf8(part) and len(part.encode()) <= _NAME_CAP


def _check_attributes(metadata: Mapping[str, str]) -> None:
    check_metadata(metadata)
    for key, value in metadata.items():
        if not key or "\x00" in key + value:
            raise ValueRefusedError(
                f"metadata: found {key!r}: {value!r}, expected a name, and no NUL; write it otherwise"
            )
