"""Suites that whoever writes a format or a backend subclasses, and what they compare and draw trees with.

Needs the ``test`` extra: ``pip install 'multiframe-ckpt[test]'``.
"""

from .backends import BackendContract, LikeBackendContract, ModuleContract
from .formats import FormatContract
from .trees import assert_trees_equal, flat_tree, rich_tree

__all__ = [
    "BackendContract",
    "FormatContract",
    "LikeBackendContract",
    "ModuleContract",
    "assert_trees_equal",
    "flat_tree",
    "rich_tree",
]
