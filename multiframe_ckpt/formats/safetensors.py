"""safetensors: a length, a JSON header, and the tensors' bytes; read and written without the safetensors library.

The format is that of safetensors 0.8 (README "Format", ``safetensors/src/tensor.rs``). Everything the header says is
checked against the file before any byte of a tensor is used. What a flat header cannot say stands as a manifest (see
``manifest.py``) in the metadata entry ``multiframe_ckpt``. docs/formats/safetensors.md has the bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import prod
from pathlib import Path
from typing import NamedTuple

from ..dtypes import DTYPES, UINT8, DType
from ..errors import DamagedError, DtypeRefusedError, FormatError, KeyRefusedError, ValueRefusedError
from ..progress import OnProgress
from ..storage.folders import Folder
from ..storage.parallel import batches, in_parallel
from ..storage.transfer import CopyJob, copy_batch, write_at
from ..terminal.text import short_repr
from ..tree import File, InFile, LazyTensor, Sharing, Tree, Unknown, tensor_table
from ..tree.shapes import require_shape
from .base import (
    ONCE,
    Changes,
    Head,
    Opened,
    Plan,
    ProgressMeter,
    ReadOptions,
    WritableFormat,
    WriteOptions,
    require_file,
)
from .manifest import (
    METADATA_KEY,
    Manifest,
    assemble_with_facts,
    check_metadata,
    manifest_of,
    members_of,
    own_manifest,
    tensors_by_name,
)
from .tree_json import Json, decode_text, dump_json, is_utf8, load_json

__all__ = ["SafetensorsFormat"]

MAX_HEADER_NBYTES = 100_000_000  # tensor.rs: MAX_HEADER_SIZE
_METADATA = "__metadata__"
#: transformers refuses a file that has metadata without it.
_FORMAT = ("format", "pt")
_WHITE_SPACE = b" \t\r\n"  # that of JSON, with which some writers align a header at its front
_PREFIX_NBYTES = 8  # the header's length, little-endian
_ENTRY_KEYS = {"dtype", "shape", "data_offsets"}
#: So many shapes are kept for the tensors that have the same: a file could make very many of one hash.
_MAX_KEPT_SHAPES = 256
_ONLY_INT = {int}  # and no bool
_SHOWN_TAG = 40
_DTYPE_OF_TAG = {row.safetensors: row for row in DTYPES if row.safetensors}


class SafetensorsFormat(WritableFormat):
    """A JSON header and the bytes of the tensors behind it, as safetensors has them."""

    name = "safetensors"
    suffixes = (".safetensors",)
    holds_metadata = holds_versions = True

    def recognises(self, head: Head) -> bool:
        """Return whether a JSON object begins where the file's first eight bytes promise a header."""
        header = head.start[_PREFIX_NBYTES:].lstrip(_WHITE_SPACE)
        return header[:1] == b"{" and _header_length(head.start) <= MAX_HEADER_NBYTES

    def open(self, place: File | Folder, options: ReadOptions) -> Opened:
        """Return the tree; a file of another writer is a flat dict of its tensors, in the header's order.

        The metadata are the entries of ``__metadata__`` but this library's own and ``format: pt``, which every file gets.
        By that entry the tensors are PyTorch's where another writer put it; they are nobody's in files of this library.
        """
        file = require_file(place, self)
        size = _header_size(file)
        header, metadata = _read_header(file, size)
        tensors = _read_members(file, header, _PREFIX_NBYTES + size)
        manifest, where = own_manifest(metadata, file.where), f"{file.where}: {METADATA_KEY}"
        user_metadata = _user_metadata(metadata)
        ties = _ties(user_metadata, tensors)
        facts: dict[str, object] = {}
        if manifest is not None:
            tree, facts = assemble_with_facts(manifest, _known(tensors), where, user_metadata)
            own_ties = ties.keys() & tensor_table(tree).keys() if ties else ()
            return Opened(tree, facts, {key: value for key, value in user_metadata.items() if key not in own_ties})
        _tie(tensors, ties)
        if metadata.get(_FORMAT[0]) == _FORMAT[1]:
            facts["framework"] = "torch"
        return Opened(tensors, facts, {key: value for key, value in user_metadata.items() if key not in ties})

    def plan(self, tree: Tree, options: WriteOptions) -> Plan:
        """Say which ties are written twice; refuse complex128 and headers past the format's cap.

        ``format: pt`` is one of the entries in ``__metadata__`` unless the user's own say otherwise. An entry of the user's
        that says the same is lost among them.
        """
        return _lay_out(tree, options)


