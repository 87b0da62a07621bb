"""Gate: holds the optimizers back before their next update until what they will change is copied.

Forward and backward only read the parameters and the optimizer's state, so that a copy may be made meanwhile. A hook
before ``optimizer.step`` waits for its end (PyTorch 2.0 and newer); elsewhere the program does, by ``wait``.

The copying goes at a low priority, so that training does not miss what it takes, and may have got nowhere when an update
comes. That one then starts a second thread, of its own priority, which copies too.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from threading import Event, Thread

from ..backend import SupportsStepChanges, SupportsStepHook, backend_of
from ..checkpoint import PlannedSave
from ..errors import ValueRefusedError
from ..forks import abandon_in_children
from ..tree import Tree, join_key, leaves
from .background import Background, Save, write_copy
from .snapshot import Copy, Copying, make_copies, snapshot

__all__ = ["Gate", "Gated"]

#: The alias of each tensor that only an update changes → what counts the changes made to it, None where nothing does.
Changes = Mapping[Hashable, Callable[[], int] | None]


class Gated(Background):
    """Copies what only updates change in the background too, and lets no update begin before the end of that."""

    def __init__(self) -> None:
        super().__init__()
        self._gate = Gate()
        self._was_planned = False
        self._warned = False

    def prepare(self, save: Save) -> Sequence[str]:
        """Hold the optimizers back, and warn of those that cannot be."""
        unheld = self._gate.hold(save.optimizers)
        if not unheld or self._warned:
            return ()
        self._warned = True
        return (
            f"async_save='gated': found {', '.join(unheld)}, expected an optimizer with hooks before its step (PyTorch 2.0 "
            "and newer); everything is copied before save() returns: call manager.wait_before_update() before every "
            "update, or use async_save=True",
        )

    def start(self, save: Save) -> None:
        """Copy what something else than an update may change, and return while the rest is copied and written."""
        copied = snapshot(save.tree, self._memory, later=self._gate.changes)
        plan = self._plan(save, copied.tree)
        make_copies(copied.now)
        copying = self._gate.close(copied.later)
        try:
            self._worker.start(partial(write_copy, save, plan, copying))
        except BaseException:  # no thread could be started: nobody would open it
            self._gate.open()
            raise

    def _plan(self, save: Save, copy: Tree) -> Callable[[], PlannedSave]:
        """Return what lays the copy out: now, the first time, so that refusals come before training goes on; then later."""
        if self._was_planned:
            return partial(save.plan, copy)
        planned, self._was_planned = save.plan(copy), True
        return lambda: planned

    def wait_before_update(self) -> None:
        """Wait until the copies are made; from the first call on take it that the program waits so before every update."""
        self._gate.promised = True
        self._gate.wait()

    def close(self) -> None:
        """Wait, free the memory of the copy, and take the hooks away."""
        try:
            super().close()
        finally:
            self._gate.release()


class Gate:
    """Open, but from :meth:`close` to :meth:`open`. ``promised``: the program waits before every update itself."""

    def __init__(self) -> None:
        self.promised = False
        self.changes: Changes = {}
        self._counts: Mapping[Hashable, int] = {}
        self._remove_hooks: list[Callable[[], object]] = []
        self._open = Event()
        self._open.set()
        self._copying = Copying(())
        abandon_in_children(self)

    def abandon(self) -> None:
        """Stand open and hold no optimizer, in a child of fork: nobody there would open it."""
        self._open = Event()  # another thread may have held the lock of the old one
        self.open()
        self.release()

    def hold(self, optimizers: object) -> list[str]:
        """Put hooks before the optimizers' updates, and note in ``changes`` what nothing but these changes.

        Of an optimizer that has no hook that is nothing, unless the program waits itself. Return the names of such.
        """
        self.release()
        distinct = {id(leaf): leaf for _, leaf in leaves(optimizers) if leaf is not None}.values()
        changes = [self._hold(optimizer) for optimizer in distinct]
        self.changes = {alias: count for of_one in changes for alias, count in of_one.items()}
        self._counts = {alias: count() for alias, count in self.changes.items() if count is not None}
        unheld = [type(optimizer).__name__ for optimizer, of_one in zip(distinct, changes, strict=True) if not of_one]
        return unheld if distinct else ["no optimizer"]

    def _hold(self, optimizer: object) -> Changes:
        backend = backend_of(optimizer)
        remove = backend.add_step_hook(optimizer, self.wait) if isinstance(backend, SupportsStepHook) else None
        if remove is not None:
            self._remove_hooks.append(remove)
        waits = remove is not None or self.promised
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
        while self._remove_hooks:
            self._remove_hooks.pop()()

    def _require_unchanged(self, copies: Sequence[Copy]) -> None:
        """Raise ValueRefusedError for a tensor that something else has changed since :meth:`hold`."""
        for copy in copies:
            alias = copy.original.alias
            count = self.changes[alias]
            if count is not None and count() != self._counts[alias]:
                raise ValueRefusedError(
                    f"{join_key(copy.path)}: found it changed while it was copied, expected nothing but its optimizer's "
                    "step to change it; call manager.wait_before_update() before that, or use async_save=True"
                )


def _help(copying: Copying) -> None:
    with suppress(BaseException):  # it comes out of the thread that saves
        copying.finish()
