"""RunFolder: the folder of a run, named by what the run is, and where things lie in it.

    run = RunFolder.of("outputs", method="intent", dataset="clinc", backbone="bert", seed=0)

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

from ..checkpoint import Checkpoint
from ..errors import ValueRefusedError
from ..storage.atomic import staged
from ..tree import Path as KeyPath
from ..tree import Tree, map_leaves, node_at

__all__ = ["RunFolder"]

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
        names = {"method": method, "dataset": dataset, "backbone": backbone}
        parts = [_part(parameter, name) for parameter, name in names.items() if name is not None]
        if seed is not None:
            parts.append(f"seed{seed}")
        return cls(Path(output_dir) / "_".join(parts))

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

    def save_results(self, results: Mapping[str, object]) -> Path:
        """Write results as ``results.json``, whole or not at all; ``multiframe-ckpt list`` compares them over seeds.

        NumPy's numbers and tensors of one element become plain numbers; NaN and infinities, which JSON has no word for,
        become strings.
        """
        plain = node_at(Checkpoint.from_run(metrics=results).tree, ("metrics",))
        text = json.dumps(map_leaves(plain, _as_json), indent=2, ensure_ascii=False)
        with staged(self.results, overwrite=True) as fresh:
            fresh.write_text(f"{text}\n", "utf-8")
        return self.results


def _part(parameter: str, name: str) -> str:
    part = name.replace("/", "--")
    if not _PART.fullmatch(part):
        raise ValueRefusedError(
            f"{parameter}: found {name!r}, expected a name of letters, digits and _ . + = @ , - that begins with no dot"
        )
    return part


def _as_json(_: KeyPath, leaf: Tree) -> Tree:
    return str(leaf) if isinstance(leaf, float) and not math.isfinite(leaf) else leaf
