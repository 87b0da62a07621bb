"""The table of formats, and how one is found: by name, by what lies at a place, or by the suffix of a path to write."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ..errors import CheckpointWarning, FormatError, MultiframeError, UnknownFormatError
from ..registry import Registry
from ..storage.atomic import current_path
from ..storage.consistency import read_consistently
from ..storage.files import open_file
from ..storage.folders import Folder, files_below, open_folder
from ..tree import File, LazyTensor, map_leaves
from .base import Format, Head, Opened, ReadOptions, WritableFormat
from .strangers import Stranger, impostor_at, stranger_at

__all__ = [
    "FORMATS",
    "format_at",
    "format_for",
    "format_named",
    "format_to_write",
    "head_of",
    "open_path",
    "recognised",
    "require_replaceable",
    "writable_format",
]

#: In the order in which an unknown place is tried.
FORMATS: Registry[type[Format]] = Registry(
    "format",
    {
        "torch": "multiframe_ckpt.formats.torch.format:TorchFormat",
        "oneflow": "multiframe_ckpt.formats.oneflow.folder:OneFlowFormat",
        "oneflow-pickle": "multiframe_ckpt.formats.oneflow.pickled:OneFlowPickleFormat",
        "safetensors": "multiframe_ckpt.formats.safetensors:SafetensorsFormat",
        "npz": "multiframe_ckpt.formats.numpy.npz:NpzFormat",
        "hdf5": "multiframe_ckpt.formats.hdf5.format:Hdf5Format",  # whose signature may stand inside another file's values
        "json": "multiframe_ckpt.formats.json.format:JsonFormat",
        "pickle": "multiframe_ckpt.formats.plain_pickle:PickleFormat",
    },
    group="multiframe_ckpt.formats",
)
#: The format of a path without suffix.
_WITHOUT_SUFFIX = "oneflow"
_START = 4096


def format_named(name: str) -> Format:
    """Return the format called ``name``; UnknownNameError lists what there is."""
    return FORMATS.get(name)()


def writable_format(name: str) -> WritableFormat:
    """Return the format called ``name`` to be written; raise UnknownFormatError for one that is only read."""
    format = format_named(name)
    if not isinstance(format, WritableFormat):
        raise UnknownFormatError(f"{name}: found a format that is only read, expected one of {', '.join(_writable())}")
    return format


def format_for(path: Path) -> WritableFormat:
    """Return the format that a path to be written asks for by its suffix; without one, OneFlow's folder."""
    if not path.suffix or path.suffix[1].isdigit():  # lr_0.001 has none
        return writable_format(_WITHOUT_SUFFIX)
    for kind in FORMATS.available():
        if path.name.lower().endswith(kind.suffixes):
            return writable_format(kind.name)
    raise UnknownFormatError(
        f"{path}: found the suffix {path.suffix!r}, expected one that names a format; give the format "
        f"itself, such as format='torch', of {', '.join(_writable())}"
    )


def format_to_write(path: Path, name: str | None) -> WritableFormat:
    """Return the format that a path is to be written in: the one called ``name``, else the one its suffix asks for.

    Warn where the suffix is another format's, since who goes by names takes the file for that.
    """
    if name is None:
        return format_for(path)
    format = writable_format(name)
    others = [kind for kind in FORMATS.available() if kind.suffixes and path.name.lower().endswith(kind.suffixes)]
    if others and not any(kind.name == format.name for kind in others):
        better = path.name[: -len(path.suffix)] + next(iter(format.suffixes), "")
        warnings.warn(
            f"{path}: found format={name!r} for a name whose suffix is that of {others[0].name}, expected one that its "
            f"readers will not take for it; choose {better}",
            CheckpointWarning,
            stacklevel=3,
        )
    return format


def _writable() -> Iterator[str]:
    return (kind.name for kind in FORMATS.available() if issubclass(kind, WritableFormat))


def open_path(path: Path, name: str | None, options: ReadOptions) -> tuple[Format, Opened]:
    """Return the format and all that lies at a path, which is opened once; ``name`` is the format to read it as.

    Raise FileNotFoundError where nothing is there, UnknownFormatError where no format can read it. A folder that is
    replaced meanwhile is read again.
    """
    path = current_path(path)
    if path.is_dir():
        return read_consistently(path, lambda: _open(path, name, options))
    return _open(path, name, options)


