"""The stream that ``torch.save`` wrote before 1.6, and still writes with ``_use_new_zipfile_serialization=False``.

    pickle  0x1950a86a20f9469cfc6c          the magic number
    pickle  1001                            protocol
    pickle  {"protocol_version", "little_endian", "type_sizes"}
    pickle  the object; a tensor's storage is the persistent id ("storage", type, key, location, count, view)
    pickle  [key, …]                        the order of the storages that follow
    then per key: count, int64 in the file's byte order, and count elements

Source: torch 2.13 ``torch/serialization.py`` (``_legacy_save``, ``_legacy_load``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from ...dtypes import UINT8
from ...errors import DamagedError, FormatError
from ...pickle.machine import PickleMachine
from ...pickle.optimizers import object_state_dict
from ...pickle.resolve import Resolver
from ...tree import File, LazyTensor, Tree
from ..base import ReadOptions
from .tensors import TORCH_BUILDERS, TORCH_NAMES, StorageView, TorchStorage

__all__ = ["is_legacy", "read_legacy"]

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
#: The magic number as the protocols of pickle write it: in decimal up to 1, in bytes from 2 on, in a frame from 4 on.
_START = re.compile(
    rb"L%dL\n\.|\x80[\x02-\x05](?:\x95.{8})?\x8a\x0a%b" % (_MAGIC, re.escape(_MAGIC.to_bytes(10, "little"))), re.DOTALL
)


def is_legacy(head: bytes) -> bool:
    """Return whether a file that begins with ``head`` is such a stream."""
    return _START.match(head) is not None


def read_legacy(file: File, options: ReadOptions) -> tuple[Tree, Mapping[str, object]]:
    """Return the tree of a legacy stream, without moving a tensor byte, and facts of it."""
    storages: dict[str, TorchStorage] = {}
    versions: dict[int, tuple[object, object]] = {}

    def persistent_load(identifier: object) -> object:
        return _persistent_load(storages, identifier)

    values: list[Any] = []
    end = 0
    contents = file.contents()
    for _ in ("magic", "protocol", "system", "object", "keys"):
        machine = PickleMachine(
            contents, where=file.where, builders=TORCH_BUILDERS, persistent_load=persistent_load, start=end
        )
        values.append(machine.run())
        versions |= machine.versions
        end = machine.end
    _, protocol, system, raw, keys = values
    if protocol != _PROTOCOL or not isinstance(system, dict) or not isinstance(keys, list):
        raise DamagedError(
            f"{file.where}: found another header than protocol {_PROTOCOL} has, expected it; fetch it again"
        )
    _bind_storages(file, storages, keys, end, "little" if system.get("little_endian", True) else "big")
    resolver = Resolver(file.where, end, names=TORCH_NAMES, simplify=object_state_dict, versions=versions)
    return resolver.tree(raw), resolver.facts


def _persistent_load(storages: dict[str, TorchStorage], identifier: object) -> object:
    """Answer ("storage", …) with a storage, and ("module", class, file, source) with the class's name."""
    if not isinstance(identifier, tuple) or not identifier:
        raise TypeError("a persistent id that is no tuple")
    if identifier[0] == "module":
        return identifier[1]
    _, kind, key, _, count, view = identifier
    storage = storages.setdefault(key, TorchStorage(kind, key, count))
    if view is None:
        return storage
    _, first_element, size = view  # of torch < 0.4, where storages could lie in others
    return StorageView(storage, first_element, size)


def _bind_storages(
    file: File,
    storages: dict[str, TorchStorage],
    keys: list[object],
    offset: int,
    byte_order: Literal["little", "big"],
) -> None:
    """Say of each storage where its bytes lie; ``offset`` is that of the first one's count."""
    for key in keys:
        storage = storages.get(key) if isinstance(key, str) else None
        if storage is None:
            raise DamagedError(f"{file.where}: found data for a storage that no tensor names; fetch the file again")
        count = int.from_bytes(file.read_at(offset, 8, f"storage {key}"), byte_order, signed=True)
        if storage.itemsize is None or storage.nbytes is None:
            raise FormatError(
                f"{file.where}: storage {key!r}: found elements of {storage.kind}, expected those of a type whose size is "
                "known, as other storages lie behind them; with torch: torch.save(torch.load(path), new_path)"
            )
        if count * storage.itemsize != storage.nbytes:
            raise DamagedError(
                f"{file.where}: storage {key!r}: found {count} elements, "
                f"expected {storage.nbytes // storage.itemsize}; the file is damaged: fetch it again"
            )
        storage.stored = LazyTensor.in_file(file, UINT8, (storage.nbytes,), offset + 8, what=f"storage {key}")
        storage.is_big_endian = byte_order == "big"
        offset += 8 + storage.nbytes
