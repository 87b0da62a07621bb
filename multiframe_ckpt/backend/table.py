"""The table of backends: which there are, which can be used here, and whose an object is.

No framework is imported to recognise its objects: one can exist only if its framework is in ``sys.modules`` already, so
:func:`backend_of` looks there before it loads an adapter.
"""

from __future__ import annotations

import os
import sys
import warnings
from dataclasses import dataclass
from functools import cache

from ..errors import UnavailableError, UnknownNameError, ValueRefusedError
from ..registry import Registry
from ..tree import key_of, leaves
from .base import Backend

__all__ = ["BACKENDS", "BackendRecord", "backend_named", "backend_of", "backends", "default_backend"]


#: Name → where its class is. The class imports its framework when it is called, never when it is imported.
BACKENDS: Registry[type[Backend]] = Registry(
    "backend",
    {
        "numpy": "multiframe_ckpt_numpy:NumpyBackend",
        "torch": "multiframe_ckpt_torch:TorchBackend",
        "oneflow": "multiframe_ckpt_oneflow:OneflowBackend",
    },
    "multiframe_ckpt.backends",
)


_VARIABLE = "MULTIFRAME_CKPT_BACKEND"


@cache
def backend_named(name: str) -> Backend:
    """Return the backend called ``name``; raise UnknownNameError, or UnavailableError with the reason and a way out."""
    try:
        return BACKENDS.get(name)()
    except (UnknownNameError, UnavailableError):
        raise
    except Exception as problem:  # a framework that is present but broken may raise anything while it is imported
        first_line = (str(problem).splitlines() or [""])[0]
        raise UnavailableError(
            f"{name}: found {type(problem).__name__}: {first_line}, expected a working {name}; {BACKENDS.remedy(name)}"
        ) from problem


def default_backend(own: str | None = None) -> Backend:
    """Return the backend to load with where none was named; no framework is imported for the choice.

    It is the one that MULTIFRAME_CKPT_BACKEND names, else that of the one framework which the program has imported. Where
    it has imported several, it is ``own``, the file's, if that is among them. In all other cases it is NumPy's.
    """
    named = os.environ.get(_VARIABLE)
    if named:
        try:
            return backend_named(named)
        except UnknownNameError as problem:
            raise UnknownNameError(f"{_VARIABLE}: {problem}") from None
    imported = {backend.name: backend for backend in _imported_backends()}
    if len(imported) == 1:
        return next(iter(imported.values()))
    return imported.get(own or "") or backend_named("numpy")


def backend_of(obj: object) -> Backend:
    """Return the backend whose objects ``obj`` is or holds, NumPy's for plain values; imports no framework.

    NumPy arrays and plain values go with any framework's tensors; a mix of two frameworks is refused.
    """
    candidates = _imported_backends()
    first_keys: dict[str, str] = {}  # of each framework's objects
    known: set[type] = set()
    for path, leaf in leaves(obj):
        if type(leaf) in known:
            continue
        known.add(type(leaf))
        owner = next((backend for backend in candidates if backend.owns(leaf)), None)
        if owner is not None:
            first_keys.setdefault(owner.name, key_of(path))
    if len(first_keys) > 1:
        places = " and ".join(f"{name} at {key!r}" for name, key in first_keys.items())
        raise ValueRefusedError(f"found objects of two frameworks, {places}, expected one; save them apart")
    return backend_named(next(iter(first_keys), "numpy"))


def _imported_backends() -> list[Backend]:
    """Return the backends, NumPy's apart, whose framework this process has imported already."""
    imported: list[Backend] = []
    for name in BACKENDS.names():
        if name != "numpy" and sys.modules.get(name) is not None:
            try:
                imported.append(backend_named(name))
            except UnavailableError as problem:
                warnings.warn(f"backend left out: {problem}", stacklevel=3)
    return imported


@dataclass(frozen=True, slots=True)
class BackendRecord:
    """Whether a backend can be used here: its framework's version, or the reason why not."""

    name: str
    available: bool
    version: str | None = None
    reason: str | None = None


def backends() -> list[BackendRecord]:
    """Return a record of every known backend; to know whether one works it imports its framework."""
    return [_record(name) for name in BACKENDS.names()]


def _record(name: str) -> BackendRecord:
    try:
        backend = backend_named(name)
    except UnavailableError as problem:
        return BackendRecord(name, available=False, reason=str(problem))
    version = getattr(sys.modules.get(backend.name), "__version__", None)
    return BackendRecord(name, available=True, version=None if version is None else str(version))
