"""What a checkpoint is in memory: plain values, containers and lazy tensors. No file and no framework is known here."""

from .edits import drop, rename_keys, synchronized, unknown_as_dicts
from .keys import Path, join_key, split_key
from .nodes import (
    MAX_DEPTH,
    TensorRef,
    Tree,
    Unknown,
    children,
    combine,
    is_plain,
    leaves,
    map_leaves,
    partition,
    tensors,
)
from .sharing import shared_storages, tied_groups
from .tensor import Derived, Extent, LazyTensor, OpenedFile, View

__all__ = [
    "MAX_DEPTH",
    "Derived",
    "Extent",
    "LazyTensor",
    "OpenedFile",
    "Path",
    "TensorRef",
    "Tree",
    "Unknown",
    "View",
    "children",
    "combine",
    "drop",
    "is_plain",
    "join_key",
    "leaves",
    "map_leaves",
    "partition",
    "rename_keys",
    "shared_storages",
    "split_key",
    "synchronized",
    "tensors",
    "tied_groups",
    "unknown_as_dicts",
]
