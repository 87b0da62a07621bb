"""What an optimizer holds for each parameter, beside the parameter: a step that would end with an error, or train on the
moments of another parameter, is found before anything is touched.

Moments may be of another dtype than their parameter (float32 beside bfloat16 is usual): the optimizer says what it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias, TypeVar

from ..tree import LazyTensor, Path, Tree, key_of
from .report import Mismatch, described
from .state_check import groups_of, indices_of
from .tensor_ops import TensorOps

__all__ = ["moment_problems"]

T = TypeVar("T")

Shape: TypeAlias = tuple[int, ...]

#: What frameworks call tensors of an optimizer that have a value for each element of the parameter.
_ALIKE = {
    *("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "exp_avg_diff", "exp_avg_slow"),
    *("momentum_buffer", "momentum_buf", "square_avg", "square_avgs", "grad_avg", "acc_delta"),
    *("acc_deltas", "sum", "ax", "prev", "step_size", "variance"),
}
#: Those of torch's Adafactor, and of its LBFGS, which has one for all parameters: their shapes by the parameter's.
_FACTORED: Mapping[str, Callable[[Shape], Shape]] = {
    "row_var": lambda shape: (*shape[:-1], 1),
    "col_var": lambda shape: (*shape[:-2], 1, *shape[-1:]),
}
_FLAT = ("d", "prev_flat_grad")


def moment_problems(
    ops: TensorOps[T], optimizer: object, current: Mapping[str, Tree], source: Tree, path: Path
) -> Iterator[Mismatch]:
    """Yield the tensors of a state that an optimizer, whose own state is ``current``, cannot train its parameters on."""
    parameters = ops.parameters_of(optimizer)
    if not parameters or not isinstance(source, Mapping):
        return
    kept = [ops.to_lazy(parameter, key_of(path)) for parameter in parameters]
    is_own = ops.is_own_optimizer(optimizer)
    entries = [*zip(_entries(ops, source), _entries(ops, current), strict=False)]
    if len(entries) != len(parameters):  # an optimizer around another, whose state has groups of its own
        return
    for ((index, saved), (_, live)), parameter, lazy in zip(entries, parameters, kept, strict=True):
        own = _own_shapes(saved, lazy.shape, kept) if is_own else _likely_shapes(saved, lazy.shape, kept, live)
        own |= {name: lazy.shape for name, tensor in live.items() if tensor.shape == lazy.shape}
        wrong = {
            name: f"{tensor.dtype.name} {own[name]}"
            for name, tensor in saved.items()
            if name in own and tensor.shape != own[name]
        }
        others = {name: tensor for name, tensor in saved.items() if name not in wrong and tensor.dtype != lazy.dtype}
        wrong |= {
            name: f"{tensor.dtype.name} {others[name].shape}"
            for name, tensor in live.items()
            if name in others and tensor.dtype != others[name].dtype and not is_own
        }
        if others and not ops.takes_moments(optimizer, parameter, saved):
            wrong |= {name: f"{lazy.dtype.name} {tensor.shape}" for name, tensor in others.items()}
        for name, expected in wrong.items():
            yield Mismatch(key_of((*path, "state", index, name)), described(saved[name]), expected)


def _entries(ops: TensorOps[T], state: Mapping[str, Tree]) -> list[tuple[Tree, dict[str, LazyTensor]]]:
    """Return the number of each parameter, in order, with the tensors of it that have dimensions, live or not."""
    held = state.get("state")
    table = held if isinstance(held, Mapping) else {}
    return [(index, _tensors(ops, table.get(index))) for group in groups_of(state) or () for index in indices_of(group)]


def _tensors(ops: TensorOps[T], entry: object) -> dict[str, LazyTensor]:
    items = entry.items() if isinstance(entry, Mapping) else ()
    lazy = {name: ops.to_lazy(leaf, str(name)) if ops.is_tensor(leaf) else leaf for name, leaf in items}
    return {name: leaf for name, leaf in lazy.items() if isinstance(leaf, LazyTensor) and leaf.shape}


def _own_shapes(saved: Mapping[str, LazyTensor], shape: Shape, kept: Sequence[LazyTensor]) -> dict[str, Shape]:
    """Return the shapes that the framework's own optimizers give their tensors, as far as they are known."""
    alike = {name: shape for name in saved if name in _ALIKE}
    factored = {name: _FACTORED[name](shape) for name in saved if name in _FACTORED and len(shape) > 1}
    flat = {name: (sum(tensor.size for tensor in kept),) for name in saved if name in _FLAT}
    return alike | factored | flat


def _likely_shapes(
    saved: Mapping[str, LazyTensor], shape: Shape, kept: Sequence[LazyTensor], live: Mapping[str, LazyTensor]
) -> dict[str, Shape]:
    """Return the shapes that another's optimizers should have given where they gave the very shape of another parameter.

    They may factor a moment, as GaLore does, so that any other shape is theirs; and so is one that the live tensor has.
    """
    others = {tensor.shape for tensor in kept}
    moved = {name for name, tensor in saved.items() if name in _ALIKE and tensor.shape in others}
    return {name: shape for name in moved if name not in live or live[name].shape != saved[name].shape}
