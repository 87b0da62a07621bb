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

__all__ = ["Member", "ZipReader"]

_LOCAL = struct.Struct("<4s2xHH4xIIIHH")  # signature, flags, method, CRC, packed, size, name and extra lengths
_ENTRY = struct.Struct("<4s4xHH4xIIIHHH8xI")  # the same, comment length, offset of the local header
_SAME = slice(4, 28)  # of a header, version to length of the name, what its entry has too, two bytes further
_END = struct.Struct("<4s4H2IH")
_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_END_SPAN = _END.size + 0xFFFF  # the end record, and the longest comment behind it
_DESCRIBED, _ENCRYPTED, _UTF8 = 0x8, 0x1, 0x800  # flags; described: sizes and CRC stand behind the bytes
_FLAGS = _DESCRIBED | _UTF8 | 0x6  # and how hard deflate tried
_STORED, _DEFLATED = 0, 8
_ZIP64 = 1  # the extra field that holds what does not fit into 32 bits
_FULL = 0xFFFFFFFF
_FULLS = (0xFFFF, _FULL, _FULL)  # what stands for a number of members, a size and an offset that does not fit
#: Compressed members may inflate to so much, or so many times the size of the file.
_FREE_INFLATED, _MOST_INFLATED = 64 << 20, 4
_MAX_RATIO = 1032  # deflate cannot do better: a larger claim is a lie


class Member(NamedTuple):
    """What the directory says of a member: ``header`` is where its own header begins, ``offset`` where its bytes do."""

    name: str
    header: int
    packed: int
    size: int
    crc: int
    stored: bool
    offset: int


