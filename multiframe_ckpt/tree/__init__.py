"""What a checkpoint is in memory: plain values, containers and lazy tensors. No file and no framework is known here."""

from .boxes import Box
from .derived import Elementwise, Strided, Turned, elementwise
from .edits import drop, rename_keys, synchronized, unknown_as_dicts
from .joined import Joined, Part, joined
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
from .sharing import Sharing, tied_groups
from .sources import Computed, Extent, File, InFile, InMemory, Source
from .tensor import LazyTensor

__all__ = [
    "MAX_DEPTH",
    "Box",
    "Computed",
    "Elementwise",
    "Extent",
    "File",
    "InFile",
    "InMemory",
    "Joined",
    "LazyTensor",
    "Part",
    "Path",
    "Sharing",
    "Source",
    "Strided",
    "TensorRef",
    "Tree",
    "Turned",
    "Unknown",
    "children",
    "combine",
    "drop",
    "elementwise",
    "is_plain",
    "join_key",
    "joined",
    "leaves",
    "map_leaves",
    "partition",
    "rename_keys",
    "split_key",
    "synchronized",
    "tensors",
    "tied_groups",
    "unknown_as_dicts",
]
