"""The state of an optimizer, from one dialect to another: read into torch's terms, then written in the other's.

What the rules rest on was measured by training on after the hand-over; docs/training.md has them one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..dtypes import dtype_of_numpy
from ..errors import MismatchError, ValueRefusedError
from ..tree import LazyTensor, Tree
from .neutral import Group, NeutralState, momentum_scale, read_state, scaled
from .optimizers import (
    NEUTRAL,
    OPTIMIZERS,
    Optimizer,
    framework_of,
    group_options,
    is_optimizer_state,
    optimizer_dialect,
    recognised_optimizer,
)
from .report import Notes, TranslateReport
from .rmsprop import require_agreement

__all__ = ["merged", "translate_optimizer", "translated_optimizer"]

_WRITTEN = ("torch", "oneflow", "oneflow-0.8")


def translate_optimizer(
    state: Tree, *, to: str, class_name: str | None = None, key: str = "optimizer"
) -> tuple[Tree, TranslateReport]:
    """Gives an optimizer state in the dialect ``to`` (``torch``, ``oneflow``, ``oneflow-0.8``), and what that took.

    The result is complete: the other framework's optimizer of the same class loads it and trains on. Its tensors are
    read when asked for (RMSprop's once now), as copies that no other optimizer trains on. Without ``class_name`` the
    class is recognised by its options. Raises ValueRefusedError for what the dialect cannot hold, with the reason.
    """
    notes = Notes(key)
    return translated_optimizer(state, to=to, class_name=class_name, notes=notes), notes.report()


def translated_optimizer(state: Tree, *, to: str, class_name: str | None, notes: Notes) -> Tree:
    """Does the work of :func:`translate_optimizer`, adding to ``notes``."""
    if to not in _WRITTEN:
        raise notes.refused(f"found {to!r} as the dialect to write, expected one of {', '.join(_WRITTEN)}")
    if not is_optimizer_state(state):
        raise notes.refused("found no optimizer state, expected a dict with 'state' and 'param_groups'")
    dialect = optimizer_dialect(state)
    if dialect == to:
        return state
    neutral = read_state(state, dialect, class_name, notes)
    if framework_of(dialect) != framework_of(to):
        _require_held(neutral, framework_of(to), notes)
    notes.converted.append(f"{notes.key}: {neutral.row.name}, from {dialect} to {to}")
    return _to_torch(neutral) if to == "torch" else _to_oneflow(neutral, to, notes)


def merged(
    target_state: Tree,
    state: Tree,
    *,
    class_name: str | None = None,
    target_class: str | None = None,
    key: str = "optimizer",
) -> tuple[Tree, TranslateReport]:
    """Gives ``state`` in the dialect of a live optimizer's own ``target_state``, whose other options stay as they are.

    So the target keeps how it runs a step (foreach, fused, capturable) and gets what was trained: the shared options,
    the tensors, the step. A state of the target's own dialect comes back as it is. Raises MismatchError where the two
    are not the same class or do not have the same groups, ValueRefusedError for what cannot cross.
    """
    notes = Notes(key)
    to = optimizer_dialect(target_state)
    if optimizer_dialect(state) == to:
        _require_no_other_algorithm(target_state, state, class_name, target_class, key)
        return state, notes.report()
    _require_same_class(target_state, state, class_name, target_class, key)
    translated = translated_optimizer(state, to=to, class_name=class_name or target_class, notes=notes)
    groups = [
        _merged_group(own, given)
        for own, given in zip(target_state["param_groups"], translated["param_groups"], strict=True)
    ]
    ids = {
        old: new
        for own, given in zip(target_state["param_groups"], translated["param_groups"], strict=True)
        for new, old in zip(own["params"], given["params"], strict=True)
    }
    return {
        "state": {ids.get(name, name): entry for name, entry in translated["state"].items()},
        "param_groups": groups,
    }, notes.report()


def _merged_group(own: Tree, given: Tree) -> Tree:
    neutral = NEUTRAL["oneflow" if "_options" in own else "torch"]
    if "_options" in own:
        kept = {name: value for name, value in given["_options"].items() if name not in neutral}
        return {**own, "_options": {**own["_options"], **kept}}
    kept = {name: value for name, value in given.items() if name not in neutral and name != "params"}
    return {**own, **kept, "params": own["params"]}


def _require_no_other_algorithm(target: Tree, state: Tree, name: str | None, target_name: str | None, key: str) -> None:
    """Raises where both are known and are two algorithms: torch would take the state, and fail or go wrong later."""
    try:
        found = recognised_optimizer(state, dialect=optimizer_dialect(state), name=name, key=key)[0].name
        own = recognised_optimizer(target, dialect=optimizer_dialect(target), name=target_name, key=key)[0].name
    except ValueRefusedError:  # an optimizer that only its own framework knows
        return
    if found != own and {found, own} != {"Adam", "AdamW"}:
        raise _other_class(key, found, own)


def _other_class(key: str, found: str, own: str) -> MismatchError:
    return MismatchError(f"{key}: found the state of {found}, expected that of {own}; make an optimizer of that class")


def _require_same_class(target: Tree, state: Tree, name: str | None, target_name: str | None, key: str) -> None:
    sizes = [[len(group["params"]) for group in one["param_groups"]] for one in (state, target)]
    if sizes[0] != sizes[1]:
        raise MismatchError(
            f"{key}: found parameter groups of sizes {sizes[0]}, expected {sizes[1]}; make the optimizer of the same model"
        )
    found = recognised_optimizer(state, dialect=optimizer_dialect(state), name=name, key=key)
    own = recognised_optimizer(target, dialect=optimizer_dialect(target), name=target_name, key=key)
    if found[0].name != own[0].name and (found[1] and own[1] and _differ(found[0], own[0], state)):
        raise _other_class(key, found[0].name, own[0].name)


def _differ(found: Optimizer, own: Optimizer, state: Tree) -> bool:
    """Says whether two classes are two algorithms: Adam and AdamW are one where no weight decays."""
    if {found.name, own.name} != {"Adam", "AdamW"}:
        return True
    return any(group_options(group)["weight_decay"] for group in state["param_groups"])


def _require_held(state: NeutralState, framework: str, notes: Notes) -> None:
    """Raises for what the other framework cannot hold, and warns where it goes on differently from here."""
    stepped = max(state.steps.values(), default=0)
    for i, group in enumerate(state.groups):
        place = notes.at("param_groups", i)
        fresh = [param for param in group.params if param not in state.tensors]
        if state.row.name == "SGD":
            _check_sgd(group, fresh, place)
        elif state.row.name == "RMSprop":
            _check_rmsprop(state, group, notes)
        elif _counts(state, group) and fresh and stepped:
            place.warn(
                f"parameters {_few(fresh)} have no state yet; a first gradient counts as step 1 in PyTorch and as step "
                f"{stepped + 1} in OneFlow, so their runs will part if they get one"
            )
    if framework == "oneflow":
        _require_one_step(state, notes)


def _check_sgd(group: Group, fresh: list[Any], notes: Notes) -> None:
    options = group.options
    if options["momentum"] and options["dampening"] and fresh:
        notes.warn(
            f"parameters {_few(fresh)} have no momentum yet; PyTorch does not dampen the first gradient and OneFlow does"
        )
    if options["maximize"] and not options["momentum"]:
        raise notes.refused(
            "found SGD with maximize and no momentum, expected momentum: OneFlow heeds maximize only then; "
            "negate the loss instead"
        )


def _check_rmsprop(state: NeutralState, group: Group, notes: Notes) -> None:
    for param in group.params:
        require_agreement(state.tensors.get(param, {}), group.options, notes.at("state", param))
    notes.warn(
        "PyTorch's RMSprop divides by √v + eps and OneFlow's by √(v + eps); they agree as long as gradients stay as large "
        "as they are"
    )


def _counts(state: NeutralState, group: Group) -> bool:
    """Says whether the number of the step enters the update; in Adagrad only through lr_decay."""
    return state.row.counts_steps and bool(group.options.get("lr_decay", True))


def _require_one_step(state: NeutralState, notes: Notes) -> None:
    counted = {p: state.steps[p] for g in state.groups if _counts(state, g) for p in g.params if p in state.steps}
    if len(set(counted.values())) > 1:
        low, high = min(counted, key=counted.__getitem__), max(counted, key=counted.__getitem__)
        raise notes.refused(
            f"found parameters of different steps ({low}: {counted[low]}, {high}: {counted[high]}), expected one step for "
            f"all: OneFlow's {state.row.name} counts for all at once; leave the optimizer out and let it start fresh"
        )


def _to_torch(state: NeutralState) -> Tree:
    groups = []
    for group in state.groups:
        known = {**NEUTRAL["torch"], **state.row.fixed, **group.options}
        options = {name: known[name] for name in state.row.torch}
        if state.certain and state.row.name in ("Adam", "AdamW"):
            # torch has this option since 2.6, and AdamW's in Adam's order.
            options = {name: known[name] for name in OPTIMIZERS["Adam"].torch}
            options["decoupled_weight_decay"] = state.row.name == "AdamW"
        groups.append({**options, **group.extras, "params": group.params})
    entries: dict[Any, Tree] = {}
    for param, tensors in state.tensors.items():
        counter = {} if state.row.name == "SGD" else {"step": _counter(state.steps[param])}
        entries[param] = counter | tensors
    return {"state": entries, "param_groups": groups}


def _to_oneflow(state: NeutralState, dialect: str, notes: Notes) -> Tree:
    groups: list[Tree] = []
    entries: dict[Any, Tree] = {"step": max(state.steps.values(), default=0)}
    for i, group in enumerate(state.groups):
        place = notes.at("param_groups", i)
        known = {**NEUTRAL["oneflow"], **state.row.fixed, **group.options}
        options = {name: known[name] for name in state.row.oneflow}
        if state.certain and state.row.name in ("Adam", "AdamW"):
            # OneFlow heeds no option it does not know, and so the two stay apart on the way back.
            options["decoupled_weight_decay"] = state.row.name == "AdamW"
        if dialect == "oneflow-0.8":
            options = _before_09(options, state.row, place)
        scale = momentum_scale(options, "oneflow", place) if state.row.name == "SGD" else 1.0
        groups.append({"_options": {**options, **group.extras}, "_enable_clip_grad": False, "params": group.params})
        for param in group.params:
            entries[param] = {
                state.row.tensors[name]: scaled(tensor, scale) for name, tensor in state.tensors.get(param, {}).items()
            }
    return {"state": entries, "param_groups": groups}


def _before_09(options: dict[str, Any], row: Optimizer, notes: Notes) -> dict[str, Any]:
    """Gives the options as 0.8 has them; raises for one that 0.8 does not have and that is in use."""
    if row.name == "Adadelta":
        raise notes.refused("found Adadelta, which OneFlow has since 0.9, expected another optimizer; use OneFlow 0.9")
    newer = ("fused", *(("dampening", "nesterov", "maximize") if row.name == "SGD" else ()))
    used = [name for name in newer if options.get(name)]
    if used:
        raise notes.refused(f"found {row.name} with {', '.join(used)}, which OneFlow has since 0.9; use OneFlow 0.9")
    return {name: value for name, value in options.items() if name not in newer}


def _counter(step: int) -> LazyTensor:
    """Gives torch's own counter of steps; a new array at each reading, since torch counts in place."""
    dtype = dtype_of_numpy(np.dtype(np.float32))
    assert dtype is not None
    return LazyTensor.from_function(dtype, (), lambda: np.array(step, np.float32))


def _few(names: list[Any]) -> str:
    shown: Iterator[str] = map(str, names[:5])
    return ", ".join(shown) + (", …" if len(names) > 5 else "")
