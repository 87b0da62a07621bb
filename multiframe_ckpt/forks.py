"""Forks: what a child process does not inherit.

A child of ``os.fork``, such as the workers of a DataLoader, has a copy of all memory, but of the threads only the one that
forked: a lock that another held is never released there, a thread that it waits for never ends, and a handler, a lock of a
file, or a pause that belongs to work of the parent stays for life. Each is let go in the child before anything else runs.
"""

from __future__ import annotations

import os
import threading  # noqa: F401  its own hook must run before ours: in a child the thread that forked is the main thread
from collections.abc import Callable
from typing import Protocol
from weakref import WeakSet

__all__ = ["Abandons", "abandon_in_children", "call_in_children"]


class Abandons(Protocol):
    """What holds something of its process, and can let go of it in a child."""

    def abandon(self) -> object:
        """Let go of what is the parent's, without waiting for anything."""


def call_in_children(call: Callable[[], None]) -> Callable[[], None]:
    """Have this called in every child of fork from now on, and return it."""
    if hasattr(os, "register_at_fork"):  # Windows has no fork
        os.register_at_fork(after_in_child=call)
    return call


_owners: WeakSet[Abandons] = WeakSet()


def abandon_in_children(owner: Abandons) -> None:
    """Have an owner let go in every child of fork, as long as it lives."""
    _owners.add(owner)


@call_in_children
def _abandon_all() -> None:
    for owner in list(_owners):
        owner.abandon()
