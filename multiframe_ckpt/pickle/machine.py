"""PickleMachine: runs the opcodes of a pickle and builds only what its table of known names says.

What is not known becomes a :class:`Call`, a record of what the file asked for; ``resolve`` refuses or keeps it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..errors import DamagedError, FormatError
from .opcodes import HANDLERS, Handler
from .state import PROBLEMS, State

__all__ = ["PickleMachine", "translated_errors"]

#: How many opcodes run between two looks at the budget.
_OPCODES_A_ROUND = 1024
_STOP = ord(".")


@contextmanager
def translated_errors(where: str, description: Callable[[], str]) -> Iterator[None]:
    """Turn what wrong data makes Python raise into DamagedError, and have every message name the file.

    ``description`` gives what was found there, such as "found a pickle that breaks at offset 12".
    """
    try:
        yield
    except FormatError as problem:
        if where in str(problem):
            raise
        raise type(problem)(f"{where}: {problem}") from None
    except (*PROBLEMS, struct.error) as problem:
        raise DamagedError(
            f"{where}: {description()} ({type(problem).__name__}: {str(problem)[:200]}), expected a whole one; "
            "the file is damaged: fetch it again"
        ) from problem


class PickleMachine(State):
    """One run over one pickle. ``end`` is the offset behind its STOP, where a stream of pickles goes on."""

    __slots__ = ()

    def run(self, handlers: Sequence[Handler] = HANDLERS) -> Any:
        """Return the raw object; DamagedError for opcodes that no pickler writes, UnsafeError for forbidden ones.

        ``handlers`` are what each opcode does: HANDLERS, or a format's own that come to the same.
        """
        with translated_errors(self.where, lambda: f"found a pickle that breaks at offset {self.end}"):
            return self._run(handlers)

    def _run(self, handlers: Sequence[Handler]) -> Any:
        data, offset = self.data, self.end
        try:
            while True:
                for _ in range(_OPCODES_A_ROUND):
                    opcode = data[offset]
                    offset = handlers[opcode](self, offset + 1)
                    if opcode == _STOP:
                        return self._popped_result()
                self.require_budget()
        finally:
            self.end = offset

    def _popped_result(self) -> Any:
        raw = self.stack.pop()
        self.memo.clear()  # the arguments of every call, which nobody asks for any more
        self.sparse_memo.clear()
        return raw
