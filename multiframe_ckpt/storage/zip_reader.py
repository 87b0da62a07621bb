"""Zip archives opened for reading, by a reader of our own that believes nothing it has not compared.

A member's entry in the directory must say what its own header says; members must not lie on each other, nor have one
name. Those that are stored plainly are used where they lie, others are inflated when asked for. Source: PKWARE APPNOTE
6.3.10, sections 4.3 to 4.5.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ..errors import DamagedError, FormatError, UnsafeError
from ..tree import File
from ..tree.digests import PIECE, crc32

__all__ = ["FREE_INFLATED", "MAX_TIMES_INFLATED", "Member", "ZipReader"]

_LOCAL = struct.Struct("<4s2xHH4xIIIHH")  # signature, flags, method, CRC, packed size, size, name and extra lengths
_ENTRY = struct.Struct("<4s4xHH4xIIIHHH8xI")  # the same, comment length, offset of the local header
_SHARED = slice(4, 28)  # of a local header, version to length of the name, what its entry has two bytes further
_END = struct.Struct("<4s4H2IH")
_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_MAX_END_NBYTES = _END.size + 0xFFFF  # the end record, and the longest comment behind it
_ENCRYPTED, _SIZES_BEHIND, _UTF8 = 0x1, 0x8, 0x800  # flags; the second: sizes and CRC stand behind the bytes
_KNOWN_FLAGS = _SIZES_BEHIND | _UTF8 | 0x6  # and how hard deflate tried
_STORED, _DEFLATED = 0, 8
_ZIP64 = 1  # the extra field that holds what does not fit into 32 bits
_IN_ZIP64 = 0xFFFFFFFF  # stands for a size or an offset that does not fit
_END_IN_ZIP64 = (0xFFFF, _IN_ZIP64, _IN_ZIP64)  # the same of a number of members, the directory's size and its offset
#: Bytes that compressed members may inflate to, or how many times the size of the file.
FREE_INFLATED, MAX_TIMES_INFLATED = 64 << 20, 4
#: Deflate can do no better: a larger claim is a lie.
_MAX_DEFLATE_RATIO = 1032


class Member(NamedTuple):
    """A member of an archive: ``size`` bytes that take ``packed_size`` in the file from ``offset`` on.

    ``stored`` says that they lie there plainly. ``header_offset`` is where the member's own header begins.
    """

    name: str
    header_offset: int
    packed_size: int
    size: int
    crc: int
    stored: bool
    offset: int


class ZipReader:
    """An archive opened for reading: its ``members`` by name, in the order of its directory, and their bytes."""

    def __init__(self, file: File) -> None:
        self.file = file
        try:
            count, size, self._directory_offset, self.comment = self._end()
            directory = self.file.read_at(self._directory_offset, size, "zip directory")
            self.members = self._read_directory(directory, count)
        except (struct.error, IndexError, UnicodeDecodeError) as problem:
            raise self._broken(problem) from None
        self._require_apart()
        self._require_modest()

    def _broken(self, problem: object) -> DamagedError:
        return DamagedError(
            f"{self.file.where}: found no whole zip directory at its end ({problem}), expected one; "
            "the file is cut short or damaged: fetch it again"
        )

    def _where(self, name: str) -> str:
        return f"{self.file.where}: member {name!r}"

    def _end(self) -> tuple[int, int, int, bytes]:
        """Return the directory's number of entries, size and offset, and the archive's comment."""
        tail_offset = max(0, self.file.size - _MAX_END_NBYTES)
        tail = self.file.read_at(tail_offset, self.file.size - tail_offset, "zip directory")
        position = tail.rfind(b"PK\x05\x06")
        if position < 0:
            raise self._broken("no end record")
        _, disk, first_disk, disk_count, count, size, offset, comment_size = _END.unpack_from(tail, position)
        comment = tail[position + _END.size :]
        if disk or first_disk or disk_count != count or len(comment) != comment_size:
            raise self._broken("an end record that does not end the file, or of several disks")
        end = tail_offset + position
        if tail[max(0, position - _LOCATOR.size) : position].startswith(b"PK\x06\x07"):
            # torch writes a zip64 end record whatever the sizes are.
            narrow, (end, count, size, offset) = (count, size, offset), self._end64(end)
            if any(
                value not in (full, wide)
                for value, full, wide in zip(narrow, _END_IN_ZIP64, (count, size, offset), strict=True)
            ):
                raise self._broken("two end records that differ")
        if offset + size != end:
            raise self._broken(f"a directory of {size} bytes at {offset}, which does not lead to its end at {end}")
        return count, size, offset, comment

    def _end64(self, end: int) -> tuple[int, int, int, int]:
        """Return what the zip64 end record before ``end`` says: its own offset, and the directory's as above."""
        _, disk, record_offset, _ = _LOCATOR.unpack(
            self.file.read_at(end - _LOCATOR.size, _LOCATOR.size, "zip64 locator")
        )
        record = self.file.read_at(record_offset, _END64.size, "zip64 end record")
        signature, record_size, _, _, disk_number, first_disk, disk_count, count, size, offset = _END64.unpack(record)
        fits = record_offset + _END64.size == end - _LOCATOR.size and record_size == _END64.size - 12
        if signature != b"PK\x06\x06" or disk or disk_number or first_disk or disk_count != count or not fits:
            raise self._broken("a zip64 end record that is not one")
        return record_offset, count, size, offset

    def _read_directory(self, directory: bytes, count: int) -> dict[str, Member]:
        members: dict[str, Member] = {}
        position = 0
        for _ in range(count):
            entry = _ENTRY.unpack_from(directory, position)
            shared = directory[position + _SHARED.start + 2 : position + _SHARED.stop + 2]
            name_end = position + _ENTRY.size + entry[6]
            extra_end = name_end + entry[7]
            raw_name = directory[position + _ENTRY.size : name_end]
            position = extra_end + entry[8]
            member = self._member(entry, raw_name, directory[name_end:extra_end], shared)
            if member.name in members:
                raise UnsafeError(
                    f"{self.file.where}: found two members of one name, {member.name!r}, expected distinct ones; "
                    "the file is forged"
                )
            members[member.name] = member
        if position != len(directory):
            raise self._broken(f"{count} entries that take {position} of {len(directory)} bytes")
        return members

    def _member(self, entry: tuple[Any, ...], raw_name: bytes, extra: bytes, shared: bytes) -> Member:
        """Return the member of an entry; ``shared`` is what its own header must have as well."""
        signature, flags, method, crc, packed_size, size, _, _, _, header_offset = entry
        # Both encodings are alike in ASCII, and UTF-8 is faster.
        name = raw_name.decode("utf-8" if flags & _UTF8 or raw_name.isascii() else "cp437")
        if signature != b"PK\x01\x02" or not raw_name or b"\0" in raw_name:
            raise self._broken(f"an entry that is none, for {name!r}")
        if _IN_ZIP64 in (size, packed_size, header_offset):
            size, packed_size, header_offset = _widened(extra, size, packed_size, header_offset)
            shared = b""  # its own header must be widened too before it can be compared
        stored = method == _STORED
        if flags & ~_KNOWN_FLAGS or not (stored or method == _DEFLATED):
            raise self._unusual(name, flags, method)
        offset = self._data_offset(header_offset, raw_name, shared, (flags, method, crc, packed_size, size), name)
        if offset + packed_size > self.file.size:  # asked here, so that the name is formatted for an error only
            self.file.require(offset, packed_size, f"member {name!r}")
        most = packed_size if stored else _MAX_DEFLATE_RATIO * (packed_size + 1)
        if size > most or (stored and size != packed_size):
            raise DamagedError(
                f"{self._where(name)}: found {packed_size} bytes said to hold {size}, expected at most {most}; "
                "the file is damaged or forged"
            )
        return Member(name, header_offset, packed_size, size, crc, stored, offset)

    def _unusual(self, name: str, flags: int, method: int) -> FormatError:
        if flags & _ENCRYPTED:
            return UnsafeError(f"{self._where(name)}: found it encrypted, expected plain; decrypt it first")
        if flags & ~_KNOWN_FLAGS:
            return FormatError(f"{self._where(name)}: found zip flags {flags:#x}, expected none of those; zip it again")
        return FormatError(f"{self._where(name)}: found compression {method}, expected none or deflate; zip it again")

    def _data_offset(
        self, header_offset: int, raw_name: bytes, shared: bytes, entry: tuple[int, int, int, int, int], name: str
    ) -> int:
        """Return where a member's bytes begin, after comparing its own header with its entry.

        ``entry`` is flags, method, CRC, packed size and size. Nearly all headers have the very bytes of their entry.
        """
        local = self.file.read_at(header_offset, _LOCAL.size + len(raw_name), "the header of a member")
        if local[_SHARED] == shared and local[_LOCAL.size :] == raw_name and local[:4] == b"PK\x03\x04":
            return header_offset + len(local) + int.from_bytes(local[_SHARED.stop : _LOCAL.size], "little")
        signature, flags, method, crc, packed_size, size, name_size, extra_size = _LOCAL.unpack_from(local)
        if signature != b"PK\x03\x04" or name_size != len(raw_name) or local[_LOCAL.size :] != raw_name:
            raise DamagedError(
                f"{self._where(name)}: found no header of it at offset {header_offset}, expected it there as the zip "
                "directory says; the file is damaged: fetch it again"
            )
        offset: int = header_offset + _LOCAL.size + name_size + extra_size
        if _IN_ZIP64 in (packed_size, size):
            extra = self.file.read_at(offset - extra_size, extra_size, f"member {name!r}")
            size, packed_size, _ = _widened(extra, size, packed_size, 0)
        # With sizes and CRC behind the bytes, a header may leave open what only the end of the writing told.
        left_open = flags & _SIZES_BEHIND and not (crc or packed_size or size)
        if (flags, method) != entry[:2] or not (left_open or (crc, packed_size, size) == entry[2:]):
            raise DamagedError(
                f"{self._where(name)}: found a header that differs from its entry in the zip directory, expected the "
                "same; the file is damaged or forged"
            )
        return offset

    def _require_apart(self) -> None:
        """Refuse members that lie on each other: a small file could so unpack to any size."""
        end = 0
        for member in sorted(self.members.values(), key=lambda member: member.header_offset):
            if member.header_offset < end:
                raise UnsafeError(
                    f"{self._where(member.name)}: found it on top of another member, expected it apart; "
                    "the file is forged"
                )
            end = member.offset + member.packed_size
        if end > self._directory_offset:
            raise UnsafeError(f"{self.file.where}: found a member on top of the directory; the file is forged")

    def _require_modest(self) -> None:
        """Refuse an archive that would inflate to many times its size: reading it could fill the memory."""
        inflated = sum(member.size for member in self.members.values() if not member.stored)
        if inflated > max(FREE_INFLATED, MAX_TIMES_INFLATED * self.file.size):
            raise UnsafeError(
                f"{self.file.where}: found compressed members that inflate from {self.file.size} bytes to {inflated}, "
                f"expected at most {MAX_TIMES_INFLATED} times as many; if you trust the file, zip it again without "
                "compression"
            )

    def stored_at(self, name: str) -> int | None:
        """Return the offset of a member's bytes in the file, or None where they are compressed."""
        member = self.members[name]
        return member.offset if member.stored else None

    def head(self, name: str, nbytes: int) -> bytes:
        """Return the first bytes of a member, as many as there are."""
        member = self.members[name]
        if member.stored:
            return self.file.read_at(member.offset, min(nbytes, member.size), self._where(name))
        compressed = self.file.read_at(member.offset, min(nbytes + 1024, member.packed_size), self._where(name))
        try:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(compressed, nbytes)
        except zlib.error as problem:
            raise self._not_inflated(name, problem) from None

    def inflated(self, name: str) -> np.ndarray:
        """Return all bytes of a compressed member, after checking their number and CRC."""
        member = self.members[name]
        contents = np.empty(member.size, np.uint8)
        nbytes = crc = 0
        try:
            for piece in self._inflated_pieces(member):
                if nbytes + len(piece) > member.size:
                    raise zlib.error("more bytes than promised")
                contents[nbytes : nbytes + len(piece)] = np.frombuffer(piece, np.uint8)
                nbytes, crc = nbytes + len(piece), crc32(piece, crc)
        except zlib.error as problem:
            raise self._not_inflated(name, problem) from None
        if nbytes != member.size or crc != member.crc:
            raise self._not_inflated(name, f"{nbytes} bytes with CRC {crc:08x}")
        return contents

    def _inflated_pieces(self, member: Member) -> Iterator[bytes]:
        decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
        for start in range(0, member.packed_size, PIECE):
            nbytes = min(PIECE, member.packed_size - start)
            packed = self.file.read_at(member.offset + start, nbytes, self._where(member.name))
            while packed:
                yield decompressor.decompress(packed, PIECE)
                packed = decompressor.unconsumed_tail
        yield decompressor.flush()

    def _not_inflated(self, name: str, problem: object) -> DamagedError:
        member = self.members[name]
        return DamagedError(
            f"{self._where(name)}: found {problem}, expected {member.size} bytes with CRC {member.crc:08x}; "
            "the file is damaged: fetch it again"
        )

    def before_directory(self) -> bytes:
        """Return the bytes between the last member and the directory; most archives have none there."""
        end = max((member.offset + member.packed_size for member in self.members.values()), default=0)
        return self.file.read_at(end, max(0, self._directory_offset - end), "bytes before the directory")


def _widened(extra: bytes, size: int, packed_size: int, header_offset: int) -> tuple[int, int, int]:
    """Return the three, those that do not fit into 32 bits from the zip64 extra field."""
    narrow = (size, packed_size, header_offset)
    position = 0
    while position + 4 <= len(extra):
        field_id, nbytes = struct.unpack_from("<HH", extra, position)
        if field_id == _ZIP64:
            field = extra[position + 4 : position + 4 + nbytes]
            wide = list(struct.unpack(f"<{len(field) // 8}Q", field[: len(field) // 8 * 8]))
            size, packed_size, header_offset = (wide.pop(0) if value == _IN_ZIP64 else value for value in narrow)
            return size, packed_size, header_offset
        position += 4 + nbytes
    return narrow
