"""Optimizers pickled as objects: the state dict that they would have given.

torch's ``Optimizer`` has its state in ``param_groups``, which hold the parameters themselves, and in ``state``, whose keys
they are. Its state dict numbers them in their order instead.

Source: torch 2.13 ``torch/optim/optimizer.py`` (``state_dict``).
"""

from __future__ import annotations

from typing import Any

from .modules import StateDict, module_state_dict
from .raw import Call

__all__ = ["object_state_dict"]


def object_state_dict(call: Call) -> StateDict | None:
    """Return the state dict of a pickled model or optimizer, or None for any other object."""
    return module_state_dict(call) or _optimizer_state_dict(call)


def _optimizer_state_dict(call: Call) -> StateDict | None:
    state = call.state
    if (
        not isinstance(state, dict)
        or not isinstance(state.get("state"), dict)
        or not _are_groups(state.get("param_groups"))
    ):
        return None
    parameters = [parameter for group in state["param_groups"] for parameter in group["params"]]
    numbers: dict[int, int] = {}
    for parameter in parameters:
        numbers.setdefault(id(parameter), len(numbers))
    entries = {
        "state": {numbers.get(id(key), key): value for key, value in state["state"].items()},
        "param_groups": [
            group | {"params": [numbers[id(parameter)] for parameter in group["params"]]}
            for group in state["param_groups"]
        ],
    }
    return StateDict(entries, str(call.type), ("the parameters that it holds",))


def _are_groups(groups: Any) -> bool:
    return isinstance(groups, list) and all(
        isinstance(group, dict) and isinstance(group.get("params"), list) for group in groups
    )
