"""Guards around every attack: one that hangs ends the run with a traceback, one that takes memory gets a MemoryError.

What the catalogue met is counted, and said at the end of the run.
"""

from __future__ import annotations

import faulthandler
import sys
from collections import Counter
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


_COUNTS = pytest.StashKey[Counter[str]]()


@pytest.fixture(scope="session")
def counts(pytestconfig: pytest.Config) -> Counter[str]:
    """What the end of the run says: hostile files and verbs that met them, honest files."""
    return pytestconfig.stash.setdefault(_COUNTS, Counter())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    found = config.stash.get(_COUNTS, None)
    if found:
        terminalreporter.write_line(
            f"attacks: {found['hostile']} hostile files met by {found['verbs']} verbs in all, none obeyed; "
            f"{found['benign']} odd but honest files read"
        )
