"""One OneFlow variable: a folder with ``meta`` (see oneflow_meta) and ``out``, the raw little-endian C-order values.

dtypes that ``flow.load`` 0.8 and 0.9 cannot read are stored as a wider one that holds them exactly, and the note in
``meta`` remembers the narrow one. OneFlow 0.9 writes bfloat16 with a float32 payload under ``kBFloat16`` and cannot read
it back; the payload's size tells, and it is read right here.
"""

from __future__ import annotations

import os
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np

from ..dtypes import DType, dtype_named, narrow, widen
from ..errors import DamagedError, DtypeRefusedError, UnsafeError
from ..storage.extents import require_shape, whole_file
from ..storage.integrity import digest_of, write_bytes
from ..tensor import LazyTensor
from .base import WriteOptions
from .oneflow_meta import META_LIMIT, Note, VariableMeta, parse_meta, render_meta

__all__ = ["leads_out", "read_variable", "stored_dtype", "write_variable"]

_FLOAT32 = dtype_named("float32")
_BFLOAT16 = dtype_named("bfloat16")
assert _FLOAT32 is not None and _BFLOAT16 is not None


def leads_out(path: Path, root: Path) -> bool:
    """Says whether ``path``, its links followed, lies outside the checkpoint ``root``."""
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))  # unlike resolve(), takes a loop


def read_variable(folder: Path, root: Path) -> tuple[LazyTensor, Note | None]:
    """Gives the tensor of a variable folder and our note; ``root`` is the checkpoint it must not lead out of."""
    out, meta_path = folder / "out", folder / "meta"
    for path in (out, meta_path):
        if (folder.is_symlink() or path.is_symlink() or folder.parent != root) and leads_out(path, root):
            raise UnsafeError(f"{path}: found a link that leads out of {root}, expected the file itself; copy it there")
    if not meta_path.is_file():
        raise DamagedError(f"{folder}: found no file 'meta' beside 'out', expected one; restore it from a copy")
    if meta_path.stat().st_size > META_LIMIT:
        raise DamagedError(f"{meta_path}: found {meta_path.stat().st_size} bytes, expected at most {META_LIMIT}")
    meta = parse_meta(meta_path.read_bytes(), meta_path)
    return _tensor(out, meta), meta.note


def _tensor(out: Path, meta: VariableMeta) -> LazyTensor:
    require_shape(meta.shape, meta.dtype, str(out))
    stored = meta.dtype
    own = dtype_named(meta.note.dtype) if meta.note and meta.note.dtype else stored
    if stored is _BFLOAT16 and out.stat().st_size == 4 * prod(meta.shape) != 0:
        assert _FLOAT32 is not None
        stored = _FLOAT32  # what real OneFlow writes for bfloat16
    digest = meta.note.digest if meta.note else None
    tensor = whole_file(out, stored, meta.shape, alias=object(), digest=digest)
    if own is stored or own is None:
        return tensor
    if own.oneflow_wider != stored.name:
        raise DamagedError(
            f"{out.with_name('meta')}: found {own.name} noted for values of {stored.name}, expected a dtype that is "
            "widened to it; the variable is damaged: restore it from a copy"
        )
    return _narrowed(out, tensor, own)


def _narrowed(out: Path, tensor: LazyTensor, dtype: DType) -> LazyTensor:
    def source() -> np.ndarray:
        try:
            return narrow(tensor.numpy(), dtype)
        except ValueError as problem:
            raise DamagedError(f"{out}: found {problem}; the values were changed after they were written") from None

    return replace(tensor, dtype=dtype, source=source, extent=None)


def stored_dtype(key: str, dtype: DType) -> DType:
    """Gives the dtype that stands in the file; DtypeRefusedError where OneFlow has none that holds it exactly."""
    wider = dtype_named(dtype.oneflow_wider) if dtype.oneflow_wider else None
    if wider is not None:
        return wider
    if dtype.oneflow is None or dtype.name in _UNREADABLE:
        raise DtypeRefusedError(
            f"{key}: found dtype {dtype.name}, expected one that OneFlow can load; no wider one holds it exactly: "
            "cast it (--dtype NAME), leave it out (--exclude), or convert to another format"
        )
    return dtype


#: In OneFlow's enum, but not loadable by 0.8 and 0.9, and without an exact wider dtype there.
_UNREADABLE = {"uint64", "complex64", "complex128"}


def write_variable(folder: Path, tensor: LazyTensor, note: Note, key: str, options: WriteOptions) -> None:
    """Writes ``out`` and ``meta`` into a fresh folder that exists already.

    The note's digest is of the tensor's own bytes, also where wider ones are stored.
    """
    stored = stored_dtype(key, tensor.dtype)
    array = tensor.numpy()
    wider = stored is not tensor.dtype
    with (folder / "out").open("xb") as file:
        digest = write_bytes(widen(array, stored) if wider else array, file)
    digest = digest_of(array) if wider else digest
    note = replace(note, digest=digest if options.digest else None, dtype=tensor.dtype.name if wider else None)
    (folder / "meta").write_bytes(render_meta(VariableMeta(tensor.shape, stored, note)))
