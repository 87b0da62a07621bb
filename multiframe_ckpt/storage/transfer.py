"""Moving tensors: from file to file, from memory to file, and from file to memory.

Bytes pass through buffers that stay in the processor's cache, and whatever must be known of them (a digest to write, one to
check, a zip file's CRC) is computed on the way. Large tensors move several at a time; small ones move in the caller's
thread, where handing them over would cost more than it saves. No file is mapped: a page fault for each few pages is
slower than reading, and a file that is cut short meanwhile gives an error instead of a signal.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import local
from typing import TypeVar

import numpy as np

from ..dtypes import DType
from ..errors import DamagedError
from ..tree import Extent, LazyTensor, OpenedFile, Tree, map_leaves, shared_storages, tensors
from ..tree.digests import PIECE, Hashing, bytes_of, chunks_of, digest_of_bytes, require_digest, scheme_of
from .files import read_at
from .parallel import SMALL, in_parallel

__all__ = [
    "CopyJob",
    "HashingReader",
    "as_elements",
    "copy",
    "copy_batch",
    "materialized",
    "read_once",
    "read_small",
    "read_through",
    "write_all_at",
    "write_at",
]

R = TypeVar("R")

_AT_ONCE = 512  # pieces in one call; systems take 1,024

_buffers = local()


class HashingReader:
    """A tensor's bytes, piece by piece, hashed and checked as they pass; each piece is good until the next is asked for.

    ``digests`` has those of ``schemes`` when all have passed. The end raises DamagedError where the bytes are not the ones
    that their file promised.
    """

    def __init__(self, key: str, tensor: LazyTensor, schemes: Iterable[str] = ()) -> None:
        self._key, self._tensor = key, tensor
        self._schemes = {*schemes} if tensor.digest is None else {*schemes, scheme_of(tensor.digest)}
        self.digests: dict[str, str] = {}

    def __iter__(self) -> Iterator[memoryview]:
        return self._hashed(self._pieces())

    def into(self, array: np.ndarray) -> Iterator[memoryview]:
        """Fill an array of the tensor's dtype and shape as the bytes pass."""
        extent = self._tensor.extent
        if extent is not None:
            return self._hashed(_read(extent, chunks_of(array)))
        return self._hashed(_copied(bytes_of(array), self._pieces()))

    def _hashed(self, pieces: Iterable[memoryview]) -> Iterator[memoryview]:
        hashing = Hashing(self._schemes)
        for piece in pieces:
            hashing.update(piece)
            yield piece
        self.digests = hashing.digests()
        promised = self._tensor.digest
        if promised is not None:
            where = f"{self._tensor.extent.where}: {self._key}" if self._tensor.extent else self._key
            require_digest(where, self.digests[scheme_of(promised)], promised)

    def _pieces(self) -> Iterator[memoryview]:
        tensor = self._tensor
        if tensor.derived is not None:
            base, change = tensor.derived.base, tensor.derived.change
            return (bytes_of(change(as_elements(piece, base.dtype))) for piece in HashingReader(self._key, base))
        if tensor.extent is None:
            return chunks_of(tensor.numpy())
        buffer = _buffer()
        sizes = (min(PIECE, tensor.nbytes - start) for start in range(0, tensor.nbytes, PIECE))
        return _read(tensor.extent, (buffer[:size] for size in sizes))


def read_small(key: str, tensor: LazyTensor) -> bytes | memoryview:
    """Return all bytes of a small tensor, checked: pieces would cost more than the bytes do."""
    if tensor.derived is not None and tensor.digest is None:
        base, change = tensor.derived.base, tensor.derived.change
        return bytes_of(change(as_elements(memoryview(read_small(key, base)), base.dtype)))
    extent = tensor.extent
    if extent is None:
        return bytes_of(tensor.numpy())
    with extent.descriptor() as descriptor:
        raw = read_at(descriptor, extent.nbytes, extent.offset)
    if len(raw) != extent.nbytes:
        raise _cut_short(extent, extent.offset + len(raw))
    _compare(raw, tensor.digest, f"{extent.where}: {key}")
    return raw


def _compare(raw: bytes | memoryview, digest: str | None, where: str) -> None:
    if digest is not None:
        require_digest(where, digest_of_bytes(raw, scheme_of(digest)), digest)


def _cut_short(extent: Extent, offset: int) -> DamagedError:
    return DamagedError(
        f"{extent.where}: found the file cut short since it was opened, expected bytes at {offset}; fetch it again"
    )


def as_elements(piece: memoryview, dtype: DType) -> np.ndarray:
    """Return bytes as the elements that they are."""
    return np.frombuffer(piece, np.uint8).view(dtype.numpy)


