"""The limits: what the machine does at best with the same bytes, as jobs. Each is one plain loop."""

from __future__ import annotations

import mmap
import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from processes import Job, Place, void
from workloads import nbytes

_PIECE = 1 << 20


def copy_files(place: Place) -> Callable[[], None]:
    """cp, or cp -r, in a process of its own."""
    return lambda: void(subprocess.run(["cp", "-r", str(place.source), str(place.target)], check=True))


def plain_write(place: Place) -> Callable[[], None]:
    """One file written from one buffer, piece by piece."""
    import numpy as np

    buffer = memoryview(np.ones(nbytes(place.workload, place.scale), np.uint8))

    def run() -> None:
        with place.target.open("wb", buffering=0) as file:
            for start in range(0, len(buffer), _PIECE):
                file.write(buffer[start : start + _PIECE])

    return run


def plain_read(place: Place, *, workers: int = 1) -> Callable[[], None]:
    """Every file read into buffers that are used again and again: what reading costs when nothing is kept."""
    files = [place.source] if place.source.is_file() else sorted(p for p in place.source.rglob("*") if p.is_file())
    pieces = [(path, start) for path in files for start in range(0, path.stat().st_size, _PIECE * 64)]

    def read(share: list[tuple[Path, int]]) -> None:
        # It begins with a page, which systems copy faster to.
        buffer = memoryview(mmap.mmap(-1, _PIECE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        for path, start in share:
            descriptor = os.open(path, os.O_RDONLY)
            for offset in range(start, start + _PIECE * 64, _PIECE):
                if os.preadv(descriptor, [buffer], offset) < _PIECE:
                    break
            os.close(descriptor)

    def run() -> None:
        with ThreadPoolExecutor(workers) as pool:
            for _ in pool.map(read, [pieces[number::workers] for number in range(workers)]):
                pass

    return run


def read_into_fresh(place: Place) -> Callable[[], None]:
    """Every file read into memory that the process did not have before: what loading costs at least, in one thread."""
    import numpy as np

    files = [place.source] if place.source.is_file() else sorted(p for p in place.source.rglob("*") if p.is_file())

    def run() -> None:
        kept = [np.fromfile(path, np.uint8) for path in files]
        assert kept

    return run


def memcpy(place: Place, *, workers: int) -> Callable[[], None]:
    """Copy the state's bytes from memory to memory that is in use already."""
    import numpy as np

    source = np.ones(nbytes(place.workload, place.scale), np.uint8)
    target = np.zeros_like(source)
    target[:] = 1
    share = -(-source.size // workers)

    def copy(number: int) -> None:
        part = slice(number * share, (number + 1) * share)
        np.copyto(target[part], source[part])

    def run() -> None:
        with ThreadPoolExecutor(workers) as pool:
            for _ in pool.map(copy, range(workers)):
                pass

    return run


LIMITS: dict[str, Job] = {
    "cp": copy_files,
    "plain write": plain_write,
    "plain read": plain_read,
    "read into fresh memory": read_into_fresh,
    "memcpy": memcpy,
}
