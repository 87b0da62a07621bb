"""safetensors: a length, a JSON header, and the tensors' bytes; read and written without the safetensors library.

The layout is that of safetensors 0.8 (README "Format", ``safetensors/src/tensor.rs``). Everything the header says is
checked against the file before any byte of a tensor is used. What a flat header cannot say stands as a document (see
``document.py``) in the metadata entry ``multiframe_ckpt``. docs/formats/safetensors.md has the bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from ..dtypes import DTYPES, DType
from ..errors import DamagedError, DtypeRefusedError, FormatError, ValueRefusedError
from ..progress import OnProgress, silent
from ..storage.files import MappedFile, open_regular
from ..storage.parallel import batches, in_parallel
from ..storage.transfer import CopyJob, copy_batch, write_at
from ..tree import LazyTensor, Tree, partition
from ..tree.shapes import require_shape
from .base import ProgressMeter, ReadOptions, WriteOptions, WritePlan, duplicated_ties
from .manifest import METADATA_KEY, Manifest, assemble, check_metadata, manifest_of, own_entry
from .tree_json import dump_json, first_value, is_utf8, load_json

__all__ = ["SafetensorsFormat"]

HEADER_CAP = 100_000_000  # tensor.rs: MAX_HEADER_SIZE
_METADATA = "__metadata__"
#: transformers refuses a file that has metadata without it.
_FORMAT = ("format", "pt")
_METADATA_FIRST = b'{"__metadata__":'
_PREFIX = 8  # the header's length, little-endian
_OF_TENSOR = {"dtype", "shape", "data_offsets"}
#: So many shapes are kept for the tensors that have the same: a file could make very many hash alike.
_SHAPES = 256
_INTS = {int}  # and no bool
_BY_TAG = {row.safetensors: row for row in DTYPES if row.safetensors}


class SafetensorsFormat:
    """A JSON header and the bytes of the tensors behind it, as safetensors has them."""

    name = "safetensors"
    suffixes = (".safetensors",)

    def sniff(self, path: Path) -> bool:
        """Return whether a JSON object begins where the file's first eight bytes promise a header."""
        try:
            with open_regular(path) as file:
                start = file.read(_PREFIX + 1)
        except (OSError, ValueError):  # ValueError: a path with a NUL in it
            return False
        return len(start) == _PREFIX + 1 and start[_PREFIX:] == b"{" and _length(start) <= HEADER_CAP

    def read(self, path: Path, options: ReadOptions = ReadOptions()) -> Tree:
        """Return the tree; a file of another writer is a flat dict of its tensors, in the header's order."""
        file = MappedFile(path)
        header, metadata = _read_header(file)
        members = _read_members(file, header)
        document = own_entry(metadata, str(path))
        return members if document is None else assemble(document, members, f"{path}: {METADATA_KEY}", _users(metadata))

    def plan(self, tree: Tree) -> WritePlan:
        """Return which ties are written twice; refuse complex128 and headers past the layout's cap."""
        _layout(tree, dict([_FORMAT]))
        return duplicated_ties(partition(tree)[1])

    def read_metadata(self, path: Path) -> dict[str, str]:
        """Return the entries of ``__metadata__`` but this library's own and ``format: pt``, which every file gets."""
        return _users(_read_metadata(path))

    def describe(self, path: Path) -> dict[str, object]:
        """Say that the tensors are PyTorch's where another writer did; they are nobody's in files of this library."""
        metadata = _read_metadata(path)
        told = METADATA_KEY not in metadata and metadata.get(_FORMAT[0]) == _FORMAT[1]
        return {"framework": "torch"} if told else {}

    def write(
        self, tree: Tree, path: Path, options: WriteOptions = WriteOptions(), *, on_progress: OnProgress = silent
    ) -> None:
        """Write the tree with entries in ``__metadata__``; ``format: pt`` is one of them unless they say otherwise."""
        layout = _layout(tree, dict([_FORMAT]) | dict(options.metadata))
        meter = ProgressMeter(layout.tensors, on_progress)
        digests: dict[str, str] | None = {} if options.digest else None
        with path.open("xb", buffering=0) as file:
            # The header is as long as it will be when the digests are known.
            moves = list(layout.moves(file.fileno(), len(layout.header(digests)), options))
            runs = batches(moves, lambda one: one.tensor.nbytes)
            for at, found in in_parallel(copy_batch, runs, lambda run: sum(one.tensor.nbytes for one in run)):
                for one, said in zip(runs[at], found, strict=True):
                    if digests is not None:
                        digests[one.key] = said["xxh3"]
                    meter.moved(one.key, one.tensor)
            write_at(file.fileno(), layout.header(digests), 0)


