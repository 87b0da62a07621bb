"""The table of formats, and how one is found: by name, by what lies at a path, or by the suffix of a path to be written."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import FormatError, UnknownFormatError
from ..registry import Registry
from .base import Format

__all__ = ["FORMATS", "format_at", "format_for", "format_named", "refuse_foreign"]


#: In the order in which an unknown path is tried.
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
    },
    group="multiframe_ckpt.formats",
)


def format_named(name: str) -> Format:
    """Return the format called ``name``; UnknownNameError lists what there is."""
    return FORMATS.get(name)()


def format_at(path: Path, name: str | None = None) -> Format:
    """Return the format whose layout lies at ``path``, or the one called ``name`` to read it as.

    Raise FileNotFoundError where nothing is there, UnknownFormatError where no format can read it.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: found nothing there, expected a checkpoint; check the path")
    if not (path.is_file() or path.is_dir()):  # reading a pipe could wait for ever
        raise UnknownFormatError(
            f"{path}: found a pipe or device, expected a file or folder; copy what it gives into one"
        )
    if name is not None:
        named = format_named(name)
        if path.is_dir() and named.suffixes:
            raise UnknownFormatError(f"{path}: found {_looks_like(path)}, expected a file: {name} is read from one")
        return named
    for kind in FORMATS.available():
        found = kind()
        if found.sniff(path):
            return found
    raise UnknownFormatError(f"{path}: found {_looks_like(path)}, expected one of {', '.join(FORMATS.names())}")


#: The format of a path without suffix: a folder is the layout whose paths have none.
_WITHOUT_SUFFIX = "oneflow"


def format_for(path: Path) -> Format:
    """Return the format that a path to be written asks for by its suffix; without one, OneFlow's directory."""
    if not path.suffix:
        return format_named(_WITHOUT_SUFFIX)
    for kind in FORMATS.available():
        if path.suffix.lower() in kind.suffixes:
            return kind()
    raise UnknownFormatError(
        f"{path}: found the suffix {path.suffix!r}, expected one that names a format; give the format "
        f"itself, such as format='torch', of {', '.join(FORMATS.names())}"
    )


#: The files that the layouts of folders consist of.
_OWN_FILES = {"meta", "out", "snapshot_done", "pickled_data", "model.mlir"}


def refuse_foreign(folder: Path) -> None:
    """Raise FormatError for a folder that holds anything but a checkpoint: replacing it would lose that."""
    try:
        format_at(folder)
    except UnknownFormatError:
        raise FormatError(
            f"{folder}: found {_looks_like(folder)}, expected nothing but a checkpoint in a folder to be replaced; "
            "move it away, or choose another target"
        ) from None
    for inside, _, names in os.walk(folder):
        foreign = sorted(set(names) - _OWN_FILES)
        if foreign:
            raise FormatError(
                f"{folder}: found {Path(inside) / foreign[0]}, expected nothing but a checkpoint in a folder to be "
                "replaced; move it away, or choose another target"
            )


def _looks_like(path: Path) -> str:
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir())
        return f"a folder with {', '.join(names[:3])}…" if names else "an empty folder"
    with path.open("rb") as file:
        head = file.read(16)
    return f"a file of {path.stat().st_size} bytes that begins with {head!r}" if head else "an empty file"
