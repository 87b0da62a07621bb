"""multiframe_ckpt: a checkpoint layer that no framework owns.

import multiframe_ckpt as mfc

mfc.convert("model.pth", "model_oneflow", format="oneflow")     # needs neither framework
checkpoint = mfc.open("model.pth")                          # headers only
state = mfc.load("model.pth", backend="oneflow")            # live tensors
mfc.save(model.state_dict(), "model.safetensors")
"""

from importlib import import_module

from . import errors
from .errors import *  # noqa: F403

__version__ = "0.1.0"

#: Module → the public names that live there. It is loaded when one is asked for: a command that needs few starts fast.
#: ``__init__.pyi`` tells type checkers the same, and a test that it does.
_HOMES = {
    "backend": "Backend BackendRecord LoadReport Mismatch backends",
    "checkpoint": "Checkpoint load open save save_whole_model",
    "checkpoint.checkpoint": "PlannedSave",
    "checkpoint.position": "Position",
    "checkpoint.restore": "RestoreReport",
    "checkpoint.resume_check": "ResumeCheck",
    "dtypes": "DType",
    "formats": "Changes Plan WriteOptions",
    "operations.clean": "CleanReport clean",
    "operations.convert": "ConvertReport convert",
    "operations.crossing": "Crossing",
    "operations.diff": "DiffReport diff",
    "operations.differences": "Change",
    "operations.inspect": "InspectReport TensorRow inspect",
    "operations.layout": "Layout",
    "operations.rules": "Edits",
    "operations.verify": "VerifyReport verify",
    "progress": "OnProgress Progress",
    "runs.manager": "CheckpointManager",
    "runs.records": "CheckpointRecord",
    "runs.resume_point": "ResumePoint",
    "runs.run_folder": "RunFolder",
    "runs.script": "add_checkpoint_arguments restore_or_train",
    "training": "PartVerdict RunVerdict TranslateReport",
    "tree": "Extent LazyTensor TensorRef Tree Unknown combine partition",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = [*errors.__all__, *_HOME_OF]


def __getattr__(name: str) -> object:
    """Return a public name, loading the module that it lives in."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