def _users(metadata: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if key != METADATA_KEY and (key, value) != _FORMAT}


def _length(start: bytes) -> int:
    length: int = struct.unpack_from("<Q", start)[0]
    return length


def _damaged(path: Path, found: str) -> DamagedError:
    return DamagedError(f"{path}: {found}; the file is damaged: fetch it again")


class _Entry(NamedTuple):
    """What the header says of a tensor; small, since a header may have hundreds of thousands."""

    dtype: DType
    shape: tuple[int, ...]
    start: int
    stop: int


def _packing() -> Callable[[dict[str, Any]], Any]:
    """Return what makes an _Entry of an object in the header, if it says what it should of a tensor."""
    shapes: dict[tuple[int, ...], tuple[int, ...]] = {}  # most tensors have the shape of another

    def packed(said: dict[str, Any]) -> Any:
        if said.keys() != _OF_TENSOR:
            return said
        tag, shape, offsets = said["dtype"], said["shape"], said["data_offsets"]
        sizes = _are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2
        if not (sizes and isinstance(tag, str) and tag in _BY_TAG):
            return said
        shape = tuple(shape)
        if len(shapes) < _SHAPES:
            shapes.setdefault(shape, shape)
        return _Entry(_BY_TAG[tag], shapes.get(shape, shape), *offsets)

    return packed


def _header_size(file: MappedFile) -> int:
    """Return the checked size of the JSON header."""
    length = _length(file.bytes(0, _PREFIX, "header length"))
    if length > HEADER_CAP:
        raise _damaged(file.path, f"found a header of {length} bytes, expected at most {HEADER_CAP}")
    file.require(_PREFIX, length, "header")
    start = file.bytes(_PREFIX, min(1, length), "header")
    if start != b"{":
        raise _damaged(file.path, f"found a header that begins with {start!r}, expected '{{'")
    return length


def _read_header(file: MappedFile) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the tensors' entries, in the header's order, and the metadata."""
    # The text is held by nobody but the parser, which lets go of it early: it may have 100 MB.
    header = load_json(file.bytes(_PREFIX, _header_size(file), "header"), f"{file.path}: header", _packing())
    metadata = header.pop(_METADATA, {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _damaged(file.path, f"found {_METADATA} that is not all text, expected str to str")
    return header, metadata


def _read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata, without a look at the tensors where it stands first, as usual, or is plainly not there."""
    file = MappedFile(path)
    text = file.bytes(_PREFIX, _header_size(file), "header")
    if text.startswith(_METADATA_FIRST):
        metadata: dict[str, str] = first_value(text, len(_METADATA_FIRST), f"{path}: header")
        return metadata
    if _METADATA.encode("ascii") not in text and b"\\u" not in text:  # its name may also be spelled in escapes
        return {}
    return _read_header(file)[1]


def _read_members(file: MappedFile, header: dict[str, Any]) -> dict[str, LazyTensor]:
    """Return the tensors in the header's order; DamagedError unless their bytes fill the file's rest without holes.

    Takes the entries out of the header one by one: both together would need much memory.
    """
    for name, entry in header.items():
        _check_entry(file.path, name, entry)
    end, data = 0, _PREFIX + _header_size(file)
    for name in _by_offset(header):
        start, stop = header[name][2:]
        if start != end:
            raise _damaged(
                file.path, f"{name!r}: found bytes from {start} on, expected from {end}, with no hole or overlap"
            )
        end = stop
    if data + end != file.size:
        raise _damaged(file.path, f"found {file.size - data} bytes of tensors, expected {end}")
    entries = ((name, header.pop(name)) for name in list(header))
    return {name: LazyTensor(entry.dtype, entry.shape, file, data + entry.start) for name, entry in entries}


def _by_offset(header: dict[str, _Entry]) -> Iterable[str]:
    """Return the names in the order of their bytes, which most headers are in already."""
    ends = (entry.stop for entry in header.values())
    if all(entry.start == end for entry, end in zip(header.values(), chain([0], ends), strict=False)):
        return header
    return sorted(header, key=lambda name: header[name][2:])


