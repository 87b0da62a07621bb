"""Versions of modules beside a flat snapshot: OneFlow has no place for them, so our comments of its first variables do.

Each has a list ``[[module, facts], …]`` as JSON; together, in the order of the variables, they are all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ...errors import DamagedError
from ...pickle.modules import are_versions
from ...tree import Tree
from ..base import VERSIONS
from ..tree_json import decode, dump_json, encode, load_json

__all__ = ["facts_of", "texts_of"]

#: Characters in one comment: quoted once more they stay well below what a meta file may have.
_MOST = 24_000


def texts_of(versions: Mapping[str, Mapping[str, Tree]]) -> list[str]:
    """Return what the comments of variables say of the versions, each a text of its own."""
    return list(_pieces(versions))


def _pieces(versions: Mapping[str, Mapping[str, Tree]]) -> Iterator[str]:
    piece = ""
    for name, facts in versions.items():
        pair = dump_json(encode([name, dict(facts)]))
        if piece and len(piece) + len(pair) > _MOST:
            yield f"[{piece}]"
            piece = ""
        piece += f",{pair}" if piece else pair
    if piece:
        yield f"[{piece}]"


def facts_of(texts: Iterable[str], where: str) -> dict[str, object]:
    """Return the versions that comments say, as a fact of the checkpoint; none where there are none."""
    versions: dict[str, Tree] = {}
    for text in texts:
        pairs = decode(load_json(text, f"{where}: modules"), f"{where}: modules")
        for pair in pairs if isinstance(pairs, list) else [None]:
            if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)):
                raise DamagedError(f"{where}: found modules that are no pairs of name and facts, expected them")
            versions[pair[0]] = pair[1]
    return {VERSIONS: {"": versions}} if versions and are_versions(versions) else {}
