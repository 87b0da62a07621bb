"""safetensors: a length, a JSON header, and the tensors' bytes; read and written without the safetensors library.

The format is that of safetensors 0.8 (README "Format", ``safetensors/src/tensor.rs``). Everything the header says is
checked against the file before any byte of a tensor is used. What a flat header cannot say stands as a manifest (see
``manifest.py``) in the metadata entry ``multiframe_ckpt``. docs/formats/safetensors.md has the bytes.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from ..dtypes import DTYPES, DType
from ..errors import DamagedError, DtypeRefusedError, FormatError, ValueRefusedError
from ..progress import OnProgress
from ..storage.folders import Folder
from ..storage.parallel import batches, in_parallel
from ..storage.transfer import CopyJob, copy_batch, write_at
from ..tree import File, InFile, LazyTensor, Sharing, Tree
from ..tree.shapes import is_small_shape, require_shape
from .base import Changes, Head, Opened, Plan, ProgressMeter, ReadOptions, WritableFormat, WriteOptions, require_file
from .manifest import (
    METADATA_KEY,
    Manifest,
    assemble,
    check_metadata,
    manifest_of,
    members_of,
    named_tensors,
    own_entry,
)
from .tree_json import dump_json, is_utf8, load_json

__all__ = ["SafetensorsFormat"]

HEADER_CAP = 100_000_000  # tensor.rs: MAX_HEADER_SIZE
_METADATA = "__metadata__"
#: transformers refuses a file that has metadata without it.
_FORMAT = ("format", "pt")
_PREFIX = 8  # the header's length, little-endian
_OF_TENSOR = {"dtype", "shape", "data_offsets"}
#: So many shapes are kept for the tensors that have the same: a file could make very many hash alike.
_SHAPES = 256
_INTS = {int}  # and no bool
_BY_TAG = {row.safetensors: row for row in DTYPES if row.safetensors}


class SafetensorsFormat(WritableFormat):
    """A JSON header and the bytes of the tensors behind it, as safetensors has them."""

    name = "safetensors"
    suffixes = (".safetensors",)
    holds_metadata = True

    def recognises(self, head: Head) -> bool:
        """Return whether a JSON object begins where the file's first eight bytes promise a header."""
        start = head.start[: _PREFIX + 1]
        return len(start) == _PREFIX + 1 and start[_PREFIX:] == b"{" and _length(start) <= HEADER_CAP

    def open(self, place: File | Folder, options: ReadOptions) -> Opened:
        """Return the tree; a file of another writer is a flat dict of its tensors, in the header's order.

        The metadata are the entries of ``__metadata__`` but this library's own and ``format: pt``, which every file gets.
        By that entry the tensors are PyTorch's where another writer put it; they are nobody's in files of this library.
        """
        file = require_file(place, self)
        size = _header_size(file)
        header, metadata = _read_header(file, size)
        tensors = _read_members(file, header, _PREFIX + size)
        manifest = own_entry(metadata, file.where)
        users = _users(metadata)
        if manifest is not None:
            return Opened(assemble(manifest, tensors, f"{file.where}: {METADATA_KEY}", users), metadata=users)
        is_torch = metadata.get(_FORMAT[0]) == _FORMAT[1]
        return Opened(tensors, {"framework": "torch"} if is_torch else {}, users)

    def plan(self, tree: Tree, options: WriteOptions) -> Plan:
        """Say which ties are written twice; refuse complex128 and headers past the format's cap.

        ``format: pt`` is one of the entries in ``__metadata__`` unless the user's own say otherwise.
        """
        return _laid_out(tree, dict([_FORMAT]) | dict(options.metadata), digest=options.digest)


def _users(metadata: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if key != METADATA_KEY and (key, value) != _FORMAT}


def _length(start: bytes) -> int:
    length: int = struct.unpack_from("<Q", start)[0]
    return length


def _damaged(file: File, found: str) -> DamagedError:
    return DamagedError(f"{file.where}: {found}; the file is damaged: fetch it again")


class _Entry(NamedTuple):
    """What the header says of a tensor that needs a closer look."""

    dtype: DType
    shape: tuple[int, ...]
    start: int
    stop: int


