"""PickleMachine: runs the opcodes of a pickle and builds only what its table of known names says.

What is not known becomes a :class:`Call`, a record of what the file asked for; ``resolve`` refuses or keeps it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..errors import DamagedError, FormatError
from .opcodes import HANDLERS, Step
from .state import PROBLEMS, State

__all__ = ["PickleMachine", "broken_pickle"]

#: How many opcodes run before what they hold is counted.
_ROUND = 1024
_STOP = ord(".")


@contextmanager
def broken_pickle(where: str, found: Callable[[], str]) -> Iterator[None]:
    """Turn what wrong data makes Python raise into DamagedError, and has every message name the file."""
    try:
        yield
    except FormatError as problem:
        if where in str(problem):
            raise
        raise type(problem)(f"{where}: {problem}") from None
    except (*PROBLEMS, struct.error) as problem:
        raise DamagedError(
            f"{where}: {found()} ({type(problem).__name__}: {str(problem)[:200]}), expected a whole one; "
            "the file is damaged: fetch it again"
        ) from problem


class PickleMachine(State):
    """One run over one pickle. ``end`` is the offset behind its STOP, where a stream of pickles goes on."""

    __slots__ = ()

    def run(self, steps: Sequence[Step] = HANDLERS) -> Any:
        """Return the raw object; DamagedError for opcodes that no pickler writes, UnsafeError for forbidden ones.

        ``steps`` is what each opcode does: HANDLERS, or a layout's own that come to the same.
        """
        with broken_pickle(self.where, lambda: f"found a pickle that breaks at offset {self.end}"):
            return self._run(steps)

    def _run(self, steps: Sequence[Step]) -> Any:
        data, at = self.data, self.end
        try:
            while True:
                for _ in range(_ROUND):
                    opcode = data[at]
                    at = steps[opcode](self, at + 1)
                    if opcode == _STOP:
                        return self._finished()
                self.require_free_space()
        finally:
            self.end = at

    def _finished(self) -> Any:
        raw = self.stack.pop()
        self.memo.clear()  # the arguments of every call, which nobody asks for any more
        self.far.clear()
        return raw
