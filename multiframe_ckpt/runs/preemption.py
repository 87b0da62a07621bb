"""Preemption: being told by SIGTERM that the machine is wanted back, as Slurm, Kubernetes and spot instances do."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

from ..errors import ValueRefusedError
from ..forks import abandon_in_children

__all__ = ["EXIT_STATUS", "Preemption"]

EXIT_STATUS = 128 + signal.SIGTERM  # as shells count a program that a signal ended


class Preemption:
    """Remembers whether SIGTERM came. The handler does nothing else but call the one before it.

    A child of fork gets the handler that was there before: one that ignored SIGTERM could not be ended.
    """

    def __init__(self, *, watch: bool) -> None:
        self.asked = False
        self._watching = watch
        self._process = os.getpid()
        if watch:
            if threading.current_thread() is not threading.main_thread():
                raise ValueRefusedError(
                    "save_on_sigterm: found a thread of its own, expected the main thread, the only one in which Python "
                    "handles signals; make the manager there"
                )
            self._previous = signal.signal(signal.SIGTERM, self._note)
            abandon_in_children(self)

    def _note(self, number: int, frame: FrameType | None) -> None:
        is_ours = self._watching and os.getpid() == self._process
        self.asked = self.asked or is_ours
        if callable(self._previous):
            self._previous(number, frame)
        elif not is_ours and self._previous == signal.SIG_DFL:
            # A handler set after ours still calls it, or a child got the signal as it was forked: do what would have
            # happened without us.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

    def abandon(self) -> None:
        """Put the handler back, in a child of fork."""
        self.asked = False
        self.stop()

    def stop(self) -> None:
        """Put the handler back that was there before, unless another has taken our place."""
        if not self._watching or threading.current_thread() is not threading.main_thread():
            return
        self._watching = False
        if signal.getsignal(signal.SIGTERM) == self._note and self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
