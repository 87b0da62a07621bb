"""inspect(): what a checkpoint holds, as its headers tell."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import overload

from ..checkpoint import Checkpoint
from ..checkpoint.restore import resume_parts
from ..formats import VERSIONS
from ..terminal.table import table
from ..terminal.text import bulleted, human_size, plural, printable, safe_repr
from ..training import PartVerdict, RunVerdict, VerdictReport, count_parameters, find_parts, judge_checkpoint
from ..training.dialects import title_of
from ..tree import (
    TOP,
    LazyTensor,
    Path,
    Tree,
    Unknown,
    children,
    is_leaf,
    is_plain,
    join_key,
    key_of,
    leaves,
    tensor_table,
    tied_groups,
)

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
        return f"<{plural(len(self), 'row')}>"

    def _row(self, key: str) -> TensorRow:
        tensor = self._table[key]
        return TensorRow(key, tensor.dtype.name, tensor.shape, tensor.nbytes, self._tied_to.get(key))


@dataclass(frozen=True, slots=True, repr=False)
class InspectReport(VerdictReport):
    """What a checkpoint holds. ``nbytes`` counts tied tensors once, and so does ``parameters``, which is of the models."""

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
    left_behind: tuple[str, ...] = ()  # what of whole models in the file no state dict has
    unknown: tuple[str, ...] = ()  # ``key: type`` of objects that were not built
    run: RunVerdict = field(default_factory=RunVerdict)
    tree: Tree = field(default=None, repr=False)  # in which lists of plain values are shown as such

    @property
    def exact(self) -> bool:
        """Whether every tensor and value of the file is here: of whole models and unknown objects not all is."""
        return not (self.left_behind or self.unknown)

    @property
    def exact_because(self) -> str:
        """The verdict on exactness as a sentence."""
        if self.exact:
            return "every tensor and value of the file is here"
        counts = {"of whole models left behind": self.left_behind, "of unknown type": self.unknown}
        return ", ".join(f"{len(items):,} {what}" for what, items in counts.items() if items)

    @property
    def parts(self) -> tuple[PartVerdict, ...]:
        """The parts of the run, and whether each goes on; empty where there is no run."""
        return self.run.parts

    @property
    def headline(self) -> str:
        """What it is, on one line."""
        return f"{self.path}: {self.format}, {plural(len(self.tensors), 'tensor')}, {human_size(self.nbytes)}"

    def lines(self, *, columns: int | None = None, more: str = "") -> Iterator[str]:
        """Yield the facts, the plain values, and a row for each tensor."""
        facts = {name: value for name, value in self.meta.items() if not isinstance(value, Mapping)}
        rows = {
            "format": self.format,
            "framework": title_of(self.framework) if self.framework else "not said",
            **{name: value if isinstance(value, str) else safe_repr(value) for name, value in facts.items()},
            "tensors": f"{len(self.tensors):,}",
            "parameters": f"{self.parameters:,}",
            "size": human_size(self.nbytes, exact=True),
            "dtypes": ", ".join(f"{name} ({count:,})" for name, count in self.dtypes.items()) or "none",
            "resume": _resume(self.resume),
        }
        if not self.exact:
            rows["exact"] = f"no: {self.exact_because}"
        if self.resumable is not None:
            rows["resumable"] = f"{'yes' if self.resumable else 'no'}: {self.resumable_because}"
        yield self.path
        yield from table(rows.items(), columns=columns)
        for name, part in self.meta.items():
            if isinstance(part, Mapping) and part:
                yield from ("", _TITLES.get(name, name), *_value_lines(part, columns))
        if self.left_behind:
            yield from ("", "left behind of whole models")
            yield from bulleted(self.left_behind, most=_MOST_LISTED, hint=more)
        values = list(_value_lines(self.tree, columns))
        if values:
            yield from ("", "values", *values)
        if self.tensors:
            yield ""
            yield from table(self.tensors, header=_TENSOR_HEADER, right={2}, spell=_tensor_cells, columns=columns)


_MOST_LISTED = 10
_TITLES = {"whole_models": "whole models, read as their state dicts"}
_TENSOR_HEADER = ("dtype", "shape", "size", "tensor")
_SHORTEST_VALUE = 20


def _resume(parts: Mapping[str, bool]) -> str:
    """Return the grade of a checkpoint as one to resume from: how many of the parts it has, and which."""
    kept, lost = (", ".join(name for name, there in parts.items() if there is wanted) for wanted in (True, False))
    what = [text for text in (kept, f"loses {lost}" if lost else "") if text]
    return f"{sum(parts.values())}/{len(parts)}: {'; '.join(what)}"


def _tensor_cells(row: TensorRow) -> tuple[str, ...]:
    tie = f" (tied to {row.tied_to})" if row.tied_to is not None else ""
    return row.dtype, str(list(row.shape)), human_size(row.nbytes), (row.key or TOP) + tie


def _value_lines(tree: Tree, columns: int | None, path: Path = ()) -> Iterator[str]:
    """Yield ``key = value`` for each plain value; a list of plain values, such as an optimizer's params, is one."""
    inside = children(tree)
    if isinstance(tree, LazyTensor):
        return
    if inside is None or not tree or (isinstance(tree, list | tuple) and all(map(is_plain, tree))):
        yield _clipped(f"  {printable(key_of(path))} = ", safe_repr(tree), columns)
        return
    for name, node in inside:
        yield from _value_lines(node, columns, (*path, name))


