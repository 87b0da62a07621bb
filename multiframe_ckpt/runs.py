"""Runs: train once, test many. A folder a run, the arguments of a training script, and the choice between the two.

    arguments = add_checkpoint_arguments(parser).parse_args()
    run = RunFolder.of(arguments.output_dir, method="intent", dataset="clinc", backbone="bert", seed=arguments.seed)
    model = restore_or_train(run.model, train, restore, arguments=arguments)

The folder is ``outputs/intent_clinc_bert_seed0`` and the model in it ``models/pytorch_model.bin``.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .checkpoint import Checkpoint
from .errors import NotTrainedError, ValueRefusedError
from .storage.atomic import staged
from .tree import map_leaves

__all__ = ["RunFolder", "add_checkpoint_arguments", "restore_or_train"]

T = TypeVar("T")
_PART = re.compile(r"[\w+=@,-][\w.+=@,-]*")
_SEEDED = re.compile(r"(.+)_seed([0-9]+)")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of a run, and where things lie in it; nothing is made until something is saved."""

    path: Path

    @classmethod
    def of(
        cls,
        output_dir: str | os.PathLike[str],
        *,
        method: str,
        dataset: str | None = None,
        backbone: str | None = None,
        seed: int | None = None,
    ) -> RunFolder:
        """Gives ``output_dir/method_dataset_backbone_seedN``, without the parts that are not given.

        A ``/`` in a part, as in the names of published models, becomes ``--``. Raises ValueRefusedError for a part that
        is no name.
        """
        given = {"method": method, "dataset": dataset, "backbone": backbone}
        parts = [_part(what, name) for what, name in given.items() if name is not None]
        seeded = [] if seed is None else [f"seed{seed}"]
        return cls(Path(output_dir) / "_".join([*parts, *seeded]))

    @property
    def models(self) -> Path:
        """The folder of the saved model and the run's checkpoints: a CheckpointManager's ``output_dir``."""
        return self.path / "models"

    @property
    def model(self) -> Path:
        """The trained model."""
        return self.models / "pytorch_model.bin"

    @property
    def results(self) -> Path:
        """The results of a test, as JSON."""
        return self.path / "results.json"

    @property
    def seed(self) -> int | None:
        """The seed in the folder's name, if there is one."""
        match = _SEEDED.fullmatch(self.path.name)
        return int(match[2]) if match else None

    @property
    def seedless(self) -> str:
        """The folder's name without the seed: equal for runs that differ in nothing else."""
        match = _SEEDED.fullmatch(self.path.name)
        return match[1] if match else self.path.name

    def save_results(self, results: Mapping[str, Any]) -> Path:
        """Writes results as ``results.json``, whole or not at all; ``multiframe-ckpt list`` compares them over seeds.

        NumPy's numbers and tensors of one element become plain numbers; NaN and infinities, which JSON has no word for,
        become strings.
        """
        plain = Checkpoint.of(metrics=results).tree["metrics"]
        text = json.dumps(map_leaves(plain, lambda _, leaf: _strict(leaf)), indent=2, ensure_ascii=False)
        with staged(self.results, overwrite=True) as fresh:
            fresh.write_text(f"{text}\n", "utf-8")
        return self.results


def _part(what: str, name: str) -> str:
    part = name.replace("/", "--")
    if not _PART.fullmatch(part):
        raise ValueRefusedError(
            f"{what}: found {name!r}, expected a name of letters, digits and _ . + = @ , - that begins with no dot"
        )
    return part


def _strict(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def add_checkpoint_arguments(parser: ArgumentParser) -> ArgumentParser:
    """Adds what a script that trains once and tests many needs to ask for, and gives the parser back.

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
        help="go on with a run: latest (the default), best, an epoch, or a path",
    )
    group.add_argument("--no_save_optimizer", action="store_true", help="leave the optimizer out of checkpoints")
    group.add_argument("--save_freq", type=_positive, default=1, metavar="N", help="save every N epochs (1)")
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
    """Gives what ``restore(path)`` gives where a model was saved at ``path``, else what ``train()`` gives.

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
    """Gives this script's own command line, with what makes it train and save."""
    own = [Path(sys.orig_argv[0]).name, *sys.orig_argv[1:]] if sys.orig_argv else ["python", *sys.argv]
    return shlex.join([*own, *(flag for flag in ("--train", "--save_model") if flag not in own)])
