"""Plans ready-made, for formats that write a table of arrays: one of nothing else, and one with a manifest beside it.

The format gives a function that writes the arrays as they come, and need not know of ties, digests or progress.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ..errors import ValueRefusedError
from ..progress import OnProgress
from ..tree import LazyTensor, Sharing, Tree
from ..tree.digests import digest_of
from .base import Changes, Plan, ProgressMeter, WriteOptions
from .manifest import Manifest, manifest_of, members_of, tensors_by_name

__all__ = ["ManifestPlan", "TablePlan"]

#: Name and array of each tensor, read when its turn comes: in C order, with NumPy's or ml_dtypes' dtype.
Arrays: TypeAlias = Iterable[tuple[str, np.ndarray]]


@dataclass(frozen=True, slots=True)
class TablePlan(Plan):
    """The plan of a format that holds tensors by name, each by itself, and nothing else.

    ``save`` writes the arrays to a fresh path.
    """

    table: Mapping[str, LazyTensor]
    changes: Changes
    save: Callable[[Path, Arrays], None]

    @classmethod
    def of(cls, tree: Tree, options: WriteOptions, save: Callable[[Path, Arrays], None]) -> TablePlan:
        """Return the plan of a flat dict of tensors; raise ValueRefusedError for a tree that holds anything else."""
        table: dict[str, LazyTensor] = {}
        for name, node in tree.items() if type(tree) is dict else [("the top", tree)]:
            if type(tree) is not dict or not (isinstance(name, str) and isinstance(node, LazyTensor)):
                raise ValueRefusedError(
                    f"{name}: found {type(node).__name__}, expected a flat dict of names to tensors; save the weights by "
                    "themselves, or write another format, such as format='safetensors'"
                )
            table[name] = node
        return cls(table, _changes(table, options), save)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return sum(tensor.nbytes for tensor in self.table.values())

    def write(self, target: Path, on_progress: OnProgress) -> None:
        """Write the table."""
        self.save(target, _arrays(self.table, on_progress))


@dataclass(frozen=True, slots=True)
class ManifestPlan(Plan):
    """The plan of a format that keeps a manifest beside its tensors, and so holds every tree; ``assemble`` reads it.

    ``save`` writes the arrays to a fresh path, by the names that their tensors have in the format, and then the text of
    the manifest, which it is given a function for: the text has digests of all that passed.
    """

    manifest: Manifest
    members: Mapping[str, LazyTensor]
    digest: bool
    changes: Changes
    save: Callable[[Path, Arrays, Callable[[], str]], None]

    @classmethod
    def of(
        cls,
        tree: Tree,
        options: WriteOptions,
        save: Callable[[Path, Arrays, Callable[[], str]], None],
        *,
        fits: Callable[[str], bool] = lambda name: True,
    ) -> ManifestPlan:
        """Return the plan of any tree; tensors whose names do not fit the format get neutral ones."""
        manifest, members = manifest_of(tree, fits=fits, stored_as=lambda dtype: dtype, versions=options.versions)
        manifest.text(members_of(members), {})  # raises for what it cannot hold
        return cls(manifest, members, options.digest, _changes(tensors_by_name(tree), options), save)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors, tied ones too."""
        return sum(tensor.nbytes for tensor in self.members.values())

    def write(self, target: Path, on_progress: OnProgress) -> None:
        """Write the members and the manifest."""
        digests: dict[str, str] = {}

        def hashed() -> Iterator[tuple[str, np.ndarray]]:
            for name, array in _arrays(self.members, on_progress):
                if self.digest:
                    digests[name] = digest_of(array)
                yield name, array

        self.save(
            target, hashed(), lambda: self.manifest.text(members_of(self.members), digests if self.digest else None)
        )


def _changes(table: Mapping[str, LazyTensor], options: WriteOptions) -> Changes:
    return replace(Changes.of(Sharing(table), duplicates=True), lost_metadata=tuple(options.metadata))


def _arrays(table: Mapping[str, LazyTensor], on_progress: OnProgress) -> Iterator[tuple[str, np.ndarray]]:
    """Yield name and array of each tensor, and report it when the next is asked for."""
    meter = ProgressMeter(table, on_progress)
    for name, tensor in table.items():
        yield name, tensor.numpy()
        meter.moved(name, tensor)
