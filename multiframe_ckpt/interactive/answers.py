"""Answers: what flags said beforehand, so that nothing need be asked."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from typing import Literal

from ..checkpoint.position import Clock
from ..errors import AnswerError

__all__ = ["KINDS", "UNANSWERED", "Action", "Answers", "Kind", "add_answer_arguments"]

Action = Literal["use", "continue", "fresh"]
Kind = Literal["binary", "json", "both", "no"]
KINDS: tuple[Kind, ...] = ("binary", "json", "both", "no")


@dataclass(frozen=True, slots=True)
class Answers:
    """One field a question, None where it is still to be asked; each is the flag of the same name.

    ``load`` names a model, its number in the list, ``latest`` or ``best``; ``no_load`` answers that none is loaded.
    ``save`` is a :data:`Kind`, ``name`` the copies' name without folder, ``overwrite`` whether one may be replaced.
    """

    load: str | None = None
    no_load: bool = False
    action: Literal["use", "continue"] | None = None
    epochs: int | None = None
    steps: int | None = None
    lr: float | None = None
    save: Kind | None = None
    name: str | None = None
    overwrite: bool = False

    @classmethod
    def of(cls, arguments: Namespace) -> Answers:
        """Return the answers among parsed arguments; see :func:`add_answer_arguments`."""
        return cls(**{name: value for name, value in vars(arguments).items() if name in cls.__slots__})

    @property
    def goal(self) -> Literal["use", "continue"] | None:
        """What is done with the model, as far as it follows: epochs, steps or a learning rate mean to continue."""
        return self.action or ("continue" if self._of_training else None)

    @property
    def _of_training(self) -> list[str]:
        """The flags that mean to train on."""
        return [f"--{name}" for name in ("epochs", "steps", "lr") if getattr(self, name) is not None]

    def require_consistent(self) -> None:
        """Raise AnswerError for flags that say opposite things."""
        training = next(iter(self._of_training), None)
        wants = "--use" if self.action == "use" else "--continue" if self.action == "continue" else training
        if self.no_load and (self.load is not None or wants):
            raise _contrary("--no-load", "--load" if self.load is not None else str(wants))
        if self.action == "use" and training:
            raise _contrary("--use", training)
        if self.epochs is not None and self.steps is not None:
            raise _contrary("--epochs", "--steps")


#: What is answered beforehand by default: nothing.
UNANSWERED = Answers()


def _contrary(flag: str, other: str) -> AnswerError:
    return AnswerError(f"{flag}: found {other} beside it, expected one of the two; leave the other out")


def add_answer_arguments(
    parser: ArgumentParser, *, loading: bool = True, saving: bool = True, clock: Clock = "epoch"
) -> None:
    """Give a script the flags of ``multiframe-ckpt choose``; ``Answers.of`` reads them, ``--no-input`` is a flag too.

    A script counts by one ``clock``: it has ``--epochs``, or ``--steps``.
    """
    if loading:
        which = parser.add_mutually_exclusive_group()
        which.add_argument("--load", metavar="WHICH", help="a saved model: its name, its number, latest or best")
        which.add_argument("--no-load", action="store_true", help="load none")
        goal = parser.add_mutually_exclusive_group()
        goal.add_argument("--use", dest="action", action="store_const", const="use", help="use the model as it is")
        goal.add_argument(
            "--continue", dest="action", action="store_const", const="continue", help="continue training it"
        )
        parser.add_argument(f"--{clock}s", type=int, metavar="N", help=f"how many {clock}s to train")
        parser.add_argument("--lr", type=float, metavar="X", help="the learning rate; default: the saved one")
    if saving:
        parser.add_argument("--save", choices=KINDS, help="save binary, JSON, both, or nothing")
        parser.add_argument("--name", help="name of what is saved, without folder")
        parser.add_argument("--overwrite", action="store_true", help="replace what is there under that name")
    parser.add_argument("--no-input", action="store_true", help="ask nothing: take defaults, or end with an error")
