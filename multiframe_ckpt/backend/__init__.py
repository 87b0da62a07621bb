"""Whose live objects a checkpoint's are: the contract of a framework's adapter, and the table of backends."""

from importlib import import_module
from typing import TYPE_CHECKING

from .arrays import array_tensor, copied_tensor, fill_array
from .base import Backend, SupportsRandomState, SupportsStepChanges, SupportsStepHook, SupportsWholeModels
from .containers import warn_of_tuples
from .report import LoadReport, Mismatch, mismatch
from .table import BACKENDS, BackendRecord, backend_named, backend_of, backends, default_backend
from .tensor_ops import Module, Stateful, SupportsFilling

if TYPE_CHECKING:
    from .template import TensorBackend

__all__ = [
    "BACKENDS",
    "Backend",
    "BackendRecord",
    "LoadReport",
    "Mismatch",
    "Module",
    "Stateful",
    "SupportsFilling",
    "SupportsRandomState",
    "SupportsStepChanges",
    "SupportsStepHook",
    "SupportsWholeModels",
    "TensorBackend",
    "array_tensor",
    "backend_named",
    "backend_of",
    "backends",
    "copied_tensor",
    "default_backend",
    "fill_array",
    "mismatch",
    "warn_of_tuples",
]


def __getattr__(name: str) -> object:
    """Return the template of adapters, which is loaded with the first of them: who reads files needs none."""
    if name != "TensorBackend":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.template"), name)
    return value
