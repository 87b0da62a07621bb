"""Suites that whoever writes a format or a backend subclasses, and what they compare and draw trees with.

Needs pytest and hypothesis, which the ``test`` extra brings: ``pip install '.[test]'`` in a checkout.
"""

from .backends import BackendContract, LikeBackendContract, ModuleContract
from .formats import FormatContract, ReadOnlyFormatContract
from .places import MemoryFile, MemoryFolder, in_memory
from .trees import assert_trees_equal, flat_tree, rich_tree

__all__ = [
    "BackendContract",
    "FormatContract",
    "LikeBackendContract",
    "MemoryFile",
    "MemoryFolder",
    "ModuleContract",
    "ReadOnlyFormatContract",
    "assert_trees_equal",
    "flat_tree",
    "in_memory",
    "rich_tree",
]
