"""RunState: what a training run consists of, told once: saving, restoring and comparing are handed it whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .position import WITHIN_EPOCH

__all__ = ["FACTS", "LAYOUT", "OBJECTS", "SAVE_COUNT", "RunState"]

#: The live objects of a run, in the order in which they are saved and restored.
OBJECTS = ("model", "optimizer", "scheduler", "scaler")
#: What else is known of it, as plain values.
FACTS = ("epoch", "step", "loss", "metrics", "train_args")
#: The entry that a manager adds: how many saves there were in its folder, this one counted.
SAVE_COUNT = "save_count"
#: Every entry of the layout, beside which stand those of the user's own.
LAYOUT = frozenset(
    (
        *(
            "format_version",
            "framework",
            "framework_version",
            "timestamp",
            "rng_state",
            SAVE_COUNT,
            WITHIN_EPOCH,
            *FACTS,
        ),
        *(f"{name}_{what}" for name in OBJECTS for what in ("state_dict", "class")),
    )
)


@dataclass(frozen=True, slots=True)
class RunState:
    """The live objects and facts of a run; None for what it does not have.

    ``rng`` is whether the states of random generators belong to it; ``extra`` holds entries of the user's own.
    Each object may be a list, tuple or dict of several, however nested.
    """

    model: object = None
    optimizer: object = None
    scheduler: object = None
    scaler: object = None
    epoch: int | None = None
    step: int | None = None
    loss: object = None
    metrics: Mapping[str, object] | None = None
    train_args: object = None
    rng: bool = False
    extra: Mapping[str, object] | None = None

    @property
    def objects(self) -> dict[str, object]:
        """The live objects that there are, by name."""
        return self._named(OBJECTS)

    @property
    def facts(self) -> dict[str, object]:
        """The facts that there are, by name."""
        return self._named(FACTS)

    def _named(self, names: tuple[str, ...]) -> dict[str, object]:
        return {name: value for name in names if (value := getattr(self, name)) is not None}
