"""Zip archives written by position: members stored, aligned and without a time, large ones several at a time.

Where everything lies is known from the sizes alone, so members need not wait for each other; headers and directory, which
hold the members' CRCs, follow. The same members always give the same bytes. Source: PKWARE APPNOTE 6.3.10, sections 4.3
to 4.5.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..digests import Hashing
from ..tensor import LazyTensor
from .moving import Move, in_parallel, move, put

__all__ = ["ALIGNMENT", "ArchiveWriter", "NewMember"]

#: Where the bytes of a member begin: at a multiple of this, so that they can be mapped and used in place.
ALIGNMENT = 64
_PADDING_ID = 0xD935  # the extra field that Android's zipalign pads with; readers skip it
_LOCAL = struct.Struct("<4s5H3I2H")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q4sIQI")  # with the locator behind it
_VERSION, _VERSION64 = 20, 45
_FIRST_DAY = 1 << 5 | 1  # 1980-01-01, the earliest date a zip file knows
_UTF8 = 0x800
_MOST, _MOST_MEMBERS = 0xFFFFFFFF, 0xFFFF
_PERMISSIONS = 0o600 << 16
_MADE_BY_UNIX = 3 << 8


@dataclass(frozen=True, slots=True)
class NewMember:
    """A member to be written: ``head``, and behind it the bytes of ``tensor``, which ``key`` names in reports."""

    name: str
    head: bytes = b""
    tensor: LazyTensor | None = None
    key: str = ""

    @property
    def size(self) -> int:
        """Bytes of the member."""
        return len(self.head) + (self.tensor.nbytes if self.tensor else 0)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a member lies: its header, and its bytes behind it."""

    member: NewMember
    raw_name: bytes
    header: int
    extra: bytes

    @property
    def offset(self) -> int:
        return self.header + _LOCAL.size + len(self.raw_name) + len(self.extra)

    @property
    def end(self) -> int:
        return self.offset + self.member.size


class ArchiveWriter:
    """An archive under way in an open file; it is one when :meth:`finish` has been called."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._end = 0
        self._places: list[_Place] = []
        self._crcs: list[int] = []

    def add(
        self,
        members: Sequence[NewMember],
        *,
        digest: bool = False,
        moved: Callable[[str, LazyTensor], object] = lambda key, tensor: None,
    ) -> dict[str, str]:
        """Writes members; gives with ``digest`` name → digest of each one's tensor, or of its head where it has none.

        ``moved`` is told the key of each tensor as it has been written.
        """
        places = list(self._laid_out(members))
        schemes = ("crc32", "xxh3") if digest else ("crc32",)
        found: dict[int, dict[str, str]] = {}
        for at, said in in_parallel(lambda place: self._write(place, schemes), places, lambda place: place.member.size):
            found[at] = said
            member = places[at].member
            if member.tensor is not None:
                moved(member.key, member.tensor)
        self._places += places
        self._crcs += [int(found[at]["crc32"].removeprefix("crc32:"), 16) for at in range(len(places))]
        return {place.member.name: found[at]["xxh3"] for at, place in enumerate(places)} if digest else {}

    def add_raw(self, raw: bytes) -> None:
        """Writes bytes that are no member, where the next one would begin."""
        self._end = put(self._descriptor, raw, self._end)

    def finish(self, comment: bytes = b"") -> None:
        """Writes the headers and the directory."""
        entries = []
        for place, crc in zip(self._places, self._crcs, strict=True):
            put(self._descriptor, _header(place, crc), place.header)
            entries.append(_entry(place, crc))
        directory = b"".join(entries)
        end = _end(len(entries), len(directory), self._end, comment)
        put(self._descriptor, directory + end, self._end)

    def _laid_out(self, members: Sequence[NewMember]) -> Iterator[_Place]:
        for member in members:
            raw_name = member.name.encode("utf-8")
            wide = struct.pack("<HHQQ", 1, 16, member.size, member.size) if member.size >= _MOST else b""
            padding = -(self._end + _LOCAL.size + len(raw_name) + len(wide) + 4) % ALIGNMENT
            extra = wide + struct.pack("<HH", _PADDING_ID, padding) + bytes(padding)
            place = _Place(member, raw_name, self._end, extra)
            self._end = place.end
            yield place

    def _write(self, place: _Place, schemes: tuple[str, ...]) -> dict[str, str]:
        member = place.member
        if member.tensor is not None:
            return move(Move(member.key, member.tensor, self._descriptor, place.offset, schemes, member.head))
        put(self._descriptor, member.head, place.offset)
        hashing = Hashing(schemes)
        hashing.update(member.head)
        return hashing.digests()


def _flags(raw_name: bytes) -> int:
    return 0 if raw_name.isascii() else _UTF8


def _header(place: _Place, crc: int) -> bytes:
    large = place.member.size >= _MOST
    size = _MOST if large else place.member.size
    version, flags = _VERSION64 if large else _VERSION, _flags(place.raw_name)
    fixed = (b"PK\x03\x04", version, flags, 0, 0, _FIRST_DAY, crc, size, size, len(place.raw_name), len(place.extra))
    return _LOCAL.pack(*fixed) + place.raw_name + place.extra


def _entry(place: _Place, crc: int) -> bytes:
    real = (place.member.size, place.member.size, place.header)
    size, packed, header = (min(value, _MOST) for value in real)
    wide = [value for value in real if value >= _MOST]
    extra = struct.pack(f"<HH{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
    version, flags = _VERSION64 if wide else _VERSION, _flags(place.raw_name)
    fixed = (b"PK\x01\x02", _MADE_BY_UNIX | version, version, flags, 0, 0, _FIRST_DAY, crc, packed, size)
    return _ENTRY.pack(*fixed, len(place.raw_name), len(extra), 0, 0, 0, _PERMISSIONS, header) + place.raw_name + extra


def _end(count: int, size: int, offset: int, comment: bytes) -> bytes:
    wide = b""
    if count >= _MOST_MEMBERS or size >= _MOST or offset >= _MOST:
        numbers = (count, count, size, offset)
        record = (b"PK\x06\x06", 44, _MADE_BY_UNIX | _VERSION64, _VERSION64, 0, 0, *numbers)
        wide = _END64.pack(*record, b"PK\x06\x07", 0, offset + size, 1)
    few = min(count, _MOST_MEMBERS)
    return wide + _END.pack(b"PK\x05\x06", 0, 0, few, few, min(size, _MOST), min(offset, _MOST), len(comment)) + comment
