"""TrainingParts: where a training checkpoint keeps its model, optimizers, schedulers and progress.

Names differ from program to program, contents hardly: an optimizer or scheduler state is known by what it holds, wherever
it stands at the top or in a list or dict there; a dialect may gather one from several places, or keep a scheduler inside
its optimizer's state. Names tell the rest. Known are our own (``model_state_dict``,
``optimizer_state_dict``, ``scheduler_state_dict``, …), Lightning's (``state_dict``, ``optimizer_states``,
``lr_schedulers``, …) and the usual ones of programs written by hand (``model``, ``optimizer``, ``scheduler``, …).

The class of an optimizer is not in its state. It is read from beside it: ``optimizer_class`` for ``optimizer`` and
``optimizer_state_dict``, ``optimizer_G_class`` for ``optimizer_G``, and so for schedulers; a list or dict of states
has a list or dict of names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..errors import ValueRefusedError
from ..tree import LazyTensor, Path, Tree, has_tensors, key_of
from .dialects import is_optimizer_state, is_scheduler_state, optimizer_dialect

__all__ = ["WEIGHT_KEYS", "Part", "TrainingParts", "find_parts", "weights_path"]

#: Where training checkpoints keep the weights, the usual name first. Lightning says state_dict, DeepSpeed module.
WEIGHT_KEYS = (
    "model_state_dict",
    "state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "weights",
    "net_state_dict",
    "module",
)
_OPTIMIZER_KEYS = ("optimizer_state_dict", "optimizer_states", "optimizer_state", "optimizer", "optimizers", "optim")
_SCHEDULER_KEYS = (
    "scheduler_state_dict",
    "lr_schedulers",
    "scheduler_state",
    "scheduler",
    "schedulers",
    "lr_scheduler",
    "lr_scheduler_state_dict",
)
_PLAIN_KEYS = {
    "epoch": ("epoch", "current_epoch", "last_epoch"),
    "step": ("step", "global_step", "iteration", "iter", "global_iter", "n_iter"),
    "metrics": ("metrics", "metric"),
    "loss": ("loss", "train_loss", "val_loss"),
    "train_args": ("train_args", "args", "hyper_parameters", "hparams", "config", "cfg"),
    "timestamp": ("timestamp",),
    "scaler": ("scaler_state_dict", "scaler", "grad_scaler", "amp_scaler", "native_amp_scaling_state"),
}
_SUFFIXES = ("_state_dict", "_states", "_state")


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a checkpoint, where it stands, and the class of what it is the state of, where that is stored.

    ``beside`` are the paths of what else the part was gathered from.
    """

    path: Path
    tree: Tree
    class_name: str | None = None
    beside: tuple[Path, ...] = ()

    @property
    def key(self) -> str:
        """The key of the part, as tensors have them; ``(top)`` for the whole tree."""
        return key_of(self.path)


@dataclass(frozen=True, slots=True)
class TrainingParts:
    """What a checkpoint holds, each part with its path; None or empty where it holds none."""

    model: Part | None = None
    optimizers: tuple[Part, ...] = ()
    schedulers: tuple[Part, ...] = ()
    epoch: Part | None = None
    step: Part | None = None
    metrics: Part | None = None
    loss: Part | None = None
    train_args: Part | None = None
    timestamp: Part | None = None
    scaler: Part | None = None
    rng: tuple[Part, ...] = ()
    rest: tuple[Part, ...] = ()


def find_parts(tree: Tree) -> TrainingParts:
    """Return the parts of a checkpoint; a bare state dict is all model. Nothing is read."""
    weights_key = _weights_key(tree)
    if weights_key is None and (not isinstance(tree, Mapping) or not _holds_training(tree)):
        return _bare(tree)
    parts: dict[str, Any] = {} if weights_key is None else {"model": Part((weights_key,), tree[weights_key])}
    taken = {weights_key}
    for field, names in _PLAIN_KEYS.items():
        name = next((name for name in names if tree.get(name) is not None), None)
        if name is not None:
            parts[field] = Part((name,), tree[name])
            taken.add(name)
    for field, parts_of in (("optimizers", _optimizers), ("schedulers", _schedulers), ("rng", _rng)):
        parts[field] = tuple(part for name in tree if name not in taken for part in parts_of(tree, name))
        taken |= {path[0] for part in parts[field] for path in (part.path, *part.beside)}
    parts["schedulers"] += tuple(_inside(tree, part) for part in parts["optimizers"] if is_scheduler_state(part.tree))
    rest = tuple(Part((name,), value) for name, value in tree.items() if name not in taken)
    return TrainingParts(**parts, rest=rest)


