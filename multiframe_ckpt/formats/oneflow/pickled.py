"""The ``oneflow-pickle`` format: what ``flow.save`` writes since 0.6. Holds any key and any nesting.

    ckpt/pickled_data         pickle of {"protocol_version": 1, "data": object}; a tensor is {"path": "tensor_<n>"}
    ckpt/tensor_<n>/meta,out  one variable a tensor

OneFlow 1.0 writes one file instead, a pickle with the arrays in it, which is read here too. docs/formats/oneflow-pickle.md.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

from ...pickle.writer import require_plain
from ...progress import OnProgress
from ...storage.folders import Folder
from ...tree import File, LazyTensor, Sharing, Tree, tensors
from ...tree import Path as TreePath
from ...tree.digests import digest_of_bytes
from ..base import Changes, Head, Opened, Plan, ReadOptions, WritableFormat, WriteOptions
from .folder_write import widened
from .meta import Comment
from .names import MARKER, META, OUT, PICKLE
from .objects import OneFlowPickle, read_folder_pickle, read_single_file
from .variable import NewVariable, VariablesPlan, write_variables

__all__ = ["OneFlowPickleFormat"]

_SINGLE_FILE_KEY = b"__oneflow__"
_KEY_SPAN = 256  # bytes at the start, of which the key is one of the first
_OWN_FILE = re.compile(rf"tensor_[0-9]+/({META}|{OUT})")


class OneFlowPickleFormat(WritableFormat):
    """OneFlow's pickled folder, and the single file of 1.0."""

    name = "oneflow-pickle"
    dialect = "oneflow"
    holds_versions = True

    def recognises(self, head: Head) -> bool:
        """Return whether this is a folder with ``pickled_data``, or a 1.0 file."""
        if isinstance(head.place, Folder):
            return head.place.has(PICKLE) and MARKER not in head.names
        return head.start[:1] == b"\x80" and _SINGLE_FILE_KEY in head.start[:_KEY_SPAN]

    def open(self, place: File | Folder, options: ReadOptions) -> Opened:
        """Return the tree; the tensors of a 1.0 file are views of the file's own pickle."""
        if isinstance(place, Folder):
            tree, facts = read_folder_pickle(place, PICKLE)
            return Opened(tree, {"framework": "oneflow", "container": "pickled folder", **facts})
        tree, facts = read_single_file(place)
        return Opened(tree, {"framework": "oneflow", "container": "single file (1.0)", **facts})

    def plan(self, tree: Tree, options: WriteOptions) -> Plan:
        """Refuse dtypes that ``flow.load`` cannot read; ties are kept, other sharing of a storage is not."""
        table = tensors(tree)
        require_plain(tree)
        lost_ties = tuple(map(tuple, Sharing(table).overlaps))
        changes = Changes(widened(table), lost_ties=lost_ties, lost_metadata=tuple(options.metadata))
        folders = _NumberedFolders()
        pickled = OneFlowPickle(folders.folder_of, options.versions).dump(tree)
        keys = {id(tensor): key for key, tensor in table.items()}
        digest = digest_of_bytes(pickled)
        variables = tuple(
            NewVariable(folder, tensor, Comment(index, len(folders.tensors), pickle=digest), keys[id(tensor)])
            for index, (folder, tensor) in enumerate(folders.tensors.items())
        )
        return _Plan(variables, pickled, options.digest, changes)

    def owns(self, name: str) -> bool:
        """Return whether a file is the pickle, or one of a variable's, which have no names of their own.

        A nested ``oneflow`` checkpoint that was copied without its empty markers looks like this format; its variables
        have names, and nobody can tell what else was lost.
        """
        return name == PICKLE or _OWN_FILE.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class _Plan(VariablesPlan):
    """The pickle, and a variable for each distinct tensor."""

    pickled: bytes

    def write(self, target: Path, on_progress: OnProgress) -> None:
        """Write the folder, the pickle last."""
        target.mkdir()
        write_variables(target, self.variables, on_progress, digest=self.digest)
        (target / PICKLE).write_bytes(self.pickled)


class _NumberedFolders:
    """The folders of a tree's distinct tensors, numbered as OneFlow does: ``tensor_1``, ``tensor_2``, …"""

    def __init__(self) -> None:
        self.tensors: dict[str, LazyTensor] = {}
        self._folders: dict[Hashable, str] = {}

    def folder_of(self, _: TreePath, tensor: LazyTensor) -> str:
        """Return the folder of a tensor, the same for one that was seen under another key."""
        owner = tensor.identity if tensor.identity is not None else id(tensor)
        if owner not in self._folders:
            self._folders[owner] = f"tensor_{len(self._folders) + 1}"
            self.tensors[self._folders[owner]] = tensor
        return self._folders[owner]
