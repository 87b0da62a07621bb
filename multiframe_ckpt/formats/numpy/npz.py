"""npz: a zip archive of ``.npy`` members, one a tensor, as ``numpy.savez`` writes and ``numpy.load`` reads.

Arrays of text, dates and objects are plain values; those of anything else are listed as bytes.

Members are stored and aligned, so that they can be mapped. What a flat archive cannot say stands as a manifest (see
``manifest.py``) between the last member and the zip directory, where ``numpy.load`` does not see it: its keys are the
tensors' names and nothing else. A pickle, which an array of objects is, is read as ``pickle`` does: nothing of it is run.
docs/formats/npz.md has the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np

from ...dtypes import UINT8, DType, dtype_of_numpy, is_numpys_own, unsigned_of
from ...errors import DamagedError
from ...pickle.arrays import plain_values
from ...pickle.known import PLAIN
from ...pickle.machine import PickleMachine, translated_errors
from ...pickle.resolve import Resolver
from ...progress import OnProgress
from ...storage.folders import Folder
from ...storage.zip_reader import Member, ZipReader
from ...storage.zip_writer import NewMember, ZipWriter
from ...tree import File, LazyTensor, Sharing, Tree, Turned, Unknown, elementwise
from ...tree.digests import crc32
from ...tree.shapes import require_shape
from ..base import Changes, Head, Opened, Plan, ProgressMeter, ReadOptions, WritableFormat, WriteOptions, require_file
from ..manifest import (
    METADATA_KEY,
    Manifest,
    assemble_with_facts,
    looks_like_manifest,
    manifest_of,
    members_of,
    tensors_by_name,
)
from ..tree_json import is_utf8
from .npy import MAGIC, MAX_HEADER_NBYTES, ArrayHeader, header_bytes, read_header

__all__ = ["NpzFormat"]

_SUFFIX = ".npy"
_MAX_NAME_NBYTES = 1000  # a zip file takes 65535 bytes, many an unpacker fewer
#: Arrays of text and dates become plain values, which are read at once and take many times their bytes.
_MAX_TEXT_NBYTES, _MAX_TEXTS = 1 << 26, 100_000
#: Bytes of an array of objects, which is read at once.
_MAX_PICKLE_NBYTES = 1 << 26


class NpzFormat(WritableFormat):
    """NumPy's archive of arrays; nothing is pickled."""

    name = "npz"
    suffixes = (".npz",)
    holds_versions = True

    def recognises(self, head: Head) -> bool:
        """Return whether this is a zip archive of ``.npy`` members, or of none but written by this library."""
        return _begins_with_npy(head.start) or (_is_zip(head) and _is_npz(ZipReader(require_file(head.place, self))))

    def open(self, place: File | Folder, options: ReadOptions) -> Opened:
        """Return the tree; an archive of another writer is a flat dict of its members, in the archive's order."""
        archive = ZipReader(require_file(place, self))
        where = archive.file.where
        members = {name.removesuffix(_SUFFIX): _read_member(archive, name) for name in archive.members}
        if len(members) != len(archive.members):
            raise DamagedError(f"{where}: found a member both with and without {_SUFFIX}, expected one; rename it")
        manifest = archive.before_directory()
        if archive.comment != _comment() and not looks_like_manifest(manifest):
            return Opened(members)
        tensors = {name: leaf for name, leaf in members.items() if isinstance(leaf, LazyTensor)}
        return Opened(*assemble_with_facts(manifest, tensors, f"{where}: {METADATA_KEY}"))

    def plan(self, tree: Tree, options: WriteOptions) -> Plan:
        """Say which ties are written twice; this format holds every tree."""
        manifest, members = manifest_of(tree, fits=_fits, stored_as=_stored_as, versions=options.versions)
        manifest.text(members_of(members, _stored_as), {})  # raises for what it cannot hold
        changes = Changes.of(Sharing(tensors_by_name(tree)), duplicates=True)
        return _Plan(manifest, members, options.digest, replace(changes, lost_metadata=tuple(options.metadata)))


@dataclass(frozen=True, slots=True)
class _Plan(Plan):
    """The members of an archive to be written, by name."""

    manifest: Manifest
    members: Mapping[str, LazyTensor]
    digest: bool
    changes: Changes

    @property
    def nbytes(self) -> int:
        """Bytes of the members."""
        return sum(tensor.nbytes for tensor in self.members.values())

    def write(self, target: Path, on_progress: OnProgress) -> None:
        """Write the members, the manifest behind them, and the zip directory."""
        meter = ProgressMeter(self.members, on_progress)
        new = [
            NewMember(name + _SUFFIX, header_bytes(_stored_as(tensor.dtype).numpy.str, tensor.shape), tensor, name)
            for name, tensor in self.members.items()
        ]
        with target.open("x+b", buffering=0) as file:
            archive = ZipWriter(file.fileno())
            written = archive.add(new, digest=self.digest, moved=meter.moved)
            digests = {name: written[name + _SUFFIX] for name in self.members} if self.digest else None
            archive.add_raw(self.manifest.text(members_of(self.members, _stored_as), digests).encode("ascii"))
            archive.finish(_comment())


def _comment() -> bytes:
    """Return the archive's comment, by which a manifest that another tool dropped is missed."""
    return METADATA_KEY.encode("ascii")


def _stored_as(dtype: DType) -> DType:
    """Return the dtype whose bits the format holds: itself, or an unsigned int for one that NumPy itself lacks."""
    return dtype if is_numpys_own(dtype) else unsigned_of(dtype.itemsize)