def weights_path(tree: Tree) -> str | None:
    """Return the key under which a training checkpoint keeps its state dict, or None where the tree is one itself.

    Raise ValueRefusedError for a tree that holds no tensor.
    """
    if not has_tensors(tree):
        raise ValueRefusedError(
            "found no tensor in the checkpoint, expected weights; see it with: multiframe-ckpt inspect"
        )
    return _weights_key(tree)


def _weights_key(tree: Tree) -> str | None:
    if not isinstance(tree, Mapping):
        return None
    return next((key for key in WEIGHT_KEYS if isinstance(tree.get(key), Mapping) and has_tensors(tree[key])), None)


def _bare(tree: Tree) -> TrainingParts:
    is_scheduler = is_scheduler_state(tree)
    if is_optimizer_state(tree):
        return TrainingParts(optimizers=(Part((), tree),), schedulers=(Part((), tree),) if is_scheduler else ())
    if is_scheduler:
        return TrainingParts(schedulers=(Part((), tree),))
    return TrainingParts(model=Part((), tree))


def _holds_training(tree: Mapping[str, Tree]) -> bool:
    """Return whether a tree without known weights holds training state all the same, such as an optimizer alone."""
    return any(True for name in tree for _ in (*_optimizers(tree, name), *_schedulers(tree, name)))


def _optimizers(tree: Mapping[str, Tree], name: str) -> Iterator[Part]:
    paths = list(_states(tree[name], (name,), is_optimizer_state))
    if not paths and name in _OPTIMIZER_KEYS and isinstance(tree[name], Mapping) and tree[name]:
        yield Part((name,), tree[name], _class_beside(tree, (name,), "optimizer"))
    for path, state in paths:
        dialect = optimizer_dialect(state)
        assert dialect is not None
        gathered, beside = dialect.gather(tree, path)
        yield Part(path, gathered, _class_beside(tree, path, "optimizer"), beside)


def _schedulers(tree: Mapping[str, Tree], name: str) -> Iterator[Part]:
    states = list(_states(tree[name], (name,), is_scheduler_state))
    if not states and name in _SCHEDULER_KEYS and isinstance(tree[name], Mapping) and tree[name]:
        states = [((name,), tree[name])]
    for path, state in states:
        yield Part(path, state, _class_beside(tree, path, "scheduler"))


def _inside(tree: Mapping[str, Tree], optimizer: Part) -> Part:
    """Return the scheduler that an optimizer's state holds: the same tree at the same path."""
    return replace(optimizer, class_name=_class_called(("scheduler_class",), tree, optimizer.path))


def _states(node: Tree, path: Path, is_state: Callable[[Tree], bool]) -> Iterator[tuple[Path, Tree]]:
    """Give a state with its path, or those of a list or dict of states."""
    if not isinstance(node, Mapping | list | tuple):
        return
    if is_state(node):
        yield path, node
        return
    for name, child in node.items() if isinstance(node, Mapping) else enumerate(node):
        if isinstance(child, Mapping | list | tuple) and is_state(child):
            yield (*path, name), child


def _class_beside(tree: Mapping[str, Tree], path: Path, kind: str) -> str | None:
    """Return the class that is stored for the state at ``path``, an ``optimizer`` or a ``scheduler``."""
    name = str(path[0])
    stem = next((name[: -len(suffix)] for suffix in _SUFFIXES if name.endswith(suffix)), name)
    return _class_called((f"{stem}_class", f"{kind}_class"), tree, path)


def _class_called(names: tuple[str, ...], tree: Mapping[str, Tree], path: Path) -> str | None:
    for name in names:
        value: Any = tree.get(name)
        for step in path[1:]:
            is_list = isinstance(value, list | tuple) and isinstance(step, int) and step < len(value)
            value = value[step] if is_list else value.get(step) if isinstance(value, Mapping) else None
        if isinstance(value, str):
            return value
    return None


def _rng(tree: Mapping[str, Tree], name: str) -> Iterator[Part]:
    words = {*str(name).lower().split("_")}
    is_named = "rng" in words or {"random", "state"} <= words
    if is_named and isinstance(tree[name], Mapping | list | tuple | LazyTensor | bytes):
        yield Part((name,), tree[name])
