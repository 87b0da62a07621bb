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

__all__ = ["SMALL_NBYTES", "Workers", "batches", "in_parallel"]

R = TypeVar("R")
T = TypeVar("T")

#: Two keep memory and page cache busy on two cores; more help little where there are more.
THREADS = max(2, min(4, os.cpu_count() or 1))
#: Smaller items are not worth a thread's while.
SMALL_NBYTES = 1 << 18
_BATCH_NBYTES = 2 * PIECE  # of small items that one thread takes together: handing over and writing cost per batch


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
        except BaseException as problem:  # kept, not handled: whoever asks for the result gets it
            done.set_exception(problem)
        return done


def in_parallel(work: Callable[[T], R], items: Sequence[T], nbytes_of: Callable[[T], int]) -> Iterator[tuple[int, R]]:
    """Yield (position, result) of ``work`` for each item as they are done, in the caller's thread.

    ``nbytes_of`` says how large an item is. The first error stops the rest, and is raised when all have stopped.
    """
    large = [position for position, item in enumerate(items) if nbytes_of(item) > SMALL_NBYTES]
    if len(large) < 2:
        yield from ((position, work(item)) for position, item in enumerate(items))
        return
    small = sorted(set(range(len(items))).difference(large))
    stop = Event()

    def work_at(position: int) -> R | None:
        return None if stop.is_set() else work(items[position])

    with Workers(THREADS, "multiframe-ckpt") as pool:
        try:
            pending = {pool.submit(work_at, position): position for position in large}
            yield from ((position, work(items[position])) for position in small)
            for future in as_completed(pending):
                yield pending[future], future.result()  # type: ignore[misc]  # None only once an error stopped the rest
        except BaseException:
            stop.set()
            raise


def batches(items: Sequence[T], nbytes_of: Callable[[T], int]) -> list[list[T]]:
    """Return the items in batches: a large one by itself, small ones that follow each other up to two pieces together.

    The system takes one large write in a fraction of the time of many small ones.
    """
    groups: list[list[T]] = []
    free_nbytes = 0
    for item in items:
        nbytes = nbytes_of(item)
        if not groups or nbytes > SMALL_NBYTES or nbytes > free_nbytes:
            groups.append([])
            free_nbytes = 0 if nbytes > SMALL_NBYTES else _BATCH_NBYTES
        groups[-1].append(item)
        free_nbytes -= nbytes
    return groups
