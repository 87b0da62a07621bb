"""Writers: a save is written at once, or copied in memory and written in the background (``gate`` has the third kind).

One save is under way at a time. What a save in the background finds wrong comes out of the next call.
"""

from __future__ import annotations

import os
import sys
import warnings
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from threading import Thread, get_native_id
from typing import Protocol

from ..checkpoint import PlannedSave
from ..errors import CheckpointWarning
from ..forks import abandon_in_children
from ..tree import Tree
from .memory import Memory
from .snapshot import Copying, make_copies, snapshot

__all__ = ["Background", "Now", "Save", "Worker", "Writer", "write_copy"]

#: A thirtieth of the share of a thread at 0, where both want the same core: enough to go on, and little to miss.
_NICENESS = 15


@dataclass(frozen=True, slots=True)
class Save:
    """A save that is to be made of a live tree, whose tensors the ``optimizers`` will go on to change.

    ``plan`` lays out the tree, or a copy of it, and raises what writing would refuse, before any byte is written;
    ``commit`` writes what was laid out and deletes what is surplus then.
    """

    tree: Tree
    optimizers: object
    plan: Callable[[Tree], PlannedSave]
    commit: Callable[[PlannedSave], object]


class Writer(Protocol):
    """How saves are written, and what the training thread waits for."""

    def prepare(self, save: Save) -> Sequence[str]:
        """Raise what can be refused before the save is started, and return what the user must be warned of."""

    def start(self, save: Save) -> None:
        """Write a save that was prepared, or copy what training could change and let the rest be done meanwhile."""

    def check(self) -> None:
        """Raise the error of a save that is done, without waiting."""

    def wait(self) -> None:
        """Wait until the save under way is done, and raise its error, once."""

    def wait_before_update(self) -> None:
        """Wait until nothing is copied any more that an optimizer's update changes."""

    def close(self) -> None:
        """Wait, then give back all that is held; the writer can be used again."""


class Now:
    """Writes before ``start`` returns, so that nothing is ever under way."""

    def prepare(self, save: Save) -> Sequence[str]:
        """Return nothing."""
        return ()

    def start(self, save: Save) -> None:
        """Write the live tensors themselves."""
        save.commit(save.plan(save.tree))

    def check(self) -> None:
        """Raise nothing."""

    def wait(self) -> None:
        """Return at once."""

    def wait_before_update(self) -> None:
        """Return at once."""

    def close(self) -> None:
        """Return at once."""


class Background:
    """Copies everything in memory, and writes the copy in a thread."""

    def __init__(self) -> None:
        self._worker = Worker()
        self._memory = Memory()

    def prepare(self, save: Save) -> Sequence[str]:
        """Return nothing."""
        return ()

    def start(self, save: Save) -> None:
        """Copy, and return while the copy is written."""
        copied = snapshot(save.tree, self._memory)
        planned = save.plan(copied.tree)
        make_copies(copied.now)
        self._worker.start(partial(write_copy, save, lambda: planned, Copying(())))

    def check(self) -> None:
        """Raise the error of a save that is done, without waiting."""
        self._worker.check()

    def wait(self) -> None:
        """Wait until the save under way is done, and raise its error, once."""
        self._worker.wait()

    def wait_before_update(self) -> None:
        """Return at once: everything was copied before the save returned."""

    def close(self) -> None:
        """Wait, and free the memory of the copy."""
        try:
            self._worker.wait()
        finally:
            self._memory.free()


def write_copy(save: Save, plan: Callable[[], PlannedSave], copying: Copying) -> None:
    """Finish the copying, then write the copy as planned, both as training leaves time for it."""
    _step_back()
    copying.finish()
    save.commit(plan())


class Worker:
    """One piece of work at a time, in a thread that the interpreter waits for at its exit, so that no last save is lost."""

    def __init__(self) -> None:
        self._thread: Thread | None = None
        self._problems: list[BaseException] = []
        # An error that nobody asked for is said at the latest when the interpreter exits.
        weakref.finalize(self, _warn_of, self._problems)
        abandon_in_children(self)

    def abandon(self) -> None:
        """Forget the work, in a child of fork: its thread is the parent's, and so is its error."""
        self._thread = None
        self._problems.clear()

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


def _run(work: Callable[[], object], problems: list[BaseException]) -> None:
    try:
        work()
    except BaseException as problem:  # not handled: wait() raises it in the caller's thread
        problems.append(problem)


def _warn_of(problems: list[BaseException]) -> None:
    for problem in problems:
        warnings.warn(f"a save in the background failed: {problem}", CheckpointWarning, stacklevel=2)


def _step_back() -> None:
    """Let other threads go first from now on, this one and those that it starts; where the system can (Linux)."""
    if sys.platform == "linux":
        thread = get_native_id()
        with suppress(OSError):  # a system that forbids it loses nothing else
            os.setpriority(os.PRIO_PROCESS, thread, max(_NICENESS, os.getpriority(os.PRIO_PROCESS, thread)))
