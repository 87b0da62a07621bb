"""hdf5: one dataset a tensor, groups for what nests, hard links for ties.

Files are written in HDF5 1.8's second object format, whose headers carry checksums; order is tracked. bfloat16 and
float8, which HDF5 does not have, lie as unsigned ints with an attribute ``dtype``. What datasets and groups cannot say
stands as a manifest (see ``manifest.py``) in the root attribute ``multiframe_ckpt``. docs/formats/hdf5.md has more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ...dtypes import HDF5_MAX_DIMENSIONS, DType, is_numpys_own, unsigned_of
from ...errors import ValueRefusedError
from ...progress import OnProgress
from ...storage.folders import Folder
from ...storage.transfer import HashingReader, recut
from ...tree import File, LazyTensor, Sharing, Tree
from ...tree.boxes import as_slices, blocks, shape_of
from ...tree.digests import PIECE, digest_of
from ..base import Changes, Head, Opened, Plan, ProgressMeter, ReadOptions, WritableFormat, WriteOptions, require_file
from ..manifest import (
    METADATA_KEY,
    Manifest,
    assemble_with_facts,
    check_metadata,
    manifest_of,
    members_of,
    tensors_by_name,
)
from ..tree_json import is_utf8
from .deferred_file import DeferredErrorFile
from .read import Hdf5Reader

__all__ = ["Hdf5Format"]

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
#: Where the signature may stand: at the start, or behind a user block of a power of two.
_SIGNATURE_OFFSETS = (0, *(512 << power for power in range(12)))
_MAX_NAME_NBYTES = 1000


class Hdf5Format(WritableFormat):
    """A dataset a tensor, and a group for each nesting."""

    name = "hdf5"
    suffixes = (".h5", ".hdf5")
    holds_metadata = holds_versions = True

    def recognises(self, head: Head) -> bool:
        """Return whether HDF5's signature stands where it may."""
        if head.is_folder:
            return False
        if head.start.startswith(_SIGNATURE):
            return True
        file = require_file(head.place, self)
        offsets = (offset for offset in _SIGNATURE_OFFSETS if offset + len(_SIGNATURE) <= file.size)
        return any(file.read_at(offset, len(_SIGNATURE)) == _SIGNATURE for offset in offsets)

    def open(self, place: File | Folder, options: ReadOptions) -> Opened:
        """Return the tree; in a file of another writer groups are dicts, and datasets of text are plain values.

        The metadata are the root attributes that are text.
        """
        reader = Hdf5Reader(require_file(place, self))
        manifest, metadata = reader.root_attribute(METADATA_KEY), reader.text_attributes()
        if manifest is None:
            return Opened(reader.nested(), metadata=metadata)
        where = f"{place.where}: attribute {METADATA_KEY!r}"
        return Opened(*assemble_with_facts(manifest, reader.tensors(), where, metadata), metadata=metadata)

    def plan(self, tree: Tree, options: WriteOptions) -> Plan:
        """Say which tensors lose a shared storage; those that are one and the same stay so, as hard links.

        Metadata become root attributes of text, such as the ``backend`` that Keras looks for.
        """
        table = tensors_by_name(tree)
        manifest, members = manifest_of(
            tree, fits=_fits_beside(table), stored_as=lambda dtype: dtype, versions=options.versions
        )
        _require_few_dimensions(table)
        manifest.text(members_of(members), {})  # raises for what it cannot hold
        _check_attributes(options.metadata)
        return _Plan(manifest, members, options, Changes.of(Sharing(table), duplicates=False))


@dataclass(frozen=True, slots=True)
class _Plan(Plan):
    """The datasets of a file to be written, by name."""

    manifest: Manifest
    members: Mapping[str, LazyTensor]
    options: WriteOptions
    changes: Changes

    @property
    def nbytes(self) -> int:
        """Bytes of the datasets, each tied one once."""
        return sum(self.members[entry.member].nbytes for entry in self.manifest.entries if entry.tied_to is None)

    def write(self, target: Path, on_progress: OnProgress) -> None:
        """Write the datasets and root attributes."""
        import h5py  # import cost: a fifth of a second that other formats need not pay

        order = {"track_order": True, "libver": ("v108", "v108")}
        # Aligned, datasets can be used where they are mapped; small ones are cheaper to copy than to pad.
        aligned = {"alignment_threshold": 512, "alignment_interval": 64}
        with DeferredErrorFile(target) as disk:
            with h5py.File(disk, "w", **aligned, **order) as file:
                digests = self._write_members(file, disk, ProgressMeter(self.members, on_progress))
                text = self.manifest.text(members_of(self.members), digests, self.options.metadata).encode("ascii")
                file.attrs.create(METADATA_KEY, np.frombuffer(text, np.uint8))
                for key, value in self.options.metadata.items():
                    file.attrs[key] = value
            disk.check()  # after HDF5 wrote the rest

    def _write_members(self, file: Any, disk: DeferredErrorFile, meter: ProgressMeter) -> dict[str, str] | None:
        """Write each member as a dataset, or as another link to the one it is tied to; return digests, if asked for."""
        member_of = {entry.name: entry.member for entry in self.manifest.entries}
        digests: dict[str, str] = {}
        for entry in self.manifest.entries:
            tensor = self.members[entry.member]
            group, name = _group_for(file, entry.member)
            if entry.tied_to is not None:
                group[name] = file[member_of[entry.tied_to]]
                digests |= {entry.member: digests[member_of[entry.tied_to]]} if self.options.digest else {}
            else:
                digest = _write_dataset(group, name, tensor, hashed=self.options.digest)
                digests |= {entry.member: digest} if digest else {}
                disk.check()
            meter.moved(entry.member, tensor)
        return digests if self.options.digest else None


