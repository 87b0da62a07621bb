"""multiframe_ckpt: a checkpoint layer that no framework owns.

import multiframe_ckpt as mfc

mfc.convert("model.pth", "model_oneflow", format="oneflow")     # needs neither framework
checkpoint = mfc.open("model.pth")                          # headers only
state = mfc.load("model.pth", backend="oneflow")            # live tensors
mfc.save(model.state_dict(), "model.safetensors")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backend import Backend, LoadReport, backends
    from .checkpoint import Checkpoint, load, open, save
    from .checkpoint.restore import RestoreReport
    from .checkpoint.resume_check import ResumeCheck
    from .errors import (
        CheckpointWarning,
        DamagedError,
        DtypeRefusedError,
        FormatError,
        IncompleteError,
        KeyRefusedError,
        LinkRefusedError,
        MismatchError,
        MultiframeError,
        NoSpaceError,
        NotTrainedError,
        RefusedError,
        TargetExistsError,
        UnavailableError,
        UnknownFormatError,
        UnknownNameError,
        UnsafeError,
        ValueRefusedError,
    )
    from .operations.convert import ConvertReport, convert
    from .operations.diff import diff
    from .operations.inspect import inspect
    from .operations.verify import verify
    from .progress import Progress
    from .runs.manager import CheckpointManager
    from .runs.records import CheckpointRecord
    from .runs.run_folder import RunFolder
    from .runs.script import add_checkpoint_arguments, restore_or_train
    from .tree import Extent, LazyTensor, Unknown, combine, partition

__all__ = [
    "Backend",
    "Checkpoint",
    "CheckpointManager",
    "CheckpointRecord",
    "CheckpointWarning",
    "ConvertReport",
    "DamagedError",
    "DtypeRefusedError",
    "Extent",
    "FormatError",
    "IncompleteError",
    "KeyRefusedError",
    "LazyTensor",
    "LinkRefusedError",
    "LoadReport",
    "MismatchError",
    "MultiframeError",
    "NoSpaceError",
    "NotTrainedError",
    "Progress",
    "RefusedError",
    "RestoreReport",
    "ResumeCheck",
    "RunFolder",
    "TargetExistsError",
    "UnavailableError",
    "Unknown",
    "UnknownFormatError",
    "UnknownNameError",
    "UnsafeError",
    "ValueRefusedError",
    "add_checkpoint_arguments",
    "backends",
    "combine",
    "convert",
    "diff",
    "inspect",
    "load",
    "open",
    "partition",
    "restore_or_train",
    "save",
    "verify",
]

#: Module → the public names that live there. It is loaded when one is asked for: a command that needs few starts fast.
_HOMES = {
    "backend": "Backend LoadReport backends",
    "checkpoint": "Checkpoint load open save",
    "checkpoint.restore": "RestoreReport",
    "checkpoint.resume_check": "ResumeCheck",
    "errors": (
        "CheckpointWarning DamagedError DtypeRefusedError FormatError IncompleteError KeyRefusedError "
        "LinkRefusedError MismatchError MultiframeError NoSpaceError NotTrainedError RefusedError "
        "TargetExistsError UnavailableError UnknownFormatError UnknownNameError UnsafeError "
        "ValueRefusedError"
    ),
    "operations.convert": "ConvertReport convert",
    "operations.diff": "diff",
    "operations.inspect": "inspect",
    "operations.verify": "verify",
    "progress": "Progress",
    "runs.manager": "CheckpointManager",
    "runs.records": "CheckpointRecord",
    "runs.run_folder": "RunFolder",
    "runs.script": "add_checkpoint_arguments restore_or_train",
    "tree": "Extent Unknown LazyTensor combine partition",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    """Return a public name, loading the module that it lives in."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
