"""The ``oneflow-pickle`` layout: what ``flow.save`` writes since 0.6. Holds any key and any nesting.

    ckpt/pickled_data         pickle of {"protocol_version": 1, "data": object}; a tensor is {"path": "tensor_<n>"}
    ckpt/tensor_<n>/meta,out  one variable a tensor

OneFlow 1.0 writes one file instead, a pickle with the arrays in it, which is read here too. docs/formats/oneflow-pickle.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...pickle.writer import require_plain
from ...progress import OnProgress, silent
from ...storage.files import open_regular
from ...storage.folders import read_folder
from ...tree import LazyTensor, Tree, tensors
from ...tree import Path as TreePath
from ...tree.digests import digest_of_bytes
from ..base import ProgressMeter, ReadOptions, WriteOptions, WritePlan, duplicated_ties
from .folder import MARKER, PICKLE, widened
from .meta import Note
from .objects import OneFlowPickle, read_folder_pickle, read_single_file
from .variable import NewVariable, write_variables

__all__ = ["OneFlowPickleFormat"]

_SINGLE_FILE_KEY = b"__oneflow__"
_HEAD = 256


class OneFlowPickleFormat:
    """OneFlow's pickled directory, and the single file of 1.0."""

    name = "oneflow-pickle"
    suffixes: tuple[str, ...] = ()

    def sniff(self, path: Path) -> bool:
        """Return whether the path is a folder with ``pickled_data``, or a 1.0 file."""
        try:
            if path.is_dir():
                return (path / PICKLE).is_file() and not (path / MARKER).exists()
            with open_regular(path) as file:
                head = file.read(_HEAD)
            return head[:1] == b"\x80" and _SINGLE_FILE_KEY in head
        except (OSError, ValueError):  # ValueError: a path no system can have
            return False

    def read(self, path: Path, options: ReadOptions = ReadOptions()) -> Tree:
        """Return the tree; the tensors of a 1.0 file are views of the file's own pickle."""
        if path.is_dir():
            return read_folder(
                path, lambda folder: read_folder_pickle(folder, PICKLE, allow_unknown=options.allow_unknown)
            )
        return read_single_file(path, allow_unknown=options.allow_unknown)

    def plan(self, tree: Tree) -> WritePlan:
        """Refuse dtypes that ``flow.load`` cannot read; tie are kept, other sharing of a storage is not."""
        table = tensors(tree)
        require_plain(tree)
        return WritePlan(widened=widened(table), lost_ties=duplicated_ties(table).lost_ties)

    def write(
        self, tree: Tree, path: Path, options: WriteOptions = WriteOptions(), *, on_progress: OnProgress = silent
    ) -> None:
        """Write the folder, one variable for each distinct tensor."""
        table = tensors(tree)
        widened(table)
        numbers = _Numbers()
        pickled = OneFlowPickle(numbers.folder).dump(tree)
        keys = {id(tensor): key for key, tensor in table.items()}
        meter = ProgressMeter(numbers.tensors, on_progress)
        seal = digest_of_bytes(pickled)
        path.mkdir()
        variables = [
            NewVariable(folder, tensor, Note(index, len(numbers.tensors), pickle=seal), keys[id(tensor)])
            for index, (folder, tensor) in enumerate(numbers.tensors.items())
        ]
        write_variables(path, variables, options, meter)
        (path / PICKLE).write_bytes(pickled)

    def describe(self, path: Path) -> dict[str, object]:
        """Return the framework and the container."""
        return {"framework": "oneflow", "container": "pickled folder" if path.is_dir() else "single file (1.0)"}


class _Numbers:
    """Numbers the distinct tensors of a tree as OneFlow does: ``tensor_1``, ``tensor_2``, …"""

    def __init__(self) -> None:
        self.tensors: dict[str, LazyTensor] = {}
        self._folders: dict[Any, str] = {}

    def folder(self, _: TreePath, tensor: LazyTensor) -> str:
        """Return the folder of a tensor, the same for one that was seen under another key."""
        owner = tensor.identity if tensor.identity is not None else id(tensor)
        if owner not in self._folders:
            self._folders[owner] = f"tensor_{len(self._folders) + 1}"
            self.tensors[self._folders[owner]] = tensor
        return self._folders[owner]
