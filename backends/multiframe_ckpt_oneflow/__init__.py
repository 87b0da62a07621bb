"""The OneFlow adapter (0.8 and 0.9): tensors, modules, optimizers, schedulers and nested mixes.

Three traps of OneFlow shape it. ``numpy()`` of a CPU tensor is a live view, and operations run asynchronously, so bytes
are read when they are asked for and never kept. bfloat16 comes out of ``numpy()`` as float32. And tensors have no
storage to name: two that lie at the same place with the same strides are taken for one, other overlaps are not kept.
OneFlow is imported when the backend is made: its placeholder wheel raises RuntimeError on Python 3.11 and newer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from multiframe_ckpt.backend import BACKENDS, Module, TensorBackend, array_tensor
from multiframe_ckpt.dtypes import DTYPES, DType, narrow, widen
from multiframe_ckpt.errors import DtypeRefusedError, UnavailableError, ValueRefusedError
from multiframe_ckpt.tree import Computed, InMemory, LazyTensor, Source, Tree, expect_entries, tensors

from .generators import generator_state, generators_of, set_generator_state

if TYPE_CHECKING:  # OneFlow may be absent, and is imported late
    from oneflow import Tensor
    from oneflow.optim import Optimizer

__all__ = ["OneflowBackend"]

#: The dtypes 0.9 computes with; its enum has more names, which cannot be used.
_USABLE = {"bool", "uint8", "int8", "int32", "int64", "float16", "float32", "float64", "bfloat16"}


class OneflowBackend(TensorBackend["Tensor"]):
    """Tensors share memory with NumPy on the CPU, bfloat16 apart; those of other devices pass through the host."""

    name = "oneflow"

    def __init__(self) -> None:
        try:
            self._flow = flow = import_module("oneflow")
            self._tensor, self._module = flow.Tensor, flow.nn.Module
        except Exception as problem:  # a placeholder or a wheel without its libraries raises RuntimeError, OSError, …
            raise UnavailableError(_why_not(problem)) from problem
        pairs = [(row, getattr(flow, row.name, None)) for row in DTYPES if row.name in _USABLE]
        self._rows = {dtype: row for row, dtype in pairs if dtype is not None}
        self._dtypes = {row.name: dtype for dtype, row in self._rows.items()}
        self.plain_tuples = (flow.Size,)

    def is_tensor(self, obj: object) -> TypeGuard[Tensor]:
        """Return whether ``obj`` is an oneflow.Tensor or a Parameter."""
        return isinstance(obj, self._tensor)

    def is_module(self, obj: object) -> TypeGuard[Module]:
        """Return whether ``obj`` is an oneflow.nn.Module."""
        return isinstance(obj, self._module)

    def to_lazy(self, tensor: Tensor, key: str) -> LazyTensor:
        """Return a lazy tensor over the live one, with an alias that tied parameters share."""
        if tensor.is_global:
            raise ValueRefusedError(f"{key}: found a global tensor, expected a local one; take it with .to_local()")
        row = self._rows.get(tensor.dtype)
        if row is None:
            raise DtypeRefusedError(
                f"{key}: found {tensor.dtype}, expected one of {', '.join(self._dtypes)}; cast it first"
            )
        if row.name != "bfloat16" and not tensor.is_cuda:
            live = array_tensor(tensor.numpy(), key)
            return LazyTensor(row, live.shape, _Live(tensor, row, live.shape), live.alias)
        shape = tuple(tensor.shape)
        source = Computed(row, shape, lambda: self._array(tensor, row))
        return LazyTensor(row, shape, source, ("oneflow", id(tensor)))

    def from_tree(self, tree: Tree, *, device: str | None = None, like: object = None) -> Any:
        """Return the live object; raise UnavailableError for a GPU that is not there, at which OneFlow ends the process."""
        if device is not None and device.startswith("cuda") and not self._flow.cuda.is_available():
            raise UnavailableError(
                f"device {device!r}: found no GPU that OneFlow can use, expected one; use device='cpu'"
            )
        return super().from_tree(tree, device=device, like=like)

    def from_lazy(self, tensor: LazyTensor, key: str, *, device: str | None) -> Tensor:
        """Return a tensor over the array's own memory, or over a copy where that is read-only or bfloat16."""
        self._require_dtype(tensor, key)
        return self._over(np.require(tensor.numpy(), requirements=["C", "A", "W"]), tensor).to(device or "cpu")

    def from_lazy_like(self, tensor: LazyTensor, key: str, like: Tensor) -> Tensor:
        """Return a tensor on the device of ``like``, a Parameter where that is one."""
        self._require_dtype(tensor, key)
        fresh = self._copied(tensor).to(like.device)
        if isinstance(like, self._flow.nn.Parameter):
            return self._flow.nn.Parameter(fresh, requires_grad=like.requires_grad)
        return fresh.requires_grad_(like.requires_grad)

    def copy_into(self, target: Tensor, tensor: LazyTensor) -> None:
        """Copy into the tensor, whatever its strides, device and requires_grad."""
        with self._flow.no_grad():
            target.copy_(self._copied(tensor).to(target.device))

    def parameters_of(self, optimizer: object) -> list[Tensor]:
        """Return the parameters of an optimizer."""
        if not isinstance(optimizer, self._flow.optim.Optimizer):
            return []
        return [parameter for group in optimizer.param_groups for parameter in group.parameters]

    def is_own_optimizer(self, optimizer: object) -> bool:
        """Return whether an optimizer is one of ``oneflow.optim``."""
        return type(optimizer).__module__.partition(".")[0] == self.name

    def takes_moments(self, optimizer: object, parameter: Tensor, moments: Mapping[str, LazyTensor]) -> bool:
        """Return whether all are of the parameter's dtype: the kernels of OneFlow's own optimizers check that."""
        row = self._rows[parameter.dtype]
        return not self.is_own_optimizer(optimizer) or all(tensor.dtype is row for tensor in moments.values())

    def changed_by_step(self, optimizer: Optimizer) -> dict[Hashable, Callable[[], int] | None]:
        """Return the parameters and the tensors of their state; OneFlow counts no changes."""
        changed = self.to_tree([self.parameters_of(optimizer), optimizer.state_dict()["state"]])
        return dict.fromkeys(tensor.alias for tensor in tensors(changed).values())

    def random_state(self, model: object = None) -> dict[str, Tree]:
        """Return the states of the default generator, of the data loaders' and of those that the model's modules have."""
        return {name: generator_state(self._flow, generator) for name, generator in generators_of(self._flow, model)}

    def set_random_state(self, state: Mapping[str, Tree], model: object = None) -> None:
        """Set the generators whose state is there."""
        for name, generator in generators_of(self._flow, model):
            if name in state:
                set_generator_state(self._flow, generator, expect_entries(state[name], f"oneflow/{name}"))

    def _require_dtype(self, tensor: LazyTensor, key: str) -> None:
        if tensor.dtype.name not in self._dtypes:
            wider = tensor.dtype.oneflow_wider
            cast = f"dtype='{wider}', which is exact" if wider else "dtype='NAME'"
            raise DtypeRefusedError(
                f"{key}: found {tensor.dtype.name}, expected one of OneFlow {self._flow.__version__}: "
                f"{', '.join(self._dtypes)}; cast it first with {cast}"
            )

    def _array(self, tensor: Tensor, row: DType) -> np.ndarray:
        array = np.asarray(tensor.numpy())
        return narrow(array, row) if row.name == "bfloat16" else array

    def _copied(self, tensor: LazyTensor) -> Tensor:
        # From a copy of its own: OneFlow copies later, and the array may be memory that another framework trains on.
        return self._over(np.array(tensor.numpy(), order="C"), tensor)

    def _over(self, array: np.ndarray, tensor: LazyTensor) -> Tensor:
        if tensor.dtype.name != "bfloat16":
            return self._flow.from_numpy(array)
        # The cast inside flow.tensor is the only way in: it is exact, but for NaN payloads, which it does not keep.
        return self._flow.tensor(widen(array, self._rows[self._flow.float32]), dtype=self._flow.bfloat16)


class _Live(Source):
    """A tensor's memory once OneFlow is done with it: 30 µs, or milliseconds where every core is busy."""

    __slots__ = ("_tensor", "dtype", "shape")

    def __init__(self, tensor: Tensor, dtype: DType, shape: tuple[int, ...]) -> None:
        self._tensor, self.dtype, self.shape = tensor, dtype, shape

    def array(self) -> np.ndarray:
        """Wait, and return the memory."""
        return np.asarray(self._tensor.numpy())

    def ready(self) -> Source:
        """Wait now; for reading at once, before anything else is done to the tensor."""
        return InMemory(self.array())


def _why_not(problem: Exception) -> str:
    first_line = (str(problem).splitlines() or [""])[0]
    fix = BACKENDS.remedy("oneflow")
    if sys.version_info >= (3, 11):
        fix += " under Python 3.10: OneFlow 0.8 and 0.9 have no wheels for newer ones"
    return f"oneflow: found {type(problem).__name__}: {first_line}, expected a working OneFlow; {fix}"
