"""Loading: one load of a tree into live objects, compared whole before anything is touched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from typing import Any, Protocol, TypeAlias

import numpy as np

from ..errors import ValueRefusedError
from ..tree import LazyTensor, Path, Tree, key_of, leaves, map_leaves
from .report import LoadReport, Mismatch, described, suggested

__all__ = ["Loading", "TensorOps", "array_tensor", "fill_array", "is_stateful"]

_ABSENT = object()
_Put: TypeAlias = Callable[[Any], object]


class TensorOps(Protocol):
    """What loading needs of an adapter; ``backend.TensorBackend`` says what each means."""

    def is_tensor(self, obj: object) -> bool: ...  # noqa: D102
    def is_module(self, obj: object) -> bool: ...  # noqa: D102
    def to_lazy(self, tensor: Any, key: str) -> LazyTensor: ...  # noqa: D102
    def copy_into(self, target: Any, tensor: LazyTensor) -> None: ...  # noqa: D102
    def accepts_keys(self, module: Any, found: Mapping[str, Tree]) -> bool: ...  # noqa: D102
    def parameters_of(self, optimizer: Any) -> list[Any]: ...  # noqa: D102
    def load_state(self, target: Any, state: Any) -> None: ...  # noqa: D102
    def from_tree(self, tree: Tree, *, device: str | None = None) -> Any: ...  # noqa: D102


def is_stateful(obj: object) -> bool:
    """Return whether ``obj`` is an instance that gives and takes a state: a module, optimizer, scheduler, scaler, …."""
    methods = ("state_dict", "load_state_dict")
    return not isinstance(obj, type) and all(callable(getattr(obj, name, None)) for name in methods)


def array_tensor(array: np.ndarray, key: str) -> LazyTensor:
    """Return a lazy tensor over a live array; arrays over the same memory are one tensor under several names."""
    if isinstance(array, np.ma.MaskedArray):
        raise ValueRefusedError(f"{key}: found a masked array, expected a plain one; fill it first with .filled()")
    address = array.__array_interface__["data"][0]
    alias = ("array", address, array.strides) if array.size else None
    return LazyTensor.of_array(np.asarray(array), name=key, alias=alias)


def fill_array(target: np.ndarray, tensor: LazyTensor) -> None:
    """Copy into an array of the same dtype, of either byte order, in place."""
    np.copyto(target, tensor.numpy(), casting="equiv")


class Loading:
    """One load under way: :meth:`visit` compares everything and touches nothing; then ``steps`` are run."""

    def __init__(self, backend: TensorOps) -> None:
        self.steps: list[Callable[[], object]] = []
        self._backend = backend
        self._loaded: list[str] = []
        self._missing: dict[str, Hashable | None] = {}
        self._unexpected: list[str] = []
        self._mismatched: list[Mismatch] = []
        self._filled: set[Hashable] = set()

    def visit(self, target: Any, found: Tree, path: Path = (), put: _Put | None = None) -> None:
        """Compare ``found`` with the live ``target``; ``put`` replaces the target in what holds it."""
        if self._is_tensor(target):
            self._tensor(target, found, path)
        elif self._backend.is_module(target):
            self._module(target, found, path)
        elif is_stateful(target):
            self._stateful(target, found, path)
        elif self._holds_live(target):
            self._container(target, found, path)
        else:
            self._plain(found, path, put)

    def report(self) -> LoadReport:
        """Say what the steps load, and what they do not."""
        # A file may hold a tied weight under one of its names: the other is then filled through the tie.
        tied = [key for key, identity in self._missing.items() if identity in self._filled]
        loaded = (*self._loaded, *tied)
        missing = tuple(key for key in self._missing if key not in set(tied))
        matched = [*loaded, *(mismatch.key for mismatch in self._mismatched)]
        advice = (*suggested(missing, self._unexpected, matched), *_casts(self._mismatched))
        return LoadReport(loaded, missing, tuple(self._unexpected), tuple(self._mismatched), advice)

    def _is_tensor(self, target: object) -> bool:
        return isinstance(target, np.ndarray) or self._backend.is_tensor(target)

    def _holds_live(self, target: object) -> bool:
        inside = _pairs(target)
        if inside is not None:
            return any(map(self._holds_live, inside.values()))
        return self._is_tensor(target) or is_stateful(target)

    def _mismatch(self, path: Path, found: Tree, expected: str) -> None:
        self._mismatched.append(Mismatch(_key(path), described(found), expected))

    def _tensor(self, target: Any, found: Tree, path: Path) -> None:
        is_array = isinstance(target, np.ndarray)
        expected = array_tensor(target, _key(path)) if is_array else self._backend.to_lazy(target, _key(path))
        if found is _ABSENT:
            self._missing[_key(path)] = expected.identity
        elif not isinstance(found, LazyTensor) or (found.dtype, found.shape) != (expected.dtype, expected.shape):
            self._mismatch(path, found, described(expected))
        elif is_array and not target.flags.writeable:
            self._mismatch(path, found, f"a writable array of {described(expected)}")
        elif expected.view is not None and _repeats(expected.shape, expected.view.stride):
            self._mismatch(
                path, found, f"a place for each element, not an expanded tensor: .clone() it; {described(expected)}"
            )
        else:
            self._loaded.append(_key(path))
            if expected.identity is not None:
                self._filled.add(expected.identity)
            self.steps.append(partial(fill_array if is_array else self._backend.copy_into, target, found))

    def _module(self, module: Any, found: Tree, path: Path) -> None:
        """Copy tensor by tensor into the module's own, so that no second model is built, then let it load itself.

        The second half runs the module's hooks and hands over its extra state; parameters are copied onto themselves.
        """
        own = module.state_dict(keep_vars=True)
        if isinstance(found, Mapping) and own.keys() != found.keys() and self._backend.accepts_keys(module, found):
            self._loaded += _keys_below(found, path)
            self.steps.append(lambda: module.load_state_dict(self._backend.from_tree(found)))
            return
        self._container(own, found, path)
        self.steps.append(lambda: module.load_state_dict(own))

    def _stateful(self, target: Any, found: Tree, path: Path) -> None:
        if found is _ABSENT:
            self._missing[_key(path)] = None
            return
        own = target.state_dict()
        problem = _state_problem(own, found)
        problems = [Mismatch(_key(path), *problem)] if problem else self._moments(target, found, path)
        if problems:
            self._mismatched += problems
            return
        self._loaded += _keys_below(found, path)
        # Copies, since an optimizer keeps the very tensors it is given and training would change their source.
        self.steps.append(
            lambda: self._backend.load_state(target, _with_counters(self._backend.from_tree(_copied(found)), own))
        )

    def _moments(self, optimizer: Any, found: Tree, path: Path) -> list[Mismatch]:
        """Return the moments whose dtype is not their parameter's; scalars beside them have a dtype of their own."""
        parameters = self._backend.parameters_of(optimizer)
        order = [index for group in found["param_groups"] for index in group["params"]] if parameters else []
        problems: list[Mismatch] = []
        for index, parameter in zip(order, parameters, strict=True):
            dtype = self._backend.to_lazy(parameter, _key(path)).dtype
            for name, leaf in found["state"].get(index, {}).items():
                if isinstance(leaf, LazyTensor) and leaf.shape and leaf.dtype != dtype:
                    key = _key((*path, "state", index, name))
                    problems.append(Mismatch(key, described(leaf), f"{dtype.name} {leaf.shape}"))
        return problems

    def _container(self, target: Any, found: Tree, path: Path) -> None:
        own = _pairs(target) or {}
        given = {} if found is _ABSENT else _pairs(found)
        if given is None:
            self._mismatch(path, found, f"{type(target).__name__} of {len(own)} entries")
            return
        for name, child in own.items():
            put = None if isinstance(target, tuple) else partial(target.__setitem__, name)
            self.visit(child, given.get(name, _ABSENT), (*path, name), put)
        for name in given:
            if name not in own:
                self._unexpected += _keys_below(given[name], (*path, name))

    def _plain(self, found: Tree, path: Path, put: _Put | None) -> None:
        if found is _ABSENT:
            self._missing[_key(path)] = None
        elif put is None:
            self._mismatch(path, found, "a tensor, a module, an optimizer, or a place in a dict or list of these")
        else:
            self._loaded.append(_key(path))
            self.steps.append(lambda: put(self._backend.from_tree(_copied(found))))


