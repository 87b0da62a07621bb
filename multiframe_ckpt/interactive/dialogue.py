"""Dialogue: questions to a person, each with the flag that answers it. Where nobody can be asked, nothing waits.

Not click.prompt: it makes one Abort of Ctrl-D, which here ends the questions, and Ctrl-C, which ends the program; and it
asks at the terminal alone, while a script may give any function that asks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from ..errors import AnswerError
from ..terminal.text import printable

__all__ = ["REQUIRED", "Ask", "Dialogue", "Question", "Say", "ask_terminal", "say_line"]

T = TypeVar("T")
Ask: TypeAlias = Callable[[str], str]
Say: TypeAlias = Callable[[str], None]

#: The default of a question that has none.
REQUIRED: Any = object()


@dataclass(frozen=True, slots=True)
class Question(Generic[T]):
    """A question, the flag that answers it, what an answer looks like, and how one is read.

    ``read`` raises ValueError for what is no answer. ``default`` is what Enter, and nobody, answers; ``hint`` spells it.
    """

    text: str
    flag: str
    expected: str
    read: Callable[[str], T]
    default: T = REQUIRED
    hint: str = ""

    @property
    def prompt(self) -> str:
        """The question as it stands on the screen."""
        return f"{self.text} [{self.hint}] " if self.hint else f"{self.text} "


class Dialogue:
    """Asks with ``ask``, tells with ``say``; an ``ask`` of None, or a terminal that is none, means that nobody is there."""

    def __init__(self, ask: Ask | None, say: Say) -> None:
        self._ask = None if ask is ask_terminal and not at_terminal() else ask
        self.say = say

    @property
    def alone(self) -> bool:
        """Whether there is nobody to ask."""
        return self._ask is None

    def answer(self, question: Question[T], known: object = None) -> T:
        """Return the answer: the one ``known`` beforehand, the person's, or the default.

        A person who answers wrongly is told what was expected and asked again. Raise AnswerError for a known answer
        that is wrong, and where nobody can be asked for one that is needed; EOFError and KeyboardInterrupt for a person
        who leaves.
        """
        if known is not None:
            return _read_known(question, str(known))
        if self._ask is None:
            return _unasked(question)
        while True:
            text = ""
            try:
                text = self._ask(question.prompt).strip()
                if not text and question.default is not REQUIRED:
                    return question.default
                return question.read(text)
            except AnswerError as problem:
                self.say(str(problem).removeprefix(f"{question.flag}: "))
            except ValueError:  # of read(), or bytes that are no text
                self.say(f"found {text!r}, expected {question.expected}")


def _read_known(question: Question[T], text: str) -> T:
    try:
        return question.read(text)
    except AnswerError:
        raise
    except ValueError:
        raise AnswerError(f"{question.flag}: found {text!r}, expected {question.expected}; correct it") from None


def _unasked(question: Question[T]) -> T:
    if question.default is REQUIRED:
        raise AnswerError(
            f"{question.flag}: found no answer and nobody to ask, expected {question.expected}; give it with "
            f"{question.flag}"
        )
    return question.default


def at_terminal() -> bool:
    """Return whether a person can be asked: answers come from a terminal, and questions reach one."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


def ask_terminal(prompt: str) -> str:
    """Ask at the terminal; raise EOFError for Ctrl-D and KeyboardInterrupt for Ctrl-C, on a line of their own."""
    try:
        if sys.stdout is not None and sys.stdout.isatty():
            return input(printable(prompt))  # with line editing where the program imported readline
        sys.stderr.write(printable(prompt))
        sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line
    except (EOFError, KeyboardInterrupt):
        with suppress(OSError):
            sys.stderr.write("\n")
        raise


def say_line(line: str) -> None:
    """Print a line, with whatever could drive a terminal escaped."""
    print(printable(line))
