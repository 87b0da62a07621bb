"""The two ways of loading: filling live objects in place, and making new values like old ones."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, TypeVar

from ..errors import MismatchError, MultiframeError, ValueRefusedError
from ..tree import LazyTensor, Path, Tree, key_of, leaves
from .arrays import copied, tied
from .comparison import Comparison, Match, shared
from .containers import entries
from .report import LoadReport, mismatch
from .tensor_ops import SupportsFilling, TensorOps, is_stateful

__all__ = ["apply", "checked", "merged", "require_fillable", "require_values"]

T = TypeVar("T")


def require_fillable(ops: TensorOps[T], target: object) -> None:
    """Raise ValueRefusedError, naming the first, for tensors that are values and that nothing can fill."""
    if isinstance(ops, SupportsFilling):
        return
    for path, leaf in leaves(target):
        if ops.is_tensor(leaf) or ops.is_module(leaf):
            raise ValueRefusedError(
                f"{key_of(path)}: found {_kind(leaf)}, a value that cannot be filled in place, expected what can; "
                "use loaded_like(), which returns new values"
            )


def require_values(ops: TensorOps[T], like: object) -> None:
    """Raise ValueRefusedError, naming the first, for objects that keep a state and can only be filled in place."""
    for path, leaf in leaves(like):
        if ops.is_module(leaf) or is_stateful(leaf):
            raise ValueRefusedError(
                f"{key_of(path)}: found {_kind(leaf)}, an object that can only be filled in place, expected tensors, "
                "plain values and containers of these; use load_into(), or give its state_dict()"
            )


def checked(target: object, comparison: Comparison, *, strict: bool) -> LoadReport:
    """Return the report of a comparison; with ``strict`` raise MismatchError where anything differs."""
    report = comparison.report()
    if strict and not report.ok:
        raise mismatch(type(target).__name__, report)
    return report


def apply(comparison: Comparison) -> None:
    """Fill what the source fits, in place.

    Raise MismatchError, which names the object and what stands before it, where one's own code refuses what it looked fit
    for: a hook of a module, or a state of the program's own making.
    """
    done: list[str] = []
    for match in comparison.matches:
        if match.load is None:
            continue
        try:
            match.load()
        except (
            ArithmeticError,
            AssertionError,
            AttributeError,
            LookupError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as problem:
            if isinstance(problem, MultiframeError):
                raise
            raise MismatchError(
                f"{key_of(match.path)}: found a state that its own load_state_dict refuses ({type(problem).__name__}: "
                f"{problem}), expected one that it takes; loaded already: {', '.join(done) or 'nothing'}"
            ) from problem
        done += [match.path[0]] if match.path and str(match.path[0]) not in done else []


def merged(like: object, comparison: Comparison) -> Any:
    """Return a tree of the structure of ``like`` that holds what the source has for it, and elsewhere like's own.

    Its leaves are the tree's and live ones of ``like``. What is tied in ``like`` is tied in it, with the last of the
    source's values, as it would be had it been filled.
    """
    filled = shared(comparison.matches)
    sources = {match.path: _value(match, filled) for match in comparison.matches}
    return _merged(like, sources, ())


def _value(match: Match, filled: Mapping[Hashable, LazyTensor]) -> Tree:
    if match.identity is not None:
        return tied(filled[match.identity], match.identity)
    return match.source if isinstance(match.source, LazyTensor) else copied(match.source)


def _merged(like: object, sources: Mapping[Path, Tree], path: Path) -> object:
    if path in sources:
        return sources[path]
    inside = entries(like)
    if inside is None:
        return like
    children = {name: _merged(child, sources, (*path, name)) for name, child in inside.items()}
    return children if isinstance(like, Mapping) else [*children.values()]


def _kind(obj: object) -> str:
    return f"a {type(obj).__module__}.{type(obj).__qualname__}"
