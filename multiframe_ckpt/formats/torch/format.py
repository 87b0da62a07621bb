"""The ``torch`` layout: ``.pt .pth .bin .ckpt`` files. Zip archives are read and written, legacy streams are read.

Neither torch nor the classes of a pickled model are needed. A whole pickled ``nn.Module`` is read as its state dict.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...progress import OnProgress, silent
from ...storage.files import open_regular
from ...tree import LazyTensor, Tree
from ..base import ReadOptions, Unread, WriteOptions, WritePlan
from .legacy import is_legacy, read_legacy
from .zip_read import Archive
from .zip_write import plan_zip, write_zip

__all__ = ["TorchFormat"]

_HEAD = 1024  # a local header and the name of the first record


class TorchFormat:
    """PyTorch's own files."""

    name = "torch"
    suffixes = (".pt", ".pth", ".bin", ".ckpt")

    def sniff(self, path: Path) -> bool:
        """Return whether the file is a zip archive with a ``data.pkl``, or a legacy stream."""
        try:
            with open_regular(path) as file:
                head = file.read(_HEAD)
            return (
                is_legacy(head) or _begins_with_pickle(head) or (head[:2] == b"PK" and Archive(path).root is not None)
            )
        except (OSError, ValueError):  # a FormatError, or a path no system can have
            return False

    def read(self, path: Path, options: ReadOptions = ReadOptions()) -> Tree:
        """Return the tree over a read-only map of the file."""
        return read_legacy(path, options) if _is_stream(path) else Archive(path).tree(options)

    def plan(self, tree: Tree) -> WritePlan:
        """Refuse what a pickle cannot hold; nothing else changes: ties and shared storages are kept."""
        return plan_zip(tree)

    def write(
        self, tree: Tree, path: Path, options: WriteOptions = WriteOptions(), *, on_progress: OnProgress = silent
    ) -> None:
        """Write a zip archive that ``torch.load`` reads, also with ``weights_only=True`` and ``mmap=True``."""
        write_zip(tree, path, options, on_progress=on_progress)

    def unread(self, path: Path, table: Mapping[str, LazyTensor]) -> Unread:
        """Return the records of a zip archive that nothing asks for."""
        if _is_stream(path):
            return Unread(())
        archive = Archive(path)
        archive.tree(ReadOptions(allow_unknown=True))
        return Unread(archive.extra())

    def describe(self, path: Path) -> dict[str, object]:
        """Return the framework and the container."""
        return {"framework": "torch", "container": "legacy stream" if _is_stream(path) else "zip"}


def _is_stream(path: Path) -> bool:
    with open_regular(path) as file:
        return is_legacy(file.read(16))


def _begins_with_pickle(head: bytes) -> bool:
    """Return whether the first record is ``data.pkl``, as torch writes it: one cut short is then damaged, not unknown."""
    name_size = int.from_bytes(head[26:28], "little")
    return head[:4] == b"PK\x03\x04" and head[30 : 30 + name_size].endswith(b"/data.pkl")
