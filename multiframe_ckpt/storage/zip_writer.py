"""Zip archives written by position: members stored, aligned and without a time, large ones several at a time.

Where everything lies is known from the sizes alone, so members need not wait for each other; headers and directory, which
hold the members' CRCs, follow. The same members always give the same bytes. Source: PKWARE APPNOTE 6.3.10, sections 4.3
to 4.5.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ..tree import LazyTensor
from ..tree.digests import crc32, digest_of_bytes
from .parallel import SMALL_NBYTES, batches, in_parallel
from .transfer import CopyJob, copy, read_small, write_all_at, write_at

__all__ = ["ALIGNMENT", "NewMember", "ZipWriter"]

#: Where the bytes of a member begin: at a multiple of this, so that they can be mapped and used in place.
ALIGNMENT = 64
_PADDING_ID = 0xD935  # the extra field that Android's zipalign pads with; readers skip it
_LOCAL = struct.Struct("<4s5H3I2H")
_EXTRA = struct.Struct("<HH")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q4sIQI")  # with the locator behind it
_VERSION, _VERSION64 = 20, 45
_FIRST_DAY = 1 << 5 | 1  # 1980-01-01, the earliest date a zip file knows
_UTF8 = 0x800
_MAX_UINT32, _MAX_MEMBERS = 0xFFFFFFFF, 0xFFFF
_PERMISSIONS = 0o600 << 16
_MADE_BY_UNIX = 3 << 8


class NewMember(NamedTuple):
    """A member to be written: ``head``, and behind it the bytes of ``tensor``, which ``key`` names in reports."""

    name: str
    head: bytes = b""
    tensor: LazyTensor | None = None
    key: str = ""


class _LaidOut(NamedTuple):
    """A member, and where it lies: its header from ``header_offset`` on, its ``size`` bytes from ``offset`` on."""

    member: NewMember
    raw_name: bytes
    header_offset: int
    extra: bytes
    offset: int
    size: int


class _Written(NamedTuple):
    """What is known of a member when it has been written; no ``digest`` where none was asked for."""

    crc: int
    digest: str


class ZipWriter:
    """An archive under way in an open file; it is one when :meth:`finish` has been called."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._end = 0
        self._members: list[_LaidOut] = []
        self._crcs: list[int] = []

    def add(
        self,
        members: Sequence[NewMember],
        *,
        digest: bool = False,
        moved: Callable[[str, LazyTensor], object] = lambda key, tensor: None,
    ) -> dict[str, str]:
        """Write members; return with ``digest`` name → digest of each one's tensor, or of its head where it has none.

        ``moved`` is called with the key of each tensor, and the tensor, as it has been written.
        """
        laid_out = list(self._lay_out(members))
        groups = batches(laid_out, lambda place: place.size)
        written: dict[int, list[_Written]] = {}
        for number, results in in_parallel(lambda group: self._write(group, digest), groups, _total_size):
            written[number] = results
            for place in groups[number]:
                if place.member.tensor is not None:
                    moved(place.member.key, place.member.tensor)
        results = [result for number in range(len(groups)) for result in written[number]]
        self._members += laid_out
        self._crcs += [result.crc for result in results]
        if not digest:
            return {}
        return {place.member.name: result.digest for place, result in zip(laid_out, results, strict=True)}

    def add_raw(self, raw: bytes) -> None:
        """Write bytes that are no member where the next one would begin."""
        self._end = write_at(self._descriptor, raw, self._end)

    def finish(self, comment: bytes = b"") -> None:
        """Write the headers and the directory."""
        entries = []
        for place, crc in zip(self._members, self._crcs, strict=True):
            if place.size > SMALL_NBYTES:
                write_at(self._descriptor, _header(place, crc), place.header_offset)
            entries.append(_entry(place, crc))
        directory = b"".join(entries)
        end = _end(len(entries), len(directory), self._end, comment)
        write_at(self._descriptor, directory + end, self._end)

    def _lay_out(self, members: Sequence[NewMember]) -> Iterator[_LaidOut]:
        for member in members:
            raw_name = member.name.encode("utf-8")
            size = len(member.head) + (member.tensor.nbytes if member.tensor else 0)
            zip64 = struct.pack("<HHQQ", 1, 16, size, size) if size >= _MAX_UINT32 else b""
            unpadded = self._end + _LOCAL.size + len(raw_name) + len(zip64) + _EXTRA.size
            offset = unpadded + -unpadded % ALIGNMENT
            extra = zip64 + _EXTRA.pack(_PADDING_ID, offset - unpadded) + bytes(offset - unpadded)
            yield _LaidOut(member, raw_name, self._end, extra, offset, size)
            self._end = offset + size

    def _write(self, group: list[_LaidOut], digest: bool) -> list[_Written]:
        """Write small members together, with their headers; a large one without, which :meth:`finish` then adds."""
        if group[0].size > SMALL_NBYTES:
            return [self._write_large(group[0], digest)]
        written: list[_Written] = []
        parts: list[bytes | memoryview] = []
        for place in group:
            _, head, tensor, key = place.member
            raw = read_small(key, tensor) if tensor is not None else b""
            crc = crc32(raw, crc32(head))
            written.append(_Written(crc, digest_of_bytes(raw if tensor is not None else head) if digest else ""))
            parts += (_header(place, crc) + head, raw)
        write_all_at(self._descriptor, parts, group[0].header_offset)
        return written

    def _write_large(self, place: _LaidOut, digest: bool) -> _Written:
        member = place.member
        if member.tensor is None:
            write_at(self._descriptor, member.head, place.offset)
            return _Written(crc32(member.head), digest_of_bytes(member.head) if digest else "")
        schemes = ("crc32", "xxh3") if digest else ("crc32",)
        digests = copy(CopyJob(member.key, member.tensor, self._descriptor, place.offset, schemes, member.head))
        return _Written(int(digests["crc32"].removeprefix("crc32:"), 16), digests.get("xxh3", ""))


