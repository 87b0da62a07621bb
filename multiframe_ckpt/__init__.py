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
    MismatchError,
    MultiframeError,
    RefusedError,
    TargetExistsError,
    UnavailableError,
    UnknownFormatError,
    UnknownNameError,
    UnsafeError,
    ValueRefusedError,
)
from .examine import diff, summarize, verify
from .progress import Progress
from .tensor import Extent, LazyTensor
from .tree import Inert, combine, partition

__all__ = [
    "Backend",
    "Checkpoint",
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
    "LoadReport",
    "MismatchError",
    "MultiframeError",
    "Progress",
    "RefusedError",
    "TargetExistsError",
    "UnavailableError",
    "UnknownFormatError",
    "UnknownNameError",
    "UnsafeError",
    "ValueRefusedError",
    "backends",
    "combine",
    "convert",
    "diff",
    "load",
    "open",
    "partition",
    "save",
    "summarize",
    "verify",
]
