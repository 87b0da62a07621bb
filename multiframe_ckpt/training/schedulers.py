"""The learning rate schedulers both frameworks have, a row each, and their states from one dialect to the other.

A scheduler's state is its attributes. PyTorch counts in ``last_epoch`` and mostly multiplies the current learning rate;
OneFlow counts in ``last_step`` and computes the rate from ``base_lrs``. Only the numbers cross, so the optimizer's groups
must carry ``lr`` and ``initial_lr`` with them, as their translation does. A state does not say its class: the
attributes tell, and PyTorch's LambdaLR and MultiplicativeLR look the same.

Sources: torch 2.0.1 and 2.13 ``lr_scheduler.py``; OneFlow 0.9 ``oneflow/nn/optimizer/*_lr.py``, run.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..tree import LazyTensor, Tree
from .report import Notes, TranslateReport

__all__ = ["SCHEDULERS", "is_scheduler_state", "scheduler_dialect", "translate_scheduler", "translated_scheduler"]


@dataclass(frozen=True, slots=True)
class Scheduler:
    """One scheduler: the attributes that cross under one name, and torch's names of the others with OneFlow's.

    ``fixed`` are OneFlow's own attributes with the only value that torch's scheduler amounts to. ``nests`` says whether
    it can be a part of SequentialLR in both, ``chains`` whether it scales whatever rate it is given, in both.
    """

    name: str
    same: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    nests: bool = True
    chains: bool = False


_PLATEAU = "factor min_lrs patience cooldown cooldown_counter mode threshold threshold_mode best mode_worse eps"

SCHEDULERS: Mapping[str, Scheduler] = {
    row.name: row
    for row in (
        Scheduler("StepLR", ("step_size", "gamma"), chains=True),
        Scheduler("MultiStepLR", ("milestones", "gamma"), chains=True),
        Scheduler("ExponentialLR", ("gamma",), chains=True),
        Scheduler("CosineAnnealingLR", ("T_max", "eta_min"), chains=True),
        Scheduler(
            "CosineAnnealingWarmRestarts",
            ("T_0", "T_mult", "eta_min"),
            fixed={"decay_rate": 1.0, "restart_limit": 0},
        ),
        Scheduler("LambdaLR", ("lr_lambdas",), nests=False),
        Scheduler("LinearLR", ("start_factor", "end_factor", "total_iters"), chains=True),
        Scheduler("ConstantLR", ("factor", "total_iters"), chains=True),
        Scheduler(
            "PolynomialLR",
            ("power",),
            renamed={"total_iters": "max_decay_steps"},
            fixed={"end_learning_rate": 0.0, "cycle": False},
            chains=True,
        ),
        Scheduler(
            "ReduceLROnPlateau", tuple(_PLATEAU.split()), renamed={"num_bad_epochs": "num_bad_steps"}, nests=False
        ),
        Scheduler("SequentialLR", renamed={"_schedulers": "schedulers", "_milestones": "milestones"}, nests=False),
        Scheduler("ChainedScheduler", renamed={"_schedulers": "schedulers"}, nests=False),
    )
}

#: Attributes that every scheduler has, or that follow from others.
_COMMON = {
    "torch": {
        "last_epoch",
        "base_lrs",
        "verbose",
        "_last_lr",
        "_step_count",
        "_get_lr_called_within_step",
        "_is_initial",
        "T_cur",
        "T_i",
        "default_min_lr",
    },
    "oneflow": {"last_step", "base_lrs", "verbose", "_last_lr", "_is_initial", "interval_rescaling"},
}

#: The order in which torch's schedulers have their attributes, so that a way back gives the same file.
_TORCH_ORDER = (
    "step_size milestones T_max T_0 T_i T_mult start_factor end_factor factor total_iters power gamma eta_min T_cur "
    "min_lrs patience cooldown eps base_lrs _milestones last_epoch verbose _step_count _is_initial "
    "_get_lr_called_within_step _last_lr mode_worse mode threshold threshold_mode best cooldown_counter num_bad_epochs "
    "lr_lambdas _schedulers"
)

#: An attribute that gives away a scheduler which the other framework does not have.
_ELSEWHERE = {
    "max_lrs": "CyclicLR",
    "_schedule_phases": "OneCycleLR",
    "decay_steps": "CosineDecayLR",
    "warmup_iters": "WarmupLR",
    "swa_lrs": "SWALR",
}
_WAY_OUT = "leave it out and build a new one with last_epoch (PyTorch) or last_step (OneFlow)"


def is_scheduler_state(tree: Tree) -> bool:
    """Says whether the tree is the state dict of a learning rate scheduler, of either framework."""
    if not isinstance(tree, Mapping):
        return False
    return ("last_epoch" in tree or "last_step" in tree or "_schedulers" in tree) and any(
        name in tree for name in ("_last_lr", "base_lrs", "patience")
    )


def scheduler_dialect(state: Tree) -> str:
    """Gives the dialect of a scheduler state: ``torch`` or ``oneflow``."""
    return "oneflow" if "last_step" in state or "schedulers" in state else "torch"


def translate_scheduler(
    state: Tree, *, to: str, class_name: str | None = None, key: str = "scheduler"
) -> tuple[Tree, TranslateReport]:
    """Gives a scheduler state in the dialect ``to`` (``torch`` or ``oneflow``), and what that took.

    Load it after building the scheduler on its optimizer, and the optimizer's state after that too. Raises
    ValueRefusedError for a scheduler that the other framework does not have, or has with another meaning.
    """
    notes = Notes(key)
    return translated_scheduler(state, to=to, class_name=class_name, notes=notes), notes.report()


def translated_scheduler(state: Tree, *, to: str, class_name: str | None, notes: Notes) -> Tree:
    """Does the work of :func:`translate_scheduler`, adding to ``notes``."""
    if to not in _COMMON:
        raise notes.refused(f"found {to!r} as the dialect to write, expected one of {', '.join(_COMMON)}")
    if not isinstance(state, Mapping) or not ({"last_epoch", "last_step", "_schedulers"} & {*state}):
        raise notes.refused(f"found no scheduler state of either framework, expected one; {_WAY_OUT}")
    dialect = scheduler_dialect(state)
    if dialect == to:
        return state
    row = _recognised(state, dialect, class_name, notes)
    notes.converted.append(f"{notes.key}: {row.name}, from {dialect} to {to}")
    return _crossed(state, row, to, notes)


def _recognised(state: Mapping[str, Tree], dialect: str, name: str | None, notes: Notes) -> Scheduler:
    if name is not None:
        row = SCHEDULERS.get(name.rpartition(".")[2])
        if row is None:
            raise notes.refused(f"found the scheduler {name}, expected one of {', '.join(SCHEDULERS)}; {_WAY_OUT}")
        missing = _names(row, dialect) - {*row.fixed} - {*state}
        if missing:
            raise notes.refused(f"found {row.name} without {', '.join(sorted(missing))}, expected all its attributes")
        return row
    own = {*state} - _COMMON[dialect]
    for row in SCHEDULERS.values():
        if own == _names(row, dialect):
            if row.name == "LambdaLR" and dialect == "torch":
                notes.warn("found a LambdaLR or a MultiplicativeLR, which look the same; read as LambdaLR")
            return row
    guess = next((f"what looks like {name}" for mark, name in _ELSEWHERE.items() if mark in state), None)
    found = guess or f"a scheduler with {', '.join(sorted(map(str, own))) or 'nothing of its own'}"
    raise notes.refused(f"found {found}, expected one of {', '.join(SCHEDULERS)}; {_WAY_OUT}")


def _names(row: Scheduler, dialect: str) -> set[str]:
    """Gives the names of a scheduler's own attributes in a dialect."""
    if dialect == "torch":
        return {*row.same, *row.renamed}
    return {*row.same, *row.renamed.values(), *row.fixed}


