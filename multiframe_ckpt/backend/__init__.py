"""Whose live objects a checkpoint's are: the contract of a framework's adapter, and the table of backends."""

from .arrays import array_tensor, copied_tensor, fill_array
from .base import Backend, SupportsRandomState, SupportsStepChanges, SupportsStepHook, SupportsWholeModels
from .report import LoadReport, Mismatch
from .table import BACKENDS, BackendRecord, backend_named, backend_of, backends, default_backend
from .template import TensorBackend
from .tensor_ops import Module, Stateful, SupportsFilling

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
]
