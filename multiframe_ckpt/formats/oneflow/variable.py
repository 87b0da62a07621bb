"""One OneFlow variable: a folder with ``meta`` (see meta.py) and ``out``, the raw little-endian C-order values.

dtypes that ``flow.load`` 0.8 and 0.9 cannot read are stored as a wider one that holds them exactly, and our comment in
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

from ...dtypes import BFLOAT16, FLOAT32, DType, dtype_named, narrow, widen
from ...errors import DamagedError, DtypeRefusedError, MissingFileError
from ...progress import OnProgress
from ...storage.folders import Folder, LocalFolder
from ...storage.parallel import in_parallel
from ...storage.transfer import CopyJob, HashingReader, as_elements, copy, write_at
from ...tree import File, InFile, LazyTensor, elementwise
from ...tree.digests import bytes_of
from ...tree.shapes import is_small_shape, require_shape
from ..base import Changes, Plan, ProgressMeter
from .meta import MAX_META_NBYTES, Comment, VariableMeta, parse_canonical, parse_meta, render_meta

__all__ = ["NewVariable", "VariablesPlan", "read_limited", "read_variable", "stored_dtype", "write_variables"]


def read_variable(folder: Folder, name: str) -> tuple[LazyTensor, Comment | None] | None:
    """Return the tensor of a variable's folder and our comment, or None where the folder is none: it has no ``out``.

    ``name`` is that of the folder in ``folder``.
    """
    if isinstance(folder, LocalFolder) and (fast := _read_fast(folder, name)) is not None:
        return fast
    variable = folder.folder(name) if name else folder
    if not variable.has("out"):
        return None
    out = variable.file("out")
    try:
        file = variable.file("meta")
    except MissingFileError:
        raise DamagedError(
            f"{variable.where}: found no file 'meta' beside 'out', expected one; restore it from a copy"
        ) from None
    meta = parse_meta(read_limited(file, MAX_META_NBYTES), file.where)
    return _variable_tensor(out, meta), meta.comment


def _read_fast(folder: LocalFolder, name: str) -> tuple[LazyTensor, Comment | None] | None:
    """Return what :func:`read_variable` gives, in the fewest calls; None where anything is unusual."""
    parts = folder.read_fast(name, "meta", "out") if name else None
    meta = parse_canonical(parts[0]) if parts else None
    return (_variable_tensor(folder.file_seen(f"{name}/out", parts[1]), meta), meta.comment) if parts and meta else None


def read_limited(file: File, max_nbytes: int) -> bytes:
    """Return the bytes of a small file; raise DamagedError where it has more than ``max_nbytes``."""
    if file.size > max_nbytes:
        raise DamagedError(f"{file.where}: found {file.size} bytes, expected at most {max_nbytes}")
    return file.read_at(0, file.size)


def _variable_tensor(out: File, meta: VariableMeta) -> LazyTensor:
    """Return the tensor whose bytes are the file ``out``."""
    comment, stored = meta.comment, meta.dtype
    digest = comment.digest if comment is not None else None
    dtype = dtype_named(comment.dtype) if comment is not None and comment.dtype else stored
    if stored is BFLOAT16:
        require_shape(meta.shape, stored, out.where)
        if out.size == 4 * prod(meta.shape) != 0:
            stored = FLOAT32  # what real OneFlow writes for bfloat16
    if dtype is stored or dtype is None:
        return _file_tensor(out, stored, meta.shape, digest)
    if dtype.oneflow_wider != stored.name:
        raise DamagedError(
            f"{os.path.dirname(out.where)}/meta: found {dtype.name} in our comment line for values of {stored.name}, "
            "expected a dtype that is widened to it; the variable is damaged: restore it from a copy"
        )
    return _narrowed_tensor(out, _file_tensor(out, stored, meta.shape, None), dtype, digest)


def _file_tensor(out: File, dtype: DType, shape: tuple[int, ...], digest: str | None) -> LazyTensor:
    """Return the tensor whose bytes are all of a file; raise DamagedError where that has another size."""
    if not (is_small_shape(shape) and out.size):
        require_shape(shape, dtype, out.where)
    nbytes = prod(shape) * dtype.itemsize
    if out.size != nbytes:
        raise DamagedError(
            f"{out.where}: found {out.size} bytes, expected {nbytes} for {dtype.name} {shape}; "
            "the file is cut short or damaged: fetch it again"
        )
    return LazyTensor(dtype, shape, InFile(out, dtype, shape), out, digest)


def _narrowed_tensor(out: File, tensor: LazyTensor, dtype: DType, digest: str | None) -> LazyTensor:
    def change(array: np.ndarray) -> np.ndarray:
        try:
            return narrow(array, dtype)
        except ValueError as problem:
            raise DamagedError(
                f"{out.where}: found {problem}; the values were changed after they were written"
            ) from None

    return elementwise(tensor, dtype, change, alias=tensor.alias, digest=digest)


def stored_dtype(key: str, dtype: DType) -> DType:
    """Return the dtype that stands in the file; DtypeRefusedError where OneFlow has none that holds it exactly."""
    wider = dtype_named(dtype.oneflow_wider) if dtype.oneflow_wider else None
    if wider is not None:
        return wider
    if dtype.oneflow is None or dtype.name in _NOT_LOADABLE:
        raise DtypeRefusedError(
            f"{key}: found dtype {dtype.name}, expected one that OneFlow can load; no wider one holds it exactly: "
            "leave it out with exclude=['KEY'], or write another format, such as format='torch'"
        )
    return dtype


#: In OneFlow's enum, but not loadable by 0.8 and 0.9, and without an exact wider dtype there.
_NOT_LOADABLE = {"uint64", "complex64", "complex128"}


@dataclass(frozen=True, slots=True)
class NewVariable:
    """A variable to be written: its folder in the checkpoint, its tensor, and the key by which reports name it."""

    folder: str
    tensor: LazyTensor
    comment: Comment
    key: str


def stored_nbytes(variable: NewVariable) -> int:
    """Return the bytes of a variable's values in its file."""
    return variable.tensor.size * stored_dtype(variable.key, variable.tensor.dtype).itemsize


