"""Zip archives whose members are mapped where they are stored plainly and inflated when asked for otherwise.

``zipfile`` reads the directory; what it says of a member is checked against the member's own header and the file's size
before any byte is used. Members are written stored, aligned, and without a time.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, cast

import numpy as np

from ..errors import DamagedError, FormatError, UnsafeError
from .extents import MappedFile

__all__ = ["MappedArchive", "new_member"]

#: Where the bytes of a member begin: at a multiple of this, so that they can be mapped and used in place.
ALIGNMENT = 64
_LOCAL_HEADER = 30
_PADDING_ID = 0xD935  # the extra field that Android's zipalign pads with; readers skip it
_ZIP64_EXTRA = 20
_MAX_RATIO = 1032  # deflate cannot do better: a larger claim is a lie
_PIECE = 1 << 20
_ENCRYPTED = 0x1


class MappedArchive:
    """An archive opened for reading: its members' names, and their bytes."""

    def __init__(self, path: Path) -> None:
        self.file = MappedFile(path)
        try:
            directory = zipfile.ZipFile(cast(IO[bytes], self.file.buffer))  # a map reads and seeks
        except (
            *(zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError),
            *(OSError, AttributeError, struct.error),  # AttributeError: an empty file has no map
        ) as problem:
            raise DamagedError(
                f"{path}: found no whole zip directory at its end ({problem}), expected one; "
                "the file is cut short or damaged: fetch it again"
            ) from None
        self.members = {info.filename: info for info in directory.infolist()}
        if len(self.members) != len(directory.infolist()):
            raise UnsafeError(f"{path}: found two members of one name, expected distinct ones; the file is forged")
        self.comment = directory.comment
        self._offsets = {name: self._data_offset(info) for name, info in self.members.items()}
        self._require_apart()
        self._directory_offset: int = directory.start_dir

    def _where(self, name: str) -> str:
        return f"{self.file.path}: member {name!r}"

    def _data_offset(self, info: zipfile.ZipInfo) -> int:
        where = f"member {info.filename!r}"
        header = self.file.bytes(info.header_offset, _LOCAL_HEADER, where)
        signature, name_size, extra_size = struct.unpack("<4s22xHH", header)
        name = self.file.bytes(info.header_offset + _LOCAL_HEADER, name_size, where)
        encoding = "utf-8" if info.flag_bits & 0x800 else "cp437"
        if signature != b"PK\x03\x04" or name.decode(encoding, "replace") != info.orig_filename:
            raise DamagedError(f"{self.file.path}: {where}: found none where the directory says; fetch the file again")
        if info.flag_bits & _ENCRYPTED:
            raise UnsafeError(f"{self.file.path}: {where}: found it encrypted, expected plain; decrypt it first")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise FormatError(
                f"{self.file.path}: {where}: found compression {info.compress_type}, expected none or deflate; "
                "zip it again"
            )
        offset: int = info.header_offset + _LOCAL_HEADER + name_size + extra_size
        self.file.require(offset, info.compress_size, where)
        stored = info.compress_type == zipfile.ZIP_STORED
        most = info.compress_size if stored else _MAX_RATIO * (info.compress_size + 1)
        if info.file_size > most or (stored and info.file_size != info.compress_size):
            raise DamagedError(
                f"{self.file.path}: {where}: found {info.compress_size} bytes said to hold {info.file_size}, "
                f"expected at most {most}; the file is damaged or forged"
            )
        return offset

    def _require_apart(self) -> None:
        """Refuses members that lie on each other: a small file could so unpack to any size."""
        end = 0
        for info in sorted(self.members.values(), key=lambda info: info.header_offset):
            if info.header_offset < end:
                raise UnsafeError(
                    f"{self._where(info.filename)}: found it on top of another member, expected its own place; "
                    "the file is forged"
                )
            end = self._offsets[info.filename] + info.compress_size

    def stored_at(self, name: str) -> int | None:
        """Gives the offset of a member's bytes in the file, or None where they are compressed."""
        return self._offsets[name] if self.members[name].compress_type == zipfile.ZIP_STORED else None

    def head(self, name: str, nbytes: int) -> bytes:
        """Gives the first bytes of a member, as many as there are."""
        info = self.members[name]
        if self.stored_at(name) is not None:
            return self.file.bytes(self._offsets[name], min(nbytes, info.file_size), self._where(name))
        compressed = self.file.bytes(self._offsets[name], min(nbytes + 1024, info.compress_size), self._where(name))
        try:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(compressed, nbytes)
        except zlib.error as problem:
            raise self._not_inflated(name, problem) from None

    def inflated(self, name: str) -> np.ndarray:
        """Gives all bytes of a compressed member, after checking their number and CRC."""
        info = self.members[name]
        found = np.empty(info.file_size, np.uint8)
        machine = zlib.decompressobj(-zlib.MAX_WBITS)
        compressed = memoryview(self.file.raw(self._offsets[name], info.compress_size, self._where(name)))  # type: ignore[arg-type]
        done = crc = 0
        try:
            for start in range(0, info.compress_size, _PIECE):
                piece = machine.decompress(compressed[start : start + _PIECE], info.file_size - done + 1)
                if done + len(piece) > info.file_size:
                    raise zlib.error("more bytes than promised")
                found[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
                done, crc = done + len(piece), zlib.crc32(piece, crc)
        except zlib.error as problem:
            raise self._not_inflated(name, problem) from None
        if done != info.file_size or crc != info.CRC:
            raise self._not_inflated(name, f"{done} bytes with CRC {crc:08x}")
        return found

    def _not_inflated(self, name: str, problem: object) -> DamagedError:
        info = self.members[name]
        return DamagedError(
            f"{self._where(name)}: found {problem}, expected {info.file_size} bytes with CRC {info.CRC:08x}; "
            "the file is damaged: fetch it again"
        )

    def before_directory(self) -> bytes:
        """Gives the bytes between the last member and the directory; most archives have none there."""
        ends = (offset + self.members[name].compress_size for name, offset in self._offsets.items())
        start = max(ends, default=0)
        return self.file.bytes(start, max(0, self._directory_offset - start), "bytes before the directory")


@contextmanager
def new_member(archive: zipfile.ZipFile, file: BinaryIO, name: str, size: int) -> Iterator[IO[bytes]]:
    """Gives a stored member of ``size`` bytes to write, aligned, and the same bytes whenever it is written."""
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))  # the earliest time a zip file knows
    info.file_size = size
    large = size >= zipfile.ZIP64_LIMIT // 2
    start = file.tell() + _LOCAL_HEADER + len(name.encode("utf-8")) + (_ZIP64_EXTRA if large else 0)
    padding = -(start + 4) % ALIGNMENT
    info.extra = struct.pack("<HH", _PADDING_ID, padding) + bytes(padding)
    with archive.open(info, "w", force_zip64=large) as member:
        yield member
