"""Finds where the parts of a JSON text lie, without building them.

A checkpoint's JSON is mostly numbers. The scanner walks the text once and gives the place of each value; the caller
parses those it wants when it wants them. White space, line breaks and the order of keys do not matter.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import DamagedError
from ..tree_json import load_json

__all__ = ["Scanner", "Span"]

_SPACE = re.compile(rb"[ \t\r\n]*")
_SCALAR = re.compile(rb'[^ \t\r\n,:"\[\]{}]+')
_MARK = re.compile(rb'[\[\]{}"]')
_BACKSLASH = ord("\\")
_BLOCK = 1 << 16
#: A checkpoint nests at most 128 containers, an array 64 lists, each spelled with a few brackets.
_MOST_OPEN = 1000


@dataclass(frozen=True, slots=True)
class Span:
    """Where a value lies in the text."""

    start: int
    stop: int


class Scanner:
    """Walks a text, of which ``where`` is the name that errors give."""

    def __init__(self, text: mmap.mmap | bytes, where: str) -> None:
        self.text = text
        self.where = where
        self.size = len(text)

    def document(self, readers: Mapping[str, Callable[[int], tuple[Any, int]]]) -> dict[str, Any]:
        """Return the entries of the object that the whole text is; see :meth:`object`."""
        entries, stop = self.object(self._skip(0), readers)
        if self._skip(stop) != self.size:
            raise self._damaged(stop, "the end of the text")
        return entries

    def object(
        self, start: int, readers: Mapping[str, Callable[[int], tuple[Any, int]]] = {}
    ) -> tuple[dict[str, Any], int]:
        """Return the entries of the object at ``start``, and where it stops.

        An entry is the Span of its value, or for a key of ``readers`` what its reader makes of the value's start.
        """
        entries: dict[str, Any] = {}
        at = self._after(self._expect(start, b"{"))
        while self._byte(at) != b"}":
            if entries:
                at = self._after(self._expect(at, b","))
            stop = self._string_stop(at)
            key = self.load(Span(at, stop))
            if key in entries:
                raise self._damaged(at, "a key that has not come before")
            at = self._after(self._expect(self._skip(stop), b":"))
            value, stop = readers[key](at) if key in readers else self._span(at)
            entries[key] = value
            at = self._skip(stop)
        return entries, at + 1

    def array(self, start: int, reader: Callable[[int], tuple[Any, int]]) -> tuple[list[Any], int]:
        """Return what ``reader`` makes of each item of the array at ``start``, and where it stops."""
        items: list[Any] = []
        at = self._after(self._expect(start, b"["))
        while self._byte(at) != b"]":
            if items:
                at = self._after(self._expect(at, b","))
            item, stop = reader(at)
            items.append(item)
            at = self._skip(stop)
        return items, at + 1

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
        for block in range(start, self.size, _BLOCK):
            piece = self.text[block : block + _BLOCK]
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
            if depth > _MOST_OPEN:
                raise self._damaged(block, f"at most {_MOST_OPEN} open brackets")
        raise self._damaged(self.size, "a closing bracket")

    def _structure_stop(self, start: int, depth: int) -> int:
        """Return where ``depth`` brackets are closed, or the one at ``start``, whatever the text between holds."""
        while (mark := _MARK.search(self.text, start)) is not None:
            if mark.group() == b'"':
                start = self._string_stop(mark.start())
                continue
            start = mark.end()
            depth += 1 if mark.group() in b"[{" else -1
            if depth <= 0:
                return start
            if depth > _MOST_OPEN:
                raise self._damaged(mark.start(), f"at most {_MOST_OPEN} open brackets")
        raise self._damaged(self.size, "a closing bracket")

    def _string_stop(self, start: int) -> int:
        """Return where the string at ``start`` stops; a regular expression would remember every escape on the way."""
        at = self._expect(start, b'"')
        while (at := self.text.find(b'"', at + 1)) >= 0:
            first = at
            while self.text[first - 1] == _BACKSLASH:
                first -= 1
            if (at - first) % 2 == 0:
                return at + 1
        raise self._damaged(start, "a string with its end")

    def _skip(self, at: int) -> int:
        match = _SPACE.match(self.text, at)
        return match.end() if match else at

    def _after(self, at: int) -> int:
        return self._skip(at + 1)

    def _byte(self, at: int) -> bytes:
        return self.text[at : at + 1]

    def _expect(self, at: int, byte: bytes) -> int:
        if self._byte(at) != byte:
            raise self._damaged(at, f"'{byte.decode('ascii')}'")
        return at

    def _damaged(self, at: int, expected: str) -> DamagedError:
        found = self.text[at : at + 20]
        return DamagedError(
            f"{self.where}: byte {at}: found {found!r}, expected {expected}; "
            "the text is damaged or cut short: fetch it again"
        )
