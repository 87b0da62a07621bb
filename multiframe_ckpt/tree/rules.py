"""Rules that rename, select and cast by key; each is reversible or refused.

A rename rule is ``OLD=NEW``. Without ``*`` it renames the key OLD. Each ``*`` in OLD matches any text, and NEW must hold
as many: ``module.*=*`` strips a prefix, ``*.gamma=*.weight`` changes an ending. The first rule that matches a key renames
it. A rule that matches nothing is refused, and so are rules that give two tensors one name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..errors import KeyRefusedError

__all__ = ["Rename", "parse_rename", "renamed", "select"]


@dataclass(frozen=True, slots=True)
class Rename:
    """One rename rule."""

    old: str
    new: str

    def apply(self, key: str) -> str | None:
        """Return the new key, or None where the rule does not match."""
        pattern = "(.*)".join(re.escape(part) for part in self.old.split("*"))
        match = re.fullmatch(pattern, key, re.DOTALL)
        if match is None:
            return None
        pieces = self.new.split("*")
        return pieces[0] + "".join(text + piece for text, piece in zip(match.groups(), pieces[1:], strict=True))


def parse_rename(rule: str) -> Rename:
    """Read ``OLD=NEW``; raise KeyRefusedError for anything else."""
    old, equals, new = rule.partition("=")
    if not equals or not old or old.count("*") != new.count("*"):
        raise KeyRefusedError(
            f"found rename rule {rule!r}, expected OLD=NEW with as many * in NEW as in OLD, such as 'module.*=*'"
        )
    return Rename(old, new)


def renamed(keys: Iterable[str], rules: Sequence[Rename]) -> dict[str, str]:
    """Return ``{old key: new key}`` for the keys that change; raise KeyRefusedError for a rule that does not work out."""
    final: dict[str, str] = {}
    unused = set(rules)
    for key in keys:
        final[key] = key
        for rule in rules:
            new = rule.apply(key)
            if new is not None:
                unused.discard(rule)
                final[key] = new
                break
    if unused:
        rule = min(unused, key=lambda rule: rule.old)
        raise KeyRefusedError(
            f"rename {rule.old}={rule.new}: found no tensor it matches, expected at least one; "
            "see the keys with: multiframe-ckpt inspect"
        )
    owners: dict[str, str] = {}
    for old, new in final.items():
        if new in owners:
            raise KeyRefusedError(
                f"rename: found that {owners[new]!r} and {old!r} would both be called {new!r}, expected distinct names; "
                "change the rules, or exclude one of them"
            )
        owners[new] = old
    return {old: new for old, new in final.items() if old != new}


def select(keys: Iterable[str], include: Sequence[str], exclude: Sequence[str]) -> list[str]:
    """Return the keys that match any ``include`` glob (all, where there is none) and no ``exclude`` glob.

    Raise KeyRefusedError for a glob that matches nothing, since that is a slip of the pen.
    """
    keys = list(keys)
    for glob in (*include, *exclude):
        if not any(fnmatchcase(key, glob) for key in keys):
            raise KeyRefusedError(
                f"{glob!r}: found no tensor it matches, expected at least one; see the keys with: multiframe-ckpt inspect"
            )
    kept = [key for key in keys if not include or any(fnmatchcase(key, glob) for glob in include)]
    return [key for key in kept if not any(fnmatchcase(key, glob) for glob in exclude)]
