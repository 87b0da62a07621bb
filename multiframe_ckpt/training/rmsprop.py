"""RMSprop, which is not one algorithm: PyTorch divides by √v + eps, OneFlow by √(v + eps).

The two agree where eps is small beside v, the running mean of squared gradients, so v is read to find out. It is the one
optimizer for which translating a state moves tensor bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..tensor import LazyTensor
from ..tree import Tree
from .report import Notes

__all__ = ["require_agreement"]

#: How far the two denominators may differ, relative to themselves. An update of RMSprop is about lr in size, so twenty
#: updates at lr 0.01 then differ by about 2e-6, as much as float32 rounding makes of them in that time.
_AGREEMENT = 1e-5
#: v where no gradient came yet, since the first one decides: that of a gradient of 1e-5 under alpha 0.99.
_UNSEEN = 1e-12


def require_agreement(tensors: Mapping[str, LazyTensor], options: Mapping[str, Tree], notes: Notes) -> None:
    """Raises ValueRefusedError where the two algorithms would part at an element of a parameter."""
    eps = float(options["eps"])
    v = _mean_square(tensors)
    unseen = v <= 0
    lowest = float(np.where(unseen, _UNSEEN, v).min(initial=np.inf))
    gap = _gap(lowest, eps)
    if gap > _AGREEMENT:
        where = "where no gradient came yet" if unseen.any() else f"where the mean square is {lowest:.1e}"
        raise notes.refused(
            f"found RMSprop with eps {eps:g}, which makes steps of PyTorch and OneFlow differ by {gap:.0e} of themselves "
            f"{where}, expected at most {_AGREEMENT:g}: one divides by √v + eps, the other by √(v + eps); "
            "leave the optimizer out and let it start fresh"
        )


def _mean_square(tensors: Mapping[str, LazyTensor]) -> np.ndarray:
    if "square_avg" not in tensors:
        return np.zeros(1)
    v = tensors["square_avg"].numpy().astype(np.float64)
    return v - tensors["grad_avg"].numpy().astype(np.float64) ** 2 if "grad_avg" in tensors else v


def _gap(v: float, eps: float) -> float:
    """Gives the relative difference of the two denominators; it falls as v grows, once v is above eps²."""
    if eps == 0:
        return 0.0
    theirs, ours = np.sqrt(v + eps), np.sqrt(v) + eps
    return float(abs(theirs - ours) / min(theirs, ours))
