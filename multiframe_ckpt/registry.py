"""Registry: names known at once, code loaded on first use, plugins found by entry point."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cached_property
from importlib import import_module, invalidate_caches
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, requires
from typing import Generic, TypeVar, cast

from .errors import UnknownNameError

__all__ = ["Registry"]

T = TypeVar("T")

_DISTRIBUTION = "multiframe-ckpt"


class Registry(Generic[T]):
    """Objects by name. Built-in names map to ``module:attribute``; others come from an entry point group.

    A built-in name cannot be taken by a plugin; a plugin that tries, or that fails to load, is a warning.
    """

    def __init__(self, noun: str, builtin: Mapping[str, str], group: str) -> None:
        self._noun = noun
        self._builtin = dict(builtin)
        self._group = group
        self._loaded: dict[str, T] = {}

    @cached_property
    def _plugins(self) -> dict[str, EntryPoint]:
        plugins: dict[str, EntryPoint] = {}
        for point in entry_points(group=self._group):
            if point.name in self._builtin:
                warnings.warn(
                    f"{self._group}: plugin {point.value} asks for the built-in name {point.name!r} and is ignored; "
                    "give it another name",
                    stacklevel=3,
                )
            else:
                plugins[point.name] = point
        return plugins

    def names(self) -> list[str]:
        """Return every known name: the built-in ones in their order, then the plugins' sorted."""
        return [*self._builtin, *sorted(self._plugins)]

    def refresh(self) -> None:
        """Look for plugins again, as after one was installed into a program that runs; what is loaded stays loaded."""
        invalidate_caches()
        self.__dict__.pop("_plugins", None)

    def remedy(self, name: str) -> str:
        """Return what to do about ``name`` where its code does not load: install what it needs, or mend the plugin."""
        if name not in self._builtin:
            return f"repair or remove the plugin {name!r}"
        needed = _needed_by(name)
        if not needed:
            return f"install {_DISTRIBUTION} again: pip install . in its checkout"
        return f"pip install {shlex.join(needed)}"

    def get(self, name: str) -> T:
        """Return the object called ``name``, loading its code the first time; UnknownNameError lists what there is."""
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def _load(self, name: str) -> T:
        if name in self._builtin:
            module, _, attribute = self._builtin[name].partition(":")
            return cast(T, getattr(import_module(module), attribute))
        if name in self._plugins:
            return cast(T, self._plugins[name].load())
        close = get_close_matches(name, self.names(), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UnknownNameError(f"found {self._noun} {name!r}, expected one of {', '.join(self.names())}{hint}")

    def available(self) -> Iterator[T]:
        """Yield every object that loads, one after another; a plugin that does not is warned about and left out."""
        for name in self.names():
            try:
                yield self.get(name)
            except Exception as problem:
                if name in self._builtin:
                    raise
                warnings.warn(f"{self._noun} plugin {name!r} does not load: {problem}", stacklevel=2)


def _needed_by(extra: str) -> list[str]:
    """Return what an extra of the installed distribution asks for; nothing where the code runs from a bare copy.

    What it asks for is on every index, as the distribution with its extras may not be.
    """
    try:
        lines = requires(_DISTRIBUTION) or []
    except PackageNotFoundError:
        return []
    found = (line.partition(";") for line in lines)
    return [needed.strip() for needed, _, marker in found if f"extra == '{extra}'" in marker.replace('"', "'")]