def _key(path: Path) -> str:
    return key_of(path)


def _keys_below(tree: Tree, path: Path) -> list[str]:
    return [_key((*path, *below)) for below, _ in leaves(tree)]


def _repeats(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Return whether several elements lie at one place, as in an expanded tensor; no framework copies into such."""
    return any(size > 1 and step == 0 for size, step in zip(shape, stride, strict=True))


def _pairs(node: Any) -> dict[Any, Any] | None:
    """Return a container's children by name or index, or None for a leaf."""
    if isinstance(node, Mapping):
        return dict(node)
    return dict(enumerate(node)) if isinstance(node, list | tuple) else None


def _copied(tree: Tree) -> Tree:
    """Return the tree with tensors that copy when they are read; tie stay ties."""

    def change(_: Path, leaf: Tree) -> Tree:
        if not isinstance(leaf, LazyTensor):
            return leaf
        return replace(leaf, source=lambda: leaf.numpy().copy(), view=None, alias=leaf.identity)

    return map_leaves(tree, change)


def _with_counters(state: Any, own: Any) -> Any:
    """Return the state with Counters where the target has them: MultiStepLR calls their ``elements()``."""
    if isinstance(state, dict) and isinstance(own, dict):
        inside = {name: _with_counters(value, own.get(name)) for name, value in state.items()}
        return Counter(inside) if isinstance(own, Counter) else inside
    if isinstance(state, list) and isinstance(own, list | tuple):
        return [_with_counters(value, mine) for value, mine in zip_longest(state, own[: len(state)])]
    return state


#: Entries that only one framework's schedulers and parameter groups have; the library translates between the two.
_DIALECT = ("last_epoch", "last_step", "_options")


def _state_problem(own: Any, found: Tree) -> tuple[str, str] | None:
    """Return (found, expected) where an optimizer or scheduler would choke on a state, or swallow it and go wrong."""
    if not isinstance(own, Mapping):
        return None
    if not isinstance(found, Mapping):
        return described(found), "a state dict"
    checks = [("a state", own, found)]
    if "param_groups" in own:
        sizes = [_group_sizes(own["param_groups"]), _group_sizes(found.get("param_groups"))]
        if sizes[0] != sizes[1] or not isinstance(found.get("state"), Mapping):
            return f"parameter groups of sizes {sizes[1]}", f"{sizes[0]}: the optimizer of the same model"
        checks += zip(
            ["a parameter group"] * len(sizes[0] or ()), own["param_groups"], found["param_groups"], strict=True
        )
    for what, mine, given in checks:
        for name in _DIALECT:
            if (name in mine) != (name in given):
                words = ("with", "without") if name in given else ("without", "with")
                return (
                    f"{what} {words[0]} {name!r}",
                    f"one {words[1]} it: it is another framework's; translate it first",
                )
    return None


def _group_sizes(groups: Any) -> list[int] | None:
    if not isinstance(groups, list | tuple) or not all(isinstance(group, Mapping) for group in groups):
        return None
    return [len(group.get("params", ())) for group in groups]


def _casts(mismatched: list[Mismatch]) -> Iterator[str]:
    """Yield the cast that makes tensors fit whose dtype alone differs."""
    pairs = [(one.found.partition(" "), one.expected.partition(" ")) for one in mismatched]
    wanted = {expected[0] for found, expected in pairs if found[0] != expected[0] and found[2] == expected[2] != ""}
    if wanted:
        yield f"cast the checkpoint first: --dtype {min(wanted) if len(wanted) == 1 else 'NAME'}"
