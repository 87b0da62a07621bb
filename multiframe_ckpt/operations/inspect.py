"""inspect(): what a checkpoint holds, as its headers tell."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import overload

from ..checkpoint import Checkpoint
from ..checkpoint.restore import resume_parts
from ..tree import LazyTensor, Tree, join_key, leaves, tensor_table, tied_groups

__all__ = ["InspectReport", "TensorRow", "inspect", "opened"]


@dataclass(frozen=True, slots=True)
class TensorRow:
    """One tensor of a checkpoint; ``tied_to`` is the first key of the same tensor."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    tied_to: str | None = None


class TensorRows(Sequence[TensorRow]):
    """The rows of a checkpoint's tensors, each made when it is asked for: there may be hundreds of thousands."""

    __slots__ = ("_keys", "_table", "_tied_to")

    def __init__(self, table: Mapping[str, LazyTensor], tied_to: Mapping[str, str]) -> None:
        self._table, self._tied_to, self._keys = table, tied_to, list(table)

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, index: int) -> TensorRow: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[TensorRow, ...]: ...
    def __getitem__(self, index: int | slice) -> TensorRow | tuple[TensorRow, ...]:
        if isinstance(index, slice):
            return tuple(map(self._row, self._keys[index]))
        return self._row(self._keys[index])

    def __repr__(self) -> str:
        return repr(tuple(self))

    def _row(self, key: str) -> TensorRow:
        tensor = self._table[key]
        return TensorRow(key, tensor.dtype.name, tensor.shape, tensor.nbytes, self._tied_to.get(key))


@dataclass(frozen=True, slots=True)
class InspectReport:
    """What a checkpoint holds. ``parameters`` and ``nbytes`` count tied tensors once."""

    path: str
    format: str
    framework: str | None
    tensors: Sequence[TensorRow]
    parameters: int
    nbytes: int
    dtypes: Mapping[str, int]  # name → number of tensors
    values: Mapping[str, Tree]  # plain values by key
    meta: Mapping[str, object]
    resume: Mapping[str, bool]  # which of weights, optimizer, scheduler, rng, progress a resume from it would get


def inspect(checkpoint: Checkpoint | str | os.PathLike[str]) -> InspectReport:
    """Return what a checkpoint, or the one at a path, holds: from its headers."""
    checkpoint = opened(checkpoint)
    table = tensor_table(checkpoint.tree)
    first = {key: group[0] for group in tied_groups(table) for key in group[1:]}
    meta = dict(checkpoint.meta)
    return InspectReport(
        path=str(meta.pop("path", "")),
        format=str(meta.pop("format", "")),
        framework=meta.pop("framework", None),
        tensors=TensorRows(table, first),
        parameters=sum(tensor.size for key, tensor in table.items() if key not in first),
        nbytes=sum(tensor.nbytes for key, tensor in table.items() if key not in first),
        dtypes=dict(Counter(tensor.dtype.name for tensor in table.values())),
        values={join_key(path): leaf for path, leaf in leaves(checkpoint.tree) if not isinstance(leaf, LazyTensor)},
        meta=meta,
        resume=resume_parts(checkpoint.tree),
    )


def opened(checkpoint: Checkpoint | str | os.PathLike[str]) -> Checkpoint:
    """Return the checkpoint, or the one at a path."""
    return checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint.open(checkpoint)
