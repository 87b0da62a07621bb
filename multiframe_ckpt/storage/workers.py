"""Workers: a pool of threads that goes on in its caller's where no thread can be started any more.

A save in the background may still be under way when the interpreter begins to shut down, and must not be lost to that.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

__all__ = ["Workers"]

R = TypeVar("R")


class Workers(ThreadPoolExecutor):
    """A ThreadPoolExecutor that works at once, in the calling thread, when the interpreter starts no threads."""

    def submit(self, work: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """Gives the future of the work."""
        try:
            return super().submit(work, *args, **kwargs)
        except RuntimeError:  # "cannot schedule new futures after interpreter shutdown"
            done: Future[R] = Future()
        try:
            done.set_result(work(*args, **kwargs))
        except BaseException as problem:  # told, not handled: whoever asks for the result gets it
            done.set_exception(problem)
        return done
