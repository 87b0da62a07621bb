"""Candidates: whether a node of a checkpoint may be a model's weights, told by what it holds.

Weights are what holds tensors and is neither optimizer, scheduler, gradient scaler nor random state. The first three are
known by what they hold. Names decide only what contents cannot: which of two like state dicts is an average of the other,
what is a random state, and whether the tensors of a dict are its own or a checkpoint's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice
from typing import Any

from ..dtypes import UINT8
from ..tree import LazyTensor, Tree, children, has_tensors, is_leaf, leaves
from .dialects import is_optimizer_state, is_scheduler_state

__all__ = [
    "OPTIMIZER_KEYS",
    "WEIGHT_KEYS",
    "are_random_states",
    "entries",
    "holds_states",
    "holds_weights",
    "is_average",
    "is_like_modules",
    "is_one_number",
    "is_random_state",
    "is_scaler_state",
    "is_state",
    "may_be_optimizer",
    "may_hold_states",
]

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
OPTIMIZER_KEYS = ("optimizer_state_dict", "optimizer_states", "optimizer_state", "optimizer", "optimizers", "optim")
#: Lightning's own, which may hold tensors and are no model's.
_NO_WEIGHTS = ("callbacks", "loops")
#: Words by which programs call a running average of weights, and states of an optimizer that no dialect knows.
_AVERAGES = {"ema", "swa", "average", "averaged", "avg", "polyak"}
_OPTIMIZERS = {"optimizer", "optimizers", "optim", "optims", "optimiser"}
#: More optimizers than this nobody keeps in one list; asking each of a hundred thousand records would take seconds.
_MOST_STATES = 256
_SCALER = {"scale", "growth_factor", "backoff_factor", "growth_interval"}
#: What random generators are called by those who keep their states.
_GENERATORS = {
    "rng",
    "random",
    "seed",
    "python",
    "numpy",
    "torch",
    "oneflow",
    "cpu",
    "cuda",
    "npu",
    "xpu",
    "mps",
    "xla",
}
#: How many bytes torch's Mersenne Twister keeps (``at::CPUGeneratorImpl``, since 1.0).
_TORCH_STATE_NBYTES = 5056
#: What modules of every framework call their tensors.
_OF_MODULES = {"weight", "bias", "kernel", "embedding", "running_mean", "running_var", "weight_g", "weight_v"}


def entries(node: Tree) -> Mapping[Any, Tree] | None:
    """Return a container's children by name or index, or None for a leaf."""
    if isinstance(node, Mapping):
        return node
    inside = children(node)
    return None if inside is None else dict(inside)


def is_state(node: Tree) -> bool:
    """Return whether a node is the state of an optimizer, a scheduler or a gradient scaler."""
    return is_optimizer_state(node) or is_scheduler_state(node) or is_scaler_state(node)


def is_scaler_state(node: Tree) -> bool:
    """Return whether a node is the state of a gradient scaler."""
    return isinstance(node, Mapping) and all(name in node for name in _SCALER)


def may_be_optimizer(name: object) -> bool:
    """Return whether a state of no known dialect is an optimizer's by its name."""
    return bool(_OPTIMIZERS & _words(name))


def is_random_state(name: object, node: Tree) -> bool:
    """Return whether a node is the state of random generators, which its name tells, or the size of torch's."""
    words = _words(name)
    is_named = "rng" in words or "rngs" in words or ("random" in words and bool({"state", "states"} & words))
    return (is_named and isinstance(node, Mapping | list | tuple | LazyTensor | bytes)) or _is_of_torch(node)


def _is_of_torch(node: Tree) -> bool:
    """Return whether a node is the state of torch's generator on the CPU."""
    return isinstance(node, LazyTensor) and (node.dtype, node.shape) == (UINT8, (_TORCH_STATE_NBYTES,))


def are_random_states(tree: Tree) -> bool:
    """Return whether a checkpoint is nothing but states of random generators, as programs keep them in files of their own.

    Their tensors are rows of integers, each under the name of what it is the generator of.
    """
    if _is_of_torch(tree):
        return True
    holders = ((name, child) for name, child in tree.items() if has_tensors(child)) if isinstance(tree, Mapping) else ()
    some = False
    for name, child in holders:  # the first of a model's tells; there may be hundreds of thousands
        some = bool(_GENERATORS & _words(name)) or is_random_state(name, child)
        if not (some and _are_rows_of_integers(child)):
            return False
    return some


def _are_rows_of_integers(node: Tree) -> bool:
    tensors = (leaf for _, leaf in leaves(node) if isinstance(leaf, LazyTensor))
    return all(tensor.dtype.kind == "int" and len(tensor.shape) <= 1 for tensor in tensors)


def is_average(name: object) -> bool:
    """Return whether what has this name is a running average of weights (EMA, SWA)."""
    return bool(_AVERAGES & _words(name))


def holds_states(node: Tree) -> bool:
    """Return whether a state of an optimizer, scheduler or scaler is somewhere inside a container."""
    return any(is_state(child) or holds_states(child) for _, child in may_hold_states(node))


def holds_weights(name: object, node: Tree) -> bool:
    """Return whether a container under a name holds tensors that may be a model's; states inside are not looked for."""
    if entries(node) is None or is_state(node) or not has_tensors(node):
        return False
    return not (name in _NO_WEIGHTS or is_random_state(name, node) or may_be_optimizer(name))


def is_one_number(node: Tree) -> bool:
    """Return whether a node is a tensor of one element, as programs keep losses and counters."""
    return isinstance(node, LazyTensor) and node.size == 1


def is_like_modules(name: object, node: Tree) -> bool:
    """Return whether a node looks like the weights of modules, rather than statistics or buffers of a program."""
    if name in WEIGHT_KEYS:
        return True
    return any(
        isinstance(leaf, LazyTensor) and bool(path) and str(path[-1]).rpartition(".")[2] in _OF_MODULES
        for path, leaf in leaves(node)
    )


def may_hold_states(node: Tree) -> list[tuple[Any, Tree]]:
    """Return the containers in a container, among which states may be; none where they are many: layers, or records."""
    inside = (entries(node) or {}).items()
    containers = ((name, child) for name, child in inside if not is_leaf(child))
    some = list(islice(containers, _MOST_STATES + 1))
    return some if len(some) <= _MOST_STATES else []


def _words(name: object) -> set[str]:
    """Return the words of a name: ``netEMA`` and ``model_ema`` both have ``ema``."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(name))
    return {*re.split(r"[^a-z0-9]+", parted.lower())}
