"""Rules that select and rename tensors by key; a rule that does not work out is refused.

A rename rule is ``OLD=NEW``. Without ``*`` it renames the key OLD. Each ``*`` in OLD matches any text, and NEW must hold
as many: ``module.*=*`` strips a prefix, ``*.gamma=*.weight`` changes an ending. The first rule that matches a key renames
it. A rule that matches nothing is refused, and so are rules that give two tensors one name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

from ..errors import KeyRefusedError

__all__ = ["Rename", "Select", "matching", "new_name", "parse_rename", "renamed", "require_matches"]

_NO_TENSOR = "found no tensor it matches, expected at least one; see the keys with: mfc.inspect(path)"


@dataclass(frozen=True, slots=True)
class Select:
    """Which tensors to take: those that match any ``include`` glob (all, without one) and no ``exclude`` glob."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def kept(self, keys: Iterable[str]) -> list[str]:
        """Return the keys to take, in order; raise KeyRefusedError for a glob that matches none, a slip of the pen."""
        keys = list(keys)
        for parameter, globs in (("include", self.include), ("exclude", self.exclude)):
            for glob in globs:
                if not _matches_any(keys, glob):
                    raise KeyRefusedError(f"{parameter}=[{glob!r}]: {_NO_TENSOR}")
        return [key for key in keys if self._takes(key)]

    def takes_any(self, keys: Iterable[str]) -> bool:
        """Return whether any of the keys is taken."""
        return any(map(self._takes, keys))

    def _takes(self, key: str) -> bool:
        is_included = not self.include or any(fnmatchcase(key, glob) for glob in self.include)
        return is_included and not any(fnmatchcase(key, glob) for glob in self.exclude)


def _matches_any(keys: Iterable[str], glob: str) -> bool:
    return any(fnmatchcase(key, glob) for key in keys)


@dataclass(frozen=True, slots=True)
class Rename:
    """One rename rule."""

    old: str
    new: str

    def __str__(self) -> str:
        return f"rename=[{f'{self.old}={self.new}'!r}]"

    def apply(self, key: str) -> str | None:
        """Return the new key, or None where the rule does not match."""
        match = _pattern_of(self.old).fullmatch(key)
        if match is None:
            return None
        pieces = self.new.split("*")
        return pieces[0] + "".join(text + piece for text, piece in zip(match.groups(), pieces[1:], strict=True))


@lru_cache(maxsize=64)
def _pattern_of(old: str) -> re.Pattern[str]:
    return re.compile("(.*)".join(map(re.escape, old.split("*"))), re.DOTALL)


def parse_rename(rule: str) -> Rename:
    """Read ``OLD=NEW``; raise KeyRefusedError for anything else."""
    old, equals, new = rule.partition("=")
    if not equals or not old or old.count("*") != new.count("*"):
        raise KeyRefusedError(
            f"rename=[{rule!r}]: found no rule, expected OLD=NEW with as many * in NEW as in OLD, such as 'module.*=*'"
        )
    return Rename(old, new)


def matching(keys: Iterable[str], rules: Sequence[Rename]) -> tuple[Rename, ...]:
    """Return the rules that match any of the keys."""
    keys = list(keys)
    return tuple(rule for rule in rules if any(rule.apply(key) is not None for key in keys))


def require_matches(keys: Iterable[str], rules: Sequence[Rename]) -> None:
    """Raise KeyRefusedError for a rule that matches none of the keys."""
    keys = list(keys)
    for rule in rules:
        if not matching(keys, [rule]):
            raise KeyRefusedError(f"{rule}: {_NO_TENSOR}")


def renamed(keys: Iterable[str], rules: Sequence[Rename]) -> dict[str, str]:
    """Return ``{old key: new key}`` for the keys that change; raise KeyRefusedError for a rule that does not work out."""
    new_keys: dict[str, str] = {}
    unused = set(rules)
    for key in keys:
        rule, new_keys[key] = _first_match(key, rules)
        unused.discard(rule)
    if unused:
        raise KeyRefusedError(f"{min(unused, key=lambda rule: rule.old)}: {_NO_TENSOR}")
    _require_distinct(new_keys)
    return {old: new for old, new in new_keys.items() if old != new}


def new_name(key: str, rules: Sequence[Rename]) -> str:
    """Return the key that the first rule which matches gives to one, or the key itself."""
    return _first_match(key, rules)[1]


def _first_match(key: str, rules: Sequence[Rename]) -> tuple[Rename | None, str]:
    for rule in rules:
        new = rule.apply(key)
        if new is not None:
            return rule, new
    return None, key


def _require_distinct(new_keys: dict[str, str]) -> None:
    owners: dict[str, str] = {}
    for old, new in new_keys.items():
        if new in owners:
            raise KeyRefusedError(
                f"rename: found that {owners[new]!r} and {old!r} would both be called {new!r}, expected distinct names; "
                "change the rules, or exclude one of them"
            )
        owners[new] = old