def _crossed(state: Mapping[str, Tree], row: Scheduler, to: str, notes: Notes) -> Tree:
    out = {name: _plain(state[name]) for name in row.same if name in state}
    for name, theirs in row.renamed.items():
        old, new = (name, theirs) if to == "oneflow" else (theirs, name)
        if old in state:
            out[new] = _plain(state[old])
    for name in ("base_lrs", "_last_lr"):
        if name in state:
            out[name] = _plain(state[name])
    for name in ("verbose", "_is_initial"):  # OneFlow keeps the second, of torch 2.13, and does nothing with it
        if isinstance(state.get(name), bool):
            out[name] = state[name]
    for name in {*state} - _names(row, "torch") - _names(row, "oneflow") - _COMMON["torch"] - _COMMON["oneflow"]:
        notes.leave_out(f"{name}, which {row.name} of the other framework does not have")
    if to == "oneflow":
        out |= {"last_step": state.get("last_epoch"), **row.fixed}
    else:
        _require_fixed(state, row, notes)
        out |= {"last_epoch": state["last_step"]}
        if row.name not in ("ReduceLROnPlateau", "SequentialLR", "ChainedScheduler"):
            out |= {"_step_count": state["last_step"] + 1, "_get_lr_called_within_step": False}
    adjust = _ADJUST.get((row.name, to))
    out = adjust(out, state, notes) if adjust else out
    return out if to == "oneflow" else {name: out[name] for name in _TORCH_ORDER.split() if name in out}


