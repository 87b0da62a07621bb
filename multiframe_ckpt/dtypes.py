"""DTYPES: the one dtype table. A row is a dtype, a column is what a dialect calls it.

Columns: ``safetensors`` header tags; ``torch`` attribute names and ``torch_storage`` classes (None where torch pickles
the dtype beside an untyped storage); ``oneflow`` enum names of ``DataType``; ``oneflow_number`` their values;
``oneflow_wider`` the dtype that stands in for one that ``flow.load`` 0.8 and 0.9 cannot read, always exact.
Sources: safetensors 0.8 ``tensor.rs``; torch 2.13 ``storage.py``; OneFlow 0.9 ``data_type.proto`` and ``check_point_v2.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

__all__ = [
    "BFLOAT16",
    "DTYPES",
    "FLOAT32",
    "HDF5_MAX_DIMENSIONS",
    "INT8",
    "NUMPY_MAX_DIMENSIONS",
    "TORCH_MAX_DIMENSIONS",
    "UINT8",
    "DType",
    "dtype_named",
    "dtype_of_numpy",
    "is_numpys_own",
    "narrow",
    "unsigned_of",
    "widen",
]


@dataclass(frozen=True, slots=True)
class DType:
    """One element type: its name, its size in bytes, and its name in each dialect (None: the dialect has none)."""

    name: str
    numpy: np.dtype
    safetensors: str | None
    torch: str | None
    torch_storage: str | None
    oneflow: str | None
    oneflow_number: int | None
    oneflow_wider: str | None
    itemsize: int  # in bytes

    @property
    def kind(self) -> str:
        """One of ``bool``, ``int``, ``float``, ``complex``."""
        return {"b": "bool", "u": "int", "i": "int", "c": "complex"}.get(self.numpy.kind, "float")


def _row(
    name: str,
    scalar: type,
    safetensors: str | None,
    torch: str | None,
    torch_storage: str | None,
    oneflow: str | None,
    oneflow_number: int | None,
    oneflow_wider: str | None,
) -> DType:
    dtype = np.dtype(scalar)
    dialects = (safetensors, torch, torch_storage, oneflow, oneflow_number, oneflow_wider)
    return DType(name, dtype, *dialects, dtype.itemsize)


# fmt: off
DTYPES: tuple[DType, ...] = (
    #    name               numpy                      safetensors    torch              torch_storage           oneflow        number  oneflow_wider
    _row("bool",            np.bool_,                  "BOOL",        "bool",            "BoolStorage",          "kBool",       12,     None),
    _row("uint8",           np.uint8,                  "U8",          "uint8",           "ByteStorage",          "kUInt8",      7,      None),
    _row("int8",            np.int8,                   "I8",          "int8",            "CharStorage",          "kInt8",       4,      None),
    _row("uint16",          np.uint16,                 "U16",         "uint16",          None,                   "kUInt16",     13,     "int32"),
    _row("int16",           np.int16,                  "I16",         "int16",           "ShortStorage",         "kInt16",      17,     "int32"),
    _row("uint32",          np.uint32,                 "U32",         "uint32",          None,                   "kUInt32",     14,     "int64"),
    _row("int32",           np.int32,                  "I32",         "int32",           "IntStorage",           "kInt32",      5,      None),
    _row("uint64",          np.uint64,                 "U64",         "uint64",          None,                   "kUInt64",     15,     None),
    _row("int64",           np.int64,                  "I64",         "int64",           "LongStorage",          "kInt64",      6,      None),
    _row("float16",         np.float16,                "F16",         "float16",         "HalfStorage",          "kFloat16",    9,      None),
    _row("float32",         np.float32,                "F32",         "float32",         "FloatStorage",         "kFloat",      2,      None),
    _row("float64",         np.float64,                "F64",         "float64",         "DoubleStorage",        "kDouble",     3,      None),
    _row("bfloat16",        ml_dtypes.bfloat16,        "BF16",        "bfloat16",        "BFloat16Storage",      "kBFloat16",   11,     "float32"),
    _row("float8_e4m3fn",   ml_dtypes.float8_e4m3fn,   "F8_E4M3",     "float8_e4m3fn",   None,                   None,          None,   "float16"),
    _row("float8_e5m2",     ml_dtypes.float8_e5m2,     "F8_E5M2",     "float8_e5m2",     None,                   None,          None,   "float16"),
    _row("float8_e4m3fnuz", ml_dtypes.float8_e4m3fnuz, "F8_E4M3FNUZ", "float8_e4m3fnuz", None,                   None,          None,   "float16"),
    _row("float8_e5m2fnuz", ml_dtypes.float8_e5m2fnuz, "F8_E5M2FNUZ", "float8_e5m2fnuz", None,                   None,          None,   "float16"),
    _row("float8_e8m0fnu",  ml_dtypes.float8_e8m0fnu,  "F8_E8M0",     "float8_e8m0fnu",  None,                   None,          None,   "float32"),
    _row("complex64",       np.complex64,              "C64",         "complex64",       "ComplexFloatStorage",  "kComplex64",  20,     None),
    _row("complex128",      np.complex128,             None,          "complex128",      "ComplexDoubleStorage", "kComplex128", 21,     None),
)
# fmt: on

_BY_NAME = {row.name: row for row in DTYPES}
_BY_NUMPY = {row.numpy: row for row in DTYPES}
UINT8, INT8, FLOAT32, BFLOAT16 = (_BY_NAME[name] for name in ("uint8", "int8", "float32", "bfloat16"))
_UNSIGNED = {_BY_NAME[name].itemsize: _BY_NAME[name] for name in ("uint8", "uint16", "uint32", "uint64")}
#: How many dimensions a tensor may have at most: in NumPy, in torch, and in HDF5 (``H5S_MAX_RANK``).
NUMPY_MAX_DIMENSIONS = 64 if int(np.__version__.partition(".")[0]) >= 2 else 32
TORCH_MAX_DIMENSIONS, HDF5_MAX_DIMENSIONS = 64, 32


def dtype_named(name: str) -> DType | None:
    """Return the row called ``name``, or None."""
    return _BY_NAME.get(name)


def dtype_of_numpy(dtype: np.dtype) -> DType | None:
    """Return the row of a NumPy dtype of either byte order, or None for one the table does not hold."""
    return _BY_NUMPY.get(dtype.newbyteorder("=") if dtype.kind in "buifc" else dtype)


def is_numpys_own(dtype: DType) -> bool:
    """Return whether NumPy itself has the dtype: bfloat16 and float8 are ml_dtypes'."""
    return dtype.numpy.isbuiltin == 1


