"""Global heaps of an HDF5 file, where text of varying length lies, walked before the HDF5 library does.

    "GCOL"  version 1, reserved 3, size 8          a collection, at any address
    index 2, references 2, reserved 4, length 8    an object, its bytes behind it, to a multiple of 8
    index 0: free space, whose length counts this header; the last one

The library walks a collection by the lengths in it, and walks for ever where a free space says that it has none. Source:
HDF5 File Format Specification 3.0, III.E; ``H5HGcache.c`` of HDF5 1.14.
"""

from __future__ import annotations

import struct
from mmap import mmap

from ...errors import DamagedError

__all__ = ["require_sound_heaps"]

_COLLECTION_START = b"GCOL\x01\0\0\0"
_HEADER_NBYTES = 16
_OBJECT = struct.Struct("<H6xQ")


def require_sound_heaps(file: mmap | bytes, where: str) -> None:
    """Raise DamagedError for a collection that cannot be walked to its end."""
    start = file.find(_COLLECTION_START)
    while start >= 0:
        size = int.from_bytes(file[start + 8 : start + _HEADER_NBYTES], "little")
        end = start + size
        sound = _HEADER_NBYTES <= size <= len(file) - start
        if not sound or _objects_end(file, start + _HEADER_NBYTES, end) > end:
            raise DamagedError(
                f"{where}: found a global heap at byte {start} whose parts do not fill its {size} bytes, expected them to; "
                "the file is damaged: fetch it again"
            )
        start = file.find(_COLLECTION_START, start + len(_COLLECTION_START))


def _objects_end(file: mmap | bytes, offset: int, end: int) -> int:
    """Return where the objects of a collection end, from ``offset`` on; past ``end`` where one leads nowhere."""
    while offset + _OBJECT.size <= end:
        index, length = _OBJECT.unpack_from(file, offset)
        nbytes = length if index == 0 else _OBJECT.size + -(-length // 8) * 8
        if nbytes < _OBJECT.size:
            return end + 1
        offset += nbytes
    return offset
