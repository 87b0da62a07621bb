"""RMSprop, which is not one algorithm: PyTorch divides by √v + eps, OneFlow by √(v + eps).

The two agree where eps is small beside v, the running mean of squared gradients, so v is read to find out. It is the one
optimizer for which translating a state moves tensor bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..tree import LazyTensor, Tree
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
    gaps = _gaps(np.where(v > 0, v, _UNSEEN), eps)
    if gaps.max(initial=0) > _AGREEMENT:
        worst = float(v.flat[gaps.argmax()])
        where = f"where the mean square is {worst:.1e}" if worst > 0 else "where no gradient came yet"
        raise notes.refused(
            f"found RMSprop with eps {eps:g}, which makes steps of PyTorch and OneFlow differ by {gaps.max():.0e} of "
            f"themselves {where}, expected at most {_AGREEMENT:g}: one divides by √v + eps, the other by √(v + eps); "
            "leave the optimizer out and let it start fresh"
        )


def _mean_square(tensors: Mapping[str, LazyTensor]) -> np.ndarray:
    if "square_avg" not in tensors:
        return np.zeros(1)
    v = tensors["square_avg"].numpy().astype(np.float64)
    return v - tensors["grad_avg"].numpy().astype(np.float64) ** 2 if "grad_avg" in tensors else v


def _gaps(v: np.ndarray, eps: float) -> np.ndarray:
    """Gives the relative difference of the two denominators at each element."""
    torch, oneflow = np.sqrt(v) + eps, np.sqrt(v + eps)
    return np.asarray(np.abs(torch - oneflow) / np.minimum(torch, oneflow))
