"""cast(): a tensor's values in another floating dtype, made when they are read; what would overflow is refused then."""

from __future__ import annotations

import numpy as np

from ..dtypes import DType
from ..errors import DtypeRefusedError
from .derived import elementwise
from .tensor import LazyTensor

__all__ = ["cast"]


def cast(key: str, tensor: LazyTensor, dtype: DType) -> LazyTensor:
    """Return the tensor called ``key`` in another floating dtype; tied tensors stay tied.

    Reading it raises DtypeRefusedError for a finite value that the dtype cannot hold.
    """

    def change(array: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):  # a signalling NaN is invalid in every cast
            result = array.astype(dtype.numpy)
            lost = np.isfinite(array.astype(np.float64)) & ~np.isfinite(result.astype(np.float64))
        if lost.any():
            value = array[lost].flat[0]
            raise DtypeRefusedError(
                f"{key}: found the value {value}, expected ones that {dtype.name} can hold; "
                "cast to a wider dtype (bfloat16 has float32's range), or leave this tensor out"
            )
        return result

    alias = None if tensor.identity is None else (tensor.identity, dtype.name)
    return elementwise(tensor, dtype, change, alias=alias)
