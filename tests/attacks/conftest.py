"""Guards around every attack: one that hangs ends the run with a traceback, one that takes memory gets a MemoryError."""

from __future__ import annotations

import faulthandler
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

resource = pytest.importorskip("resource")  # POSIX

_PATIENCE = 120  # seconds; every attack is refused in a fraction of one
_HEADROOM = 2 << 30


@pytest.fixture(autouse=True)
def guarded() -> Iterator[None]:
    """Ends the process where a test hangs, in C code too, and caps what it may allocate."""
    faulthandler.dump_traceback_later(_PATIENCE, exit=True, file=sys.__stderr__)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _HEADROOM, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        faulthandler.cancel_dump_traceback_later()