def _known(tensors: dict[str, LazyTensor | Unknown]) -> Mapping[str, LazyTensor]:
    if all(type(tensor) is LazyTensor for tensor in tensors.values()):
        return tensors  # type: ignore[return-value]  # as they are: there may be hundreds of thousands
    return {name: tensor for name, tensor in tensors.items() if isinstance(tensor, LazyTensor)}


def _user_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if key != METADATA_KEY and (key, value) != _FORMAT}


def _ties(metadata: Mapping[str, str], tensors: Mapping[str, LazyTensor | Unknown]) -> dict[str, str]:
    """Return the ties that a file's metadata say, as ``safetensors.torch.save_model`` does: ``{"head": "embedding"}``.

    The first is another name of the second, which alone is written.
    """
    return {key: value for key, value in metadata.items() if value in tensors and key not in tensors}


def _tie(tensors: dict[str, LazyTensor | Unknown], ties: Mapping[str, str]) -> None:
    """Add each tie to the tensors of a file, under its name."""
    for name, first in ties.items():
        tensor = tensors[first]
        if isinstance(tensor, LazyTensor) and tensor.alias is None:
            tensors[first] = tensor.with_(alias=object())
        tensors[name] = tensors[first]


def _header_length(start: bytes) -> int:
    length: int = struct.unpack_from("<Q", start)[0]
    return length


def _damaged(file: File, problem: str) -> DamagedError:
    return DamagedError(f"{file.where}: {problem}; the file is damaged: fetch it again")


class _Entry(NamedTuple):
    """What the header says of a tensor; small, since a header may have hundreds of thousands.

    ``dtype`` is the tag where no row of the table has it.
    """

    dtype: DType | str
    shape: tuple[int, ...]
    start: int
    stop: int


def _entry_reader() -> Callable[[dict[str, Json]], Json]:
    """Return what makes an _Entry of an object in the header, if it says what it should of a tensor."""
    shapes: dict[tuple[int, ...], tuple[int, ...]] = {}  # most tensors have the shape of another

    def read(entry: dict[str, Json]) -> Json:
        if entry.keys() != _ENTRY_KEYS:
            return entry
        tag, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        well_formed = _are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2
        if not (well_formed and isinstance(tag, str)):
            return entry
        shape = tuple(shape)
        if len(shapes) < _MAX_KEPT_SHAPES:
            shapes.setdefault(shape, shape)
        return _Entry(_DTYPE_OF_TAG.get(tag, tag), shapes.get(shape, shape), *offsets)

    return read


def _header_size(file: File) -> int:
    """Return the checked size of the JSON header."""
    length = _header_length(file.read_at(0, _PREFIX_NBYTES, "header length"))
    if length > MAX_HEADER_NBYTES:
        raise _damaged(file, f"found a header of {length} bytes, expected at most {MAX_HEADER_NBYTES}")
    file.require(_PREFIX_NBYTES, length, "header")
    return length


