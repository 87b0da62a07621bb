"""multiframe_ckpt: a checkpoint layer that no framework owns.

import multiframe_ckpt as mfc

mfc.convert("model.pth", "model_oneflow", to="oneflow")     # needs neither framework
checkpoint = mfc.open("model.pth")                          # headers only
state = mfc.load("model.pth", backend="oneflow")            # live tensors
mfc.save(model.state_dict(), "model.safetensors")
"""

from .backend import Backend, LoadReport, backends
from .checkpoint import Checkpoint, load, open, save
from .convert import ConvertReport, convert
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
from .verify import verify

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
