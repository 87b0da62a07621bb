"""Format: the contract of a layout on disk.

A layout is one class in one file. ``testing.FormatContract`` is the suite that says whether it keeps the contract.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from ..progress import OnProgress, Progress, silent
from ..tree import LazyTensor, Tree, shared_storages, tied_groups

__all__ = [
    "Describing",
    "Format",
    "HoldsMetadata",
    "LeavesUnread",
    "ProgressMeter",
    "ReadOptions",
    "Unread",
    "WriteOptions",
    "WritePlan",
    "duplicated_ties",
]


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What a reader may let pass: bytes without their digests, objects of unknown types, and saves that never finished."""

    verify: bool = True
    allow_unknown: bool = False
    allow_incomplete: bool = False


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """What a writer puts beside the tree: digests of what it writes, and the user's metadata where it has a slot."""

    digest: bool = True
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WritePlan:
    """What writing a tree to a layout will change, known before a byte is written.

    ``widened``: key → name of the exact wider dtype stored instead, remembered so that the way back is exact.
    ``duplicated``: groups of keys that name one tensor, written once each; the tie is remembered and read back.
    ``lost_ties``: groups of keys that look into one storage at different places; each becomes a tensor of its own.
    """

    widened: Mapping[str, str] = field(default_factory=dict)
    duplicated: tuple[tuple[str, ...], ...] = ()
    lost_ties: tuple[tuple[str, ...], ...] = ()


class Format(Protocol):
    """A layout on disk. Formats know no framework and no live object: a tree goes in, a tree comes out."""

    name: str
    suffixes: tuple[str, ...]

    def sniff(self, path: Path) -> bool:
        """Return whether ``path`` holds this layout, by its content and never by its suffix alone; never raises."""

    def read(self, path: Path, options: ReadOptions = ...) -> Tree:
        """Return the tree, reading headers only; raise a FormatError for what is damaged, unfinished or unsafe."""

    def plan(self, tree: Tree) -> WritePlan:
        """Say what :meth:`write` will change; raise a RefusedError for what the layout cannot hold."""

    def write(self, tree: Tree, path: Path, options: WriteOptions = ..., *, on_progress: OnProgress = ...) -> None:
        """Write the tree to a path that does not exist; ``storage.atomic`` makes it all-or-nothing."""


@runtime_checkable
class Describing(Protocol):
    """A format that can say more of a file than its tree holds."""

    def describe(self, path: Path) -> dict[str, object]:
        """Return plain values such as the framework and the container's version."""


class Unread(NamedTuple):
    """What reading leaves of a whole checkpoint.

    ``extra`` are the files, records or entries that neither the layout nor any tensor asks for, ``copies`` the other copies
    of tensors that were written several times, by where they lie.
    """

    extra: tuple[str, ...]
    copies: Mapping[str, LazyTensor] = {}


@runtime_checkable
class LeavesUnread(Protocol):
    """A format that passes over what it does not know, or over copies of a tensor, and can say what that is."""

    def unread(self, path: Path, table: Mapping[str, LazyTensor]) -> Unread:
        """Return what a whole checkpoint holds that its ``table``, the tensors that reading gave, does not come from."""


@runtime_checkable
class HoldsMetadata(Protocol):
    """A format with a slot for the user's own str → str metadata, which it writes from ``WriteOptions.metadata``."""

    def read_metadata(self, path: Path) -> dict[str, str]:
        """Return the user's metadata, without what this library keeps there itself."""


class ProgressMeter:
    """Counts the bytes of a table of tensors as they move, and reports each."""

    def __init__(self, table: Mapping[str, LazyTensor], on_progress: OnProgress = silent) -> None:
        self._total = sum(tensor.nbytes for tensor in table.values())
        self._done = 0
        self._on_progress = on_progress

    def moved(self, key: str, tensor: LazyTensor) -> None:
        """Report that the tensor's bytes have been written."""
        if self._on_progress is silent:
            return
        self._done += tensor.nbytes
        self._on_progress(Progress(key, self._done, self._total))


def duplicated_ties(table: dict[str, LazyTensor]) -> WritePlan:
    """Return the plan of a layout that writes shared tensors once each and note which are one and the same."""
    tied = tied_groups(table)
    whole = {frozenset(group) for group in tied}
    lost = [group for group in shared_storages(table) if frozenset(group) not in whole]
    return WritePlan(duplicated=tuple(map(tuple, tied)), lost_ties=tuple(map(tuple, lost)))
