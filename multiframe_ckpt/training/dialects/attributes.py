"""Scheduler states that are the attributes of the scheduler: how one is recognised and read by its attributes alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...tree import Tree
from ..neutral import SchedulerState, plain_numbers
from ..optimizers import REQUIRED
from ..report import Notes
from ..schedulers import DERIVED, SCHEDULERS, WAY_OUT

__all__ = ["AttributeStates", "parts_of", "same"]

#: Attributes that change nothing, and are kept for the way back.
_EXTRAS = ("verbose", "_is_initial", "default_min_lr")


def same(names: str) -> dict[str, str]:
    """Return attributes whose own names are the neutral ones, in a string with spaces between."""
    return {name: name for name in names.split()}


@dataclass(frozen=True, slots=True)
class AttributeStates:
    """The scheduler states of one framework: ``names`` have the own name of each neutral attribute of each scheduler.

    ``common`` are attributes that every scheduler may have, or that follow from others; ``counter`` is the one that counts
    steps. ``giveaways`` are attributes of schedulers that no other framework has.
    """

    names: Mapping[str, Mapping[str, str]]
    common: frozenset[str]
    counter: str
    giveaways: Mapping[str, str]

    def recognised(self, state: Mapping[str, Tree], class_name: str | None, notes: Notes) -> str:
        """Return the neutral name of a state's scheduler: its class where that is known, else told by its attributes.

        Raise ValueRefusedError for a scheduler of this framework alone, and for a state that lacks an attribute.
        """
        if class_name is not None:
            return self._named(state, class_name.rpartition(".")[2], notes)
        present = {*map(str, state)} - self.common
        for algorithm, names in self.names.items():
            if present == {*names.values()} - self.common:
                return algorithm
        guess = next((f"what looks like {name}" for mark, name in self.giveaways.items() if mark in state), None)
        text = guess or f"a scheduler with {', '.join(sorted(present)) or 'nothing of its own'}"
        raise notes.error(f"found {text}, expected one of {', '.join(SCHEDULERS)}; {WAY_OUT}")

    def _named(self, state: Mapping[str, Tree], name: str, notes: Notes) -> str:
        if name not in self.names:
            raise notes.error(f"found the scheduler {name}, expected one of {', '.join(SCHEDULERS)}; {WAY_OUT}")
        needed = {own for key, own in self.names[name].items() if SCHEDULERS[name][key] is REQUIRED}
        missing = needed - self.common - {*state}
        if missing:
            raise notes.error(f"found {name} without {', '.join(sorted(missing))}, expected all its attributes")
        return name

    def read(
        self, algorithm: str, state: Mapping[str, Tree], parts: tuple[SchedulerState, ...], notes: Notes
    ) -> SchedulerState:
        """Return a state in neutral terms, with attributes as they are but under their neutral names."""
        names = {key: own for key, own in self.names[algorithm].items() if key != "parts"}
        attributes = {key: plain_numbers(state[own]) for key, own in names.items() if own in state}
        attributes = _defaults(algorithm, names) | attributes
        known = {*self.names[algorithm].values()} | self.common
        for name in sorted(map(str, {*state} - known)):
            notes.leave_out(f"{name}, which is no attribute of {algorithm}")
        return SchedulerState(
            algorithm,
            plain_numbers(state.get(self.counter)),
            attributes,
            base_lrs=plain_numbers(state.get("base_lrs")),
            last_lrs=plain_numbers(state.get("_last_lr")),
            parts=parts,
            extras={name: state[name] for name in _EXTRAS if isinstance(state.get(name), int | float)},
        )

    def written(self, state: SchedulerState, parts: list[Tree]) -> dict[str, Any]:
        """Return a neutral state as attributes: what every such scheduler has, and last what not every framework's has."""
        names = self.names[state.algorithm]
        values = {**state.attributes, "parts": parts}
        optional = _defaults(state.algorithm, names)
        attributes = {own: values[key] for key, own in names.items() if key in values and key not in optional}
        rates = {"base_lrs": state.base_lrs, "_last_lr": state.last_lrs}
        attributes |= {name: value for name, value in rates.items() if value is not None}
        attributes |= {**state.extras, self.counter: state.step}
        return attributes | {names[key]: values.get(key, value) for key, value in optional.items()}


def parts_of(listed: Tree, notes: Notes) -> Sequence[Tree]:
    """Return the states of the schedulers that one runs, unread; nothing where it lists none."""
    if listed is None:
        return ()
    if not isinstance(listed, list | tuple):
        raise notes.error(f"found a {type(listed).__name__} of schedulers, expected a list; the state is damaged")
    return listed


def _defaults(algorithm: str, names: Mapping[str, str]) -> dict[str, Any]:
    """Return the attributes that may be missing, of those with a name, and what doing without them amounts to."""
    marks = (REQUIRED, DERIVED)
    return {
        key: value
        for key, value in SCHEDULERS[algorithm].items()
        if key in names and not any(value is m for m in marks)
    }
