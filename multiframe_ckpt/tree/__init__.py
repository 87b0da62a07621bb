"""What a checkpoint is in memory: plain values, containers and lazy tensors. No file and no framework is known here."""

from .edits import moved, plain_inert, settled, without
from .keys import Path, join_key, split_key
from .nodes import (
    MAX_DEPTH,
    Inert,
    TensorRef,
    Tree,
    children,
    combine,
    is_plain,
    leaves,
    map_leaves,
    partition,
    tensors_of,
)
from .sharing import shared_storages, tied_groups
from .tensor import Derived, Extent, LazyTensor, OpenedFile, View

__all__ = [
    "MAX_DEPTH",
    "Derived",
    "Extent",
    "Inert",
    "LazyTensor",
    "OpenedFile",
    "Path",
    "TensorRef",
    "Tree",
    "View",
    "children",
    "combine",
    "is_plain",
    "join_key",
    "leaves",
    "map_leaves",
    "moved",
    "partition",
    "plain_inert",
    "settled",
    "shared_storages",
    "split_key",
    "tensors_of",
    "tied_groups",
    "without",
]