def _clipped(head: str, value: str, columns: int | None) -> str:
    """Return one line, no longer than ``columns`` where the key leaves room."""
    room = max((columns or 0) - len(head), _SHORTEST_VALUE)
    return head + (value if columns is None or len(value) <= room else f"{value[: room - 3]}...")


def inspect(checkpoint: Checkpoint | str | os.PathLike[str]) -> InspectReport:
    """Return what a checkpoint, or the one at a path, holds: from its headers."""
    checkpoint = opened(checkpoint)
    by_key = tensor_table(checkpoint.tree)
    first = {key: group[0] for group in tied_groups(by_key) for key in group[1:]}
    meta = dict(checkpoint.meta)
    left_behind = meta.pop("left_behind", ())
    meta.pop(VERSIONS, None)
    return InspectReport(
        path=str(meta.pop("path", "")),
        format=str(meta.pop("format", "")),
        framework=meta.pop("framework", None),
        tensors=TensorRows(by_key, first),
        parameters=count_parameters(find_parts(checkpoint.tree)),
        nbytes=sum(tensor.nbytes for key, tensor in by_key.items() if key not in first),
        dtypes=dict(Counter(tensor.dtype.name for tensor in by_key.values())),
        values={join_key(path): leaf for path, leaf in leaves(checkpoint.tree) if not isinstance(leaf, LazyTensor)},
        meta=meta,
        resume=resume_parts(checkpoint.tree),
        left_behind=left_behind,
        unknown=tuple(f"{key_of(path)}: {node.type_name}" for path, node in _unknown(checkpoint.tree)),
        run=judge_checkpoint(checkpoint.tree, checkpoint.meta.get("framework")),
        tree=checkpoint.tree,
    )


def _unknown(tree: Tree, path: Path = ()) -> Iterator[tuple[Path, Unknown]]:
    """Yield the objects that were not built, the outermost of each."""
    if isinstance(tree, Unknown):
        yield path, tree
        return
    for name, node in () if is_leaf(tree) else children(tree) or ():
        if not is_leaf(node):
            yield from _unknown(node, (*path, name))


def opened(checkpoint: Checkpoint | str | os.PathLike[str]) -> Checkpoint:
    """Return the checkpoint, or the one at a path."""
    return checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint.open(checkpoint)
