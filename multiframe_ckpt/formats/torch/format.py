"""The ``torch`` format: ``.pt .pth .bin .ckpt`` files. Zip archives are read and written, legacy streams are read.

Neither torch nor the classes of a pickled model are needed. A whole pickled ``nn.Module`` is read as its state dict.
"""

from __future__ import annotations

from ...storage.folders import Folder
from ...storage.zip_reader import ZipReader
from ...tree import File, Tree
from ..base import Head, Opened, Plan, ReadOptions, WritableFormat, WriteOptions, require_file
from .legacy import is_legacy, read_legacy
from .zip_read import TorchZip, has_pickle
from .zip_write import plan_zip

__all__ = ["TorchFormat"]


class TorchFormat(WritableFormat):
    """PyTorch's own files."""

    name = "torch"
    suffixes = (".pt", ".pth", ".bin", ".ckpt", ".pth.tar", ".pt.tar", ".ckpt.tar")
    dialect = "torch"
    leaves_out_digests = True
    holds_versions = True

    def recognises(self, head: Head) -> bool:
        """Return whether the file is a zip archive with a ``data.pkl``, or a legacy stream."""
        start = head.start
        if is_legacy(start) or _begins_with_pickle(start):
            return True
        return start[:2] == b"PK" and has_pickle(ZipReader(require_file(head.place, self)))

    def open(self, place: File | Folder, options: ReadOptions) -> Opened:
        """Return the tree over the file."""
        file = require_file(place, self)
        if is_legacy(file.read_at(0, min(32, file.size))):
            tree, facts = read_legacy(file, options)
            return Opened(tree, {"framework": "torch", "container": "legacy stream", **facts})
        archive = TorchZip(ZipReader(file), options)
        tree = archive.tree()
        return Opened(tree, {"framework": "torch", "container": "zip", **archive.facts}, unread=archive.unread)

    def plan(self, tree: Tree, options: WriteOptions) -> Plan:
        """Refuse what a pickle cannot hold; nothing else changes: ties and shared storages are kept.

        What is written is a zip archive that ``torch.load`` reads, also with ``weights_only=True`` and ``mmap=True``.
        """
        return plan_zip(tree, options)


def _begins_with_pickle(start: bytes) -> bool:
    """Return whether the first record is ``data.pkl``, as torch writes it: one cut short is then damaged, not unknown."""
    name_size = int.from_bytes(start[26:28], "little")
    return start[:4] == b"PK\x03\x04" and start[30 : 30 + name_size].endswith(b"/data.pkl")