def _require_fixed(state: Mapping[str, Tree], row: Scheduler, notes: Notes) -> None:
    for name, value in row.fixed.items():
        if state.get(name, value) != value:
            raise notes.refused(
                f"found {row.name} with {name} = {state[name]}, expected {value}: PyTorch's has no such thing; {_WAY_OUT}"
            )


def _plain(value: Tree) -> Tree:
    """Gives plain numbers: torch may keep learning rates as tensors."""
    if isinstance(value, LazyTensor) and value.size == 1:
        return value.numpy().reshape(()).item()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _milestones_listed(out: dict[str, Any], state: Mapping[str, Tree], _: Notes) -> Tree:
    return out | {"milestones": sorted(Counter(state["milestones"]).elements())}


def _milestones_counted(out: dict[str, Any], state: Mapping[str, Tree], _: Notes) -> Tree:
    return out | {"milestones": dict(Counter(state["milestones"]))}


def _restart(state: Mapping[str, Tree], step: int) -> tuple[int, int]:
    """Gives T_cur and T_i: how far into which period of warm restarts a step is."""
    start, period = 0, int(state["T_0"])
    if state["T_mult"] == 1:
        return step % period, period
    while step >= start + period:
        start, period = start + period, period * int(state["T_mult"])
    return step - start, period


def _restarts_located(out: dict[str, Any], state: Mapping[str, Tree], _: Notes) -> Tree:
    current, period = _restart(state, state["last_step"])
    return out | {"T_cur": current, "T_i": period}


def _restarts_whole(out: dict[str, Any], state: Mapping[str, Tree], notes: Notes) -> Tree:
    expected = _restart(state, max(0, state["last_epoch"]))  # -1 in a part of SequentialLR that has not begun
    if "T_cur" in state and not math.isclose(state["T_cur"], expected[0], abs_tol=1e-9):
        raise notes.refused(
            f"found T_cur = {state['T_cur']}, expected {expected[0]}, as whole steps give it: OneFlow's "
            f"CosineAnnealingWarmRestarts takes no part of a step; {_WAY_OUT}"
        )
    return out


def _sequence_to_oneflow(out: dict[str, Any], state: Mapping[str, Tree], notes: Notes) -> Tree:
    # PyTorch counts from 0 again at each milestone, and gives -1 to what has not begun; OneFlow sets both when used.
    parts = _parts(out["schedulers"], "oneflow", notes, _sequence_problem)
    parts = [part | {"last_step": max(0, part["last_step"])} for part in parts]
    rescaled = [True] * len(out["milestones"])
    return out | {"schedulers": parts, "base_lrs": parts[0]["base_lrs"], "interval_rescaling": rescaled}


