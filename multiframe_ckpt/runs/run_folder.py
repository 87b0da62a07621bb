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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint import Checkpoint
from ..errors import ValueRefusedError
from ..storage.atomic import staged
from ..tree import map_leaves

__all__ = [
    "RunFolder",
]

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
        """Return ``output_dir/method_dataset_backbone_seedN``, without the parts that are not given.

        A ``/`` in a part, as in the names of published models, becomes ``--``. Raise ValueRefusedError for a part that
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
        """Write results as ``results.json``, whole or not at all; ``multiframe-ckpt list`` compares them over seeds.

        NumPy's numbers and tensors of one element become plain numbers; NaN and infinities, which JSON has no word for,
        become strings.
        """
        plain = Checkpoint.from_run(metrics=results).tree["metrics"]
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
