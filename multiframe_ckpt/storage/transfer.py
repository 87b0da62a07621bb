"""Copying tensors: from file to file, from memory to file, and from file to memory.

Bytes pass through buffers that stay in the processor's cache, and whatever must be known of them (a digest to write, one to
check, a zip file's CRC) is computed on the way. Large tensors are copied several at a time; small ones in the caller's
thread, where handing them over would cost more than it saves. No file is mapped: a page fault for each few pages is
slower than reading, and a file that is cut short meanwhile gives an error instead of a signal.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import local

import numpy as np

from ..dtypes import DType
from ..errors import DamagedError
from ..tree import (
    Elementwise,
    Extent,
    InMemory,
    Joined,
    LazyTensor,
    Path,
    Reshaped,
    Rows,
    Sharing,
    Tree,
    Turned,
    map_leaves,
    tensors,
)
from ..tree.digests import PIECE, Hashing, bytes_of, chunks_of, digest_of_bytes, require_digest, scheme_of
from .parallel import SMALL_NBYTES, Workers, in_parallel

__all__ = [
    "CopyJob",
    "HashingReader",
    "as_elements",
    "copy",
    "copy_batch",
    "data_spans",
    "materialized",
    "read_once",
    "read_small",
    "read_span",
    "read_through",
    "recut",
    "write_all_at",
    "write_at",
]

_AT_ONCE = 512  # pieces in one call; systems take 1,024

_buffers = local()


def _buffer() -> memoryview:
    """Return this thread's piece of memory, over and over the same, so that it stays in cache."""
    if not hasattr(_buffers, "piece"):
        # It begins with a page, since systems copy faster to there; private, or a forked process would write into it.
        _buffers.piece = memoryview(mmap.mmap(-1, PIECE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    piece: memoryview = _buffers.piece
    return piece


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
        return self._hashed(self._tensor.source.pieces(_buffer()))

    def into(self, array: np.ndarray) -> Iterator[memoryview]:
        """Fill an array of the tensor's dtype and shape as the bytes pass."""
        extent = self._tensor.extent
        if extent is not None:
            return self._hashed(_read(extent, chunks_of(array)))
        return self._hashed(_copied(bytes_of(array), self._tensor.source.pieces(_buffer())))

    def _hashed(self, pieces: Iterable[memoryview]) -> Iterator[memoryview]:
        hashing = Hashing(self._schemes)
        for piece in pieces:
            hashing.update(piece)
            yield piece
        self.digests = hashing.digests()
        promised = self._tensor.digest
        if promised is not None:
            require_digest(_where(self._key, self._tensor), self.digests[scheme_of(promised)], promised)


def _where(key: str, tensor: LazyTensor) -> str:
    extent = tensor.extent
    return f"{extent.where}: {key}" if extent else key


def _read(extent: Extent, pieces: Iterable[memoryview]) -> Iterator[memoryview]:
    """Fill pieces of memory with the bytes of an extent, one behind the other."""
    with extent.file.opened() as file:
        offset = extent.offset
        for piece in pieces:
            file.read_into(offset, piece)
            offset += len(piece)
            yield piece


def _copied(target: memoryview, pieces: Iterable[memoryview]) -> Iterator[memoryview]:
    offset = 0
    for piece in pieces:
        target[offset : offset + len(piece)] = piece
        yield piece
        offset += len(piece)


def recut(pieces: Iterable[memoryview], sizes: Iterable[int]) -> Iterator[memoryview]:
    """Yield bytes that come in pieces in pieces of these sizes, each good until the next is asked for.

    The sizes add up to all there is; when the last is asked for, so is the end of ``pieces``, where digests are compared.
    """
    left, buffer = memoryview(b""), bytearray()
    source = iter(pieces)
    for size in sizes:
        left = left or next(source, left)
        if len(left) >= size:
            yield left[:size]
            left = left[size:]
            continue
        buffer += bytes(max(0, size - len(buffer)))
        filled = 0
        while filled < size:
            left = left or next(source)
            taken = left[: size - filled]
            buffer[filled : filled + len(taken)] = taken
            left, filled = left[len(taken) :], filled + len(taken)
        yield memoryview(buffer)[:size]
    for _ in source:
        pass


def read_small(key: str, tensor: LazyTensor) -> bytes | memoryview:
    """Return all bytes of a small tensor, checked: pieces would cost more than the bytes do."""
    source = tensor.source
    if type(source) is Elementwise and tensor.digest is None:
        base = memoryview(read_small(key, source.base))
        return bytes_of(source.change(as_elements(base, source.base.dtype)))
    extent = source.extent
    if extent is None:
        return bytes_of(tensor.numpy())
    raw = extent.file.read_at(extent.offset, extent.nbytes, key)
    _compare(raw, tensor.digest, f"{extent.where}: {key}")
    return raw


def _compare(raw: bytes | memoryview, digest: str | None, where: str) -> None:
    if digest is not None:
        require_digest(where, digest_of_bytes(raw, scheme_of(digest)), digest)


def as_elements(piece: memoryview, dtype: DType) -> np.ndarray:
    """Return bytes as the elements that they are."""
    return np.frombuffer(piece, np.uint8).view(dtype.numpy)


@dataclass(frozen=True, slots=True)
class CopyJob:
    """A tensor on its way to an offset of a file that is open for both; ``schemes`` are the digests to compute on the way.

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
    if job.tensor.nbytes <= SMALL_NBYTES:
        raw = read_small(job.key, job.tensor)
        write_at(job.descriptor, raw, write_at(job.descriptor, job.head, job.offset))
        return {scheme: digest_of_bytes(raw, scheme, job.head) for scheme in job.schemes}
    framed = ("crc32",) if job.head and "crc32" in job.schemes else ()
    plain = set(job.schemes).difference(framed)
    offset = write_at(job.descriptor, job.head, job.offset)
    with_head = Hashing(framed)
    with_head.update(job.head)
    source = job.tensor.source
    if isinstance(source, Turned) and source.reads_parts and job.tensor.digest is None:
        hashings = (Hashing(plain), with_head) if job.schemes else ()
        _copy_turned(job.descriptor, offset, source, hashings)
        return {scheme: digest for hashing in hashings for scheme, digest in hashing.digests().items()}
    reader = HashingReader(job.key, job.tensor, plain)
    for piece in reader:
        with_head.update(piece)
        offset = write_at(job.descriptor, piece, offset)
    return reader.digests | with_head.digests()


def _copy_turned(descriptor: int, offset: int, source: Turned, hashings: Sequence[Hashing]) -> None:
    """Copy a turned tensor, while another thread compares with its digest what it is made of."""
    with Workers(1, "multiframe-ckpt") as beside:
        comparing = beside.submit(lambda: source.base.compare(_buffer()))
        if source.prefers_blocks:
            _copy_blocks(descriptor, offset, source, hashings, beside)
        else:
            _copy_bands(descriptor, offset, source, hashings)
        comparing.result()


def _copy_bands(descriptor: int, offset: int, source: Turned, hashings: Sequence[Hashing]) -> None:
    for band in source.bands():
        for piece in chunks_of(band):
            _hash(hashings, [piece])
            offset = write_at(descriptor, piece, offset)


def _copy_blocks(descriptor: int, offset: int, source: Turned, hashings: Sequence[Hashing], beside: Workers) -> None:
    """Write a turned matrix block by block, each of its rows to where it belongs; rows that are whole are hashed beside."""
    itemsize, row_nbytes = source.dtype.itemsize, source.shape[1] * source.dtype.itemsize
    if hasattr(os, "posix_fallocate"):  # a third of the time of a write is spent on pages that nobody said would come
        os.posix_fallocate(descriptor, offset, source.base.nbytes)
    tasks = []
    for rows, columns, block in source.blocks():
        start = offset + rows.start * row_nbytes
        _write_rows(descriptor, start + columns.start * itemsize, row_nbytes, block.view(np.uint8))
        if hashings and columns.stop == source.shape[1]:
            written = _reread(descriptor, start, start + len(rows) * row_nbytes)
            tasks.append(beside.submit(_hash, hashings, written))
    for task in tasks:
        task.result()


def _hash(hashings: Sequence[Hashing], pieces: Iterable[memoryview]) -> None:
    for piece in pieces:
        for hashing in hashings:
            hashing.update(piece)


def _write_rows(descriptor: int, offset: int, step: int, rows: np.ndarray) -> None:
    write, nbytes = os.pwrite, rows.shape[1]
    for row in rows:
        taken = write(descriptor, row, offset)
        if taken != nbytes:
            write_at(descriptor, memoryview(row)[taken:], offset + taken)
        offset += step


def _reread(descriptor: int, offset: int, end: int) -> Iterator[memoryview]:
    """Yield bytes that were written, from an offset to before another."""
    while offset < end:
        piece = _buffer()[: end - offset]
        count = os.preadv(descriptor, [piece], offset)
        if not count:
            raise DamagedError(
                "found the file that is being written cut short by another program, expected it left alone until it is "
                "complete; write it again"
            )
        yield piece[:count]
        offset += count


def copy_batch(batch: Sequence[CopyJob]) -> list[dict[str, str]]:
    """Copy tensors that go one behind the other to one file: small ones in one write."""
    if len(batch) == 1:
        return [copy(batch[0])]
    raws = [read_small(job.key, job.tensor) for job in batch]
    write_all_at(batch[0].descriptor, raws, batch[0].offset)
    return [
        {scheme: digest_of_bytes(raw, scheme) for scheme in job.schemes} for job, raw in zip(batch, raws, strict=True)
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
    for position, _ in in_parallel(lambda key: read_once(key, table[key]), keys, lambda key: table[key].nbytes):
        yield keys[position]


def read_once(key: str, tensor: LazyTensor) -> None:
    """Read a tensor and keep nothing of it; DamagedError where its bytes are not the ones its file promised.

    Where nothing is promised, holes are passed over: nothing lies there that could be read or not.
    """
    changed = tensor.source if isinstance(tensor.source, Elementwise) and tensor.digest is None else None
    base = tensor if changed is None else changed.base
    if base.digest is not None or base.extent is None:
        for _ in HashingReader(key, tensor):
            pass
        return
    size = base.dtype.itemsize
    for span in data_spans(base):
        whole = range(span.start // size * size, -(-span.stop // size) * size)
        for piece in read_span(base, whole, _buffer()):
            if changed is not None:
                changed.change(as_elements(piece, base.dtype))


def data_spans(tensor: LazyTensor) -> list[range]:
    """Return the parts of a tensor's bytes that are stored, and no holes of its file: all of them, where nobody tells."""
    extent = tensor.extent
    if extent is None or tensor.digest is not None:
        return [range(tensor.nbytes)]
    with extent.file.opened() as file:
        spans = list(file.data_spans(extent.offset, extent.nbytes))
    return [range(start - extent.offset, start - extent.offset + nbytes) for start, nbytes in spans]


def read_span(tensor: LazyTensor, span: range, buffer: memoryview) -> Iterator[memoryview]:
    """Yield the bytes of a part of a tensor that lies whole in a file, piece by piece."""
    extent = tensor.extent
    if extent is None:
        raise ValueError(f"{tensor!r}: found no place in a file, expected one")
    part = Extent(extent.file, extent.offset + span.start, len(span))
    return _read(part, (buffer[: min(len(buffer), len(span) - start)] for start in range(0, len(span), len(buffer))))


def materialized(tree: Tree) -> Tree:
    """Return the tree with its tensors in memory of their own, read now, several at a time, and checked.

    Those that are parts of one storage stay as they are: what they share is kept when they are read.
    """
    table = tensors(tree)
    sharing = Sharing(table)
    tied = {id(table[key]): table[key].identity for group in sharing.storages for key in group}
    parts = {key for group in sharing.split for key in group}
    extents = {key: tensor.extent for key, tensor in table.items() if key not in parts}
    first: dict[Hashable, str] = {}  # the key of each tensor that is to be read, once for all its names
    for key, extent in extents.items():
        if extent is not None or isinstance(table[key].source, _MADE_IN_PIECES):
            first.setdefault(tied.get(id(table[key]), id(table[key])), key)
    owners, keys = list(first), list(first.values())
    results = in_parallel(lambda key: _array(key, table[key], extents[key]), keys, lambda key: table[key].nbytes)
    arrays = {owners[position]: array for position, array in results}

    def in_memory(_: Path, leaf: Tree) -> Tree:
        array = arrays.get(tied.get(id(leaf), id(leaf)))
        if array is None or not isinstance(leaf, LazyTensor):
            return leaf
        return LazyTensor(leaf.dtype, leaf.shape, InMemory(array, dtype=leaf.dtype), tied.get(id(leaf)))

    return map_leaves(tree, in_memory)


#: Sources that are read piece by piece, and would be read anew by whoever asks for their elements.
_MADE_IN_PIECES = (Elementwise, Joined, Reshaped, Rows, Turned)


def _array(key: str, tensor: LazyTensor, extent: Extent | None) -> np.ndarray:
    array = np.empty(tensor.shape, tensor.dtype.numpy)
    if array.nbytes > SMALL_NBYTES:
        for _ in HashingReader(key, tensor).into(array):
            pass
    elif extent is None:
        bytes_of(array)[:] = read_small(key, tensor)
    else:
        raw = bytes_of(array)
        extent.file.read_into(extent.offset, raw)
        _compare(raw, tensor.digest, f"{extent.where}: {key}")
    return array
