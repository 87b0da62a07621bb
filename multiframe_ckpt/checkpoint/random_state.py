"""Random state: what Python's, NumPy's and a framework's global generators would give next, as plain values and tensors.

NumPy's state is that of its global MT19937 (``numpy.random.get_state``); uint32 words are kept as int64, which every
layout and both frameworks hold.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..backend import Backend, SupportsRandomState
from ..errors import ValueRefusedError
from ..tree import LazyTensor, Tree, expect_entries, expect_tensor

__all__ = ["check_random_state", "random_state", "set_random_state"]


def random_state(backend: Backend, model: object = None) -> dict[str, Tree]:
    """Return the state of every generator that a training loop draws from, the model's own included, copied now."""
    version, words, gauss = random.getstate()
    key = np.random.get_state(legacy=False)
    state: dict[str, Tree] = {
        "python": {"version": version, "words": _words(words), "gauss_next": gauss},
        "numpy": {
            "bit_generator": str(key["bit_generator"]),
            "key": _words(key["state"]["key"]),
            "pos": int(key["state"]["pos"]),
            "has_gauss": int(key["has_gauss"]),
            "cached_gaussian": float(key["gauss"]),
        },
    }
    if isinstance(backend, SupportsRandomState):
        state[backend.name] = backend.random_state(model)
    return state


def set_random_state(state: Mapping[str, Tree], backend: Backend, model: object = None) -> list[str]:
    """Set the generators that ``state`` holds; return the names of those it holds for which there is none here."""
    own = backend.name if isinstance(backend, SupportsRandomState) else None
    absent = [name for name in state if name not in ("python", "numpy", own)]
    if "python" in state:
        random.setstate(_of_python(state["python"]))
    if "numpy" in state:
        np.random.set_state(_of_numpy(state["numpy"]))
    if backend.name in state and isinstance(backend, SupportsRandomState):
        backend.set_random_state(expect_entries(state[backend.name], f"rng_state/{backend.name}"), model)
    return absent


def check_random_state(state: Mapping[str, Tree], backend: Backend, model: object = None) -> None:
    """Raise ValueRefusedError, by key, for a state that a generator here would not take; none of the program's is set."""
    try:
        if "python" in state:
            random.Random().setstate(_of_python(state["python"]))
        if "numpy" in state:
            np.random.RandomState().set_state(_of_numpy(state["numpy"]))
    except (ArithmeticError, LookupError, TypeError, ValueError) as problem:
        if isinstance(problem, ValueRefusedError):
            raise
        raise ValueRefusedError(
            f"rng_state: found a state that no generator takes ({problem}), expected one of this library's; leave it out "
            "with rng=False"
        ) from problem
    if backend.name in state and isinstance(backend, SupportsRandomState):
        _require_alike(state[backend.name], backend.random_state(model), f"rng_state/{backend.name}")


def _require_alike(state: Tree, live: Mapping[str, Tree], key: str) -> None:
    """Raise where a framework's states are not what those of its generators are; there may be more devices, or fewer."""
    saved = expect_entries(state, key)
    for name in live.keys() & saved.keys():
        own = live[name]
        if isinstance(own, Mapping):
            expect_entries(saved[name], f"{key}/{name}")
        if not isinstance(own, LazyTensor):
            continue
        tensor = expect_tensor(saved[name], f"{key}/{name}")
        if (tensor.dtype, tensor.shape) != (own.dtype, own.shape):
            raise ValueRefusedError(
                f"{key}/{name}: found {tensor.dtype.name} {tensor.shape}, expected {own.dtype.name} {own.shape}; leave "
                "it out with rng=False"
            )


def _of_python(state: Tree) -> tuple[Any, ...]:
    python = expect_entries(state, "rng_state/python")
    words = expect_tensor(python.get("words"), "rng_state/python/words").numpy()
    return python["version"], tuple(words.tolist()), python["gauss_next"]


def _of_numpy(state: Tree) -> dict[str, Any]:
    mt19937 = expect_entries(state, "rng_state/numpy")
    words = expect_tensor(mt19937.get("key"), "rng_state/numpy/key").numpy().astype(np.uint32)
    return {
        "bit_generator": mt19937["bit_generator"],
        "state": {"key": words, "pos": mt19937["pos"]},
        "has_gauss": mt19937["has_gauss"],
        "gauss": mt19937["cached_gaussian"],
    }


def _words(words: object) -> LazyTensor:
    return LazyTensor.from_array(np.array(words, np.int64))
