"""What an optimizer holds for each parameter, beside the parameter: a step that would end with an error, or train on the
moments of another parameter, is found before anything is touched.

Moments may be of another dtype than their parameter (float32 beside bfloat16 is usual): the optimizer says what it takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from ..tree import LazyTensor, Path, Tree, key_of
from .report import Mismatch, described
from .state_check import groups_of, indices_of
from .tensor_ops import TensorOps

__all__ = ["moment_problems"]

T = TypeVar("T")

#: What frameworks call tensors of an optimizer that have a value for each element of the parameter.
_ALIKE = {
    *(
        "exp_avg",
        "exp_avg_sq",
        "max_exp_avg_sq",
        "exp_inf",
        "momentum_buffer",
        "momentum_buf",
        "square_avg",
        "grad_avg",
    ),
    *("square_avgs", "acc_delta", "acc_deltas", "sum", "ax", "prev", "step_size", "exp_avg_diff", "exp_avg_slow"),
}


def moment_problems(
    ops: TensorOps[T], optimizer: object, current: Mapping[str, Tree], source: Tree, path: Path
) -> Iterator[Mismatch]:
    """Yield the tensors of a state that an optimizer, whose own state is ``current``, cannot train its parameters on."""
    parameters = ops.parameters_of(optimizer)
    if not parameters or not isinstance(source, Mapping):
        return
    kept = [ops.to_lazy(parameter, key_of(path)) for parameter in parameters]
    shapes = {parameter.shape for parameter in kept}
    entries = [*zip(_entries(ops, source), _entries(ops, current), strict=False)]
    if len(entries) != len(parameters):  # an optimizer around another, whose state has groups of its own
        return
    for ((index, saved), (_, live)), parameter, lazy in zip(entries, parameters, kept, strict=True):
        wrong = {}
        for name, tensor in saved.items():
            shape = _shape(name, tensor, live.get(name), lazy.shape, shapes, is_own=ops.is_own_optimizer(optimizer))
            if shape != tensor.shape:
                wrong[name] = f"{tensor.dtype.name} {shape}"
        others = {name: tensor for name, tensor in saved.items() if name not in wrong and tensor.dtype != lazy.dtype}
        wrong |= {
            name: f"{tensor.dtype.name} {others[name].shape}"
            for name, tensor in live.items()
            if name in others and tensor.dtype != others[name].dtype and not ops.is_own_optimizer(optimizer)
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


def _shape(
    name: str,
    saved: LazyTensor,
    live: LazyTensor | None,
    own: tuple[int, ...],
    others: set[tuple[int, ...]],
    *,
    is_own: bool,
) -> tuple[int, ...]:
    """Return the shape that a tensor is to have: its parameter's where that is known, else the one it has.

    The framework's own optimizers keep to it. Another's may factor a moment (GaLore's), but never gives it the very shape
    of another parameter, unless the live one has it.
    """
    if live is not None and live.shape == own:
        return own
    moved = name in _ALIKE and (is_own or saved.shape in others)
    return own if moved and (live is None or live.shape != saved.shape) else saved.shape