def _packing(file: File, data: int) -> Callable[[dict[str, Any]], Any]:
    """Return what makes of an object in the header what reads the tensor, if it says what it should of one.

    ``data`` is where the tensors' bytes begin. Nothing but that is kept of a usual one, since a header may have hundreds
    of thousands; an _Entry needs a closer look.
    """
    shapes: dict[tuple[int, ...], tuple[int, ...]] = {}  # most tensors have the shape of another

    def packed(entry: dict[str, Any]) -> Any:
        if entry.keys() != _OF_TENSOR:
            return entry
        tag, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        sizes = _are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2
        if not (sizes and isinstance(tag, str) and tag in _BY_TAG):
            return entry
        shape = tuple(shape)
        if len(shapes) < _SHAPES:
            shapes.setdefault(shape, shape)
        dtype, shape, (start, stop) = _BY_TAG[tag], shapes.get(shape, shape), offsets
        if is_small_shape(shape) and 0 < prod(shape) * dtype.itemsize == stop - start:
            return InFile(file, dtype, shape, data + start)
        return _Entry(dtype, shape, start, stop)

    return packed


def _header_size(file: File) -> int:
    """Return the checked size of the JSON header."""
    length = _length(file.read_at(0, _PREFIX, "header length"))
    if length > HEADER_CAP:
        raise _damaged(file, f"found a header of {length} bytes, expected at most {HEADER_CAP}")
    file.require(_PREFIX, length, "header")
    return length


