"""Two denominators of one optimizer: √v + eps, and √(v + eps).

They agree where eps is small beside v, the running mean of squared gradients, so v is read to find out. It is the one
question for which translating a state moves tensor bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..tree import LazyTensor
from .neutral import OptimizerState
from .optimizers import OPTIMIZERS, WAY_OUT
from .report import Notes

__all__ = ["refuse_disagreement"]

#: How far the two denominators may differ, relative to themselves. An update of RMSprop is about lr in size, so twenty
#: updates at lr 0.01 then differ by about 2e-6, as much as float32 rounding makes of them in that time.
_AGREEMENT = 1e-5
#: v where no gradient came yet, since the first one decides: that of a gradient of 1e-5 under alpha 0.99.
_UNSEEN = 1e-12


def refuse_disagreement(state: OptimizerState, parameter: str, eps: float, notes: Notes) -> None:
    """Refuse the state in ``notes`` where the two denominators part at an element of a parameter."""
    tensors = state.tensors.get(parameter, {})
    if len({tensor.shape for tensor in tensors.values()}) > 1:
        notes.refuse(f"found tensors of different shapes for one parameter; {WAY_OUT}")
        return
    v = _mean_square(state, tensors)
    if v is None:
        notes.refuse(
            f"found {state.algorithm}, whose eps is inside the root in one framework and outside in another; {WAY_OUT}"
        )
        return
    gaps = _gaps(np.where(v > 0, v, _UNSEEN), eps)
    if gaps.max(initial=0) > _AGREEMENT:
        worst = float(v.flat[gaps.argmax()])
        place = f"where the mean square is {worst:.1e}" if worst > 0 else "where no gradient came yet"
        notes.refuse(
            f"found {state.algorithm} with eps {eps:g}, which makes steps differ by {gaps.max():.0e} of themselves "
            f"{place}, expected at most {_AGREEMENT:g}: one divides by √v + eps, the other by √(v + eps); {WAY_OUT}"
        )


def _mean_square(state: OptimizerState, tensors: Mapping[str, LazyTensor]) -> np.ndarray | None:
    names = OPTIMIZERS[state.algorithm].mean_square
    if names is None:
        return None
    if names[0] not in tensors:
        return np.zeros(1)
    v = tensors[names[0]].numpy().astype(np.float64)
    return v - tensors[names[1]].numpy().astype(np.float64) ** 2 if names[1] in tensors else v


def _gaps(v: np.ndarray, eps: float) -> np.ndarray:
    """Return the relative difference of the two denominators at each element."""
    outside, inside = np.sqrt(v) + eps, np.sqrt(v + eps)
    return np.asarray(np.abs(outside - inside) / np.minimum(outside, inside))