class ZipReader:
    """An archive opened for reading: its members by name, in the order of its directory, and their bytes."""

    def __init__(self, file: File) -> None:
        self.file = file
        try:
            count, size, start, self.comment = self._end()
            directory = self.file.read_at(start, size, "zip directory")
            self._directory_offset = start
            self.members = self._read(directory, count)
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
        start = max(0, self.file.size - _END_SPAN)
        tail = self.file.read_at(start, self.file.size - start, "zip directory")
        at = tail.rfind(b"PK\x05\x06")
        if at < 0:
            raise self._broken("no end record")
        _, disk, first_disk, here, count, size, offset, comment_size = _END.unpack_from(tail, at)
        comment = tail[at + _END.size :]
        if disk or first_disk or here != count or len(comment) != comment_size:
            raise self._broken("an end record that does not end the file, or of several disks")
        end = start + at
        if tail[max(0, at - _LOCATOR.size) : at].startswith(b"PK\x06\x07"):  # torch writes one whatever the sizes are
            narrow, (end, count, size, offset) = (count, size, offset), self._end64(end)
            if any(
                given not in (most, real)
                for given, most, real in zip(narrow, _FULLS, (count, size, offset), strict=True)
            ):
                raise self._broken("two end records that say otherwise")
        if offset + size != end:
            raise self._broken(f"a directory of {size} bytes at {offset}, which does not lead to its end at {end}")
        return count, size, offset, comment

    def _end64(self, end: int) -> tuple[int, int, int, int]:
        _, disk, at, _ = _LOCATOR.unpack(self.file.read_at(end - _LOCATOR.size, _LOCATOR.size, "zip64 locator"))
        found = _END64.unpack(self.file.read_at(at, _END64.size, "zip64 end record"))
        mark, length, _, _, first, second, here, count, size, offset = found
        whole = at + _END64.size == end - _LOCATOR.size and length == _END64.size - 12
        if mark != b"PK\x06\x06" or disk or first or second or here != count or not whole:
            raise self._broken("a zip64 end record that is not one")
        return at, count, size, offset

    def _read(self, directory: bytes, count: int) -> dict[str, Member]:
        members: dict[str, Member] = {}
        at = 0
        for _ in range(count):
            entry, same = _ENTRY.unpack_from(directory, at), directory[at + _SAME.start + 2 : at + _SAME.stop + 2]
            name_end = at + _ENTRY.size + entry[6]
            extra_end = name_end + entry[7]
            raw = directory[at + _ENTRY.size : name_end]
            at = extra_end + entry[8]
            member = self._member(entry, raw, directory[name_end:extra_end], same)
            if member.name in members:
                raise UnsafeError(
                    f"{self.file.where}: found two members of one name, {member.name!r}, expected distinct ones; "
                    "the file is forged"
                )
            members[member.name] = member
        if at != len(directory):
            raise self._broken(f"{count} entries that take {at} of {len(directory)} bytes")
        return members

    def _member(self, entry: tuple[Any, ...], raw: bytes, extra: bytes, same: bytes) -> Member:
        signature, flags, method, crc, packed, size, _, _, _, header = entry
        name = raw.decode("utf-8" if flags & _UTF8 or raw.isascii() else "cp437")  # alike in ASCII, and UTF-8 is faster
        if signature != b"PK\x01\x02" or not raw or b"\0" in raw:
            raise self._broken(f"an entry that is none, for {name!r}")
        if _FULL in (size, packed, header):
            size, packed, header = _widened(extra, size, packed, header)
            same = b""  # its own header must be widened too before it can be compared
        stored = method == _STORED
        if flags & ~_FLAGS or not (stored or method == _DEFLATED):
            raise self._unusual(name, flags, method)
        offset = self._data_offset(header, raw, same, (flags, method, crc, packed, size), name)
        if offset + packed > self.file.size:  # asked here, so that the name is spelled for an error only
            self.file.require(offset, packed, f"member {name!r}")
        most = packed if stored else _MAX_RATIO * (packed + 1)
        if size > most or (stored and size != packed):
            raise DamagedError(
                f"{self._where(name)}: found {packed} bytes said to hold {size}, expected at most {most}; "
                "the file is damaged or forged"
            )
        return Member(name, header, packed, size, crc, stored, offset)

    def _unusual(self, name: str, flags: int, method: int) -> FormatError:
        if flags & _ENCRYPTED:
            return UnsafeError(f"{self._where(name)}: found it encrypted, expected plain; decrypt it first")
        if flags & ~_FLAGS:
            return FormatError(f"{self._where(name)}: found zip flags {flags:#x}, expected none of those; zip it again")
        return FormatError(f"{self._where(name)}: found compression {method}, expected none or deflate; zip it again")

    def _data_offset(self, header: int, raw: bytes, same: bytes, said: tuple[int, ...], name: str) -> int:
        """Return where a member's bytes begin, after comparing its own header with its entry, as given."""
        local = self.file.read_at(header, _LOCAL.size + len(raw), "the header of a member")
        if local[_SAME] == same and local[_LOCAL.size :] == raw and local[:4] == b"PK\x03\x04":
            return header + len(local) + int.from_bytes(local[_SAME.stop : _LOCAL.size], "little")
        signature, flags, method, crc, packed, size, name_size, extra_size = _LOCAL.unpack_from(local)
        if signature != b"PK\x03\x04" or name_size != len(raw) or local[_LOCAL.size :] != raw:
            raise DamagedError(f"{self._where(name)}: found none where the directory says; fetch the file again")
        offset: int = header + _LOCAL.size + name_size + extra_size
        if _FULL in (packed, size):
            extra = self.file.read_at(offset - extra_size, extra_size, f"member {name!r}")
            size, packed, _ = _widened(extra, size, packed, 0)
        # With a descriptor behind the bytes, a header may leave open what only the end of the writing told.
        open_ = flags & _DESCRIBED and not (crc or packed or size)
        if (flags, method) != said[:2] or not (open_ or (crc, packed, size) == said[2:]):
            raise DamagedError(
                f"{self._where(name)}: found a header that says otherwise than the directory, expected the same; "
                "the file is damaged or forged"
            )
        return offset

    def _require_apart(self) -> None:
        """Refuse members that lie on each other: a small file could so unpack to any size."""
        end = 0
        for member in sorted(self.members.values(), key=lambda member: member.header):
            if member.header < end:
                raise UnsafeError(
                    f"{self._where(member.name)}: found it on top of another member, expected its own place; "
                    "the file is forged"
                )
            end = member.offset + member.packed
        if end > self._directory_offset:
            raise UnsafeError(f"{self.file.where}: found a member on top of the directory; the file is forged")

    def _require_modest(self) -> None:
        """Refuse an archive that would inflate to many times its size: reading it could fill the memory."""
        inflated = sum(member.size for member in self.members.values() if not member.stored)
        if inflated > max(_FREE_INFLATED, _MOST_INFLATED * self.file.size):
            raise UnsafeError(
                f"{self.file.where}: found compressed members that inflate from {self.file.size} bytes to {inflated}, "
                f"expected at most {_MOST_INFLATED} times as many; if you trust the file, zip it again without compression"
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
        compressed = self.file.read_at(member.offset, min(nbytes + 1024, member.packed), self._where(name))
        try:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(compressed, nbytes)
        except zlib.error as problem:
            raise self._not_inflated(name, problem) from None

    def inflated(self, name: str) -> np.ndarray:
        """Return all bytes of a compressed member, after checking their number and CRC."""
        member = self.members[name]
        found = np.empty(member.size, np.uint8)
        done = crc = 0
        try:
            for piece in self._inflated_pieces(member):
                if done + len(piece) > member.size:
                    raise zlib.error("more bytes than promised")
                found[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
                done, crc = done + len(piece), crc32(piece, crc)
        except zlib.error as problem:
            raise self._not_inflated(name, problem) from None
        if done != member.size or crc != member.crc:
            raise self._not_inflated(name, f"{done} bytes with CRC {crc:08x}")
        return found

    def _inflated_pieces(self, member: Member) -> Iterator[bytes]:
        machine = zlib.decompressobj(-zlib.MAX_WBITS)
        for start in range(0, member.packed, PIECE):
            count = min(PIECE, member.packed - start)
            packed = self.file.read_at(member.offset + start, count, self._where(member.name))
            while packed:
                yield machine.decompress(packed, PIECE)
                packed = machine.unconsumed_tail
        yield machine.flush()

    def _not_inflated(self, name: str, problem: object) -> DamagedError:
        member = self.members[name]
        return DamagedError(
            f"{self._where(name)}: found {problem}, expected {member.size} bytes with CRC {member.crc:08x}; "
            "the file is damaged: fetch it again"
        )

    def before_directory(self) -> bytes:
        """Return the bytes between the last member and the directory; most archives have none there."""
        start = max((member.offset + member.packed for member in self.members.values()), default=0)
        return self.file.read_at(start, max(0, self._directory_offset - start), "bytes before the directory")


def _widened(extra: bytes, size: int, packed: int, header: int) -> tuple[int, int, int]:
    """Return the size, packed size and header offset, those that do not fit into 32 bits from the zip64 extra field."""
    values = [size, packed, header]
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == _ZIP64:
            field = extra[at + 4 : at + 4 + length]
            wide = list(struct.unpack(f"<{len(field) // 8}Q", field[: len(field) // 8 * 8]))
            size, packed, header = (wide.pop(0) if value == _FULL else value for value in values)
            return size, packed, header
        at += 4 + length
    return size, packed, header