def _read_header(file: File, size: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the tensors' entries, in the header's order, and the metadata."""
    # The text is held by nobody but the parser, which lets go of it early: it may have 100 MB.
    header = load_json(_header_text(file, size), f"{file.where}: header", _packing(file, _PREFIX + size))
    metadata = header.pop(_METADATA, {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _damaged(file, f"found {_METADATA} that is not all text, expected str to str")
    return header, metadata


def _header_text(file: File, size: int) -> bytes:
    text = file.read_at(_PREFIX, size, "header")
    if not text.startswith(b"{"):
        raise _damaged(file, f"found a header that begins with {text[:1]!r}, expected '{{'")
    return text


def _read_members(file: File, header: dict[str, Any], data: int) -> dict[str, LazyTensor]:
    """Return the tensors in the header's order; DamagedError unless their bytes fill the file from ``data`` on.

    Turns the header's own entries into them, one by one: both together would need much memory.
    """
    for name, entry in header.items():
        if type(entry) is not InFile:
            header[name] = _source(file, name, entry, data)
    end = data
    for name, source in _by_offset(header):
        if source.offset != end:
            found = f"{name!r}: found bytes from {source.offset - data} on, expected from {end - data}"
            raise _damaged(file, f"{found}, with no hole or overlap")
        end += source.nbytes
    if end != file.size:
        raise _damaged(file, f"found {file.size - data} bytes of tensors, expected {end - data}")
    for name, source in header.items():
        header[name] = LazyTensor(source.dtype, source.shape, source)
    return header


def _by_offset(header: dict[str, InFile]) -> Iterable[tuple[str, InFile]]:
    """Return names and sources in the order of their bytes, which most headers are in already."""
    offsets = [source.offset for source in header.values()]
    if all(map(operator.lt, offsets, islice(offsets, 1, None))):
        return header.items()
    return sorted(header.items(), key=lambda item: (item[1].offset, item[1].nbytes))


def _source(file: File, name: str, entry: Any, data: int) -> InFile:
    where = f"{file.where}: {name!r}"
    if not isinstance(entry, _Entry):
        raise _not_a_tensor(where, entry)
    dtype, shape, start, stop = entry
    require_shape(shape, dtype, where)  # first: the product of many dimensions would have millions of digits
    if stop - start != prod(shape) * dtype.itemsize:
        raise DamagedError(f"{where}: found data_offsets {[start, stop]}, expected {dtype.name} {shape} to fill them")
    return InFile(file, dtype, shape, data + start)


def _not_a_tensor(where: str, entry: Any) -> FormatError:
    """Return the error for what the header says in a tensor's place."""
    if not isinstance(entry, dict) or entry.keys() != _OF_TENSOR:
        return DamagedError(f"{where}: found {str(entry)[:80]}, expected dtype, shape and data_offsets")
    for sizes in (entry["shape"], entry["data_offsets"]):
        if not _are_sizes(sizes):
            return DamagedError(f"{where}: found {_short(sizes)}, expected a list of sizes")
    if len(entry["data_offsets"]) != 2:
        return DamagedError(f"{where}: found data_offsets {_short(entry['data_offsets'])}, expected two")
    return FormatError(
        f"{where}: found dtype {_short(entry['dtype'])}, expected one of {', '.join(_BY_TAG)}; "
        "convert it with the program that wrote it"
    )


def _are_sizes(value: Any) -> bool:
    if not isinstance(value, list) or not _INTS.issuperset(map(type, value)):
        return False
    return not value or (min(value) >= 0 and max(value) < 1 << 63)


def _short(sizes: Any) -> str:
    """Return the value as a message has room for it; Python may refuse to spell an int of many digits."""
    try:
        return str(sizes)[:80]
    except ValueError:
        return "a number of thousands of digits"


@dataclass(frozen=True, slots=True)
class _Plan(Plan):
    """Where each tensor of a file to be written will lie."""

    manifest: Manifest
    tensors: Mapping[str, LazyTensor]  # by member name, in the tree's order, which the header keeps
    by_offset: tuple[str, ...]
    metadata: Mapping[str, str]
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
        with target.open("xb", buffering=0) as file:
            # The header is as long as it will be when the digests are known.
            jobs = list(self._jobs(file.fileno(), len(self.header(digests))))
            runs = batches(jobs, lambda job: job.tensor.nbytes)
            for position, results in in_parallel(copy_batch, runs, lambda run: sum(job.tensor.nbytes for job in run)):
                for job, result in zip(runs[position], results, strict=True):
                    if digests is not None:
                        digests[job.key] = result["xxh3"]
                    meter.moved(job.key, job.tensor)
            write_at(file.fileno(), self.header(digests), 0)

    def _jobs(self, descriptor: int, data: int) -> Iterator[CopyJob]:
        """Yield the way of each tensor to its place behind ``data`` bytes of header."""
        schemes = ("xxh3",) if self.digest else ()
        for member in self.by_offset:
            yield CopyJob(member, self.tensors[member], descriptor, data, schemes)
            data += self.tensors[member].nbytes

    def header(self, digests: Mapping[str, str] | None) -> bytes:
        """Return the file's bytes before the tensors'; the same length whatever the digests are."""
        manifest = self.manifest.text(members_of(self.tensors), digests, _users(self.metadata))
        offsets, end = {}, 0
        for member in self.by_offset:
            start, end = end, end + self.tensors[member].nbytes
            offsets[member] = [start, end]
        header = {
            member: {"dtype": tensor.dtype.safetensors, "shape": list(tensor.shape), "data_offsets": offsets[member]}
            for member, tensor in self.tensors.items()
        }
        text = dump_json({_METADATA: {**self.metadata, METADATA_KEY: manifest}} | header).encode("ascii")
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text


def _laid_out(tree: Tree, metadata: Mapping[str, str], *, digest: bool) -> _Plan:
    """Say where everything will lie; widest elements first, so that each tensor is aligned to its own."""
    check_metadata(metadata)
    manifest, tensors = manifest_of(tree, fits=_fits, stored_as=lambda dtype: dtype)
    for member, tensor in tensors.items():
        if tensor.dtype.safetensors is None:
            raise DtypeRefusedError(
                f"{member}: found dtype {tensor.dtype.name}, expected one that safetensors has a tag for; "
                "cast it, or write another format, such as format='hdf5' or format='npz'"
            )
    by_offset = sorted(tensors, key=lambda member: -tensors[member].dtype.itemsize)
    changes = Changes.of(Sharing(named_tensors(tree)), duplicates=True)
    plan = _Plan(manifest, tensors, tuple(by_offset), metadata, digest, changes)
    size = len(plan.header({})) - _PREFIX
    if size > HEADER_CAP:
        raise ValueRefusedError(
            f"found plain values and names of {size} bytes, expected a header of at most {HEADER_CAP}; "
            "save fewer plain values, or write another format, such as format='hdf5'"
        )
    return plan


def _fits(name: str) -> bool:
    return name != _METADATA and is_utf8(name)