def unsigned_of(itemsize: int) -> DType:
    """Return the unsigned int of so many bytes, which holds the bits of any other dtype of that size."""
    return _UNSIGNED[itemsize]


# A dtype whose bits are the upper half of a wider one's: shifted, not cast, so that NaN payloads survive.
_UPPER_HALF = {
    ("bfloat16", "float32"): (np.uint16, np.uint32, 16),
    ("float8_e5m2", "float16"): (np.uint8, np.uint16, 8),
}


def widen(array: np.ndarray, wider: DType) -> np.ndarray:
    """Return ``array`` as ``wider``, which must hold every value of its dtype exactly; NaN payloads are kept."""
    narrow_row = dtype_of_numpy(array.dtype)
    shift = _UPPER_HALF.get((narrow_row.name if narrow_row else "", wider.name))
    if shift is None:
        return array.astype(wider.numpy)
    small, big, bits = shift
    widened = np.asarray(array, order="C").reshape(-1).view(small).astype(big)
    np.left_shift(widened, bits, out=widened)  # in place: memory for another costs more than the shift
    return widened.view(wider.numpy).reshape(array.shape)


def narrow(array: np.ndarray, dtype: DType) -> np.ndarray:
    """Undo :func:`widen`; raise ValueError where a value of ``array`` is not one that ``dtype`` holds."""
    wider_row = dtype_of_numpy(array.dtype)
    shift = _UPPER_HALF.get((dtype.name, wider_row.name if wider_row else ""))
    if shift is not None:
        small, big, bits = shift
        wide_bits = np.asarray(array, order="C").reshape(-1).view(big)
        narrowed = (wide_bits >> bits).astype(small).view(dtype.numpy).reshape(array.shape)
        exact = not int(np.bitwise_or.reduce(wide_bits, axis=None)) & ((1 << bits) - 1)
    else:
        narrowed = array.astype(dtype.numpy)
        exact = wider_row is not None and widen(narrowed, wider_row).tobytes() == np.asarray(array, order="C").tobytes()
    if not exact:
        raise ValueError(f"values of {array.dtype} that {dtype.name} cannot hold exactly")
    return narrowed