@dataclass(frozen=True, slots=True)
class VariablesPlan(Plan):
    """The plan of a folder of variables; what stands beside them is for the format to say."""

    variables: tuple[NewVariable, ...]
    pickled: bytes | None
    digest: bool
    changes: Changes

    @property
    def nbytes(self) -> int:
        """Bytes of the variables' values."""
        return sum(map(stored_nbytes, self.variables))


def write_variables(root: Path, variables: Sequence[NewVariable], on_progress: OnProgress, *, digest: bool) -> None:
    """Write each variable into a folder of its own, which must be new; large ones several at a time."""
    meter = ProgressMeter({variable.key: variable.tensor for variable in variables}, on_progress)
    schemes = ("xxh3",) if digest else ()
    descriptor = os.open(root, os.O_RDONLY)
    try:
        write = partial(_write_variable, descriptor, schemes)
        written = in_parallel(write, variables, lambda variable: variable.tensor.nbytes)
        for position, _ in written:
            meter.moved(variables[position].key, variables[position].tensor)
    finally:
        os.close(descriptor)


def _write_variable(root: int, schemes: tuple[str, ...], variable: NewVariable) -> None:
    """Write ``out``, then ``meta``; the digest is of the tensor's own bytes, also where wider ones are stored."""
    tensor, folder = variable.tensor, variable.folder
    stored = stored_dtype(variable.key, tensor.dtype)
    wider = stored is not tensor.dtype
    os.mkdir(folder, dir_fd=root)
    with _new_file(f"{folder}/out", root) as out:
        if wider:
            digests = _write_widened(out, variable, stored, schemes)
        else:
            digests = copy(CopyJob(variable.key, tensor, out, 0, schemes))
    comment = replace(variable.comment, digest=digests.get("xxh3"), dtype=tensor.dtype.name if wider else None)
    with _new_file(f"{folder}/meta", root) as meta:
        write_at(meta, render_meta(VariableMeta(tensor.shape, stored, comment)), 0)


def _write_widened(out: int, variable: NewVariable, stored: DType, schemes: Sequence[str]) -> dict[str, str]:
    """Write wider elements and return the digests of the narrow ones."""
    reader = HashingReader(variable.key, variable.tensor, schemes)
    offset = 0
    for piece in reader:
        offset = write_at(out, bytes_of(widen(as_elements(piece, variable.tensor.dtype), stored)), offset)
    return {scheme: reader.digests[scheme] for scheme in schemes}


@contextmanager
def _new_file(name: str, root: int) -> Iterator[int]:
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=root)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
