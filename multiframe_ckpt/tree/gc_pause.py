"""gc_paused(): Python's cycle collector rests while many small objects are made that are all kept.

A checkpoint of 20,000 tensors makes a few hundred thousand objects, none of them in a cycle. The collector would look
through all objects of the process again and again meanwhile, and take longer than the work itself.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, current_thread, main_thread

from ..forks import call_in_children

__all__ = ["gc_paused"]

_lock = Lock()
_pauses = 0  # under way, in all threads
_was_enabled = False


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
