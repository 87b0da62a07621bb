"""What a framework would choke on in a state, or swallow and go wrong: found before anything is touched.

Sources: torch 2.0 and 2.13, OneFlow 0.9: ``optim``, ``lr_scheduler``, ``amp/grad_scaler``. ``moment_check`` looks at the
tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..tree import Path, Tree, key_of
from ..tree.wrappers import bare_name
from .report import Mismatch, described

__all__ = ["groups_of", "indices_of", "state_problem"]

#: Entries that only one framework's schedulers and parameter groups have; the library translates between the two.
_DIALECT = ("last_epoch", "last_step", "_options")
_TRANSLATE = "it is another framework's; translate it first"
#: Options without which a step ends with a KeyError. Newer ones get a default where an older state lacks them.
_NEEDED = ("lr", "betas", "eps", "momentum", "alpha", "rho", "lr_decay", "weight_decay")
#: Entries that schedulers take out of a state, one for each inner scheduler or parameter group, whether or not it has them.
_TAKEN_OUT = ("_schedulers", "schedulers", "lr_lambdas")
#: A state that has one of these is a scheduler's.
_OF_SCHEDULERS = {"last_epoch", "last_step", "_schedulers", "schedulers"}
#: What schedulers of every kind may have, in some version.
_COMMON = {"base_lrs", "verbose", "last_lr", "T_cur", "T_i", "default_min_lr", *_OF_SCHEDULERS}
#: What tells one kind of scheduler from another, in every version.
_KINDS = {
    *(
        "step_size",
        "milestones",
        "gamma",
        "T_max",
        "T_0",
        "T_mult",
        "start_factor",
        "end_factor",
        "total_iters",
        "factor",
    ),
    *("patience", "power", "max_lrs", "total_steps", "total_size", "decay_steps", *_TAKEN_OUT),
}
_OF_SCALERS = {"growth_factor", "backoff_factor"}
_MOST_SHOWN = 5


def state_problem(current: Mapping[str, Tree], source: Tree, path: Path) -> Mismatch | None:
    """Return the first problem of a state that an object is to take whose state is ``current``."""
    return next(_problems(current, source, path), None)


def groups_of(state: Mapping[str, Tree]) -> list[Mapping[str, Tree]] | None:
    """Return the parameter groups of an optimizer's state; None where they are none."""
    groups = state.get("param_groups")
    if not isinstance(groups, list | tuple) or not all(isinstance(group, Mapping) for group in groups):
        return None
    return [group for group in groups if isinstance(group, Mapping)]


def indices_of(group: Mapping[str, Tree]) -> Sequence[Tree]:
    """Return the numbers of a group's parameters."""
    indices = group.get("params")
    return indices if isinstance(indices, list | tuple) else ()


def _problems(current: Mapping[str, Tree], source: Tree, path: Path) -> Iterator[Mismatch]:
    key = key_of(path)
    if not isinstance(source, Mapping):
        yield Mismatch(key, described(source), "a state dict")
        return
    if current and not source:
        yield Mismatch(key, "an empty state, as a disabled object has", f"one with {_shown(current)}")
        return
    yield from _foreign(key, "a state", current, source)
    if "param_groups" in current:
        yield from _group_problems(current, source, path)
    elif _OF_SCHEDULERS & current.keys():
        yield from _schedule_problems(current, source, path)
    elif current.keys() >= _OF_SCALERS and current.keys() - source.keys():
        yield Mismatch(key, f"a state without {_shown(current.keys() - source.keys())}", "that of a gradient scaler")


def _group_problems(current: Mapping[str, Tree], source: Mapping[str, Tree], path: Path) -> Iterator[Mismatch]:
    groups, expected = groups_of(source), groups_of(current)
    if _sizes(groups) != _sizes(expected) or not isinstance(source.get("state"), Mapping):
        yield Mismatch(
            key_of(path),
            f"parameter groups of sizes {_sizes(groups)}",
            f"{_sizes(expected)}: the optimizer of the same model",
        )
        return
    for place, (live, saved) in enumerate(zip(expected or (), groups or (), strict=True)):
        key = key_of((*path, "param_groups", place))
        yield from _foreign(key_of(path), "a parameter group", live, saved)
        own, options = _options(live), _options(saved)
        missing = [name for name in _NEEDED if name in own and name not in options]
        missing += [name for name in ("_options", "_enable_clip_grad") if name in live and name not in saved]
        if missing:
            yield Mismatch(key, f"a parameter group without {_shown(missing)}", f"one with {_shown(own)}")
        yield from _misnamed(f"{key}/param_names", own.get("param_names"), options.get("param_names"))


def _misnamed(key: str, live: Tree, saved: Tree) -> Iterator[Mismatch]:
    """Yield where the parameters of a group have other names, or another order; what wraps a module is no other name."""
    if isinstance(live, list | tuple) and isinstance(saved, list | tuple):
        for own, name in zip(live, saved, strict=False):
            if bare_name(str(own)) != bare_name(str(name)):
                yield Mismatch(key, repr(name), f"{own!r}: the same parameters in the same order")
                return


def _schedule_problems(current: Mapping[str, Tree], source: Mapping[str, Tree], path: Path) -> Iterator[Mismatch]:
    key = key_of(path)
    others, own = _hyperparameters(source, current), _hyperparameters(current, source)
    if (others and own) or _KINDS & {*others, *own}:
        found, expected = (f"a scheduler {_having(names, rest)}" for names, rest in ((others, own), (own, others)))
        yield Mismatch(key, f"the state of {found}", f"that of {expected}")
    for name in (*_TAKEN_OUT, "base_lrs"):
        live, saved = current.get(name), source.get(name)
        if not isinstance(live, list | tuple) or not isinstance(saved, list | tuple):
            continue
        if len(live) != len(saved):
            yield Mismatch(f"{key}/{name}", f"{len(saved)} entries", f"{len(live)}")
        for place, (one, other) in enumerate(zip(live, saved, strict=False)):
            if isinstance(one, Mapping) and "chedulers" in name:
                yield from _problems(one, other, (*path, name, place))


def _hyperparameters(state: Mapping[str, Tree], other: Mapping[str, Tree]) -> list[str]:
    """Return what a scheduler has and another lacks: its versions come and go with one side alone."""
    alone = [name for name in state if name not in other]
    return [name for name in alone if name in _KINDS or (name not in _COMMON and not str(name).startswith("_"))]


def _having(names: Sequence[str], others: Sequence[str]) -> str:
    return f"with {_shown(names)}" if names else f"without {_shown(others)}"


def _foreign(key: str, what: str, current: Mapping[str, Tree], source: Mapping[str, Tree]) -> Iterator[Mismatch]:
    for name in _DIALECT:
        if name in source and name not in current:
            yield Mismatch(key, f"{what} with {name!r}", f"one without it: {_TRANSLATE}")
        if name in current and name not in source:
            yield Mismatch(key, f"{what} without {name!r}", f"one with it: {_TRANSLATE}")


def _options(group: Mapping[str, Tree]) -> Mapping[str, Tree]:
    options = group.get("_options")
    return options if isinstance(options, Mapping) else group


def _sizes(groups: list[Mapping[str, Tree]] | None) -> list[int] | None:
    return None if groups is None else [len(indices_of(group)) for group in groups]


def _shown(names: object) -> str:
    listed = [repr(name) for name in names]  # type: ignore[attr-defined]
    return ", ".join(listed[:_MOST_SHOWN]) + (", …" if len(listed) > _MOST_SHOWN else "")
