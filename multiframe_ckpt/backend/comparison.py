"""compare(): a tree beside the live objects that it is to be loaded into, whole, before anything is touched.

One comparison serves both ways of loading: filling objects in place, and making new values like old ones
(``loading``). They differ in what stands in the way: an array that is read-only can be replaced and not filled.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeAlias, TypeGuard, TypeVar, cast

import numpy as np

from ..tree import MISSING, LazyTensor, Missing, Path, Strided, Tree, key_of, leaves
from .arrays import array_tensor, copied, fill_array
from .containers import alike, entries, misfits
from .moment_check import moment_problems
from .report import LoadReport, Mismatch, advice_for, described
from .state_check import state_problem
from .tensor_ops import Module, Stateful, SupportsFilling, TensorOps, is_stateful

__all__ = ["Comparison", "Match", "compare", "is_live", "shared"]

L = TypeVar("L")
T = TypeVar("T")

_Load: TypeAlias = Callable[[], object]
_Put: TypeAlias = Callable[[object], object]
_Source: TypeAlias = "Tree | Missing"


@dataclass(frozen=True, slots=True)
class Match:
    """A part of the source that fits the live object at ``path``; ``load`` fills that, or is None for a value.

    ``keys`` are the source's that are loaded by it, ``identity`` that of the live tensor, by which names are tied.
    """

    path: Path
    source: Tree
    keys: tuple[str, ...]
    load: _Load | None = None
    identity: Hashable | None = None


@dataclass(frozen=True, slots=True)
class _Absent:
    path: Path
    identity: Hashable | None = None


@dataclass(frozen=True, slots=True)
class _Unexpected:
    key: str


_Finding: TypeAlias = Match | _Absent | _Unexpected | Mismatch


@dataclass(frozen=True, slots=True)
class Comparison:
    """What of a source fits a live target, in the order in which it is loaded, and what does not."""

    matches: tuple[Match, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[Mismatch, ...]

    def report(self) -> LoadReport:
        """Return what is loaded, and what is not, with what may help."""
        loaded = tuple(key for match in self.matches for key in match.keys)
        advice = advice_for(self.missing, self.unexpected, loaded, self.mismatched)
        return LoadReport(loaded, self.missing, self.unexpected, self.mismatched, advice)


def compare(ops: TensorOps[T], target: object, source: Tree, *, in_place: bool) -> Comparison:
    """Compare a source with a live target that is to be filled ``in_place``, or with the values to be replaced."""
    copy_into = ops.copy_into if isinstance(ops, SupportsFilling) else None
    findings = list(_Comparer(ops, in_place, copy_into).visit(target, source))
    matches = [finding for finding in findings if isinstance(finding, Match)]
    conflicts = {problem.key: problem for problem in _tie_conflicts(matches)}
    matches = [match for match in matches if match.identity is None or key_of(match.path) not in conflicts]
    absent = [finding for finding in findings if isinstance(finding, _Absent)]
    # A file may hold a tied weight under one of its names: the other is then filled through the tie.
    filled = shared(matches)
    tied = [
        Match(one.path, filled[one.identity], (key_of(one.path),), identity=one.identity)
        for one in absent
        if one.identity in filled
    ]
    return Comparison(
        (*matches, *tied),
        tuple(key_of(one.path) for one in absent if one.identity not in filled),
        tuple(finding.key for finding in findings if isinstance(finding, _Unexpected)),
        (*(finding for finding in findings if isinstance(finding, Mismatch)), *conflicts.values()),
    )


def shared(matches: Iterable[Match]) -> dict[Hashable, LazyTensor]:
    """Return the source's tensors by the identity of the live ones that they fit, to which others may be tied."""
    return {
        match.identity: match.source
        for match in matches
        if match.identity is not None and isinstance(match.source, LazyTensor)
    }


def _tie_conflicts(matches: Sequence[Match]) -> Iterator[Mismatch]:
    """Yield the keys of live tensors that are one with another of an earlier key, and would get other values than that."""
    firsts: dict[Hashable, Match] = {}
    for match in matches:
        first = match if match.identity is None else firsts.setdefault(match.identity, match)
        if first is not match and not _same_values(first.source, match.source):
            key, other = key_of(first.path), key_of(match.path)
            found = f"other values than {key!r} has"
            yield Mismatch(other, found, f"the same: {key!r} and {other!r} are one tensor in the live object")


def _same_values(one: Tree, other: Tree) -> bool:
    if not isinstance(one, LazyTensor) or not isinstance(other, LazyTensor):
        return False
    if one is other or (one.identity is not None and one.identity == other.identity):
        return True
    a, b = (np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8) for tensor in (one, other))
    return np.array_equal(a, b)


def is_live(ops: TensorOps[T], obj: object) -> bool:
    """Return whether ``obj`` is a tensor, array, module or other object with a state, or a container of one."""
    inside = entries(obj)
    if inside is not None:
        return any(is_live(ops, child) for child in inside.values())
    return isinstance(obj, np.ndarray) or ops.is_tensor(obj) or is_stateful(obj)


