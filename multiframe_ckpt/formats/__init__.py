"""The layouts: one file each, and the table that finds them."""

from __future__ import annotations

from pathlib import Path

from ..errors import UnknownFormatError
from ..registry import Registry
from .base import Format

__all__ = ["FORMATS", "format_at", "format_for", "format_named"]

#: In the order in which an unknown path is tried.
FORMATS: Registry[type[Format]] = Registry(
    "format",
    {
        "torch": "multiframe_ckpt.formats.torch:TorchFormat",
        "oneflow": "multiframe_ckpt.formats.oneflow:OneFlowFormat",
        "oneflow-pickle": "multiframe_ckpt.formats.oneflow_pickle:OneFlowPickleFormat",
        "safetensors": "multiframe_ckpt.formats.safetensors:SafetensorsFormat",
        "hdf5": "multiframe_ckpt.formats.hdf5:Hdf5Format",
        "npz": "multiframe_ckpt.formats.npz:NpzFormat",
        "json": "multiframe_ckpt.formats.json:JsonFormat",
    },
    group="multiframe_ckpt.formats",
)


def format_named(name: str) -> Format:
    """Gives the format called ``name``; UnknownNameError lists what there is."""
    return FORMATS.get(name)()


def format_at(path: Path) -> Format:
    """Gives the format whose layout lies at ``path``; raises FileNotFoundError, or UnknownFormatError for none."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: found nothing there, expected a checkpoint; check the path")
    for kind in FORMATS.available():
        found = kind()
        if found.sniff(path):
            return found
    raise UnknownFormatError(f"{path}: found {_looks_like(path)}, expected one of {', '.join(FORMATS.names())}")


def format_for(path: Path, *, fallback: str | None = None) -> Format:
    """Gives the format that a path to be written asks for by its suffix, else ``fallback``."""
    for kind in FORMATS.available():
        if path.suffix.lower() in kind.suffixes:
            return kind()
    if fallback is not None:
        return format_named(fallback)
    raise UnknownFormatError(
        f"{path}: found the suffix {path.suffix!r}, expected one that names a format, or the format itself: "
        f"one of {', '.join(FORMATS.names())} (format=…, or --to)"
    )


def _looks_like(path: Path) -> str:
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir())
        return f"a folder with {', '.join(names[:3])}…" if names else "an empty folder"
    with path.open("rb") as file:
        head = file.read(16)
    return f"a file of {path.stat().st_size} bytes that begins with {head!r}" if head else "an empty file"
