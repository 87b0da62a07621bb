"""One OneFlow variable: a folder with ``meta`` (see oneflow_meta) and ``out``, the raw little-endian C-order values.

dtypes that ``flow.load`` 0.8 and 0.9 cannot read are stored as a wider one that holds them exactly, and the note in
``meta`` remembers the narrow one. OneFlow 0.9 writes bfloat16 with a float32 payload under ``kBFloat16`` and cannot read
it back; the payload's size tells, and it is read right here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path

import numpy as np

from ...dtypes import DTYPES, DType, dtype_named, narrow, widen
from ...errors import DamagedError, DtypeRefusedError
from ...storage.folders import Folder
from ...storage.parallel import in_parallel
from ...storage.transfer import CopyJob, HashingReader, as_elements, copy, write_at
from ...tree import LazyTensor
from ...tree.digests import bytes_of
from ...tree.shapes import require_shape
from ..base import ProgressMeter, WriteOptions
from .meta import META_LIMIT, Note, VariableMeta, parse_canonical, parse_meta, render_meta

__all__ = ["NewVariable", "read_fast", "read_variable", "stored_dtype", "write_variables"]

_FLOAT32, _BFLOAT16 = (next(row for row in DTYPES if row.name == name) for name in ("float32", "bfloat16"))

# Reading


def read_variable(folder: Folder) -> tuple[LazyTensor, Note | None] | None:
    """Return the tensor of a variable's folder and our note, or None where the folder is none: it has no ``out``."""
    seen = folder.status("out")
    if seen is None:
        return None
    try:
        raw = folder.read("meta", META_LIMIT)
    except FileNotFoundError:
        raise DamagedError(
            f"{folder.where}: found no file 'meta' beside 'out', expected one; restore it from a copy"
        ) from None
    meta = parse_meta(raw, f"{folder.where}/meta")
    return _tensor(folder, "out", meta, seen), meta.note


def read_fast(snapshot: Folder, name: str) -> tuple[LazyTensor, Note | None] | None:
    """Return what :func:`read_variable` gives of a folder in a snapshot, sooner; None where anything is unusual."""
    glance = snapshot.glance(name, "meta", "out")
    meta = parse_canonical(glance[0]) if glance else None
    return (_tensor(snapshot, f"{name}/out", meta, glance[1]), meta.note) if glance and meta else None


def _tensor(folder: Folder, out: str, meta: VariableMeta, seen: os.stat_result) -> LazyTensor:
    """Return the tensor whose bytes are the file ``out`` in a folder."""
    note, stored = meta.note, meta.dtype
    digest = note.digest if note is not None else None
    own = dtype_named(note.dtype) if note is not None and note.dtype else stored
    if stored is _BFLOAT16:
        require_shape(meta.shape, stored, f"{folder.where}/{out}")
        if seen.st_size == 4 * prod(meta.shape) != 0:
            stored = _FLOAT32  # what real OneFlow writes for bfloat16
    if own is stored or own is None:
        return folder.tensor(out, seen, stored, meta.shape, digest)
    if own.oneflow_wider != stored.name:
        variable = os.path.dirname(f"{folder.where}/{out}")
        raise DamagedError(
            f"{variable}/meta: found {own.name} noted for values of {stored.name}, expected "
            "a dtype that is widened to it; the variable is damaged: restore it from a copy"
        )
    return _narrowed(f"{folder.where}/{out}", folder.tensor(out, seen, stored, meta.shape, None), own, digest)


def _narrowed(out: str, tensor: LazyTensor, dtype: DType, digest: str | None) -> LazyTensor:
    def change(array: np.ndarray) -> np.ndarray:
        try:
            return narrow(array, dtype)
        except ValueError as problem:
            raise DamagedError(f"{out}: found {problem}; the values were changed after they were written") from None

    return LazyTensor.of_elements(tensor, dtype, change, alias=tensor.alias, digest=digest)


# Writing


def stored_dtype(key: str, dtype: DType) -> DType:
    """Return the dtype that stands in the file; DtypeRefusedError where OneFlow has none that holds it exactly."""
    wider = dtype_named(dtype.oneflow_wider) if dtype.oneflow_wider else None
    if wider is not None:
        return wider
    if dtype.oneflow is None or dtype.name in _UNREADABLE:
        raise DtypeRefusedError(
            f"{key}: found dtype {dtype.name}, expected one that OneFlow can load; no wider one holds it exactly: "
            "leave it out with exclude=['KEY'], or write another format, such as format='torch'"
        )
    return dtype


#: In OneFlow's enum, but not loadable by 0.8 and 0.9, and without an exact wider dtype there.
_UNREADABLE = {"uint64", "complex64", "complex128"}


@dataclass(frozen=True, slots=True)
class NewVariable:
    """A variable to be written: its folder in the checkpoint, its tensor, and the key by which reports name it."""

    folder: str
    tensor: LazyTensor
    note: Note
    key: str


def write_variables(root: Path, variables: Sequence[NewVariable], options: WriteOptions, meter: ProgressMeter) -> None:
    """Write each variable into a folder of its own, which must be new; large ones several at a time."""
    descriptor = os.open(root, os.O_RDONLY)
    try:
        jobs = in_parallel(partial(_write, descriptor, options), variables, lambda variable: variable.tensor.nbytes)
        for at, _ in jobs:
            meter.moved(variables[at].key, variables[at].tensor)
    finally:
        os.close(descriptor)


def _write(root: int, options: WriteOptions, variable: NewVariable) -> None:
    """Write ``out``, then ``meta``; the note's digest is of the tensor's own bytes, also where wider ones are stored."""
    tensor, folder = variable.tensor, variable.folder
    stored = stored_dtype(variable.key, tensor.dtype)
    wider = stored is not tensor.dtype
    schemes = ["xxh3"] if options.digest else []
    os.mkdir(folder, dir_fd=root)
    with _created(f"{folder}/out", root) as out:
        if wider:
            digests = _put_widened(out, variable, stored, schemes)
        else:
            digests = copy(CopyJob(variable.key, tensor, out, 0, tuple(schemes)))
    note = replace(
        variable.note,
        digest=digests.get("xxh3"),
        dtype=tensor.dtype.name if wider else None,
    )
    with _created(f"{folder}/meta", root) as meta:
        write_at(meta, render_meta(VariableMeta(tensor.shape, stored, note)), 0)


def _put_widened(out: int, variable: NewVariable, stored: DType, schemes: Sequence[str]) -> dict[str, str]:
    """Write wider elements and return the digests of the narrow ones."""
    passing = HashingReader(variable.key, variable.tensor, schemes)
    offset = 0
    for piece in passing:
        offset = write_at(out, bytes_of(widen(as_elements(piece, variable.tensor.dtype), stored)), offset)
    return {scheme: passing.digests[scheme] for scheme in schemes}


@contextmanager
def _created(name: str, root: int) -> Iterator[int]:
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=root)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
