"""Which shapes a tensor may have."""

from __future__ import annotations

from math import prod

from ..dtypes import NUMPY_MAX_DIMENSIONS, DType
from ..errors import DamagedError

__all__ = ["is_small_shape", "require_shape"]


_FEW_DIMENSIONS = 8


def is_small_shape(shape: tuple[int, ...]) -> bool:
    """Return whether a shape needs no closer look where a tensor of it has bytes, and they lie in a file."""
    return len(shape) <= _FEW_DIMENSIONS and min(shape, default=0) >= 0


def require_shape(shape: tuple[int, ...], dtype: DType, where: str) -> None:
    """Raise DamagedError for a shape that no array has; NumPy counts an empty array's other dimensions too."""
    if min(shape, default=0) < 0:
        raise DamagedError(f"{where}: found shape {shape}, expected no negative dimension")
    if len(shape) > NUMPY_MAX_DIMENSIONS:
        raise DamagedError(f"{where}: found {len(shape)} dimensions, expected at most {NUMPY_MAX_DIMENSIONS}")
    if prod([dim for dim in shape if dim] if 0 in shape else shape) * dtype.itemsize >= 1 << 63:
        raise DamagedError(f"{where}: found shape {shape}, expected one of fewer than 2**63 bytes")