def _group_for(file: Any, member: str) -> tuple[Any, str]:
    *parents, name = member.split("/")
    group = file
    for parent in parents:
        group = group[parent] if parent in group else group.create_group(parent, track_order=True)
    return group, name


def _write_dataset(group: Any, name: str, tensor: LazyTensor, *, hashed: bool) -> str | None:
    """Write a tensor as a dataset and return its digest, if asked for.

    What lies whole somewhere is written in one call, all other piece by piece, so that no more of it is in memory.
    """
    dtype, own = tensor.dtype, is_numpys_own(tensor.dtype)
    stored = dtype if own else unsigned_of(dtype.itemsize)
    dataset = group.create_dataset(name, tensor.shape, stored.numpy, track_times=False)
    digest = _fill(dataset, tensor, stored, hashed=hashed)
    if not own:
        dataset.attrs["dtype"] = dtype.name
    return digest


def _fill(dataset: Any, tensor: LazyTensor, stored: DType, *, hashed: bool) -> str | None:
    array = _in_place(tensor)
    if array is not None:
        dataset[...] = array.view(stored.numpy)
        return digest_of(array) if hashed else None
    reader = HashingReader(str(dataset.name), tensor, ["xxh3"] if hashed else [])
    for box, part in _in_blocks(tensor, stored, reader):
        dataset[as_slices(box)] = part
    return reader.digests["xxh3"] if hashed else None


def _in_place(tensor: LazyTensor) -> np.ndarray | None:
    """Return the elements where they lie whole in a file or in memory, compared with their digest; else None."""
    if tensor.extent is not None:
        return tensor.numpy()
    if not tensor.source.is_in_memory or not tensor.source.array().flags.c_contiguous:
        return None
    return tensor.numpy()


def _in_blocks(
    tensor: LazyTensor, stored: DType, pieces: Iterable[memoryview]
) -> Iterator[tuple[tuple[range, ...], np.ndarray]]:
    """Yield boxes that fill the tensor's shape, and the elements of each."""
    boxes = list(blocks(tensor.shape, stored.itemsize, PIECE))
    sizes = (prod(shape_of(box)) * stored.itemsize for box in boxes)
    for box, raw in zip(boxes, recut(pieces, sizes), strict=True):
        yield box, np.frombuffer(raw, np.uint8).view(stored.numpy).reshape(shape_of(box))


def _require_few_dimensions(table: Mapping[str, LazyTensor]) -> None:
    for name, tensor in table.items():
        if len(tensor.shape) > HDF5_MAX_DIMENSIONS:
            raise ValueRefusedError(
                f"{name}: found {len(tensor.shape)} dimensions, expected at most {HDF5_MAX_DIMENSIONS}; "
                "reshape it, or write another format, such as format='npz'"
            )


def _fits_beside(names: Mapping[str, LazyTensor]) -> Callable[[str], bool]:
    """Return the test of a name: whether its parts can be groups and a dataset, and no other tensor lies on the way."""

    def fits(name: str) -> bool:
        *parents, last = name.split("/")
        above = accumulate(parents, "{}/{}".format)
        return all(map(_is_link_name, (*parents, last))) and not any(group in names for group in above)

    return fits


def _is_link_name(part: str) -> bool:
    return (
        part not in ("", ".", "..") and "\x00" not in part and is_utf8(part) and len(part.encode()) <= _MAX_NAME_NBYTES
    )


def _check_attributes(metadata: Mapping[str, str]) -> None:
    check_metadata(metadata)
    for key, value in metadata.items():
        if not key or "\x00" in key + value:
            raise ValueRefusedError(
                f"metadata: found {key!r}: {value!r}, expected a name, and no NUL in name or text; write it without"
            )
