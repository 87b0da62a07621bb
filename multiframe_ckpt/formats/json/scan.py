"""Finds where the parts of a JSON text lie, without building them.

A checkpoint's JSON is mostly numbers. The scanner walks the text once and gives the place of each value; the caller
parses those it wants when it wants them. White space, line breaks and the order of keys do not matter.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ...errors import DamagedError
from ..tree_json import load_json

__all__ = ["Scanner", "Span"]

_WHITE_SPACE = re.compile(rb"[ \t\r\n]*")
_SCALAR = re.compile(rb'[^ \t\r\n,:"\[\]{}]+')
_BRACKET_OR_QUOTE = re.compile(rb'[\[\]{}"]')
_BACKSLASH = ord("\\")
_BLOCK_NBYTES = 1 << 16
#: A checkpoint nests at most 128 containers, an array 64 lists, each written with a few brackets.
_MAX_OPEN = 1000


#: Gives what it makes of the value at a position, and where the value stops.
Reader: TypeAlias = Callable[[int], tuple[Any, int]]


@dataclass(frozen=True, slots=True)
class Span:
    """Where a value lies in the text."""

    start: int
    stop: int


class Scanner:
    """A walk over a text, of which ``where`` is the name that errors give; positions are in bytes."""

    def __init__(self, text: mmap.mmap | bytes, where: str) -> None:
        self.text = text
        self.where = where
        self.size = len(text)

    def whole_object(self, readers: Mapping[str, Reader]) -> dict[str, Any]:
        """Return the entries of the object that the whole text is; see :meth:`read_object`."""
        entries, stop = self.read_object(self._skip_space(0), readers)
        if self._skip_space(stop) != self.size:
            raise self._damaged(stop, "the end of the text")
        return entries

    def read_object(self, start: int, readers: Mapping[str, Reader] = {}) -> tuple[dict[str, Any], int]:
        """Return the entries of the object at ``start``, and where it stops.

        An entry is the Span of its value, or for a key of ``readers`` what its reader makes of the value's start.
        """
        entries: dict[str, Any] = {}
        position = self._after(self._expect(start, b"{"))
        while self._byte(position) != b"}":
            if entries:
                position = self._after(self._expect(position, b","))
            stop = self._string_stop(position)
            key = self.load(Span(position, stop))
            if key in entries:
                raise self._damaged(position, "a key that has not come before")
            position = self._after(self._expect(self._skip_space(stop), b":"))
            value, stop = readers[key](position) if key in readers else self._span(position)
            entries[key] = value
            position = self._skip_space(stop)
        return entries, position + 1

    def read_array(self, start: int, reader: Reader) -> tuple[list[Any], int]:
        """Return what ``reader`` makes of each item of the array at ``start``, and where it stops."""
        items: list[Any] = []
        position = self._after(self._expect(start, b"["))
        while self._byte(position) != b"]":
            if items:
                position = self._after(self._expect(position, b","))
            item, stop = reader(position)
            items.append(item)
            position = self._skip_space(stop)
        return items, position + 1

    def load(self, span: Span) -> Any:
        """Return the value at a span."""
        return load_json(self.text[span.start : span.stop], f"{self.where}: byte {span.start}")

    def _span(self, start: int) -> tuple[Span, int]:
        stop = self._stop(start)
        return Span(start, stop), stop

    def _stop(self, start: int) -> int:
        if self._byte(start) in (b"[", b"{"):
            return self._numbers_stop(start)
        if self._byte(start) == b'"':
            return self._string_stop(start)
        match = _SCALAR.match(self.text, start)
        if match is None:
            raise self._damaged(start, "a value")
        return match.end()

    def _numbers_stop(self, start: int) -> int:
        """Return where the array at ``start`` stops, counting brackets block by block while it holds numbers only."""
        depth = 0
        for block in range(start, self.size, _BLOCK_NBYTES):
            piece = self.text[block : block + _BLOCK_NBYTES]
            if b'"' in piece or b"{" in piece:
                return self._structure_stop(block, depth)
            raw = np.frombuffer(piece, np.uint8)
            depths = depth + np.cumsum(
                (raw == ord("[")).view(np.int8) - (raw == ord("]")).view(np.int8), dtype=np.int32
            )
            closed = np.flatnonzero(depths == 0)
            if closed.size:
                return block + int(closed[0]) + 1
            depth = int(depths[-1])
            if depth > _MAX_OPEN:
                raise self._damaged(block, f"at most {_MAX_OPEN} open brackets")
        raise self._damaged(self.size, "a closing bracket")

    def _structure_stop(self, start: int, depth: int) -> int:
        """Return where ``depth`` brackets are closed, or the one at ``start``, whatever the text between holds."""
        while (mark := _BRACKET_OR_QUOTE.search(self.text, start)) is not None:
            if mark.group() == b'"':
                start = self._string_stop(mark.start())
                continue
            start = mark.end()
            depth += 1 if mark.group() in b"[{" else -1
            if depth <= 0:
                return start
            if depth > _MAX_OPEN:
                raise self._damaged(mark.start(), f"at most {_MAX_OPEN} open brackets")
        raise self._damaged(self.size, "a closing bracket")

    def _string_stop(self, start: int) -> int:
        """Return where the string at ``start`` stops; a regular expression would remember every escape on the way."""
        position = self._expect(start, b'"')
        while (position := self.text.find(b'"', position + 1)) >= 0:
            backslashes_start = position
            while self.text[backslashes_start - 1] == _BACKSLASH:
                backslashes_start -= 1
            if (position - backslashes_start) % 2 == 0:
                return position + 1
        raise self._damaged(start, "a string with its end")

    def _skip_space(self, position: int) -> int:
        match = _WHITE_SPACE.match(self.text, position)
        return match.end() if match else position

    def _after(self, position: int) -> int:
        return self._skip_space(position + 1)

    def _byte(self, position: int) -> bytes:
        return self.text[position : position + 1]

    def _expect(self, position: int, byte: bytes) -> int:
        if self._byte(position) != byte:
            raise self._damaged(position, f"'{byte.decode('ascii')}'")
        return position

    def _damaged(self, position: int, expected: str) -> DamagedError:
        start = self.text[position : position + 20]
        return DamagedError(
            f"{self.where}: byte {position}: found {start!r}, expected {expected}; "
            "the text is damaged or cut short: fetch it again"
        )