@dataclass(frozen=True)
class _Comparer(Generic[T]):
    ops: TensorOps[T]
    in_place: bool
    copy_into: Callable[[T, LazyTensor], None] | None

    def visit(self, target: object, source: _Source, path: Path = (), put: _Put | None = None) -> Iterator[_Finding]:
        """Yield what a look at ``target`` finds; ``put`` replaces it in what holds it."""
        if isinstance(target, np.ndarray):
            yield self._array(target, source, path)
        elif self.ops.is_tensor(target):
            yield self._tensor(target, source, path)
        elif self.ops.is_module(target):
            yield from self._module(target, source, path)
        elif is_stateful(target):
            yield from self._stateful(target, source, path)
        elif is_live(self.ops, target):
            yield from self._container(target, source, path)
        else:
            yield from self._plain(target, source, path, put)

    def _array(self, target: np.ndarray, source: _Source, path: Path) -> _Finding:
        expected = array_tensor(target, key_of(path))
        if self.in_place and not target.flags.writeable and _fits(source, expected):
            return Mismatch(key_of(path), described(source), f"a writable array of {described(expected)}")
        return self._matched(target, expected, source, path, fill_array)

    def _tensor(self, target: T, source: _Source, path: Path) -> _Finding:
        return self._matched(target, self.ops.to_lazy(target, key_of(path)), source, path, self.copy_into)

    def _matched(
        self,
        target: L,
        expected: LazyTensor,
        source: _Source,
        path: Path,
        fill: Callable[[L, LazyTensor], object] | None,
    ) -> _Finding:
        # A value that stands under two names is not tied: averaged weights begin as the very weights, and go their way.
        identity = expected.identity if self.in_place or self.copy_into is not None else None
        if source is MISSING:
            return _Absent(path, identity)
        if not _fits(source, expected):
            return Mismatch(key_of(path), described(source), described(expected))
        if self.in_place and isinstance(expected.source, Strided) and _repeats(expected.shape, expected.source.strides):
            place = f"a place for each element, not an expanded tensor: .clone() it; {described(expected)}"
            return Mismatch(key_of(path), described(source), place)
        load = None if fill is None else partial(fill, target, source)
        return Match(path, source, (key_of(path),), load, identity)

    def _module(self, module: Module, source: _Source, path: Path) -> Iterator[_Finding]:
        """Copy tensor by tensor into the module's own, so that no second model is built, then let it load itself.

        The second half runs the module's hooks and hands over its extra state; parameters are copied onto themselves.
        """
        current = module.state_dict(keep_vars=True)
        if isinstance(source, Mapping) and current.keys() != source.keys() and self.ops.accepts_keys(module, source):
            yield Match(path, source, _keys_below(source, path), partial(self._load_module, module, source))
            return
        yield from self._container(current, source, path)
        yield Match(path, None, (), partial(module.load_state_dict, current))

    def _stateful(self, target: Stateful, source: _Source, path: Path) -> Iterator[_Finding]:
        if source is MISSING:
            yield _Absent(path)
            return
        current = target.state_dict()
        problems = self._state_problems(target, current, source, path)
        yield from problems
        if not problems:
            yield Match(path, source, _keys_below(source, path), partial(self._load_state, target, source, current))

    def _state_problems(self, target: Stateful, current: object, source: Tree, path: Path) -> list[Mismatch]:
        if not isinstance(current, Mapping):
            return [*misfits(source, current, path)]
        problem = state_problem(current, source, path)
        if problem is not None:
            return [problem]
        return [*moment_problems(self.ops, target, current, source, path), *misfits(source, current, path)]

    def _container(self, target: object, source: _Source, path: Path) -> Iterator[_Finding]:
        inside = entries(target) or {}
        children = entries({} if source is MISSING else source)
        if children is None:
            yield Mismatch(key_of(path), described(source), f"{type(target).__name__} of {len(inside)} entries")
            return
        for name, child in inside.items():
            put = None if isinstance(target, tuple) else partial(_put, target, name)
            yield from self.visit(child, children.get(name, MISSING), (*path, name), put)
        for name in children:
            if name not in inside:
                yield from map(_Unexpected, _keys_below(children[name], (*path, name)))

    def _plain(self, target: object, source: _Source, path: Path, put: _Put | None) -> Iterator[_Finding]:
        problems = [] if source is MISSING else [*misfits(source, target, path)]
        if source is MISSING:
            yield _Absent(path)
        elif self.in_place and put is None and type(source) is type(target) and source == target:
            yield Match(path, source, (key_of(path),))
        elif self.in_place and put is None:
            place = "a tensor, a module, an optimizer, or a place in a dict or list of these"
            yield Mismatch(key_of(path), described(source), place)
        elif problems:
            yield from problems
        else:
            load = None if put is None else partial(self._put_plain, put, source, target)
            yield Match(path, source, (key_of(path),), load)

    def _load_module(self, module: Module, source: Tree) -> None:
        module.load_state_dict(self.ops.from_tree(source))

    def _load_state(self, target: Stateful, source: Tree, current: object) -> None:
        # Copies, since an optimizer keeps the very tensors it is given and training would change their source.
        # Of the types of its own state, since MultiStepLR calls the ``elements()`` of its Counter.
        state = alike(self.ops.from_tree(copied(source)), current)
        self.ops.load_state(target, cast("Mapping[str, object]", state))

    def _put_plain(self, put: _Put, source: Tree, current: object) -> None:
        put(alike(self.ops.from_tree(copied(source)), current))


def _put(holder: object, name: object, value: object) -> None:
    cast("dict[object, object]", holder)[name] = value


def _fits(source: _Source, expected: LazyTensor) -> TypeGuard[LazyTensor]:
    return isinstance(source, LazyTensor) and (source.dtype, source.shape) == (expected.dtype, expected.shape)


def _keys_below(tree: Tree, path: Path) -> tuple[str, ...]:
    return tuple(key_of((*path, *below)) for below, _ in leaves(tree))


def _repeats(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Return whether several elements lie at one place, as in an expanded tensor; no framework copies into such."""
    return any(size > 1 and step == 0 for size, step in zip(shape, stride, strict=True))
