"""What the machine makes where a pickle names something: the name, what was asked of it, builders for known names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

__all__ = ["MAX_INT_NBYTES", "Builders", "Call", "Expanding", "Global", "NotBuilt", "Pending"]

#: (module, name) → what answers a call of that name.
Builders: TypeAlias = Mapping[tuple[str, str], Callable[..., object]]

#: The largest int that a pickle of ours holds: writing one in decimal takes time that grows with its square.
MAX_INT_NBYTES = 1 << 14


@dataclass(frozen=True, slots=True)
class Global:
    """A name the file mentions: never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False)
class Call:
    """What the file asked to be made of a name that is not known."""

    type: Global
    args: tuple[Any, ...]
    state: object = None
    items: list[Any] = field(default_factory=list)
    entries: dict[Any, Any] = field(default_factory=dict)


class Pending:
    """A known object whose value is not complete before the whole pickle is read. A base class: asking is cheap."""

    __slots__ = ()

    #: Bytes of memory that the object and its value may take, beside what the pickle gave them.
    footprint: ClassVar[int] = 512

    def set_state(self, state: Any) -> None:
        """Take what BUILD gives it."""
        raise NotImplementedError

    def resolve(self) -> object:
        """Return its value in a tree, the same one each time."""
        raise NotImplementedError


class Expanding(ABC):
    """What takes more memory as plain values of a tree than in its pickle: they are made where there is room for them."""

    #: What it is, for a tree that has no room.
    title: str
    #: Bytes of memory that the values take.
    nbytes: int

    @abstractmethod
    def values(self) -> Any:
        """Return the raw values."""


class NotBuilt(Exception):
    """Raised by a builder for what it does not know: the call stays a record of what the file asked for."""
