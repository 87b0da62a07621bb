"""Format: the contract of a layout on disk.

A format is one class in one file or folder of files. It is handed an open :class:`File` or :class:`Folder`, never a path,
looks at it once, and gives all that there is to know as :class:`Opened`. One that can be written makes a :class:`Plan` of a
tree, which says what will change before a byte is written. ``testing.FormatContract`` says whether it keeps the contract.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from struct import error
from typing import ClassVar, NamedTuple, TypeAlias

from ..errors import DamagedError, FormatError, UnknownFormatError
from ..progress import OnProgress, Progress, silent
from ..storage.folders import Folder
from ..tree import File, LazyTensor, Sharing, Tree

__all__ = [
    "EACH",
    "ONCE",
    "VERSIONS",
    "Changes",
    "Format",
    "Head",
    "Opened",
    "Plan",
    "ProgressMeter",
    "ReadOptions",
    "Unread",
    "Versions",
    "WritableFormat",
    "WriteOptions",
    "parsing",
    "require_file",
    "require_folder",
]


#: Key of a state dict → module → its facts, such as ``{"version": 2}``: what torch and OneFlow keep in ``_metadata``.
Versions: TypeAlias = Mapping[str, Mapping[str, Mapping[str, Tree]]]
#: Where that stands among the facts of what was opened.
VERSIONS = "module_versions"
#: What ``ties`` may be: tied tensors are written under each name, or once where the format's readers understand that.
EACH, ONCE = "each", "once"


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What a reader may let pass: bytes without their digests, and saves that never finished."""

    verify: bool = True
    allow_incomplete: bool = False


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How a checkpoint is written: with digests, with the user's own metadata, over what is there, and durably.

    ``ties`` is ``each`` where tied tensors may be written under each name, ``once`` where one is to be written, and the
    others named. ``allow_unknown`` writes objects that were not built as plain dicts of their parts. ``versions`` are those
    of the modules of state dicts, by the key of each: ``{"model_state_dict": {"l1": {"version": 1}, …}}``.
    """

    digest: bool = True
    metadata: Mapping[str, str] = field(default_factory=dict)
    overwrite: bool = False
    durable: bool = True
    allow_unknown: bool = False
    versions: Versions = field(default_factory=dict)
    ties: str = EACH


@dataclass(frozen=True, slots=True)
class Head:
    """What formats are recognised by: a file's first 4 KiB, or a folder's names, read once for all of them.

    ``names`` maps each name in the folder to whether a folder lies under it. ``place`` is for those that must look closer.
    """

    place: File | Folder
    start: bytes = b""
    names: Mapping[str, bool] = field(default_factory=dict)

    @property
    def is_folder(self) -> bool:
        """Whether a folder lies there."""
        return isinstance(self.place, Folder)


class Unread(NamedTuple):
    """What reading leaves of a whole checkpoint.

    ``extra`` are the files, records or entries that neither the format nor any tensor asks for, ``copies`` the other copies
    of tensors that were written several times, by where they lie.
    """

    extra: tuple[str, ...] = ()
    copies: Mapping[str, LazyTensor] = {}


@dataclass(frozen=True, slots=True)
class Opened:
    """What lies at a place: the tree, plain facts of it, and the user's own str → str metadata.

    ``facts`` are such as the framework and the container's version. ``metadata`` is None in a format without a slot for it.
    ``unread`` gives what reading leaves, which takes a look through the whole place.
    """

    tree: Tree
    facts: Mapping[str, object] = field(default_factory=dict)
    metadata: Mapping[str, str] | None = None
    unread: Callable[[], Unread] = Unread


class Format(ABC):
    """A layout on disk. Formats know no framework and no live object."""

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]] = ()
    #: The dialect in which optimizers and schedulers are written here; None for a format that is no framework's.
    dialect: ClassVar[str | None] = None
    #: Whether ``open`` itself leaves out digests where ``options.verify`` is off; else they are taken off what it opened.
    leaves_out_digests: ClassVar[bool] = False

    @abstractmethod
    def recognises(self, head: Head) -> bool:
        """Return whether this format lies there, by its content; may raise a FormatError or OSError for no."""

    @abstractmethod
    def open(self, place: File | Folder, options: ReadOptions) -> Opened:
        """Return what lies there, reading headers only; raise a FormatError for what is damaged, unfinished or unsafe."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What writing a tree changes.

    ``widened``: key → name of the exact wider dtype stored instead, remembered so that the way back is exact.
    ``duplicated``: groups of keys that name one tensor, written under each, which takes ``duplicated_nbytes`` more; the tie
    is remembered and read back.
    ``named_once``: groups of keys that name one tensor, written under the first, and the others named beside it.
    ``lost_ties``: groups of keys whose tensors lie on each other in one storage; each becomes a tensor of its own.
    ``lost_metadata``: keys of the user's metadata that the format has no place for.
    ``lost_versions``: keys of state dicts beside which the versions of their modules are not kept.
    """

    widened: Mapping[str, str] = field(default_factory=dict)
    duplicated: tuple[tuple[str, ...], ...] = ()
    duplicated_nbytes: int = 0
    named_once: tuple[tuple[str, ...], ...] = ()
    lost_ties: tuple[tuple[str, ...], ...] = ()
    lost_metadata: tuple[str, ...] = ()
    lost_versions: tuple[str, ...] = ()

    @classmethod
    def of(cls, sharing: Sharing, *, duplicates: bool, widened: Mapping[str, str] | None = None) -> Changes:
        """Return the changes of a format that keeps ties, or ``duplicates`` tied tensors, and no other sharing."""
        ties = tuple(map(tuple, sharing.ties)) if duplicates else ()
        nbytes = sum((len(keys) - 1) * sharing.tensors[keys[0]].nbytes for keys in ties)
        overlaps = tuple(map(tuple, sharing.overlaps))
        return cls(widened or {}, duplicated=ties, duplicated_nbytes=nbytes, lost_ties=overlaps)


class Plan(ABC):
    """A tree laid out for a format: what writing it changes, and how many bytes of tensors it takes at the least."""

    changes: Changes

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes that the tensors take in the format, at the least."""

    @abstractmethod
    def write(self, target: Path, on_progress: OnProgress) -> None:
        """Write to a path where nothing is; ``storage.atomic`` makes it all-or-nothing."""


