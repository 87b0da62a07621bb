"""Versions of modules: what torch and OneFlow keep beside a live state dict, in its attribute ``_metadata``.

Modules whose layout has changed ask for them when they load (``{"bn": {"version": 2}, …}``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..formats import Versions
from ..pickle.modules import are_versions
from ..tree import Path, join_key
from .run_state import RunState

__all__ = ["versions_of", "versions_of_run"]


def versions_of(obj: object) -> Versions:
    """Return the versions of the modules in a live object, by the keys of the state dicts that it becomes.

    It is one that a tree was made of: it nests no deeper than one may.
    """
    return {join_key(path): facts for path, facts in _versions(obj, ()) if facts}


def versions_of_run(run: RunState) -> Versions:
    """Return the versions of the modules of a run, by the keys of the state dicts in its checkpoint."""
    return versions_of({f"{name}_state_dict": obj for name, obj in run.objects.items()})


def _versions(obj: Any, path: Path) -> Iterator[tuple[Path, Mapping[str, Mapping[str, Any]]]]:
    if isinstance(obj, Mapping):
        facts = getattr(obj, "_metadata", None)
        if are_versions(facts):
            yield path, {name: dict(module) for name, module in facts.items()}  # an OrderedDict is part of no tree
            return
    elif not isinstance(obj, list | tuple):
        if all(hasattr(type(obj), name) for name in ("named_modules", "state_dict")):
            yield path, {name: {"version": getattr(module, "_version", 1)} for name, module in obj.named_modules()}
        return
    for name, child in obj.items() if isinstance(obj, Mapping) else enumerate(obj):
        yield from _versions(child, (*path, name))
