"""npz: a zip archive of ``.npy`` members, one a tensor, as ``numpy.savez`` writes and ``numpy.load`` reads.

Members are stored and aligned, so that they can be mapped. What a flat archive cannot say stands as a document (see
``document.py``) between the last member and the zip directory, where ``numpy.load`` does not see it: its keys are the
tensors' names and nothing else. Nothing is ever unpickled. docs/formats/npz.md has the bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np

from ...dtypes import DTYPES, DType, dtype_of_numpy
from ...errors import DamagedError, FormatError
from ...progress import OnProgress, silent
from ...storage.files import open_regular
from ...storage.zip_reader import MappedArchive
from ...storage.zip_writer import ArchiveWriter, NewMember
from ...tree import LazyTensor, Tree, partition
from ...tree.digests import crc32
from ...tree.shapes import require_shape
from ..base import ProgressMeter, ReadOptions, WriteOptions, WritePlan, duplicated_ties
from ..manifest import METADATA_KEY, Manifest, assemble, looks_like_manifest, manifest_of
from ..tree_json import is_utf8
from .npy import HEADER_CAP, ArrayHeader, header_bytes, read_header

__all__ = ["NpzFormat"]

_SUFFIX = ".npy"
_NAME_CAP = 1000  # a zip file takes 65535 bytes, many an unpacker fewer
#: Arrays of text become plain values, which are read at once and take many times their bytes.
_TEXT_CAP, _TEXT_COUNT = 1 << 26, 100_000
#: By item size, the dtype whose bits stand in for a dtype that NumPy itself does not have.
_BITS = {row.itemsize: row for row in DTYPES if row.name in ("uint8", "uint16")}


class NpzFormat:
    """NumPy's archive of arrays; nothing is pickled."""

    name = "npz"
    suffixes = (".npz",)

    def sniff(self, path: Path) -> bool:
        """Return whether ``path`` is a zip archive of ``.npy`` members, or of none but written by this library."""
        try:
            return _begins_with_npy(path) or _is_npz(MappedArchive(path))
        except (FormatError, OSError, ValueError):  # ValueError: a path with a NUL in it
            return False

    def read(self, path: Path, options: ReadOptions = ReadOptions()) -> Tree:
        """Return the tree; an archive of another writer is a flat dict of its members, in the archive's order."""
        archive = MappedArchive(path)
        members = {name.removesuffix(_SUFFIX): _read_member(archive, name) for name in archive.members}
        if len(members) != len(archive.members):
            raise DamagedError(f"{path}: found a member both with and without {_SUFFIX}, expected one; rename it")
        document = archive.before_directory()
        if archive.comment != _comment() and not looks_like_manifest(document):
            return members
        tensors = {name: leaf for name, leaf in members.items() if isinstance(leaf, LazyTensor)}
        return assemble(document, tensors, f"{path}: {METADATA_KEY}")

    def plan(self, tree: Tree) -> WritePlan:
        """Return which ties are written twice; this layout holds every tree."""
        document, members = _document_of(tree)
        document.text(_outline(members), {})
        return duplicated_ties(partition(tree)[1])

    def write(
        self, tree: Tree, path: Path, options: WriteOptions = WriteOptions(), *, on_progress: OnProgress = silent
    ) -> None:
        """Write the tree to a fresh path."""
        document, members = _document_of(tree)
        document.text(_outline(members), {})  # raises for what it cannot hold before anything is written
        meter = ProgressMeter(members, on_progress)
        new = [
            NewMember(name + _SUFFIX, header_bytes(_stored_as(tensor.dtype).numpy.str, tensor.shape), tensor, name)
            for name, tensor in members.items()
        ]
        with path.open("xb", buffering=0) as file:
            archive = ArchiveWriter(file.fileno())
            found = archive.add(new, digest=options.digest, moved=meter.moved)
            digests = {name: found[name + _SUFFIX] for name in members} if options.digest else None
            archive.add_raw(document.text(_outline(members), digests).encode("ascii"))
            archive.finish(_comment())


def _comment() -> bytes:
    """Return the archive's comment, by which a document that another tool dropped is missed."""
    return METADATA_KEY.encode("ascii")


def _document_of(tree: Tree) -> tuple[Manifest, dict[str, LazyTensor]]:
    return manifest_of(tree, fits=_fits, stored_as=_stored_as)


def _outline(members: Mapping[str, LazyTensor]) -> dict[str, tuple[DType, tuple[int, ...]]]:
    return {member: (_stored_as(tensor.dtype), tensor.shape) for member, tensor in members.items()}


