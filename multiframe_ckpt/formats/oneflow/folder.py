"""The ``oneflow`` format: a folder a variable, as OneFlow ≤ 0.5 writes it and every OneFlow since 0.3 reads it.

    ckpt/<key>/meta      protobuf text: shape, dtype, and our comment line
    ckpt/<key>/out       raw values
    ckpt/snapshot_done   empty, written last: without it the save never finished

A checkpoint that nests is one such snapshot per container of tensors, ``ckpt/model_state_dict/<key>/…``, under a
``pickled_data`` whose tensors point into them: ``flow.load(ckpt)`` gives the whole nested object (0.6 to 1.0), and
``flow.load(ckpt/model_state_dict)`` one part of it (0.3 and later). docs/formats/oneflow.md has the bytes.
"""

from __future__ import annotations

from ...errors import FormatError
from ...storage.folders import Folder
from ...tree import File, Tree, tensors
from ..base import Head, Opened, Plan, ReadOptions, WritableFormat, WriteOptions
from .folder_read import has_snapshot, is_variable, read_folder, unread
from .folder_write import plan_folder
from .names import MARKER, OWN_NAMES, PICKLE

__all__ = ["OneFlowFormat"]


class OneFlowFormat(WritableFormat):
    """OneFlow's per-variable folder."""

    name = "oneflow"
    dialect = "oneflow"
    holds_versions = True

    def recognises(self, head: Head) -> bool:
        """Return whether this is a folder of variables, finished or not."""
        folder = head.place
        if not isinstance(folder, Folder):
            return False
        if folder.has(PICKLE):  # a nested checkpoint has markers below, also where it lost its own
            return MARKER in head.names or has_snapshot(folder)
        return MARKER in head.names or any(is_variable(folder, name) for name in head.names)

    def open(self, place: File | Folder, options: ReadOptions) -> Opened:
        """Return the tree; flat ones in the order they were written where the comments say it, else sorted by name.

        Raise IncompleteError without ``snapshot_done``, unless the options allow it.
        """
        if not isinstance(place, Folder):
            raise FormatError(
                f"{place.where}: found a file, expected a folder of variables; name no format to have it recognised"
            )
        tree, more = read_folder(place, options)
        nests = place.has(PICKLE)
        facts = {"framework": "oneflow", "container": "nested folders" if nests else "folder", **more}
        return Opened(tree, facts, unread=lambda: unread(place, tensors(tree).values()))

    def plan(self, tree: Tree, options: WriteOptions) -> Plan:
        """Refuse names and dtypes that the folder or ``flow.load`` cannot hold; say what is widened and doubled."""
        return plan_folder(tree, options)

    def owns(self, name: str) -> bool:
        """Return whether a file is one of a snapshot's, at any depth."""
        return name.rpartition("/")[2] in OWN_NAMES
