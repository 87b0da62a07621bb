"""merged(): the state of a stored optimizer for a live one, whose dialect it gets and whose ways it keeps."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import MismatchError, ValueRefusedError
from ..tree import Tree
from .crossing import cross_optimizer
from .dialects import optimizer_dialect
from .names import Names
from .neutral import NeutralState
from .optimizers import ADAMS
from .report import Notes, TranslateReport

__all__ = ["merged"]


def merged(
    target_state: Tree,
    state: Tree,
    *,
    class_name: str | None = None,
    target_class: str | None = None,
    names: Sequence[str] | None = None,
    key: str = "optimizer",
) -> tuple[Tree, TranslateReport]:
    """Return ``state`` in the dialect of a live optimizer's own ``target_state``, whose other options stay as they are.

    So the target keeps how it runs a step (foreach, fused, capturable) and gets what was trained: the shared options,
    the tensors, the step. ``names`` are those of the live optimizer's parameters. A state of the target's own dialect comes
    back as it is. Raise MismatchError where the two are not the same class or do not have the same groups,
    ValueRefusedError for what cannot cross.
    """
    notes = Notes(key)
    target = optimizer_dialect(target_state)
    if target is None and optimizer_dialect(state) is None:  # of the program's own making, and its own business
        return state, notes.report()
    if target is None:
        raise notes.error("found no optimizer state in the live optimizer, expected one of a known dialect")
    if not (target.writable or target.is_optimizer(state)):
        raise notes.error(f"found a live optimizer of {target.title}, which is only read; use another version")
    _require_same_algorithm(state, class_name, target_state, target_class, notes)
    cls = class_name or target_class
    crossed = cross_optimizer(state, target, class_name=cls, names=Names.of(names), notes=notes, like=target_state)
    return crossed, notes.report()


def _require_same_algorithm(
    state: Tree, class_name: str | None, target_state: Tree, target_class: str | None, notes: Notes
) -> None:
    """Raise where two algorithms are known not to be one: a framework may take the state, and fail or go wrong later.

    Adam and AdamW are one where no weight decays, and within one dialect, whose own loader takes one for the other.
    """
    source, target = optimizer_dialect(state), optimizer_dialect(target_state)
    if source is None or target is None:
        return
    is_one_dialect = target.is_optimizer(state)
    try:
        stored, is_sure = source.algorithm(state, class_name=class_name, notes=Notes(notes.key))
        live, is_sure_live = target.algorithm(target_state, class_name=target_class, notes=Notes(notes.key))
    except ValueRefusedError:
        if is_one_dialect:  # an optimizer that only its own framework knows
            return
        raise
    if stored == live or ({stored, live} == {*ADAMS} and (is_one_dialect or not (is_sure and is_sure_live))):
        return
    if {stored, live} == {*ADAMS} and not _decays(state, class_name, notes):
        return
    raise MismatchError(
        f"{notes.key}: found the state of {stored}, expected that of {live}; make an optimizer of that class"
    )


def _decays(state: Tree, class_name: str | None, notes: Notes) -> bool:
    source = optimizer_dialect(state)
    assert source is not None
    read: NeutralState = source.read(state, class_name=class_name, notes=Notes(notes.key))
    return read.optimizer is not None and any(group.options["weight_decay"] for group in read.optimizer.groups)
