"""multiframe_ckpt: a checkpoint layer that no framework owns.

import multiframe_ckpt as mfc

mfc.convert("model.pth", "model_oneflow", to="oneflow")     # needs neither framework
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
    from .conversion import ConvertReport, convert
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
        NoRoomError,
        NotTrainedError,
        RefusedError,
        TargetExistsError,
        UnavailableError,
        UnknownFormatError,
        UnknownNameError,
        UnsafeError,
        ValueRefusedError,
    )
    from .examine import diff, summarize
    from .manager import CheckpointManager, CheckpointRecord
    from .progress import Progress
    from .restore import RestoreReport, ResumeCheck
    from .runs import RunFolder, add_checkpoint_arguments, restore_or_train
    from .tensor import Extent, LazyTensor
    from .tree import Inert, combine, partition
    from .verification import verify

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
    "Inert",
    "KeyRefusedError",
    "LazyTensor",
    "LinkRefusedError",
    "LoadReport",
    "MismatchError",
    "MultiframeError",
    "NoRoomError",
    "NotTrainedError",
    "Progress",
    "RefusedError",
    "RestoreReport",
    "ResumeCheck",
    "RunFolder",
    "TargetExistsError",
    "UnavailableError",
    "UnknownFormatError",
    "UnknownNameError",
    "UnsafeError",
    "ValueRefusedError",
    "add_checkpoint_arguments",
    "backends",
    "combine",
    "convert",
    "diff",
    "load",
    "open",
    "partition",
    "restore_or_train",
    "save",
    "summarize",
    "verify",
]

#: Module → the public names that live there. It is loaded when one is asked for: a command that needs few starts fast.
_HOMES = {
    "backend": "Backend LoadReport backends",
    "checkpoint": "Checkpoint load open save",
    "conversion": "ConvertReport convert",
    "errors": (
        "CheckpointWarning DamagedError DtypeRefusedError FormatError IncompleteError KeyRefusedError "
        "LinkRefusedError MismatchError MultiframeError NoRoomError NotTrainedError RefusedError "
        "TargetExistsError UnavailableError UnknownFormatError UnknownNameError UnsafeError "
        "ValueRefusedError"
    ),
    "examine": "diff summarize",
    "manager": "CheckpointManager CheckpointRecord",
    "progress": "Progress",
    "restore": "RestoreReport ResumeCheck",
    "runs": "RunFolder add_checkpoint_arguments restore_or_train",
    "tensor": "Extent LazyTensor",
    "tree": "Inert combine partition",
    "verification": "verify",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    """Gives a public name, loading the module that it lives in."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
