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
from ...pickle.optimizers import object_state_dict
from ...pickle.resolve import Resolver
from ...storage.zip_reader import Member, ZipReader
from ...tree import Computed, InFile, LazyTensor, Tree
from ...tree.digests import digest_of_bytes, is_digest, require_digest, scheme_of
from ..base import ReadOptions, Unread
from ..tree_json import load_json
from .phrase import TORCH_HANDLERS
from .tensors import TORCH_BUILDERS, TORCH_NAMES, TorchStorage

__all__ = ["DIGESTS_RECORD", "TorchZip", "has_pickle"]

_PICKLE_SUFFIX = "/data.pkl"
#: The record that this library adds; torch passes over what it does not know.
DIGESTS_RECORD = ".multiframe_ckpt"
#: Records of torch's own that a reader of values does not need.
_VALUELESS = ("version", ".format_version", ".storage_alignment", ".data/serialization_id")
#: Bytes of a compressed record. torch compresses nothing; a small file could inflate to a thousand times its size.
_MAX_INFLATED = 1 << 28


def has_pickle(archive: ZipReader) -> bool:
    """Return whether an archive has a ``data.pkl``."""
    return any(name.endswith(_PICKLE_SUFFIX) for name in archive.members)


class TorchZip:
    """A torch zip archive; :meth:`tree` reads its headers, and :meth:`unread` says what is left then."""

    def __init__(self, archive: ZipReader, options: ReadOptions) -> None:
        self._archive, self._options = archive, options
        self._where = archive.file.where
        self._roots = [name[: -len(_PICKLE_SUFFIX)] for name in archive.members if name.endswith(_PICKLE_SUFFIX)]
        self.root = next(iter(self._roots), None)
        self._digests: Mapping[str, str] = {}
        self._read_members: set[str] = set()
        self.facts: Mapping[str, object] = {}  # of the tree, once it was read

    def tree(self) -> Tree:
        """Return the tree, without moving a tensor byte."""
        if f"{self.root}/constants.pkl" in self._archive.members:
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
        pickled = self._read_record("data.pkl")
        if pickled is None:
            raise DamagedError(f"{self._where}: found no data.pkl in the archive, expected one; fetch the file again")
        byte_order = (self._read_record("byteorder") or b"little").decode("ascii", "replace")
        if byte_order not in ("little", "big"):
            raise DamagedError(f"{self._where}: found byte order {byte_order!r}, expected little or big")
        storages: dict[str, TorchStorage] = {}
        stored_nbytes = self._archive.file.size - len(pickled)
        machine = PickleMachine(
            pickled,
            where=self._where,
            builders=TORCH_BUILDERS,
            persistent_load=lambda identifier: self._storage(storages, identifier, byte_order),
            stored_nbytes=stored_nbytes,
        )
        resolver = Resolver(
            self._where,
            len(pickled),
            names=TORCH_NAMES,
            simplify=object_state_dict,
            versions=machine.versions,
            stored_nbytes=stored_nbytes,
        )
        tree = resolver.tree(machine.run(TORCH_HANDLERS))
        self.facts = resolver.facts
        return tree

    def unread(self) -> Unread:
        """Return the records that neither torch nor this library asks for, once the tree has been read."""
        known = {f"{self.root}/{name}" for name in _VALUELESS}
        return Unread(tuple(name for name in self._archive.members if name not in self._read_members | known))

    def _read_record(self, name: str) -> bytes | None:
        """Return a record that holds no tensor, after checking its digest or CRC, or None where there is none."""
        member = f"{self.root}/{name}"
        if member not in self._archive.members:
            return None
        if self._archive.members[member].size > _MAX_INFLATED and not self._archive.members[member].stored:
            raise UnsafeError(
                f"{self._where}: record {member}: found it compressed from more than {_MAX_INFLATED} bytes, "
                "expected at most so many; zip the file again without compression"
            )
        self._read_members.add(member)
        raw = self._archive.head(member, self._archive.members[member].size)
        for promised in filter(None, (self._crc_digest(member), self._digests.get(name))):
            require_digest(f"{self._where}: record {member}", digest_of_bytes(raw, scheme_of(promised)), promised)
        return raw

    def _read_digests(self) -> Mapping[str, str]:
        """Return the digests of the records, by their name in the archive, where this library wrote them."""
        raw = self._read_record(DIGESTS_RECORD)
        body = {} if raw is None else load_json(raw, f"{self._where}: record {DIGESTS_RECORD}")
        digests = body.get("digests", {}) if isinstance(body, dict) else None
        if not isinstance(digests, dict) or not all(
            isinstance(digest, str) and is_digest(digest) for digest in digests.values()
        ):
            raise DamagedError(
                f"{self._where}: record {DIGESTS_RECORD}: found no list of digests, expected one; the file is damaged: "
                "fetch it again"
            )
        missing = sorted(name for name in digests if f"{self.root}/{name}" not in self._archive.members)
        if missing:
            raise DamagedError(
                f"{self._where}: found no record {missing[0]}, expected it as {DIGESTS_RECORD} says; fetch the file again"
            )
        return digests

    def _crc_digest(self, member: str) -> str | None:
        # torch can be told not to compute checksums; it then leaves this field zero.
        crc = self._archive.members[member].crc
        return f"crc32:{crc:08x}" if crc else None

    def _storage(self, storages: dict[str, TorchStorage], identifier: Any, byte_order: str) -> TorchStorage:
        _, kind, key, _, count = identifier
        if key in storages:
            return storages[key]
        storage = storages[key] = TorchStorage(kind, key, count)
        name = f"{self.root}/data/{key}"
        member = self._archive.members.get(name)
        if member is None:
            raise DamagedError(f"{self._where}: found no record {name}, expected one: the pickle refers to it")
        if storage.nbytes is None:
            storage.nbytes = member.size
        if member.size != storage.nbytes:
            raise DamagedError(
                f"{self._where}: record {name}: found {member.size} bytes, expected {storage.nbytes}; "
                "the file is damaged: fetch it again"
            )
        digest = self._digests.get(f"data/{key}") or self._crc_digest(name)
        storage.stored = self._member_bytes(member, digest if self._options.verify else None)
        storage.is_big_endian = byte_order == "big"
        self._read_members.add(member.name)  # not another text that says the same
        return storage

    def _member_bytes(self, member: Member, digest: str | None) -> LazyTensor:
        shape = (member.size,)
        if member.stored:
            return LazyTensor(UINT8, shape, InFile(self._archive.file, UINT8, shape, member.offset), digest=digest)
        return LazyTensor(
            UINT8, shape, Computed(UINT8, shape, lambda: self._archive.inflated(member.name)), digest=digest
        )
