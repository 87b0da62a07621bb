"""Background: one piece of work at a time in a thread, whose error is told to whoever calls next."""

from __future__ import annotations

import os
import sys
import warnings
import weakref
from collections.abc import Callable
from contextlib import suppress
from threading import Thread, get_native_id

from ..errors import CheckpointWarning

__all__ = ["Background", "step_back"]

#: A thirtieth of the share of a thread at 0, where both want the same core: enough to go on, and little to miss.
_NICENESS = 15


class Background:
    """Runs work in a thread that the interpreter waits for when it exits, so that a last save is not lost."""

    def __init__(self) -> None:
        self._thread: Thread | None = None
        self._problems: list[BaseException] = []
        # An error that nobody asked for is said at the latest when the interpreter exits.
        weakref.finalize(self, _tell, self._problems)

    def start(self, work: Callable[[], object]) -> None:
        """Wait for the work before, whose error it raises, then run this one."""
        self.wait()
        self._thread = Thread(target=_run, args=(work, self._problems), name="multiframe-ckpt save", daemon=False)
        self._thread.start()

    def check(self) -> None:
        """Raise the error of work that is done, without waiting."""
        if self._thread is None or not self._thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Wait until the work is done, and raise its error, once."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._problems:
            raise self._problems.pop()


def step_back() -> None:
    """Let other threads go first from now on, this one and those that it starts; where the system can (Linux)."""
    if sys.platform == "linux":
        thread = get_native_id()
        with suppress(OSError):  # a system that forbids it loses nothing else
            os.setpriority(os.PRIO_PROCESS, thread, max(_NICENESS, os.getpriority(os.PRIO_PROCESS, thread)))


def _run(work: Callable[[], object], problems: list[BaseException]) -> None:
    try:
        work()
    except BaseException as problem:  # told, not handled: wait() raises it in the caller's thread
        problems.append(problem)


def _tell(problems: list[BaseException]) -> None:
    for problem in problems:
        warnings.warn(f"a save in the background failed: {problem}", CheckpointWarning, stacklevel=2)
