"""The catalogue: every hostile and every tricky but honest file that is known, each beside the code that makes it.

A maker gets the path at which the file or folder is to lie. Beside the folder of that path is one called ``outside``,
whose files nothing may open: a hostile file may name them, as ``../outside/…`` or in full.
"""

from __future__ import annotations

from . import (
    archives,
    benign,
    documents,
    folders,
    hdf5_files,
    large,
    npz_files,
    pickles,
    safetensors_files,
    torch_files,
)
from .case import Benign, Hostile

__all__ = ["BENIGN", "HOSTILE", "Benign", "Hostile"]

_TABLES = {
    "pickle": pickles.CASES,
    "torch": torch_files.CASES,
    "zip": archives.CASES,
    "npz": npz_files.CASES,
    "oneflow": folders.CASES,
    "safetensors": safetensors_files.CASES,
    "hdf5": hdf5_files.CASES,
    "document": documents.CASES,
    "large": large.CASES,
}
HOSTILE: dict[str, Hostile] = {
    f"{kind}: {name}": case for kind, table in _TABLES.items() for name, case in table.items()
}
BENIGN: dict[str, Benign] = benign.CASES
