"""Preemption: being told by SIGTERM that the machine is wanted back, as Slurm, Kubernetes and spot instances do."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

from ..errors import ValueRefusedError

__all__ = ["EXIT_STATUS", "Preemption"]

EXIT_STATUS = 128 + signal.SIGTERM  # as shells count a program that a signal ended


class Preemption:
    """Remembers whether SIGTERM came. The handler does nothing else but call the one before it."""

    def __init__(self, *, watch: bool) -> None:
        self.asked = False
        self._watching = watch
        if watch:
            if threading.current_thread() is not threading.main_thread():
                raise ValueRefusedError(
                    "save_on_sigterm: found a thread of its own, expected the main thread, the only one in which Python "
                    "handles signals; make the manager there"
                )
            self._previous = signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if callable(self._previous):
            self._previous(number, frame)
        elif not self._watching and self._previous == signal.SIG_DFL:
            # Stopped, but a handler set after ours still calls it: do what would have happened without us.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

    def stop(self) -> None:
        """Put the handler back that was there before, unless another has taken our place."""
        if not self._watching or threading.current_thread() is not threading.main_thread():
            return
        self._watching = False
        if signal.getsignal(signal.SIGTERM) == self._note and self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
