"""TrainingParts: what a training checkpoint holds, part by part, each with its place; ``search`` finds them."""

from __future__ import annotations

from dataclasses import dataclass

from ..tree import Path, Tree, key_of

__all__ = ["Part", "TrainingParts"]


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a checkpoint, where it stands, and the class of what it is the state of, where that is stored.

    ``beside`` are the paths of what else the part was gathered from.
    """

    path: Path
    tree: Tree
    class_name: str | None = None
    beside: tuple[Path, ...] = ()

    @property
    def key(self) -> str:
        """The key of the part, as tensors have them; ``(top)`` for the whole tree."""
        return key_of(self.path)


@dataclass(frozen=True, slots=True)
class TrainingParts:
    """What a checkpoint holds, each part with its path; None or empty where it holds none.

    ``averages`` are running averages of the ``models``; where there is nothing else, they are the models. A model whose
    path is that of the whole checkpoint has in its tree what is the model's alone.
    """

    models: tuple[Part, ...] = ()
    averages: tuple[Part, ...] = ()
    optimizers: tuple[Part, ...] = ()
    schedulers: tuple[Part, ...] = ()
    epoch: Part | None = None
    step: Part | None = None
    metrics: Part | None = None
    loss: Part | None = None
    train_args: Part | None = None
    timestamp: Part | None = None
    scaler: Part | None = None
    rng: tuple[Part, ...] = ()
    rest: tuple[Part, ...] = ()

    @property
    def model(self) -> Part | None:
        """The one model that there is; None where there are several, or none."""
        return self.models[0] if len(self.models) == 1 else None
