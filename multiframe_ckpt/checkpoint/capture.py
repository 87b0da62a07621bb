"""capture(): a training run's live objects as one tree, under the names the field uses.

    format_version  framework  framework_version  timestamp
    model_state_dict  optimizer_state_dict  optimizer_class  scheduler_state_dict  scheduler_class  scaler_state_dict
    epoch  step  loss  metrics  train_args  rng_state

Only what is given is there. Saved as ``.pt`` it is an ordinary file that ``torch.load(weights_only=True)`` reads.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from datetime import date, datetime, time, timezone
from enum import Enum
from pathlib import PurePath

from ..backend import Backend, backend_named, backend_of, warn_of_tuples
from ..errors import ValueRefusedError
from ..tree import LazyTensor, Path, Tree, expect_entries, map_leaves, map_objects
from .random_state import random_state
from .run_state import RunState

__all__ = ["FORMAT_VERSION", "capture"]

FORMAT_VERSION = 1


def capture(run: RunState, *, backend: str | None = None) -> tuple[dict[str, Tree], Backend]:
    """Return the tree of a run, and the backend of its objects; tensors are read when the tree is saved.

    Raise ValueRefusedError for objects of two frameworks, for values a checkpoint cannot hold, and for an extra entry
    that takes a name of the layout.
    """
    owner = backend_named(backend) if backend else backend_of(list(run.objects.values()))
    tree: dict[str, Tree] = {
        "format_version": FORMAT_VERSION,
        "framework": owner.name,
        "framework_version": str(getattr(sys.modules.get(owner.name), "__version__", "")),
        "timestamp": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    facts = {name: _entries(value) for name, value in run.facts.items()}
    tree |= _plain(owner, facts)
    warn_of_tuples(facts, plain=getattr(owner, "plain_tuples", ()))
    for name, obj in run.objects.items():
        tree[f"{name}_state_dict"] = owner.to_tree(obj)
        if name in ("optimizer", "scheduler"):
            tree[f"{name}_class"] = type(obj).__name__
    if run.rng:
        tree["rng_state"] = random_state(owner, run.model)
    return tree | _extra(owner, run.extra or {}, tree), owner


def _extra(owner: Backend, extra: Mapping[str, object], tree: Mapping[str, Tree]) -> dict[str, Tree]:
    taken = sorted(set(extra) & set(tree))
    if taken:
        raise ValueRefusedError(
            f"extra: found the entry {taken[0]!r}, expected a name the checkpoint does not use itself"
        )
    return dict(expect_entries(owner.to_tree(dict(extra)), "extra"))


def _entries(value: object) -> object:
    """Return a Namespace or dataclass as the dict of its fields."""
    if isinstance(value, Namespace):
        return vars(value)
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _plain(owner: Backend, facts: dict[str, object]) -> dict[str, Tree]:
    """Return facts as plain values: one-element tensors become numbers; paths, devices and times text; sets lists."""
    plain = owner.to_tree(map_objects(facts, lambda _, leaf: _as_plain(leaf)))
    return dict(expect_entries(map_leaves(plain, _as_number), "the run"))


def _as_plain(leaf: object) -> object:
    if isinstance(leaf, PurePath) or type(leaf).__name__ in ("device", "dtype"):  # as each framework calls its own
        return str(leaf)
    if isinstance(leaf, date | time):
        return leaf.isoformat()
    if isinstance(leaf, Enum):
        return _as_plain(leaf.value)
    return sorted(leaf, key=repr) if isinstance(leaf, set | frozenset) else leaf


def _as_number(_: Path, leaf: Tree) -> Tree:
    if not isinstance(leaf, LazyTensor) or leaf.size != 1:
        return leaf
    value = leaf.numpy().reshape(()).item()
    return value if isinstance(value, bool | int | float | complex) else float(value)