def _sequence_to_torch(out: dict[str, Any], state: Mapping[str, Tree], notes: Notes) -> Tree:
    rescaled = state.get("interval_rescaling", [])
    if not all(rescaled):
        raise notes.refused(
            f"found SequentialLR with interval_rescaling = {rescaled}, expected True for each: PyTorch's starts each part "
            f"at its own step 0; {_WAY_OUT}"
        )
    parts = _parts(out["_schedulers"], "torch", notes, _sequence_problem)
    begun = sum(milestone <= state["last_step"] for milestone in out["_milestones"])
    parts[begun] = parts[begun] | {"_last_lr": out["_last_lr"]}
    later = [part | {"last_epoch": -1, "_step_count": 1} for part in parts[begun + 1 :]]
    return {name: value for name, value in out.items() if name != "base_lrs"} | {
        "_schedulers": [*parts[: begun + 1], *later]
    }


def _chain_to_oneflow(out: dict[str, Any], state: Mapping[str, Tree], notes: Notes) -> Tree:
    parts = _parts(out["schedulers"], "oneflow", notes, _chain_problem)
    steps = {part["last_step"] for part in parts}
    if len(steps) > 1:
        raise notes.refused(f"found a chain whose parts are at steps {sorted(steps)}, expected one step; {_WAY_OUT}")
    return out | {"schedulers": parts, "base_lrs": parts[0]["base_lrs"], "last_step": steps.pop()}


def _chain_to_torch(out: dict[str, Any], state: Mapping[str, Tree], notes: Notes) -> Tree:
    steps = {"last_step": state["last_step"], "_last_lr": state["_last_lr"]}
    parts = _parts([part | steps for part in out["_schedulers"]], "torch", notes, _chain_problem)
    return {"_schedulers": parts, "_last_lr": out["_last_lr"]}


def _sequence_problem(row: Scheduler, part: Mapping[str, Tree], notes: Notes) -> str | None:
    return None if row.nests else f"OneFlow's SequentialLR cannot run {row.name}"


def _chain_problem(row: Scheduler, part: Mapping[str, Tree], notes: Notes) -> str | None:
    if not row.nests:
        return f"OneFlow's ChainedScheduler cannot run {row.name}"
    step = part.get("last_epoch", part.get("last_step"))
    if not row.chains or part.get("eta_min") or step > part.get("T_max", math.inf):
        return f"{row.name} there does not scale the rate it is given in both frameworks"
    if "T_max" in part:
        notes.warn(f"a chained CosineAnnealingLR is the same in both up to T_max = {part['T_max']}; then they part")
    return None


def _parts(
    parts: list[Tree], to: str, notes: Notes, problem: Callable[[Scheduler, Mapping[str, Tree], Notes], str | None]
) -> list[dict[str, Any]]:
    crossed = []
    for i, part in enumerate(parts):
        place = notes.at("schedulers", i)
        if not is_scheduler_state(part):
            raise place.refused("found no scheduler state, expected one; the state is damaged")
        row = _recognised(part, scheduler_dialect(part), None, place)
        reason = problem(row, part, place)
        if reason is not None:
            raise place.refused(f"found {row.name}, expected another: {reason}; {_WAY_OUT}")
        crossed.append(_crossed(part, row, to, place))
    return crossed


_ADJUST: Mapping[tuple[str, str], Callable[[dict[str, Any], Mapping[str, Tree], Notes], Tree]] = {
    ("MultiStepLR", "oneflow"): _milestones_listed,
    ("MultiStepLR", "torch"): _milestones_counted,
    ("CosineAnnealingWarmRestarts", "oneflow"): _restarts_whole,
    ("CosineAnnealingWarmRestarts", "torch"): _restarts_located,
    ("SequentialLR", "oneflow"): _sequence_to_oneflow,
    ("SequentialLR", "torch"): _sequence_to_torch,
    ("ChainedScheduler", "oneflow"): _chain_to_oneflow,
    ("ChainedScheduler", "torch"): _chain_to_torch,
}