def _check_entry(path: Path, name: str, entry: Any) -> None:
    where = f"{path}: {name!r}"
    if not isinstance(entry, _Entry):
        raise _not_a_tensor(where, entry)
    dtype, shape, start, stop = entry
    require_shape(shape, dtype, where)  # first: the product of many dimensions would have millions of digits
    if stop - start != prod(shape) * dtype.itemsize:
        raise DamagedError(f"{where}: found data_offsets {[start, stop]}, expected {dtype.name} {shape} to fill them")


def _not_a_tensor(where: str, said: Any) -> FormatError:
    """Return the error for what the header says in a tensor's place."""
    if not isinstance(said, dict) or said.keys() != _OF_TENSOR:
        return DamagedError(f"{where}: found {str(said)[:80]}, expected dtype, shape and data_offsets")
    for sizes in (said["shape"], said["data_offsets"]):
        if not _are_sizes(sizes):
            return DamagedError(f"{where}: found {_said(sizes)}, expected a list of sizes")
    if len(said["data_offsets"]) != 2:
        return DamagedError(f"{where}: found data_offsets {_said(said['data_offsets'])}, expected two")
    return FormatError(
        f"{where}: found dtype {_said(said['dtype'])}, expected one of {', '.join(_BY_TAG)}; "
        "convert it with the program that wrote it"
    )


def _are_sizes(value: Any) -> bool:
    if not isinstance(value, list) or not _INTS.issuperset(map(type, value)):
        return False
    return not value or (min(value) >= 0 and max(value) < 1 << 63)


def _said(sizes: Any) -> str:
    """Return the value as a message has room for it; Python may refuse to spell an int of many digits."""
    try:
        return str(sizes)[:80]
    except ValueError:
        return "a number of thousands of digits"


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where each tensor of a file to be written will lie."""

    document: Manifest
    tensors: Mapping[str, LazyTensor]  # by member name, in the tree's order, which the header keeps
    by_offset: tuple[str, ...]
    metadata: Mapping[str, str]

    def moves(self, descriptor: int, data: int, options: WriteOptions) -> Iterator[CopyJob]:
        """Yield the way of each tensor to its place behind ``data`` bytes of header."""
        schemes = ("xxh3",) if options.digest else ()
        for member in self.by_offset:
            yield CopyJob(member, self.tensors[member], descriptor, data, schemes)
            data += self.tensors[member].nbytes

    def header(self, digests: Mapping[str, str] | None) -> bytes:
        """Return the file's bytes before the tensors'; the same length whatever the digests are."""
        members = {member: (tensor.dtype, tensor.shape) for member, tensor in self.tensors.items()}
        document = {METADATA_KEY: self.document.text(members, digests, _users(self.metadata))}
        offsets, end = {}, 0
        for member in self.by_offset:
            start, end = end, end + self.tensors[member].nbytes
            offsets[member] = [start, end]
        header = {
            member: {"dtype": tensor.dtype.safetensors, "shape": list(tensor.shape), "data_offsets": offsets[member]}
            for member, tensor in self.tensors.items()
        }
        text = dump_json({_METADATA: {**self.metadata, **document}} | header).encode("ascii")
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text


def _layout(tree: Tree, metadata: Mapping[str, str]) -> _Layout:
    """Say where everything will lie; widest elements first, so that each tensor is aligned to its own."""
    check_metadata(metadata)
    document, tensors = manifest_of(tree, fits=_fits, stored_as=lambda dtype: dtype)
    for member, tensor in tensors.items():
        if tensor.dtype.safetensors is None:
            raise DtypeRefusedError(
                f"{member}: found dtype {tensor.dtype.name}, expected one that safetensors has a tag for; "
                "cast it, or write another layout, such as format='hdf5' or format='npz'"
            )
    by_offset = sorted(tensors, key=lambda member: -tensors[member].dtype.itemsize)
    layout = _Layout(document, tensors, tuple(by_offset), metadata)
    size = len(layout.header({})) - _PREFIX
    if size > HEADER_CAP:
        raise ValueRefusedError(
            f"found plain values and names of {size} bytes, expected a header of at most {HEADER_CAP}; "
            "save fewer plain values, or write another layout, such as format='hdf5'"
        )
    return layout


def _fits(name: str) -> bool:
    return name != _METADATA and is_utf8(name)
