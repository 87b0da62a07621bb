"""Names of parameters that differ by what only wraps a module: DataParallel, torch.compile, a program's own module.

module.l1.weight   _orig_mod.l1.weight   module._orig_mod.model.l1.weight   encoder._orig_mod.l1.weight   →   l1.weight, …
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["OF_WRAPPERS", "bare_name", "matching_names"]

#: What a wrapper keeps beside the module's own tensors: torch's AveragedModel how many it has averaged.
OF_WRAPPERS = ("n_averaged",)

#: What wrappers of torch and OneFlow call the module inside, wherever they stand in a name.
_WRAPPERS = {"module", "_orig_mod"}
#: What programs and Lightning modules call it; in the middle of a name it is a model's own.
_OUTER = {*_WRAPPERS, "model"}


def bare_name(name: str) -> str:
    """Return the name of a parameter without wrappers around it."""
    *outer, last = name.split(".")
    start = next((place for place, part in enumerate(outer) if part not in _OUTER), len(outer))
    return ".".join([*(part for part in outer[start:] if part not in _WRAPPERS), last])


def matching_names(source: Iterable[str], target: Iterable[str]) -> dict[str, str]:
    """Return ``{name in source: name in target}`` for names that are on one side alone and differ by wrappers.

    Where two names of a side are one without their wrappers, nothing is matched: it could be either.
    """
    source, target = dict.fromkeys(source), dict.fromkeys(target)
    spare = _by_bare_name(name for name in source if name not in target)
    wanted = _by_bare_name(name for name in target if name not in source)
    if spare is None or wanted is None:
        return {}
    return {name: wanted[bare] for bare, name in spare.items() if bare in wanted}


def _by_bare_name(names: Iterable[str]) -> dict[str, str] | None:
    names = list(names)
    table = {bare_name(name): name for name in names}
    return table if len(table) == len(names) else None
