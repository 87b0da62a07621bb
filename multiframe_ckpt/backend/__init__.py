"""Whose live objects a checkpoint's are: the contract of a framework's adapter, and the table of backends."""

from .base import Backend, SupportsRandomState, SupportsStepHook, SupportsWholeModels
from .loading import array_tensor, fill_array
from .report import LoadReport, Mismatch
from .table import BACKENDS, BackendRecord, backend_named, backend_of, backends, default_backend
from .template import TensorBackend

__all__ = [
    "BACKENDS",
    "Backend",
    "BackendRecord",
    "LoadReport",
    "Mismatch",
    "SupportsRandomState",
    "SupportsStepHook",
    "SupportsWholeModels",
    "TensorBackend",
    "array_tensor",
    "backend_named",
    "backend_of",
    "backends",
    "default_backend",
    "fill_array",
]