def _read_header(file: File, size: int) -> tuple[dict[str, Json], dict[str, str]]:
    """Return the tensors' entries, in the header's order, and the metadata."""
    header = load_json(_header_text(file, size), f"{file.where}: header", _entry_reader())
    metadata = header.pop(_METADATA, {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _damaged(file, f"found {_METADATA} that is not all text, expected str to str")
    return header, metadata


def _header_text(file: File, size: int) -> str:
    """Return the header's text, which is all that is held while it is parsed: it may have 100 MB."""
    raw = file.read_at(_PREFIX_NBYTES, size, "header")
    if raw.lstrip(_WHITE_SPACE)[:1] != b"{":
        raise _damaged(file, f"found a header that begins with {raw[:8]!r}, expected '{{'")
    return decode_text(raw, f"{file.where}: header")


def _read_members(file: File, header: dict[str, Json], data_offset: int) -> dict[str, LazyTensor | Unknown]:
    """Return the tensors in the header's order; DamagedError unless their bytes fill the file from ``data_offset`` on.

    Those of dtypes that are not known are unknown objects with their bytes. The tensors take the places of the entries,
    one by one: both together would need much memory.
    """
    for name, entry in header.items():
        _check_entry(file, name, entry)
    end = 0
    for name in _by_offset(header):
        start, stop = header[name][2:]
        if start != end:
            raise _damaged(file, f"{name!r}: found bytes from {start} on, expected from {end}, with no hole or overlap")
        end = stop
    if data_offset + end != file.size:
        raise _damaged(file, f"found {file.size - data_offset} bytes of tensors, expected {end}")
    for name, (dtype, shape, start, stop) in header.items():
        if isinstance(dtype, str):
            header[name] = _unknown_tensor(file, dtype, shape, data_offset + start, stop - start)
        else:
            header[name] = LazyTensor(dtype, shape, InFile(file, dtype, shape, data_offset + start))
    return header


def _unknown_tensor(file: File, tag: str, shape: tuple[int, ...], offset: int, nbytes: int) -> Unknown:
    stored = LazyTensor(UINT8, (nbytes,), InFile(file, UINT8, (nbytes,), offset))
    return Unknown(f"safetensors dtype {tag[:_SHOWN_TAG]}", (shape,), {"bytes": stored})


def _by_offset(header: dict[str, _Entry]) -> Iterable[str]:
    """Return the names in the order of their bytes, which most headers are in already."""
    ends = (entry.stop for entry in header.values())
    if all(entry.start == end for entry, end in zip(header.values(), chain([0], ends), strict=False)):
        return header
    return sorted(header, key=lambda name: header[name][2:])


def _check_entry(file: File, name: str, entry: Json) -> None:
    where = f"{file.where}: {name!r}"
    if not isinstance(entry, _Entry):
        raise _not_a_tensor(where, entry)
    dtype, shape, start, stop = entry
    if isinstance(dtype, str):  # of which it is not known how many bytes it takes
        require_shape(shape, UINT8, where)
        if start > stop:
            raise DamagedError(f"{where}: found data_offsets {[start, stop]}, expected the first to be no larger")
        return
    require_shape(shape, dtype, where)  # first: the product of many dimensions would have millions of digits
    if stop - start != prod(shape) * dtype.itemsize:
        raise DamagedError(f"{where}: found data_offsets {[start, stop]}, expected {dtype.name} {shape} to fill them")


def _not_a_tensor(where: str, entry: Json) -> FormatError:
    """Return the error for what the header says in a tensor's place."""
    if not isinstance(entry, dict) or entry.keys() != _ENTRY_KEYS:
        return DamagedError(f"{where}: found {str(entry)[:80]}, expected dtype, shape and data_offsets")
    for sizes in (entry["shape"], entry["data_offsets"]):
        if not _are_sizes(sizes):
            return DamagedError(f"{where}: found {short_repr(sizes)}, expected a list of sizes")
    if len(entry["data_offsets"]) != 2:
        return DamagedError(f"{where}: found data_offsets {short_repr(entry['data_offsets'])}, expected two")
    return DamagedError(f"{where}: found dtype {short_repr(entry['dtype'])}, expected text such as 'F32'")


def _are_sizes(value: Json) -> bool:
    if not isinstance(value, list) or not _ONLY_INT.issuperset(map(type, value)):
        return False
    return not value or (min(value) >= 0 and max(value) < 1 << 63)


@dataclass(frozen=True, slots=True)
class _Plan(Plan):
    """Where each tensor of a file to be written will lie."""

    manifest: Manifest
    tensors: Mapping[str, LazyTensor]  # by member name, in the tree's order, which the header keeps
    by_offset: tuple[str, ...]
    metadata: Mapping[str, str]
    ties: Mapping[str, str]  # member of a tensor that is named and not written → that of the one it is
    digest: bool
    changes: Changes

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def write(self, target: Path, on_progress: OnProgress) -> None:
        """Write the tensors, and the header before them when their digests are known."""
        meter = ProgressMeter(self.tensors, on_progress)
        digests: dict[str, str] | None = {} if self.digest else None
        with target.open("x+b", buffering=0) as file:
            # The header is as long as it will be when the digests are known.
            jobs = list(self._jobs(file.fileno(), len(self.header(digests))))
            groups = batches(jobs, lambda job: job.tensor.nbytes)
            for position, results in in_parallel(copy_batch, groups, _total_nbytes):
                for job, result in zip(groups[position], results, strict=True):
                    if digests is not None:
                        digests[job.key] = result["xxh3"]
                    meter.moved(job.key, job.tensor)
            write_at(file.fileno(), self.header(digests), 0)

    def _jobs(self, descriptor: int, offset: int) -> Iterator[CopyJob]:
        """Yield what copies each tensor to its place, the first to ``offset``, behind the header."""
        schemes = ("xxh3",) if self.digest else ()
        for member in self.by_offset:
            yield CopyJob(member, self.tensors[member], descriptor, offset, schemes)
            offset += self.tensors[member].nbytes

    def header(self, digests: Mapping[str, str] | None) -> bytes:
        """Return the file's bytes before the tensors'; the same length whatever the digests are."""
        metadata = {**self.metadata, **self.ties}
        manifest = self.manifest.text(members_of(self.tensors), digests, _user_metadata(metadata))
        offsets, end = {}, 0
        for member in self.by_offset:
            start, end = end, end + self.tensors[member].nbytes
            offsets[member] = [start, end]
        header = {
            member: {"dtype": tensor.dtype.safetensors, "shape": list(tensor.shape), "data_offsets": offsets[member]}
            for member, tensor in self.tensors.items()
        }
        text = dump_json({_METADATA: {**metadata, METADATA_KEY: manifest}} | header).encode("ascii")
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text


def _total_nbytes(group: Sequence[CopyJob]) -> int:
    return sum(job.tensor.nbytes for job in group)


def _lay_out(tree: Tree, options: WriteOptions) -> _Plan:
    """Say where everything will lie; widest elements first, so that each tensor is aligned to its own."""
    metadata = options.metadata
    check_metadata(metadata)
    manifest, tensors = manifest_of(tree, fits=_fits, stored_as=lambda dtype: dtype, versions=options.versions)
    for member, tensor in tensors.items():
        if tensor.dtype.safetensors is None:
            raise DtypeRefusedError(
                f"{member}: found dtype {tensor.dtype.name}, expected one that safetensors has a tag for; "
                "cast it, or write another format, such as format='hdf5' or format='npz'"
            )
    ties: dict[str, str] = {}
    changes = Changes.of(Sharing(tensors_by_name(tree)), duplicates=True)
    if options.ties == ONCE and changes.duplicated:
        manifest, ties = _named_once(manifest, metadata)
        tensors = {member: tensor for member, tensor in tensors.items() if member not in ties}
        changes = replace(changes, duplicated=(), duplicated_nbytes=0, named_once=changes.duplicated)
    by_offset = sorted(tensors, key=lambda member: -tensors[member].dtype.itemsize)
    is_own = metadata.get(_FORMAT[0], _FORMAT[1]) == _FORMAT[1]
    if is_own and _FORMAT[0] in metadata:
        changes = replace(changes, lost_metadata=(_FORMAT[0],))
    entries = dict([_FORMAT]) | dict(metadata) if is_own else metadata
    plan = _Plan(manifest, tensors, tuple(by_offset), entries, ties, options.digest, changes)
    size = len(plan.header({})) - _PREFIX_NBYTES
    if size > MAX_HEADER_NBYTES:
        raise ValueRefusedError(
            f"found plain values and names of {size} bytes, expected a header of at most {MAX_HEADER_NBYTES}; "
            "save fewer plain values, or write another format, such as format='hdf5'"
        )
    return plan


def _named_once(manifest: Manifest, metadata: Mapping[str, str]) -> tuple[Manifest, dict[str, str]]:
    """Return the manifest of a file in which tied tensors are members of their first, and what members they lack."""
    member_of = {entry.name: entry.member for entry in manifest.entries}
    ties = {entry.member: member_of[entry.tied_to] for entry in manifest.entries if entry.tied_to is not None}
    taken = [member for member in ties if member in metadata]
    if taken:
        raise KeyRefusedError(
            f"metadata: found key {taken[0]!r}, expected another: a tied tensor is named by it (ties='once'); rename it"
        )
    entries = tuple(entry._replace(member=ties.get(entry.member, entry.member)) for entry in manifest.entries)
    return replace(manifest, entries=entries), ties


def _fits(name: str) -> bool:
    return name != _METADATA and is_utf8(name)
