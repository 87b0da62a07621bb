"""capture(): a training run's live objects as one tree, under the names the field uses.

    format_version  framework  framework_version  timestamp
    model_state_dict  optimizer_state_dict  optimizer_class  scheduler_state_dict  scheduler_class  scaler_state_dict
    epoch  step  loss  metrics  train_args  rng_state

Only what is given is there. Saved as ``.pt`` it is an ordinary file that ``torch.load(weights_only=True)`` reads.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import datetime, timezone

from ..backend import Backend, backend_named, backend_of, warn_of_tuples
from ..backend.tensor_ops import is_stateful
from ..errors import ValueRefusedError
from ..tree import Tree, expect_entries, map_leaves, map_objects
from .facts import as_number, opened, plain_values
from .random_state import random_state
from .run_state import LAYOUT, RunState

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
    tree |= {
        name: map_leaves(value, lambda _, leaf: as_number(leaf)) for name, value in _values(owner, run.facts).items()
    }
    for name, obj in run.objects.items():
        tree[f"{name}_state_dict"] = owner.to_tree(obj)
        if name in ("optimizer", "scheduler"):
            tree[f"{name}_class"] = _classes(obj)
    if run.rng:
        tree["rng_state"] = random_state(owner, run.model)
    return tree | _extra(owner, run.extra or {}, tree), owner


def _extra(owner: Backend, extra: Mapping[str, object], tree: Mapping[str, Tree]) -> dict[str, Tree]:
    taken = sorted(set(extra) & {*tree, *LAYOUT})
    if taken:
        raise ValueRefusedError(
            f"extra: found the entry {taken[0]!r}, expected a name the checkpoint does not use itself"
        )
    return _values(owner, extra)


def _values(owner: Backend, values: Mapping[str, object]) -> dict[str, Tree]:
    """Return values of the user's as trees; a tuple of a type of its own is warned of, since it becomes a plain one."""
    warn_of_tuples({name: opened(value) for name, value in values.items()}, plain=getattr(owner, "plain_tuples", ()))
    return dict(expect_entries(owner.to_tree(plain_values(dict(values))), "the run"))


def _classes(obj: object) -> Tree:
    """Return the name of an object's class, or of those in a list or dict of objects, nested as these are."""
    classes: Tree = map_objects(obj, lambda _, leaf: type(leaf).__name__ if is_stateful(leaf) else None)
    return classes