def _fits(name: str) -> bool:
    """Return whether a member may have the name: what ``numpy.load`` finds, and what no unpacker trips over."""
    return (
        is_utf8(name)
        and 0 < len(name.encode("utf-8")) <= _MAX_NAME_NBYTES
        and not name.endswith(_SUFFIX)  # numpy.load would look for the name without it
        and not any(character < " " or character in "\\\x7f" for character in name)
        and not any(part in ("", ".", "..") for part in name.split("/"))
    )


def _begins_with_npy(start: bytes) -> bool:
    """Return whether a zip file's first member is a ``.npy``; damage to its end can then be told of."""
    name = start[30 : 30 + int.from_bytes(start[26:28], "little")]
    return start[:4] == b"PK\x03\x04" and name.endswith(_SUFFIX.encode("ascii"))


def _is_zip(head: Head) -> bool:
    """Return whether a file may be an archive without members: the directory's end, or a manifest before it."""
    return head.start[:2] == b"PK" or looks_like_manifest(head.start)


def _is_npz(archive: ZipReader) -> bool:
    """Return whether an archive without members was written by this library."""
    return not archive.members and (archive.comment == _comment() or looks_like_manifest(archive.before_directory()))


def _read_member(archive: ZipReader, name: str) -> Tree:
    """Return the tensor of a member, the plain value of an array of text, dates or objects, or an unknown array."""
    where = f"{archive.file.where}: {name!r}"
    start = archive.head(name, MAX_HEADER_NBYTES + 12)
    if not name.endswith(_SUFFIX) and not start.startswith(MAGIC):
        return Unknown(
            "a file that is no array", None, {"bytes": _member_bytes(archive, name, 0, (archive.members[name].size,))}
        )
    header = read_header(start, where)
    if header.dtype.hasobject:
        return _object_member(archive, name, header, where)
    dtype = dtype_of_numpy(header.dtype)
    if dtype is None:
        return _other_member(archive, name, header, where)
    require_shape(header.shape, dtype, where)
    _require_size(archive, name, header, where)
    offset = archive.stored_at(name)
    if offset is None:
        return LazyTensor.from_function(dtype, header.shape, lambda: _member_array(archive, name, header))
    digest = _crc_digest(archive.members[name], start[: header.size])
    shape = header.shape[::-1] if header.fortran else header.shape
    tensor = LazyTensor.in_file(archive.file, dtype, shape, offset + header.size, what=name, digest=digest)
    if header.dtype != dtype.numpy:  # the bytes of each element come in the other order
        tensor = elementwise(tensor, dtype, np.ndarray.byteswap)
    if header.fortran and len(shape) > 1:
        return LazyTensor(dtype, header.shape, Turned(tensor, tuple(reversed(range(len(shape))))))
    return tensor


def _crc_digest(member: Member, header: bytes) -> str | None:
    """Return the digest of a stored array's bytes: the member's CRC goes on from that of its header."""
    return f"crc32-{crc32(header):08x}:{member.crc:08x}" if member.crc else None


def _require_size(archive: ZipReader, name: str, header: ArrayHeader, where: str) -> None:
    size = archive.members[name].size
    if header.size + header.nbytes != size:
        raise DamagedError(
            f"{where}: found {size} bytes, expected {header.size} of header and {header.nbytes} of "
            f"{header.dtype} {header.shape}; the file is damaged: fetch it again"
        )


def _member_array(archive: ZipReader, name: str, header: ArrayHeader) -> np.ndarray:
    """Read an array that is made at once: compressed, or text."""
    offset = archive.stored_at(name)
    if offset is None:
        raw = archive.inflated(name)[header.size :]
    else:
        raw = np.frombuffer(archive.file.mapped(offset + header.size, header.nbytes), np.uint8)
    flat = raw.view(header.dtype)
    return flat.reshape(header.shape[::-1]).T if header.fortran else flat.reshape(header.shape)


def _other_member(archive: ZipReader, name: str, header: ArrayHeader, where: str) -> Tree:
    """Return an array of no numbers: plain values where they are text or dates and few, else its bytes."""
    require_shape((*header.shape, header.dtype.itemsize), UINT8, where)
    _require_size(archive, name, header, where)
    few = prod(header.shape) <= _MAX_TEXTS and header.nbytes <= _MAX_TEXT_NBYTES
    if header.dtype.kind in "SUMm" and few:
        with translated_errors(where, lambda: "found an array"):
            array = _member_array(archive, name, header) if header.nbytes else np.empty(0, header.dtype)
            values: Tree = plain_values(array)
            return values
    shape = (*(header.shape[::-1] if header.fortran else header.shape), header.dtype.itemsize)
    stored = _member_bytes(archive, name, header.size, shape)
    return Unknown("numpy.ndarray", (str(header.dtype), header.shape), {"bytes": stored})


def _member_bytes(archive: ZipReader, name: str, start: int, shape: tuple[int, ...]) -> LazyTensor:
    """Return bytes of a member, from ``start`` on, as a tensor."""
    offset = archive.stored_at(name)
    if offset is None:
        return LazyTensor.from_function(UINT8, shape, lambda: archive.inflated(name)[start:].reshape(shape))
    return LazyTensor.in_file(archive.file, UINT8, shape, offset + start, what=name)


def _object_member(archive: ZipReader, name: str, header: ArrayHeader, where: str) -> Tree:
    """Return the objects of an array, which are a pickle behind its header: known ones as plain values."""
    size = archive.members[name].size
    if size > _MAX_PICKLE_NBYTES:
        return Unknown("numpy.ndarray", (str(header.dtype), header.shape))
    pickled = archive.head(name, size)[header.size :]
    machine = PickleMachine(pickled, where=where, builders=PLAIN)
    return Resolver(where, len(pickled)).tree(machine.run())
