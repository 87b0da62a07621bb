"""Two doors at which Python's cycle collector rests: many small objects are made behind them that are all kept.

A checkpoint of 20,000 tensors makes a few hundred thousand objects, none of them in a cycle. The collector would look
through all objects of the process again and again meanwhile, and take longer than the work itself. No write stands behind
them: a tree is made, or taken apart into live objects or a plan.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock, current_thread, main_thread
from typing import ParamSpec, TypeVar

from ..forks import call_in_children

__all__ = ["make_tree", "take_apart"]

P = ParamSpec("P")
T = TypeVar("T")

_lock = Lock()
_pauses = 0  # under way, in all threads
_was_enabled = False


def make_tree(make: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """Return what ``make`` gives, a tree from a place or from live objects; the collector rests meanwhile."""
    with gc_paused():
        return make(*args, **options)


def take_apart(take: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """Return what ``take`` makes of a tree, live objects or a plan to write it; the collector rests meanwhile."""
    with gc_paused():
        return take(*args, **options)


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pause the collector, in all threads, until the last such block ends; one that was off before stays off.

    Only the main thread does: what goes on in the background must not keep the collector from the program.
    """
    global _pauses, _was_enabled
    if current_thread() is not main_thread():
        yield
        return
    with _lock:
        if _pauses == 0:
            _was_enabled = gc.isenabled()
            gc.disable()
        _pauses += 1
    try:
        yield
    finally:
        with _lock:
            _pauses = max(0, _pauses - 1)  # 0 already where a child of fork goes on with its parent's block
            if _pauses == 0 and _was_enabled:
                gc.enable()


@call_in_children
def _end_pause() -> None:
    """Let a child of fork collect: the block that would end the pause is its parent's."""
    global _lock, _pauses
    _lock = Lock()
    if _pauses and _was_enabled:
        gc.enable()
    _pauses = 0
