"""What loading a state changes in the hyper-parameters of a live optimizer or scheduler: each once, with both values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..terminal.text import short_repr
from ..tree import LazyTensor, Path, Tree, children, key_of

__all__ = ["changed_hyperparameters"]

#: What counts where a schedule or an optimizer stands, in either framework: it is meant to change.
_PROGRESS = {
    *("last_epoch", "last_step", "_step_count", "_last_lr", "last_lr", "T_cur", "T_i", "step", "epoch", "iteration"),
    *("best", "num_bad_epochs", "bad_steps", "num_bad_steps", "cooldown_counter", "_get_lr_called_within_step"),
    *("_is_initial", "verbose", "params", "param_names", "state"),
}
#: Option of a group → what a scheduler keeps beside it: it, and not the program, sets the option then.
_SCHEDULED = {"lr": "initial_lr", "momentum": "max_momentum", "betas": "max_momentum"}


def changed_hyperparameters(name: str, live: Tree, saved: Tree) -> list[str]:
    """Return ``key: from this to that`` for each, where a live object called ``name`` with one state takes another.

    Alike changes of several parameter groups are one.
    """
    changes: dict[tuple[str, str, str], list[Path]] = {}
    for path, option, before, after in _changes(live, saved, ()):
        changes.setdefault((option, short_repr(before), short_repr(after)), []).append(path)
    return [
        f"{key_of((name, *places[0], option))}: {before} became {after}" + _others(places)
        for (option, before, after), places in changes.items()
    ]


def _others(places: list[Path]) -> str:
    return f", and so in {len(places) - 1} more" if len(places) > 1 else ""


def _changes(live: Tree, saved: Tree, path: Path) -> Iterator[tuple[Path, str, Tree, Tree]]:
    if isinstance(live, Mapping) and isinstance(saved, Mapping):
        for option in live:
            if option not in saved or option in _PROGRESS:
                continue
            if _SCHEDULED.get(option) in live.keys() & saved.keys():
                continue
            before, after = _plain(live[option]), _plain(saved[option])
            if _is_nest(before) and _is_nest(after):
                yield from _changes(before, after, (*path, option))
            elif not (isinstance(after, LazyTensor) or _same(before, after)):
                yield path, str(option), before, after
    elif isinstance(live, list | tuple) and isinstance(saved, list | tuple):
        for place, (one, other) in enumerate(zip(live, saved, strict=False)):
            yield from _changes(one, other, (*path, place))


def _is_nest(value: Tree) -> bool:
    """Return whether a value has options of its own: a group, an inner scheduler, or a list of such."""
    if isinstance(value, Mapping):
        return any(isinstance(name, str) for name in value)
    return isinstance(value, list | tuple) and any(children(item) is not None for item in value)


def _plain(value: Tree) -> Tree:
    return value.numpy().reshape(()).item() if isinstance(value, LazyTensor) and value.size == 1 else value


def _same(one: Tree, other: Tree) -> bool:
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(_same(*pair) for pair in zip(one, other, strict=True))
    return bool(one == other) or (one != one and other != other)
