"""The PyTorch adapter (2.0 and newer): tensors, modules, optimizers, schedulers, scalers and nested mixes.

NumPy lacks some of torch's dtypes and refuses some of its tensors, so bits cross under an integer dtype of the same
size, and conjugated or negated views are resolved first. torch is imported when the backend is made.
"""

from __future__ import annotations

import copy
import warnings
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from multiframe_ckpt.backend import Module, TensorBackend
from multiframe_ckpt.dtypes import DTYPES, DType
from multiframe_ckpt.errors import DtypeRefusedError, ValueRefusedError
from multiframe_ckpt.tree import Box, LazyTensor, Source, Strided, Tree, expect_entries, expect_items, expect_tensor

if TYPE_CHECKING:  # torch may be absent, and is imported late
    from torch import Tensor, UntypedStorage, dtype
    from torch.optim import Optimizer

__all__ = ["TorchBackend"]

#: Dtypes that torch and NumPy both know, in every torch since 2.0; the bits of all others travel as integers.
_SHARED = {"bool", "uint8", "int8", "int16", "int32", "int64"} | {
    "float16",
    "float32",
    "float64",
    "complex64",
    "complex128",
}
_CARRIER = {1: "uint8", 2: "int16", 4: "int32", 8: "int64"}


class TorchBackend(TensorBackend["Tensor"]):
    """Tensors share memory with NumPy where they lie on the CPU; those of other devices pass through the host."""

    name = "torch"

    def __init__(self) -> None:
        self._torch = torch = import_module("torch")
        self._tensor, self._module = torch.Tensor, torch.nn.Module
        pairs = [(row, getattr(torch, row.torch, None)) for row in DTYPES if row.torch is not None]
        self._rows = {dtype: row for row, dtype in pairs if dtype is not None}
        self._dtypes = {row.name: dtype for dtype, row in self._rows.items()}
        self._byte = self._rows[torch.uint8]
        self.plain_tuples = (torch.Size,)

    def is_tensor(self, obj: object) -> TypeGuard[Tensor]:
        """Return whether ``obj`` is a torch.Tensor, a Parameter or another subclass."""
        return isinstance(obj, self._tensor)

    def is_module(self, obj: object) -> TypeGuard[Module]:
        """Return whether ``obj`` is a torch.nn.Module."""
        return isinstance(obj, self._module)

    def to_lazy(self, tensor: Tensor, key: str) -> LazyTensor:
        """Return a lazy tensor over the live one; those that look into one storage share an alias and say where."""
        self._require_dense(tensor, key)
        row = self._rows.get(tensor.dtype)
        if row is None:
            raise DtypeRefusedError(
                f"{key}: found {tensor.dtype}, expected one of {', '.join(self._dtypes)}; cast it first with .to(dtype)"
            )
        shape = tuple(tensor.shape)
        storage = tensor.untyped_storage()
        nbytes = storage.nbytes()
        resolved = not (tensor.is_conj() or tensor.is_neg())
        live = _Live(self, row, shape, tensor.detach, in_host=tensor.is_cpu and resolved)
        if not resolved or not nbytes:
            return LazyTensor(row, shape, live)
        alias = _alias(tensor)
        bytes_of_storage = partial(self._bytes_of, storage)
        whole = _Live(self, self._byte, (nbytes,), bytes_of_storage, in_host=tensor.is_cpu)
        view = _LiveView(
            live, LazyTensor(self._byte, (nbytes,), whole, alias), tensor.storage_offset(), tensor.stride()
        )
        return LazyTensor(row, shape, view, alias)

    def from_lazy(self, tensor: LazyTensor, key: str, *, device: str | None) -> Tensor:
        """Return a tensor over the array's own memory, or over a copy where that is read-only, as mapped files are."""
        dtype = self._dtype(tensor, key)
        array = tensor.numpy()
        if not array.flags.carray:
            array = np.require(array, requirements=["C", "A", "W"])
        live = self._over(array, dtype)
        return live if device is None else live.to(device)

    def from_lazy_like(self, tensor: LazyTensor, key: str, like: Tensor) -> Tensor:
        """Return a tensor on the device of ``like``, laid out as it is, a Parameter where that is one."""
        torch = self._torch
        fresh = torch.empty_like(like, dtype=self._dtype(tensor, key), requires_grad=False)
        if fresh.shape != tensor.shape:
            fresh = fresh.new_empty(tensor.shape)
        self.copy_into(fresh, tensor)
        if isinstance(like, torch.nn.Parameter):
            return torch.nn.Parameter(fresh, requires_grad=like.requires_grad)
        return fresh.requires_grad_(like.requires_grad)

    def copy_into(self, target: Tensor, tensor: LazyTensor) -> None:
        """Copy into the tensor, whatever its strides, device and requires_grad."""
        with self._torch.no_grad(), warnings.catch_warnings():
            # torch warns that it cannot keep a mapped array read-only; this one is only read.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            target.copy_(self._over(tensor.numpy(), target.dtype))

    def view_of(self, storage: Tensor, tensor: LazyTensor) -> Tensor | None:
        """Return the view into the storage; torch raises RuntimeError for one that leaves it."""
        view = tensor.source
        if not isinstance(view, Strided):
            return None
        usable = storage.numel() - storage.numel() % tensor.dtype.itemsize
        typed = storage[:usable].view(self._dtypes[tensor.dtype.name])
        return typed.as_strided(tensor.shape, view.strides, view.offset)

    def parameters_of(self, optimizer: object) -> list[Tensor]:
        """Return the parameters of an optimizer."""
        if not isinstance(optimizer, self._torch.optim.Optimizer):
            return []
        return [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def load_state(self, target: Optimizer, state: Mapping[str, Any]) -> None:
        """Hand the state over, and put back the tensors that torch casts to their parameter's dtype."""
        target.load_state_dict(state)
        parameters = self.parameters_of(target)
        order = [index for group in state["param_groups"] for index in group["params"]] if parameters else []
        for index, parameter in zip(order, parameters, strict=True):
            kept = target.state.get(parameter, {})
            for name, value in state["state"].get(index, {}).items():
                own = kept.get(name)
                if self.is_tensor(value) and self.is_tensor(own) and value.shape == own.shape:
                    kept[name] = own if own.dtype == value.dtype else value.to(own.device)

    def is_own_optimizer(self, optimizer: object) -> bool:
        """Return whether an optimizer is one of ``torch.optim``."""
        return type(optimizer).__module__.startswith("torch.optim")

    def takes_moments(self, optimizer: object, parameter: Tensor, moments: Mapping[str, LazyTensor]) -> bool:
        """Try a step of torch's own optimizers on tiny tensors: SGD takes float32 beside bfloat16, Adam does not.

        Where a step without the other dtypes fails too, something else is the matter, and nothing is said.
        """
        if not self.is_own_optimizer(optimizer):
            return True
        dtypes = {name: self._dtypes.get(tensor.dtype.name) for name, tensor in moments.items()}
        own = dict.fromkeys(dtypes, parameter.dtype)
        is_known = None not in dtypes.values() and self._steps(optimizer, parameter, own, moments)
        return not is_known or self._steps(optimizer, parameter, dtypes, moments)

    def _steps(
        self, optimizer: Any, parameter: Tensor, dtypes: Mapping[str, Any], moments: Mapping[str, LazyTensor]
    ) -> bool:
        group = next(group for group in optimizer.param_groups if any(parameter is other for other in group["params"]))
        ranks = {name: len(moments[name].shape) for name in dtypes}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._step_tiny(type(optimizer), group, parameter, dtypes, ranks)
        except Exception:  # a step may raise anything; whatever it is, it means no
            return False
        return True

    def _step_tiny(
        self,
        cls: Any,
        group: Mapping[str, Any],
        parameter: Tensor,
        dtypes: Mapping[str, Any],
        ranks: Mapping[str, int],
    ) -> None:
        torch = self._torch

        def tiny(rank: int, dtype: Any) -> Tensor:  # torch 2.0 computes with no float16 on the CPU, and with bfloat16
            return torch.ones([2] * rank, dtype=torch.bfloat16 if dtype is torch.float16 else dtype)

        shadow = torch.nn.Parameter(tiny(parameter.dim(), parameter.dtype))
        shadow.grad = torch.ones_like(shadow, requires_grad=False)
        plain = dict.fromkeys({"foreach", "fused", "capturable"} & group.keys(), False)
        entry = {name: tiny(ranks[name], dtype) for name, dtype in dtypes.items()}
        optimizer = cls.__new__(cls)
        optimizer.__setstate__({"defaults": {}, "state": {}, "param_groups": [{**group, **plain, "params": [shadow]}]})
        # What else a state has, such as step, are counts.
        optimizer.state = defaultdict(dict, {shadow: defaultdict(lambda: torch.tensor(1.0), entry)})
        optimizer.step()

    def accepts_keys(self, module: Module, state: Mapping[str, Tree]) -> bool:
        """Ask a copy of the module without memory whether its hooks and overrides take these keys, as torch would.

        So a checkpoint of the old ``weight_norm``, or one without ``num_batches_tracked``, loads as it does in torch.
        """
        current = expect_entries(self.to_tree(module), "the module's state")
        renamed = [leaf for key, leaf in state.items() if isinstance(leaf, LazyTensor) and key not in current]
        vacant = {leaf.dtype for key, leaf in current.items() if isinstance(leaf, LazyTensor) and key not in state}
        if any(_differ(current[key], state[key]) for key in current.keys() & state.keys()):
            return False
        return all(leaf.dtype in vacant for leaf in renamed) and self._shadow_takes(module, state)

    def _shadow_takes(self, module: Any, state: Mapping[str, Tree]) -> bool:
        memo = {id(tensor): self._shadow(tensor) for tensor in (*module.parameters(), *module.buffers())}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns that copying to a tensor without memory does nothing
                copy.deepcopy(module, memo).load_state_dict(
                    {key: self._empty(leaf) if isinstance(leaf, LazyTensor) else leaf for key, leaf in state.items()}
                )
        except Exception:  # a module's own code may raise anything; whatever it is, it means no
            return False
        return True

    def _shadow(self, tensor: Tensor) -> Tensor:
        shadow = self._torch.empty_like(tensor, device="meta")
        is_parameter = isinstance(tensor, self._torch.nn.Parameter)
        return self._torch.nn.Parameter(shadow, requires_grad=tensor.requires_grad) if is_parameter else shadow

    def _empty(self, tensor: LazyTensor) -> Tensor:
        return self._torch.empty(tensor.shape, dtype=self._dtypes[tensor.dtype.name], device="meta")

    def random_state(self, model: object = None) -> dict[str, Tree]:
        """Return the CPU generator's state, and one a CUDA device where CUDA is in use."""
        cuda = self._torch.cuda
        devices = cuda.get_rng_state_all() if cuda.is_available() and cuda.is_initialized() else []
        return {
            "cpu": LazyTensor.from_array(self._torch.get_rng_state().numpy().copy()),
            "cuda": [LazyTensor.from_array(state.numpy().copy()) for state in devices],
        }

    def set_random_state(self, state: Mapping[str, Tree], model: object = None) -> None:
        """Set the CPU generator, and those of as many CUDA devices as are here."""
        self._torch.set_rng_state(self._generator_state(state.get("cpu"), "torch/cpu"))
        if self._torch.cuda.is_available():
            devices = expect_items(state.get("cuda"), "torch/cuda")
            for index, device in enumerate(devices[: self._torch.cuda.device_count()]):
                self._torch.cuda.set_rng_state(self._generator_state(device, f"torch/cuda/{index}"), index)

    def _generator_state(self, kept: Tree, key: str) -> Tensor:
        return self._torch.from_numpy(expect_tensor(kept, key).numpy().copy())

    def add_step_hook(self, optimizer: object, wait: Callable[[], object]) -> Callable[[], object] | None:
        """Register a hook, unless the optimizer's class has a ``step`` that torch's constructor never saw."""
        if not isinstance(optimizer, self._torch.optim.Optimizer) or not getattr(type(optimizer).step, "hooked", False):
            return None

        def hold(*_: object) -> None:  # what a hook gives back would replace the step's arguments
            wait()

        remove: Callable[[], object] = optimizer.register_step_pre_hook(hold).remove
        return remove

    def changed_by_step(self, optimizer: Optimizer) -> dict[Hashable, Callable[[], int]]:
        """Return the parameters and the tensors of their state, with the counters that autograd keeps of changes."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        moments = [value for state in optimizer.state.values() for value in state.values() if self.is_tensor(value)]
        dense = [tensor for tensor in (*parameters, *moments) if tensor.layout is self._torch.strided]
        return {_alias(tensor): partial(getattr, tensor, "_version") for tensor in dense}

    def save_model(self, model: object, path: str) -> None:
        """Write ``torch.save(model)``."""
        self._torch.save(model, path)

    def load_model(self, path: str, *, device: str | None = None) -> Any:
        """Return ``torch.load(weights_only=False)``, which runs what the file names."""
        return self._torch.load(path, map_location=device, weights_only=False)

    def _require_dense(self, tensor: Tensor, key: str) -> None:
        torch = self._torch
        plain = not (tensor.is_nested or tensor.is_quantized or tensor.is_meta or hasattr(tensor, "__tensor_flatten__"))
        if plain and tensor.layout is torch.strided and not torch.nn.parameter.is_lazy(tensor):
            return
        for is_so, kind, fix in (
            (torch.nn.parameter.is_lazy(tensor), "an uninitialized tensor", "run the module once first"),
            (tensor.is_nested, "a nested tensor", "save its parts, from .unbind()"),
            (tensor.layout is not torch.strided, f"a {tensor.layout} tensor", "make it dense with .to_dense()"),
            (tensor.is_quantized, "a quantized tensor", "save .int_repr() with its scale and zero point"),
            (tensor.is_meta, "a tensor on the meta device", "give it memory first, as with module.to_empty(device=…)"),
            (hasattr(tensor, "__tensor_flatten__"), f"a {type(tensor).__name__}", "save the plain tensors it wraps"),
        ):
            if is_so:
                raise ValueRefusedError(f"{key}: found {kind}, expected a dense one with memory; {fix}")

    def _dtype(self, tensor: LazyTensor, key: str) -> dtype:
        if tensor.dtype.name not in self._dtypes:
            raise DtypeRefusedError(
                f"{key}: found {tensor.dtype.name}, expected one of torch {self._torch.__version__}: "
                f"{', '.join(self._dtypes)}; cast it first with dtype='NAME', or use a newer torch"
            )
        return self._dtypes[tensor.dtype.name]

    def _array(self, tensor: Tensor) -> np.ndarray:
        row = self._rows[tensor.dtype]
        if row.name in _SHARED:
            return np.asarray(tensor.numpy(force=True))
        host = tensor.detach().resolve_conj().resolve_neg().cpu()
        carrier = getattr(self._torch, _CARRIER[row.itemsize])
        return np.asarray(host.view(carrier).numpy().view(row.numpy))

    def _bytes_of(self, storage: UntypedStorage) -> Tensor:
        return self._torch.empty(0, dtype=self._torch.uint8, device=storage.device).set_(storage)

    def _over(self, array: np.ndarray, dtype: dtype) -> Tensor:
        row = self._rows[dtype]
        if row.name in _SHARED:
            return self._torch.from_numpy(array)
        return self._torch.from_numpy(array.view(_CARRIER[row.itemsize])).view(dtype)


class _Live(Source):
    """A live tensor, in the host's memory as it is, or on a GPU or yet to be conjugated."""

    __slots__ = ("_backend", "_in_host", "_tensor_of", "dtype", "shape")

    def __init__(
        self,
        backend: TorchBackend,
        dtype: DType,
        shape: tuple[int, ...],
        tensor_of: Callable[[], Any],
        *,
        in_host: bool,
    ) -> None:
        self._backend, self._tensor_of, self._in_host = backend, tensor_of, in_host
        self.dtype, self.shape = dtype, shape

    @property
    def is_in_memory(self) -> bool:
        """Whether NumPy can look at the tensor's own memory."""
        return self._in_host

    def array(self) -> np.ndarray:
        """Return the tensor's own memory, or a copy in the host's."""
        return self._backend._array(self._tensor_of())

    def into(self, out: np.ndarray) -> None:
        """Have torch copy straight into the array, without memory of its own between."""
        if self._in_host or not out.flags.c_contiguous:
            np.copyto(out, self.array())
            return
        tensor = self._tensor_of().detach()
        self._backend._over(out, tensor.dtype).copy_(tensor)


class _LiveView(Strided):
    """A live tensor that looks into a storage which others may look into; it is read by itself."""

    __slots__ = ("_live",)

    def __init__(self, live: _Live, storage: LazyTensor, offset: int, strides: tuple[int, ...]) -> None:
        super().__init__(storage, live.dtype, live.shape, offset, strides)
        self._live = live

    @property
    def is_in_memory(self) -> bool:
        """Whether NumPy can look at the tensor's own memory."""
        return self._live.is_in_memory

    def array(self) -> np.ndarray:
        """Return the tensor's array."""
        return self._live.array()

    def into(self, out: np.ndarray) -> None:
        """Copy the tensor into an array."""
        self._live.into(out)

    def part(self, box: Box) -> Source:
        """Return a part of the tensor's array."""
        return self._live.part(box)


def _alias(tensor: Tensor) -> Hashable:
    return ("torch", tensor.device, tensor.untyped_storage().data_ptr())


def _differ(current: Tree, other: Tree) -> bool:
    if not isinstance(current, LazyTensor):
        return False
    return not isinstance(other, LazyTensor) or (current.dtype, current.shape) != (other.dtype, other.shape)