def _total_size(group: Sequence[_LaidOut]) -> int:
    return sum(place.size for place in group)


def _header(place: _LaidOut, crc: int) -> bytes:
    """Return the header that stands before a member's bytes."""
    large = place.size >= _MAX_UINT32
    size = _MAX_UINT32 if large else place.size
    version, flags = _VERSION64 if large else _VERSION, _flags(place.raw_name)
    fields = (b"PK\x03\x04", version, flags, 0, 0, _FIRST_DAY, crc, size, size, len(place.raw_name), len(place.extra))
    return _LOCAL.pack(*fields) + place.raw_name + place.extra


def _entry(place: _LaidOut, crc: int) -> bytes:
    """Return a member's entry in the directory."""
    size, packed_size, header_offset, extra = place.size, place.size, place.header_offset, b""
    if size >= _MAX_UINT32 or header_offset >= _MAX_UINT32:
        values = (size, packed_size, header_offset)
        wide = [value for value in values if value >= _MAX_UINT32]
        size, packed_size, header_offset = (min(value, _MAX_UINT32) for value in values)
        extra = struct.pack(f"<HH{len(wide)}Q", 1, 8 * len(wide), *wide)
    version, flags = _VERSION64 if extra else _VERSION, _flags(place.raw_name)
    fields = (b"PK\x01\x02", _MADE_BY_UNIX | version, version, flags, 0, 0, _FIRST_DAY, crc, packed_size, size)
    more_fields = (len(place.raw_name), len(extra), 0, 0, 0, _PERMISSIONS, header_offset)
    return _ENTRY.pack(*fields, *more_fields) + place.raw_name + extra


def _flags(raw_name: bytes) -> int:
    return 0 if raw_name.isascii() else _UTF8


def _end(count: int, size: int, offset: int, comment: bytes) -> bytes:
    """Return what follows a directory of ``count`` entries in ``size`` bytes from ``offset`` on."""
    zip64 = b""
    if count >= _MAX_MEMBERS or size >= _MAX_UINT32 or offset >= _MAX_UINT32:
        fields = (b"PK\x06\x06", 44, _MADE_BY_UNIX | _VERSION64, _VERSION64, 0, 0, count, count, size, offset)
        zip64 = _END64.pack(*fields, b"PK\x06\x07", 0, offset + size, 1)
    count, size, offset = min(count, _MAX_MEMBERS), min(size, _MAX_UINT32), min(offset, _MAX_UINT32)
    return zip64 + _END.pack(b"PK\x05\x06", 0, 0, count, count, size, offset, len(comment)) + comment
