"""The zip archive that ``torch.save`` writes since 1.6: ``<root>/data.pkl`` and one stored record a storage.

docs/formats/torch.md describes the bytes. Source: torch 2.13 ``torch/serialization.py`` (``_save``, ``_load``) and
``caffe2/serialize/inline_container.cc``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...dtypes import UINT8
from ...errors import DamagedError, FormatError, UnsafeError
from ...pickle.machine import PickleMachine
from ...pickle.resolve import Resolver, module_state_dict
from ...storage.zip_reader import Member, ZipReader
from ...tree import Computed, InFile, LazyTensor, Tree
from ...tree.digests import digest_of_bytes, is_digest, require_digest, scheme_of
from ..base import ReadOptions, Unread
from ..tree_json import load_json
from .phrase import TORCH_HANDLERS
from .tensors import TORCH_BUILDERS, TORCH_NAMES, TorchStorage

__all__ = ["DIGESTS", "TorchZip", "has_pickle"]

_PICKLE = "/data.pkl"
#: The record that this library adds; torch passes over what it does not know.
DIGESTS = ".multiframe_ckpt"
#: Records of torch's own that a reader of values does not need.
_UNREAD = ("version", ".format_version", ".storage_alignment", ".data/serialization_id")
_SMALL_LIMIT = 1 << 28  # torch compresses nothing; a small file could inflate to a thousand times its size


def has_pickle(archive: ZipReader) -> bool:
    """Return whether an archive has a ``data.pkl``."""
    return any(name.endswith(_PICKLE) for name in archive.members)


class TorchZip:
    """A torch zip archive; :meth:`tree` reads its headers, and :meth:`unread` says what is left then."""

    def __init__(self, archive: ZipReader, options: ReadOptions) -> None:
        self._zip, self._options = archive, options
        self._where = archive.file.where
        self._roots = [name[: -len(_PICKLE)] for name in archive.members if name.endswith(_PICKLE)]
        self.root = next(iter(self._roots), None)
        self._digests: Mapping[str, str] = {}
        self._read: set[str] = set()

    def tree(self) -> Tree:
        """Return the tree, without moving a tensor byte."""
        if f"{self.root}/constants.pkl" in self._zip.members:
            raise FormatError(
                f"{self._where}: found a TorchScript archive, expected a checkpoint; "
                "with torch: torch.save(torch.jit.load(path).state_dict(), new_path)"
            )
        if len(self._roots) > 1:
            raise UnsafeError(
                f"{self._where}: found {len(self._roots)} records called data.pkl, expected one: readers would differ "
                "over which is meant; the file is forged"
            )
        self._digests = self._read_digests()
        pickled = self._small("data.pkl")
        if pickled is None:
            raise DamagedError(f"{self._where}: found no data.pkl in the archive, expected one; fetch the file again")
        order = (self._small("byteorder") or b"little").decode("ascii", "replace")
        if order not in ("little", "big"):
            raise DamagedError(f"{self._where}: found byte order {order!r}, expected little or big")
        storages: dict[str, TorchStorage] = {}
        stored = self._zip.file.size - len(pickled)
        machine = PickleMachine(
            pickled,
            where=self._where,
            builders=TORCH_BUILDERS,
            persistent=lambda identifier: self._storage(storages, identifier, order),
            stored=stored,
        )
        resolver = Resolver(
            self._where,
            len(pickled),
            allow_unknown=self._options.allow_unknown,
            names=TORCH_NAMES,
            collapse=module_state_dict,
            stored=stored,
        )
        return resolver.tree(machine.run(TORCH_HANDLERS))

    def unread(self) -> Unread:
        """Return the records that neither torch nor this library asks for, once the tree has been read."""
        known = {f"{self.root}/{name}" for name in _UNREAD}
        return Unread(tuple(name for name in self._zip.members if name not in self._read | known))

    def _small(self, name: str) -> bytes | None:
        """Return a record that holds no tensor, after checking its digest or CRC, or None where there is none."""
        member = f"{self.root}/{name}"
        if member not in self._zip.members:
            return None
        if self._zip.members[member].size > _SMALL_LIMIT and not self._zip.members[member].stored:
            raise UnsafeError(
                f"{self._where}: record {member}: found it compressed from more than {_SMALL_LIMIT} bytes, "
                "expected at most so many; zip the file again without compression"
            )
        self._read.add(member)
        raw = self._zip.head(member, self._zip.members[member].size)
        for promised in filter(None, (self._crc(member), self._digests.get(name))):
            require_digest(f"{self._where}: record {member}", digest_of_bytes(raw, scheme_of(promised)), promised)
        return raw

    def _read_digests(self) -> Mapping[str, str]:
        """Return the digests of the records, by their name in the archive, where this library wrote them."""
        raw = self._small(DIGESTS)
        found = {} if raw is None else load_json(raw, f"{self._where}: record {DIGESTS}")
        records = found.get("digests", {}) if isinstance(found, dict) else None
        if not isinstance(records, dict) or not all(
            isinstance(digest, str) and is_digest(digest) for digest in records.values()
        ):
            raise DamagedError(
                f"{self._where}: record {DIGESTS}: found no list of digests, expected one; the file is damaged: "
                "fetch it again"
            )
        missing = sorted(name for name in records if f"{self.root}/{name}" not in self._zip.members)
        if missing:
            raise DamagedError(
                f"{self._where}: found no record {missing[0]}, expected it as {DIGESTS} says; fetch the file again"
            )
        return records

    def _crc(self, member: str) -> str | None:
        # torch can be told not to compute checksums; it then leaves this field zero.
        crc = self._zip.members[member].crc
        return f"crc32:{crc:08x}" if crc else None

    def _storage(self, storages: dict[str, TorchStorage], identifier: Any, order: str) -> TorchStorage:
        _, kind, key, _, count = identifier
        if key in storages:
            return storages[key]
        storage = storages[key] = TorchStorage(kind, key, count)
        name = f"{self.root}/data/{key}"
        member = self._zip.members.get(name)
        if member is None:
            raise DamagedError(f"{self._where}: found no record {name}, expected one: the pickle refers to it")
        if member.size != storage.nbytes:
            raise DamagedError(
                f"{self._where}: record {name}: found {member.size} bytes, expected {storage.nbytes}; "
                "the file is damaged: fetch it again"
            )
        digest = self._digests.get(f"data/{key}") or self._crc(name)
        storage.raw = self._bytes(member, digest)
        storage.swapped = order == "big"
        self._read.add(member.name)  # not another text that says the same
        return storage

    def _bytes(self, member: Member, digest: str | None) -> LazyTensor:
        shape = (member.size,)
        if member.stored:
            return LazyTensor(UINT8, shape, InFile(self._zip.file, UINT8, shape, member.offset), digest=digest)
        return LazyTensor(UINT8, shape, Computed(UINT8, shape, lambda: self._zip.inflated(member.name)), digest=digest)
