"""What a PickleMachine leaves where a pickle names something: the name, what was asked of it, builders for known names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

__all__ = ["Builders", "Global", "Made", "Pending"]

#: (module, name) → what answers a call of that name.
Builders: TypeAlias = Mapping[tuple[str, str], Callable[..., Any]]


@dataclass(frozen=True, slots=True)
class Global:
    """A name the file mentions: never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False)
class Made:
    """What the file asked to be made of a name that is not known."""

    type: Global
    args: tuple[Any, ...]
    state: Any = None
    items: list[Any] = field(default_factory=list)
    entries: dict[Any, Any] = field(default_factory=dict)


@runtime_checkable
class Pending(Protocol):
    """A known object whose value is not complete before the whole pickle is read."""

    def set_state(self, state: Any) -> None:
        """Takes what BUILD gives it."""

    def resolve(self) -> Any:
        """Gives its value in a tree, the same one each time."""
