"""All that the author of a format, a backend or a dialect needs, from one door.

    from multiframe_ckpt.contracts import Format, Opened, LazyTensor

``multiframe_ckpt.testing`` has the suites that say whether what was written keeps its contract.
"""

from .backend import Backend, LoadReport, Mismatch, TensorBackend, array_tensor, fill_array
from .dtypes import DTYPES, DType, dtype_named, dtype_of_numpy
from .errors import (
    DamagedError,
    DtypeRefusedError,
    FormatError,
    IncompleteError,
    KeyRefusedError,
    MismatchError,
    RefusedError,
    UnavailableError,
    UnknownFormatError,
    UnsafeError,
    ValueRefusedError,
)
from .formats import Changes, Format, Head, Opened, Plan, ReadOptions, Unread, WritableFormat, WriteOptions
from .formats.base import ProgressMeter, require_file, require_folder
from .progress import OnProgress, Progress
from .storage.folders import Folder
from .tree import (
    Computed,
    File,
    InFile,
    InMemory,
    Joined,
    LazyTensor,
    Part,
    Sharing,
    Source,
    Strided,
    Tree,
    Turned,
    Unknown,
    elementwise,
    joined,
    leaves,
    map_leaves,
    tensors,
)

__all__ = [
    "DTYPES",
    "Backend",
    "Changes",
    "Computed",
    "DType",
    "DamagedError",
    "DtypeRefusedError",
    "File",
    "Folder",
    "Format",
    "FormatError",
    "Head",
    "InFile",
    "InMemory",
    "IncompleteError",
    "Joined",
    "KeyRefusedError",
    "LazyTensor",
    "LoadReport",
    "Mismatch",
    "MismatchError",
    "OnProgress",
    "Opened",
    "Part",
    "Plan",
    "Progress",
    "ProgressMeter",
    "ReadOptions",
    "RefusedError",
    "Sharing",
    "Source",
    "Strided",
    "TensorBackend",
    "Tree",
    "Turned",
    "UnavailableError",
    "Unknown",
    "UnknownFormatError",
    "Unread",
    "UnsafeError",
    "ValueRefusedError",
    "WritableFormat",
    "WriteOptions",
    "array_tensor",
    "dtype_named",
    "dtype_of_numpy",
    "elementwise",
    "fill_array",
    "joined",
    "leaves",
    "map_leaves",
    "require_file",
    "require_folder",
    "tensors",
]
