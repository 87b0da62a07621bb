"""Modules in a pickle: the state dict of a whole model, and what taking it leaves behind; the versions of modules.

A pickled ``nn.Module`` has its state in its ``__dict__``: ``_parameters``, ``_buffers`` and ``_modules`` (torch and OneFlow
alike). Beside a state dict both keep the version of each module, ``{"l1": {"version": 1}, …}``: modules whose layout has
changed ask for it when they load.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from ..errors import FormatError
from ..terminal.text import plural
from ..tree import MAX_DEPTH, LazyTensor, is_plain
from .raw import Call, Pending

__all__ = ["StateDict", "are_versions", "module_state_dict"]

#: The keys of a pickled module's state dict may have this many characters together.
_MAX_KEY_CHARACTERS = 1 << 25
#: Attributes of every module that are no more than bookkeeping, beside those whose names begin with an underscore.
_OF_EVERY_MODULE = {"training"}


@dataclass(frozen=True, slots=True)
class StateDict:
    """The state dict of a whole model of a class that is not built, and what of the model is not in it."""

    entries: dict[str, Any]
    type_name: str
    left_behind: tuple[str, ...] = ()


def are_versions(value: object) -> TypeGuard[Mapping[str, Mapping[str, object]]]:
    """Return whether a value is what stands beside a state dict: plain facts of each module, by the module's name."""
    return isinstance(value, Mapping) and all(
        isinstance(name, str)
        and isinstance(facts, Mapping)
        and all(isinstance(key, str) and is_plain(fact) for key, fact in facts.items())
        for name, facts in value.items()
    )


def module_state_dict(call: Call) -> StateDict | None:
    """Return the state dict of a pickled ``nn.Module``, taken from its state without its class; None for what is none.

    A buffer named in ``_non_persistent_buffers_set`` is not part of a state dict.
    """
    if not _is_module(call):
        return None
    collector = _StateDictCollector()
    try:
        entries = collector.collect(call, "")
    except _TooMuch:
        return None
    return StateDict(entries, str(call.type), tuple(collector.left_behind()))


def _is_module(raw: object) -> TypeGuard[Call]:
    return (
        isinstance(raw, Call)
        and isinstance(raw.state, dict)
        and all(isinstance(raw.state.get(part), dict) for part in ("_parameters", "_modules"))
    )


class _TooMuch(Exception):
    """A model that is no state dict of any sense: it nests without end, or shares its modules into endless names."""


class _StateDictCollector:
    """Walks the modules of a model; a module that stands in several places is walked in each, but not below itself."""

    def __init__(self) -> None:
        self._characters_left = _MAX_KEY_CHARACTERS
        self._open_ids: set[int] = set()
        self._modules = self._attributes = 0
        self._tensors: list[str] = []

    def collect(self, module: Call, prefix: str) -> dict[str, Any]:
        """Return the module's parameters and buffers, then its children's."""
        state: Any = module.state
        transient = state.get("_non_persistent_buffers_set")
        values = dict(state["_parameters"])
        for name, value in (state.get("_buffers") or {}).items():
            if not (isinstance(transient, set) and name in transient):
                values[name] = value
            elif value is not None:
                self._tensors.append(f"{self._key(prefix, name)}, a buffer that no state dict has")
        state_dict = {self._key(prefix, name): value for name, value in values.items() if value is not None}
        self._note(state, prefix)
        self._open_ids.add(id(module))
        for name, child in state["_modules"].items():
            if _is_module(child) and id(child) not in self._open_ids:
                if len(self._open_ids) == MAX_DEPTH:
                    raise _TooMuch
                state_dict.update(self.collect(child, f"{self._key(prefix, name)}."))
        self._open_ids.discard(id(module))
        return state_dict

    def left_behind(self) -> Iterator[str]:
        """Yield what of the model is not in its state dict."""
        yield f"the classes of its {plural(self._modules, 'module')}"
        if self._attributes:
            yield f"{plural(self._attributes, 'attribute')} of these, such as sizes and names"
        yield from self._tensors

    def _note(self, state: Mapping[Any, Any], prefix: str) -> None:
        """Count a module and its own attributes; a tensor among them is named."""
        self._modules += 1
        for name, value in state.items():
            if isinstance(name, str) and not name.startswith("_") and name not in _OF_EVERY_MODULE:
                if _is_tensor(value):
                    self._tensors.append(f"{self._key(prefix, name)}, a tensor that is no parameter and no buffer")
                else:
                    self._attributes += 1

    def _key(self, prefix: str, name: object) -> str:
        if not isinstance(name, str):
            raise TypeError(f"a module's attribute that is called by a {type(name).__name__}")
        self._characters_left -= len(prefix) + len(name) + 1
        if self._characters_left < 0:
            raise _TooMuch
        return prefix + name


def _is_tensor(raw: object) -> bool:
    try:
        return isinstance(raw.resolve() if isinstance(raw, Pending) else raw, LazyTensor)
    except (FormatError, ArithmeticError, LookupError, TypeError, ValueError):  # a damaged one, that nobody asks for
        return True