def _open(path: Path, name: str | None, options: ReadOptions) -> tuple[Format, Opened]:
    place = _place_at(path)
    format = format_named(name) if name is not None else recognised(head_of(place))
    opened = format.open(place, options)
    return format, opened if options.verify or format.leaves_out_digests else _without_digests(opened)


def format_at(path: Path) -> Format:
    """Return the format that lies at a path; raise as :func:`open_path` does."""
    return recognised(head_of(_place_at(path)))


def _place_at(path: Path) -> File | Folder:
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a path no system can have
        raise FileNotFoundError(f"{path}: found nothing there, expected a checkpoint; check the path") from None
    if stat.S_ISDIR(mode):
        return open_folder(path)
    if not stat.S_ISREG(mode):  # reading a pipe could wait for ever
        raise UnknownFormatError(
            f"{path}: found a pipe or device, expected a file or folder; copy what it gives into one"
        )
    return open_file(path)


def head_of(place: File | Folder) -> Head:
    """Return what formats are recognised by."""
    if isinstance(place, Folder):
        return Head(place, names=place.names())
    return Head(place, place.read_at(0, min(_START, place.size)))


def recognised(head: Head) -> Format:
    """Return the first format that recognises a place; raise UnknownFormatError, which says what it is, where none does."""
    impostor = impostor_at(head)
    if impostor is not None:
        raise _unknown(head, impostor)
    for kind in FORMATS.available():
        format = kind()
        try:
            if format.recognises(head):
                return format
        except (MultiframeError, OSError):  # what looks like this format at first, and not any more on a closer look
            continue
        except Exception as problem:  # a plugin's: it must not keep others from their files
            warnings.warn(
                f"{head.place.where}: format {format.name!r}: found {type(problem).__name__} while it looked at this, "
                f"expected yes or no: {problem}; {FORMATS.remedy(format.name)}",
                CheckpointWarning,
                stacklevel=2,
            )
    raise _unknown(head, stranger_at(head))


def _unknown(head: Head, stranger: Stranger | None) -> UnknownFormatError:
    if stranger is not None:
        return UnknownFormatError(
            f"{head.place.where}: found {stranger.title}, expected a checkpoint; {stranger.remedy}"
        )
    return UnknownFormatError(
        f"{head.place.where}: found {_looks_like(head)}, expected one of {', '.join(FORMATS.names())}; if it is one of "
        "these, name it: format='torch'"
    )


def _looks_like(head: Head) -> str:
    if isinstance(head.place, Folder):
        names = list(head.names)
        return f"a folder with {', '.join(names[:3])}…" if names else "an empty folder"
    if not head.start:
        return "an empty file"
    return f"a file of {head.place.size} bytes that begins with {head.start[:16]!r}"


def _without_digests(opened: Opened) -> Opened:
    """Return what was opened with nothing that tensors are compared with when they are read."""
    done: dict[int, LazyTensor] = {}  # tensors may look into one storage
    tree = map_leaves(opened.tree, lambda _, leaf: _stripped(leaf, done) if isinstance(leaf, LazyTensor) else leaf)
    return replace(opened, tree=tree)


def _stripped(tensor: LazyTensor, done: dict[int, LazyTensor]) -> LazyTensor:
    """Return a tensor without digests, its own and those of what it is made of; one of ``done`` again where it is there."""
    bases = tensor.source.bases
    if not bases:
        return tensor if tensor.digest is None else tensor.with_(digest=None)
    if id(tensor) not in done and tensor.is_compared:
        done[id(tensor)] = tensor.with_(
            digest=None, source=tensor.source.over([_stripped(base, done) for base in bases])
        )
    return done.get(id(tensor), tensor)


def require_replaceable(path: Path) -> None:
    """Raise FormatError for a folder that holds anything but a checkpoint: replacing it would lose that."""
    read_consistently(path, lambda: _require_checkpoint_alone(path))


def _require_checkpoint_alone(path: Path) -> None:
    place = open_folder(path)
    try:
        format = recognised(head_of(place))
    except UnknownFormatError:
        raise _foreign(path, _looks_like(head_of(place))) from None
    for name in files_below(place):
        if not (isinstance(format, WritableFormat) and format.owns(name)):
            raise _foreign(path, str(path / name))


def _foreign(path: Path, found: str) -> FormatError:
    return FormatError(
        f"{path}: found {found}, expected nothing but a checkpoint in a folder to be replaced; move it away, or choose "
        "another target"
    )
