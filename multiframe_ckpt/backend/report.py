"""LoadReport: what a load into live objects found, and the rename rules that would help."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches

from ..errors import MismatchError
from ..terminal.text import printable
from ..tree import LazyTensor, Missing, Tree

__all__ = ["LoadReport", "Mismatch", "advice_for", "casts", "described", "mismatch", "suggested"]

_MAX_RULES = 3
_MAX_SHOWN = 5
#: Close matches cost (missing × unexpected) comparisons; past this many unexpected keys only rules are looked for.
_MAX_COMPARED = 1000


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A key that is on both sides with another shape, dtype or kind on each."""

    key: str
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.key}: found {self.found}, expected {self.expected}"


@dataclass(frozen=True, slots=True, repr=False)
class LoadReport:
    """The keys that were loaded, and those that were not and why; ``suggestions`` say what may help."""

    loaded: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[Mismatch, ...] = ()
    suggestions: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Return whether everything was loaded: the same as ``complete``."""
        return self.complete

    @property
    def complete(self) -> bool:
        """Return whether nothing was missing, unexpected or mismatched."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} loaded"]
        for name in ("missing", "unexpected", "mismatched"):
            keys = getattr(self, name)
            if keys:
                more = ", …" if len(keys) > _MAX_SHOWN else ""
                parts.append(f"{len(keys)} {name} ({', '.join(map(str, keys[:_MAX_SHOWN]))}{more})")
        return ", ".join(parts)

    def __repr__(self) -> str:
        return f"<LoadReport: {printable(str(self))}>"


def described(leaf: Tree | Missing) -> str:
    """Return a leaf in a few words: ``float32 (3, 4)`` for a tensor, the type's name for anything else."""
    return f"{leaf.dtype.name} {leaf.shape}" if isinstance(leaf, LazyTensor) else type(leaf).__name__


def advice_for(
    missing: Iterable[str], unexpected: Iterable[str], loaded: Iterable[str], mismatched: Iterable[Mismatch]
) -> tuple[str, ...]:
    """Return what may help a load: rename rules, and the cast that makes tensors fit."""
    mismatched = list(mismatched)
    return (*suggested(missing, unexpected, [*loaded, *(one.key for one in mismatched)]), *casts(mismatched))


def suggested(missing: Iterable[str], unexpected: Iterable[str], matched: Iterable[str]) -> Iterator[str]:
    """Yield rename rules that make unexpected keys missing ones and leave matched keys alone, then close matches."""
    wanted, spare, kept = dict.fromkeys(missing), dict.fromkeys(unexpected), list(matched)
    for _ in range(_MAX_RULES):
        rule = _best_rule(wanted, spare, kept)
        if rule is None:
            break
        old, new = rule
        yield _advice(old, new)
        for key in [key for key in spare if key.startswith(old)]:
            wanted.pop(new + key[len(old) :], None)
            del spare[key]
    if len(spare) <= _MAX_COMPARED:
        for key in list(wanted)[:_MAX_SHOWN]:
            for close in get_close_matches(key, spare, n=1):
                yield f"rename=['{close}={key}']"


def _advice(old: str, new: str) -> str:
    if old.endswith("/") and not new:
        return f"load the part under {old[:-1]!r} alone"
    return f"rename=['{old}*={new}*']"


def _best_rule(wanted: dict[str, None], spare: dict[str, None], kept: list[str]) -> tuple[str, str] | None:
    """Return the (old prefix, new prefix) that explains most keys: at least two of them, or all that are missing."""
    by_ending: dict[str, list[str]] = {}
    for key in wanted:
        for start in _component_starts(key):
            by_ending.setdefault(key[start:], []).append(key[:start])
    votes: Counter[tuple[str, str]] = Counter()
    for key in spare:
        for start in _component_starts(key):  # the longest common ending says the most
            heads = by_ending.get(key[start:], ())
            votes.update((key[:start], head) for head in heads[:_MAX_SHOWN])
            if heads:
                break
    for (old, new), count in votes.most_common(_MAX_SHOWN):
        if count >= min(2, len(wanted)) and not any(key.startswith(old) for key in kept):
            return old, new
    return None


def _component_starts(key: str) -> list[int]:
    return [0, *(match.end() for match in re.finditer(r"[./]", key))]


def casts(mismatched: Iterable[Mismatch]) -> Iterator[str]:
    """Yield the cast that makes tensors fit whose dtype alone differs."""
    split = [(one.found.partition(" "), one.expected.partition(" ")) for one in mismatched]
    wanted = {
        dtype
        for (other_dtype, _, other_shape), (dtype, _, shape) in split
        if other_dtype != dtype and other_shape == shape != ""
    }
    if wanted:
        yield f"cast the checkpoint first: dtype='{min(wanted) if len(wanted) == 1 else 'NAME'}'"


def mismatch(what: str, report: LoadReport) -> MismatchError:
    """Return the error of a strict load; ``what`` is the live object, or the checkpoint."""
    return MismatchError(
        f"{what}: found {report}, expected the same keys, shapes and dtypes; {_way_out(report)}", report
    )


def _way_out(report: LoadReport) -> str:
    if not report.suggestions:
        return "load what fits with strict=False"
    return (
        f"{' or '.join(report.suggestions)} (rename is a parameter of load_into, restore and convert, dtype of convert)"
    )
