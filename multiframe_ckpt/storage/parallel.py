"""Workers: a pool of threads that goes on in its caller's where no thread can be started any more.

A save in the background may still be under way when the interpreter begins to shut down, and must not be lost to that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from threading import Event
from typing import Any, TypeVar

from ..tree.digests import PIECE

__all__ = ["SMALL", "Workers", "batches", "in_parallel"]

R = TypeVar("R")


class Workers(ThreadPoolExecutor):
    """A ThreadPoolExecutor that works at once, in the calling thread, when the interpreter starts no threads."""

    def submit(self, work: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """Return the future of the work."""
        try:
            return super().submit(work, *args, **kwargs)
        except RuntimeError:  # "cannot schedule new futures after interpreter shutdown"
            done: Future[R] = Future()
        try:
            done.set_result(work(*args, **kwargs))
        except BaseException as problem:  # told, not handled: whoever asks for the result gets it
            done.set_exception(problem)
        return done


T = TypeVar("T")


#: Two keep memory and page cache busy on two cores; more help little where there are more.
WORKERS = max(2, min(4, os.cpu_count() or 1))


#: Smaller ones are not worth a thread's while.
SMALL = 1 << 18


_RUN = 2 * PIECE  # bytes of small ones that one thread takes together: handing over and writing cost per run


def in_parallel(work: Callable[[T], R], items: Sequence[T], size: Callable[[T], int]) -> Iterator[tuple[int, R]]:
    """Yield (position, result) of ``work`` for each item as they are done, in the caller's thread.

    ``size`` says how many bytes an item is. The first error stops the rest, and is raised when all have stopped.
    """
    large = [at for at, item in enumerate(items) if size(item) > SMALL]
    if len(large) < 2:
        yield from ((at, work(item)) for at, item in enumerate(items))
        return
    small = sorted(set(range(len(items))).difference(large))
    stop = Event()

    def run(at: int) -> R | None:
        return None if stop.is_set() else work(items[at])

    with Workers(WORKERS, "multiframe-ckpt") as pool:
        try:
            pending = {pool.submit(run, at): at for at in large}
            yield from ((at, work(items[at])) for at in small)
            for future in as_completed(pending):
                yield pending[future], future.result()  # type: ignore[misc]  # None only once an error stopped the rest
        except BaseException:
            stop.set()
            raise


def batches(items: Sequence[T], size: Callable[[T], int]) -> list[list[T]]:
    """Return the items in runs: a large one by itself, small ones that follow each other up to two pieces together.

    The system takes one large write in a fraction of the time of many small ones.
    """
    runs: list[list[T]] = []
    room = 0
    for item in items:
        nbytes = size(item)
        if not runs or nbytes > SMALL or nbytes > room:
            runs.append([])
            room = 0 if nbytes > SMALL else _RUN
        runs[-1].append(item)
        room -= nbytes
    return runs