class WritableFormat(Format):
    """A format that can be written as well."""

    #: Whether there is a slot for the user's own str → str metadata.
    holds_metadata: ClassVar[bool] = False
    #: Whether the versions of modules are kept beside state dicts; its plan may say that some are not.
    holds_versions: ClassVar[bool] = False

    @abstractmethod
    def plan(self, tree: Tree, options: WriteOptions) -> Plan:
        """Lay the tree out; raise a RefusedError for what the format cannot hold."""

    def owns(self, name: str) -> bool:
        """Return whether a file of this name, relative to a folder, is the format's: such a folder may be replaced."""
        return False


class ProgressMeter:
    """Counts the bytes of a table of tensors as they are written, and reports how many there are, and each tensor."""

    def __init__(self, table: Mapping[str, LazyTensor], on_progress: OnProgress = silent) -> None:
        self._total = sum(tensor.nbytes for tensor in table.values())
        self._done = 0
        self._on_progress = on_progress
        self.moving(next(iter(table), ""), 0)

    def moving(self, key: str, nbytes: int) -> None:
        """Report that so many bytes of a tensor have been written, and the rest of them not."""
        if self._on_progress is not silent:
            self._on_progress(Progress(key, self._done + nbytes, self._total, finished=False))

    def moved(self, key: str, tensor: LazyTensor) -> None:
        """Report that the tensor's bytes have been written."""
        if self._on_progress is silent:
            return
        self._done += tensor.nbytes
        self._on_progress(Progress(key, self._done, self._total))


@contextmanager
def parsing(where: str) -> Iterator[None]:
    """Turn what parsers raise for a broken file into DamagedError; a FormatError passes as it is."""
    try:
        yield
    except FormatError:
        raise
    except _BROKEN as problem:
        raise DamagedError(
            f"{where}: found what cannot be read ({type(problem).__name__}: {problem}), expected a whole file; "
            "the file is damaged: fetch it again"
        ) from None


#: What Python's own and NumPy's parsers raise for text and bytes that are not what they should be.
_BROKEN = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
    error,
)


def require_file(place: File | Folder, format: Format) -> File:
    """Return the place as a file; raise UnknownFormatError for a folder."""
    if isinstance(place, Folder):
        raise UnknownFormatError(f"{place.where}: found a folder, expected a file: {format.name} is read from one")
    return place


def require_folder(place: File | Folder, format: Format) -> Folder:
    """Return the place as a folder; raise UnknownFormatError for a file."""
    if not isinstance(place, Folder):
        raise UnknownFormatError(
            f"{place.where}: found a file, expected a folder: {format.name} is read from one; name no format to have it "
            "recognised"
        )
    return place