def _stored_as(dtype: DType) -> DType:
    """Return the dtype whose bits the layout holds: itself, or an unsigned int for one that NumPy itself lacks."""
    return dtype if dtype.numpy.isbuiltin == 1 else _BITS[dtype.itemsize]


def _fits(name: str) -> bool:
    """Return whether a member may have the name: what ``numpy.load`` finds, and what no unpacker trips over."""
    return (
        is_utf8(name)
        and 0 < len(name.encode("utf-8")) <= _NAME_CAP
        and not name.endswith(_SUFFIX)  # numpy.load would look for the name without it
        and not any(character < " " or character in "\\\x7f" for character in name)
        and not any(part in ("", ".", "..") for part in name.split("/"))
    )


def _begins_with_npy(path: Path) -> bool:
    """Return whether a zip file's first member is a ``.npy``; damage to its end can then be told of."""
    with open_regular(path) as file:
        start = file.read(30 + 2 * _NAME_CAP)
    name = start[30 : 30 + int.from_bytes(start[26:28], "little")]
    return start[:4] == b"PK\x03\x04" and name.endswith(_SUFFIX.encode("ascii"))


def _is_npz(archive: MappedArchive) -> bool:
    """Return whether an archive without members was written by this library."""
    return not archive.members and (archive.comment == _comment() or looks_like_manifest(archive.before_directory()))


def _read_member(archive: MappedArchive, name: str) -> Tree:
    """Return the tensor of a member, or the plain value of an array of text."""
    where = f"{archive.file.path}: {name!r}"
    header = read_header(archive.head(name, HEADER_CAP + 12), where)
    dtype = dtype_of_numpy(header.dtype)
    if header.dtype.kind in "SU":
        return _text(archive, name, header, where)
    if dtype is None:
        raise FormatError(
            f"{where}: found dtype {header.dtype}, expected one of multiframe_ckpt.dtypes.DTYPES; save it as another"
        )
    require_shape(header.shape, dtype, where)
    _require_size(archive, name, header, where)
    offset = archive.stored_at(name)
    if offset is not None and header.dtype == dtype.numpy and not (header.fortran and len(header.shape) > 1):
        return archive.file.tensor(
            dtype, header.shape, offset + header.size, what=name, digest=_crc(archive, name, header)
        )
    return LazyTensor(dtype, header.shape, lambda: _array(archive, name, header))


def _crc(archive: MappedArchive, name: str, header: ArrayHeader) -> str | None:
    """Return the digest of a stored array's bytes: the member's CRC goes on from that of its header."""
    crc = archive.members[name].crc
    return f"crc32-{crc32(archive.head(name, header.size)):08x}:{crc:08x}" if crc else None


def _require_size(archive: MappedArchive, name: str, header: ArrayHeader, where: str) -> None:
    size = archive.members[name].size
    if header.size + header.nbytes != size:
        raise DamagedError(
            f"{where}: found {size} bytes, expected {header.size} of header and {header.nbytes} of "
            f"{header.dtype} {header.shape}; the file is damaged: fetch it again"
        )


def _array(archive: MappedArchive, name: str, header: ArrayHeader) -> np.ndarray:
    """Read an array that cannot be mapped as it lies: compressed, big-endian, or in Fortran order."""
    offset = archive.stored_at(name)
    if offset is None:
        raw = archive.inflated(name)[header.size :]
    else:
        raw = archive.file.raw(offset + header.size, header.nbytes, name)
    flat = raw.view(header.dtype)
    return flat.reshape(header.shape[::-1]).T if header.fortran else flat.reshape(header.shape)


def _text(archive: MappedArchive, name: str, header: ArrayHeader, where: str) -> Tree:
    _require_size(archive, name, header, where)
    if not 0 < header.nbytes <= _TEXT_CAP:
        raise FormatError(f"{where}: found text of {header.nbytes} bytes, expected 1 to {_TEXT_CAP}; save it elsewhere")
    if prod(header.shape) > _TEXT_COUNT:
        raise FormatError(
            f"{where}: found {prod(header.shape)} texts, expected at most {_TEXT_COUNT}; save them elsewhere"
        )
    array = _array(archive, name, header)
    if header.dtype.kind == "U":
        code_points = np.ascontiguousarray(array).reshape(-1).view(header.dtype.byteorder + "u4")
        if int(code_points.max()) > sys.maxunicode:  # NumPy would make text of them that Python cannot hold
            raise DamagedError(f"{where}: found code points that no text has; fetch the file again")
    return array.tolist()
