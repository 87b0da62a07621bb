"""How text of a file, values, numbers and lists are shown to a person: on lines that are harmless to a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeGuard

__all__ = ["bulleted", "human_size", "is_too_long", "plural", "printable", "safe_repr", "short_repr"]

_UNITS = ((12, "TB"), (9, "GB"), (6, "MB"), (3, "kB"))
_LONGEST_DECIMAL = 2_000  # bits: Python may refuse to spell integers of more than 640 digits (sys.int_info)


def printable(text: str) -> str:
    """Return the text with everything that is not printable escaped, so that it is one harmless line."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def human_size(nbytes: int, *, exact: bool = False) -> str:
    """Return a size in the unit that reads best, in powers of 1000, with ``exact`` also in bytes."""
    power, unit = next(((10**p, unit) for p, unit in _UNITS if nbytes >= 10**p), (1, "B"))
    if power == 1:
        return f"{nbytes} B"
    return f"{nbytes / power:.1f} {unit}" + (f" ({nbytes:,} bytes)" if exact else "")


def plural(number: int, noun: str) -> str:
    """Return ``1 tensor``, ``1,234 tensors``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def bulleted(items: Sequence[str], *, most: int | None = None, hint: str = "") -> Iterator[str]:
    """Yield indented lines, and past ``most`` of them how many more there are, with a hint where to find them."""
    first = items if most is None or len(items) <= most + 1 else items[:most]
    yield from (f"  {item}" for item in first)
    if len(first) < len(items):
        yield f"  ... and {len(items) - len(first):,} more{hint}"


def safe_repr(value: object) -> str:
    """Return a plain value, or containers of such, as Python spells it, but integers of too many digits in base 16."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{safe_repr(name)}: {safe_repr(part)}" for name, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        items = ", ".join(map(safe_repr, value))
        return f"[{items}]" if isinstance(value, list) else f"({items}{',' if len(value) == 1 else ''})"
    return hex(value) if is_too_long(value) else repr(value)


def short_repr(value: object, *, most: int = 80) -> str:
    """Return the first ``most`` characters of :func:`safe_repr`: enough to show in a message what was found."""
    return safe_repr(value)[:most]


def is_too_long(value: object) -> TypeGuard[int]:
    """Return whether a value is an integer that Python may refuse to spell in base 10."""
    return isinstance(value, int) and value.bit_length() > _LONGEST_DECIMAL
