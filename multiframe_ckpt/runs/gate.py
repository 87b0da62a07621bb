"""Gate: holds the optimizers back before their next update until what they will change is copied.

Forward and backward only read the parameters and the optimizer's state, so that a copy may be made meanwhile. A hook
before ``optimizer.step`` waits for its end (PyTorch 2.0 and newer); elsewhere the program does, by ``wait``.

The copying goes at a low priority, so that training does not miss what it takes, and may have got nowhere when an update
comes. That one then starts a second thread, of its own priority, which copies too.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from threading import Event, Thread

from ..backend import SupportsStepChanges, SupportsStepHook, backend_of
from ..errors import CheckpointWarning, ValueRefusedError
from ..tree import join_key, leaves
from .snapshot import Copy, Copying

__all__ = ["Gate"]

Changes = Mapping[Hashable, Callable[[], int] | None]


class Gate:
    """Open, but from :meth:`close` to :meth:`open`. ``promised``: the program waits before every update itself."""

    def __init__(self) -> None:
        self.promised = False
        self._open = Event()
        self._open.set()
        self._undo: list[Callable[[], object]] = []
        self._copying = Copying(())
        self._changes: Changes = {}
        self._seen: Mapping[Hashable, int] = {}
        self._warned = False

    def hold(self, optimizers: object) -> Changes:
        """Return the aliases of what only the optimizers' updates change, and put hooks before these.

        Of an optimizer that has no hook that is nothing, with a warning, unless the program waits itself.
        """
        self.release()
        found = {id(leaf): leaf for _, leaf in leaves(optimizers) if leaf is not None}.values()
        held = [self._held(optimizer) for optimizer in found]
        self._changes = {alias: count for changes in held for alias, count in changes.items()}
        self._seen = {alias: count() for alias, count in self._changes.items() if count is not None}
        unheld = [type(optimizer).__name__ for optimizer, changes in zip(found, held, strict=True) if not changes]
        if (unheld or not found) and not self._warned:
            self._warned = True
            warnings.warn(
                f"async_save='gated': found {', '.join(unheld) or 'no optimizer'}, expected an optimizer with hooks before "
                "its step (PyTorch 2.0 and newer); everything is copied before save() returns: call "
                "manager.wait_before_update() before every update, or use async_save=True",
                CheckpointWarning,
                stacklevel=4,
            )
        return self._changes

    def _held(self, optimizer: object) -> Changes:
        backend = backend_of(optimizer)
        undo = backend.add_step_hook(optimizer, self.wait) if isinstance(backend, SupportsStepHook) else None
        if undo is not None:
            self._undo.append(undo)
        waits = undo is not None or self.promised
        return backend.changed_by_step(optimizer) if waits and isinstance(backend, SupportsStepChanges) else {}

    def close(self, copies: Sequence[Copy]) -> Copying:
        """Make updates wait until the copies are made, and return what makes them."""
        self._open.clear()
        self._copying = Copying(copies, at_end=partial(self._end, copies))
        return self._copying

    def _end(self, copies: Sequence[Copy]) -> None:
        try:
            self._require_unchanged(copies)
        finally:
            self.open()

    def open(self) -> None:
        """Let updates go on."""
        self._copying = Copying(())  # those that are made hold memory
        self._open.set()

    def wait(self) -> None:
        """Wait until the gate is open, and start a thread that copies meanwhile."""
        if not self._open.is_set():
            with suppress(RuntimeError):  # no thread can be started: the copying goes on without help
                Thread(target=_help, args=(self._copying,), name="multiframe-ckpt copy").start()
        self._open.wait()

    def release(self) -> None:
        """Take the hooks away. Not while an optimizer steps: it is walking through them."""
        while self._undo:
            self._undo.pop()()

    def _require_unchanged(self, copies: Sequence[Copy]) -> None:
        """Raise ValueRefusedError for a tensor that something else has changed since :meth:`hold`."""
        for copy in copies:
            alias = copy.original.alias
            count = self._changes[alias]
            if count is not None and count() != self._seen[alias]:
                raise ValueRefusedError(
                    f"{join_key(copy.path)}: found it changed while it was copied, expected nothing but its optimizer's "
                    "step to change it; call manager.wait_before_update() before that, or use async_save=True"
                )


def _help(copying: Copying) -> None:
    with suppress(BaseException):  # it comes out of the thread that saves
        copying.finish()
