"""How text of a file and sizes are shown to a person: on one line, harmless to a terminal."""

from __future__ import annotations

__all__ = ["human_size", "printable"]

_UNITS = ((12, "TB"), (9, "GB"), (6, "MB"), (3, "kB"))


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