def _buffer() -> memoryview:
    """Return this thread's piece of memory, over and over the same, so that it stays in cache."""
    if not hasattr(_buffers, "piece"):
        # It begins with a page, since systems copy faster to there; private, or a forked process would write into it.
        _buffers.piece = memoryview(mmap.mmap(-1, PIECE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    found: memoryview = _buffers.piece
    return found


def _read(extent: Extent, pieces: Iterable[memoryview]) -> Iterator[memoryview]:
    """Fill pieces of memory with the bytes of an extent, one behind the other."""
    with extent.descriptor() as descriptor:
        offset = extent.offset
        for piece in pieces:
            left = piece
            while left:
                count = os.preadv(descriptor, [left], offset)
                if count == 0:
                    raise _cut_short(extent, offset)
                left, offset = left[count:], offset + count
            yield piece


def _copied(target: memoryview, pieces: Iterable[memoryview]) -> Iterator[memoryview]:
    done = 0
    for piece in pieces:
        target[done : done + len(piece)] = piece
        yield piece
        done += len(piece)


@dataclass(frozen=True, slots=True)
class CopyJob:
    """A tensor on its way to an offset of an open file; ``schemes`` are the digests to compute on the way.

    ``head`` stands before its bytes: it is written too, and counts for ``crc32``.
    """

    key: str
    tensor: LazyTensor
    descriptor: int
    offset: int
    schemes: tuple[str, ...] = ()
    head: bytes = b""


def copy(job: CopyJob) -> dict[str, str]:
    """Copy one tensor and return scheme → digest; DamagedError where its bytes are not the ones its file promised."""
    if job.tensor.nbytes <= SMALL:
        raw = read_small(job.key, job.tensor)
        write_at(job.descriptor, raw, write_at(job.descriptor, job.head, job.offset))
        return {scheme: digest_of_bytes(raw, scheme, job.head) for scheme in job.schemes}
    framed = ("crc32",) if job.head and "crc32" in job.schemes else ()
    passing = HashingReader(job.key, job.tensor, set(job.schemes).difference(framed))
    with_head = Hashing(framed)
    with_head.update(job.head)
    offset = write_at(job.descriptor, job.head, job.offset)
    for piece in passing:
        with_head.update(piece)
        offset = write_at(job.descriptor, piece, offset)
    return passing.digests | with_head.digests()


def copy_batch(run: Sequence[CopyJob]) -> list[dict[str, str]]:
    """Copy tensors that go one behind the other to one file: small ones in one write."""
    if len(run) == 1:
        return [copy(run[0])]
    raws = [read_small(job.key, job.tensor) for job in run]
    write_all_at(run[0].descriptor, raws, run[0].offset)
    return [
        {scheme: digest_of_bytes(raw, scheme) for scheme in job.schemes} for job, raw in zip(run, raws, strict=True)
    ]


def write_at(descriptor: int, piece: bytes | memoryview, offset: int) -> int:
    """Write bytes at an offset and return where they end; the system may take fewer than it is given in one call."""
    left = memoryview(piece)
    while left:
        count = os.pwrite(descriptor, left, offset)
        left, offset = left[count:], offset + count
    return offset


def write_all_at(descriptor: int, pieces: Sequence[bytes | memoryview], offset: int) -> None:
    """Write pieces one behind the other, without copying them together, as far as the system takes them so."""
    for start in range(0, len(pieces), _AT_ONCE):
        some = pieces[start : start + _AT_ONCE]
        nbytes = sum(map(len, some))
        taken = os.pwritev(descriptor, some, offset)
        if taken < nbytes:
            write_at(descriptor, b"".join(some)[taken:], offset + taken)
        offset += nbytes


def read_through(table: Mapping[str, LazyTensor]) -> Iterator[str]:
    """Read every tensor, large ones several at a time, and yield the key of each; DamagedError for the first damage."""
    keys = list(table)
    for at, _ in in_parallel(lambda key: read_once(key, table[key]), keys, lambda key: table[key].nbytes):
        yield keys[at]


def read_once(key: str, tensor: LazyTensor) -> None:
    """Read a tensor and keep nothing of it; DamagedError where its bytes are not the ones its file promised."""
    for _ in HashingReader(key, tensor):
        pass


def materialized(tree: Tree) -> Tree:
    """Return the tree with its tensors in memory of their own, read now, several at a time, and checked.

    Those that are parts of one storage stay as they are: what they share is kept when they are read.
    """
    table = tensors(tree)
    shared = shared_storages(table)
    tied = {id(table[key]): table[key].identity for group in shared for key in group}
    parts = {key for group in shared if len({table[key].identity for key in group}) > 1 for key in group}
    first: dict[Hashable, str] = {}  # the key of each tensor that is to be read, once for all its names
    for key, tensor in table.items():
        if key not in parts and (isinstance(tensor.source, OpenedFile) or tensor.derived):
            first.setdefault(tied.get(id(tensor), id(tensor)), key)
    owners, keys = list(first), list(first.values())
    found = in_parallel(lambda key: _array(key, table[key]), keys, lambda key: table[key].nbytes)
    arrays = {owners[at]: array for at, array in found}

    def change(_: object, leaf: Tree) -> Tree:
        array = arrays.get(tied.get(id(leaf), id(leaf)))
        if array is None or not isinstance(leaf, LazyTensor):
            return leaf
        return LazyTensor(leaf.dtype, leaf.shape, array.__array__, alias=tied.get(id(leaf)))

    return map_leaves(tree, change)


def _array(key: str, tensor: LazyTensor) -> np.ndarray:
    array = np.empty(tensor.shape, tensor.dtype.numpy)
    extent = tensor.extent
    if array.nbytes > SMALL:
        for _ in HashingReader(key, tensor).into(array):
            pass
    elif extent is None:
        bytes_of(array)[:] = read_small(key, tensor)
    else:
        for raw in _read(extent, [bytes_of(array)]):
            _compare(raw, tensor.digest, f"{extent.where}: {key}")
    return array
