"""What a checkpoint is in memory: plain values, containers and lazy tensors. No file and no framework is known here."""

from .boxes import Box
from .derived import Elementwise, Strided, elementwise
from .edits import edit, replaced, synchronized, unknown_as_dicts
from .joined import Joined, Part, joined
from .keys import TOP, Path, join_key, key_of, split_key
from .nodes import (
    MAX_DEPTH,
    MISSING,
    Missing,
    TensorRef,
    Tree,
    Unknown,
    Visit,
    children,
    combine,
    has_tensors,
    is_leaf,
    is_plain,
    leaves,
    map_leaves,
    partition,
    rebuild,
    tensor_paths,
    tensor_table,
    tensors,
    walk,
)
from .sharing import Sharing, tied_groups
from .sources import Computed, Extent, File, InFile, InMemory, Source
from .tensor import LazyTensor
from .turned import Reshaped, Rows, Turned

__all__ = [
    "MAX_DEPTH",
    "MISSING",
    "TOP",
    "Box",
    "Computed",
    "Elementwise",
    "Extent",
    "File",
    "InFile",
    "InMemory",
    "Joined",
    "LazyTensor",
    "Missing",
    "Part",
    "Path",
    "Reshaped",
    "Rows",
    "Sharing",
    "Source",
    "Strided",
    "TensorRef",
    "Tree",
    "Turned",
    "Unknown",
    "Visit",
    "children",
    "combine",
    "edit",
    "elementwise",
    "has_tensors",
    "is_leaf",
    "is_plain",
    "join_key",
    "joined",
    "key_of",
    "leaves",
    "map_leaves",
    "partition",
    "rebuild",
    "replaced",
    "split_key",
    "synchronized",
    "tensor_paths",
    "tensor_table",
    "tensors",
    "tied_groups",
    "unknown_as_dicts",
    "walk",
]
