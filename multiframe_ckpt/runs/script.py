"""The arguments of a script that trains once and tests many, and the choice between the two.

arguments = add_checkpoint_arguments(parser).parse_args()
run = RunFolder.of(arguments.output_dir, method="intent", dataset="clinc", backbone="bert", seed=arguments.seed)
model = restore_or_train(run.model, train, restore, arguments=arguments)
"""

from __future__ import annotations

import os
import shlex
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ..errors import NotTrainedError

__all__ = ["add_checkpoint_arguments", "restore_or_train"]

T = TypeVar("T")


def add_checkpoint_arguments(parser: ArgumentParser) -> ArgumentParser:
    """Add what a script that trains once and tests many needs to ask for, and return the parser back.

    ``--train --save_model --save_results --resume [WHICH] --no_save_optimizer --save_freq N --output_dir DIR --seed N``.
    ``resume`` is None where it is not asked for, and ``"latest"`` where nothing is said of which.
    """
    group = parser.add_argument_group("checkpoints")
    group.add_argument("--train", action="store_true", help="train; without it the saved model is tested")
    group.add_argument("--save_model", action="store_true", help="save the model that was trained")
    group.add_argument("--save_results", action="store_true", help="save the results of the test")
    group.add_argument(
        "--resume",
        nargs="?",
        const="latest",
        metavar="WHICH",
        help="go on with a run: latest (the default), best, an epoch or step, a name, or a path",
    )
    group.add_argument("--no_save_optimizer", action="store_true", help="leave the optimizer out of checkpoints")
    group.add_argument(
        "--save_freq",
        type=_positive,
        default=1,
        metavar="N",
        help="save every N epochs, or steps where they are counted (1)",
    )
    group.add_argument("--output_dir", default="outputs", metavar="DIR", help="where the folders of runs are (outputs)")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="the seed of the random generators (0)")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"found {text!r}, expected 1 or more")
    return int(text)


def restore_or_train(
    path: str | os.PathLike[str],
    train: Callable[[], T],
    restore: Callable[[Path], T],
    *,
    arguments: Namespace | None = None,
) -> T:
    """Return what ``restore(path)`` gives where a model was saved at ``path``, else what ``train()`` gives.

    With the ``arguments`` of a script, ``--train`` decides: with it the model is trained, saved or not; without it the
    saved one is tested, and where there is none a NotTrainedError has the command that trains and saves it.
    """
    path = Path(path)
    if arguments is None:
        return restore(path) if path.exists() else train()
    if arguments.train:
        return train()
    if not path.exists():
        raise NotTrainedError(f"{path}: found no saved model, expected one; make it with: {_training_command()}")
    return restore(path)


def _training_command() -> str:
    """Return this script's own command line, with what makes it train and save."""
    words = [Path(sys.orig_argv[0]).name, *sys.orig_argv[1:]] if sys.orig_argv else ["python", *sys.argv]
    return shlex.join([*words, *(flag for flag in ("--train", "--save_model") if flag not in words)])
