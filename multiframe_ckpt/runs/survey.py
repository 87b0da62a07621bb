"""survey(): the runs below a folder, what each kept, and how runs compare that differ in nothing but their seed."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from ..errors import CheckpointWarning
from ..storage.atomic import STAGE_SUFFIX
from .folder import BEST, LATEST, CheckpointFolder, epoch_of
from .records import CheckpointRecord, numbers_of, read_record, signature_of
from .run_folder import RunFolder

__all__ = ["RunRecord", "SeedComparison", "compare_seeds", "survey"]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run: its checkpoints in the order they were written, its saved model, and its numbers.

    ``metrics`` are those of the newest complete checkpoint, and over them those of ``results.json``. ``latest`` and
    ``best`` are the checkpoints that the pointers name.
    """

    name: str  # relative to the folder that was looked at
    folder: RunFolder
    checkpoints: tuple[CheckpointRecord, ...]
    model: CheckpointRecord | None
    latest: Path | None
    best: Path | None
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class SeedComparison:
    """A metric over runs that differ only in their seed; ``std`` is the sample's, None where there is one value."""

    runs: str
    metric: str
    seeds: tuple[int, ...]
    mean: float
    std: float | None
    least: float
    most: float


def survey(folder: str | os.PathLike[str]) -> list[RunRecord]:
    """Return the runs below a folder, sorted by name; read headers only. Raise FileNotFoundError for no folder."""
    top = Path(folder)
    if not top.is_dir():
        raise FileNotFoundError(f"{top}: found no folder, expected one with runs below it; check the path")
    return [_run(place, top) for place in _places(top)]


def _places(top: Path) -> Iterator[Path]:
    """Yield the folders with checkpoints or a saved model directly in them; look into no checkpoint and no link."""
    for here, folders, files in os.walk(top):
        place = Path(here)
        if any(epoch_of(name) is not None for name in (*folders, *files)) or _model_of(place).is_file():
            yield place
        folders[:] = sorted(name for name in folders if not _is_part(name))


def _is_part(name: str) -> bool:
    return epoch_of(name) is not None or name in (LATEST, BEST) or name.endswith(STAGE_SUFFIX)


def _model_of(place: Path) -> Path:
    return place / RunFolder(place).model.name


def _run(place: Path, top: Path) -> RunRecord:
    inside = place.name == RunFolder(place).models.name and place != top
    folder = RunFolder(place.parent if inside else place)
    kept = CheckpointFolder(place)
    records = tuple(kept.records())
    pointed = {pointer.partition(".")[0]: place / name for pointer, name in kept.pointed().items()}
    model = _model_of(place)
    complete = [record.metrics for record in records if record.complete]
    return RunRecord(
        name=_name(folder.path, top),
        folder=folder,
        checkpoints=records,
        model=read_record(model, signature_of(model)) if model.is_file() else None,
        latest=pointed.get(LATEST),
        best=pointed.get(BEST),
        metrics={**(complete[-1] if complete else {}), **_results(folder.results)},
    )


def _name(path: Path, top: Path) -> str:
    return path.resolve().name if path == top else path.relative_to(top).as_posix()


def _results(path: Path) -> dict[str, float]:
    if not path.is_file():
        return {}
    try:
        return numbers_of(json.loads(path.read_text("utf-8")))
    except ValueError as problem:  # no JSON, or no UTF-8
        warnings.warn(f"{path}: found no JSON ({problem}), expected results; left out", CheckpointWarning, stacklevel=4)
        return {}


def compare_seeds(runs: Iterable[RunRecord]) -> list[SeedComparison]:
    """Return each metric over the runs of two seeds and more that differ in nothing else; values that are NaN or infinite
    do not count."""
    groups: dict[str, dict[int, RunRecord]] = {}
    for run in runs:
        if run.folder.seed is not None:
            name = run.name[: -len(run.folder.path.name)] + run.folder.seedless
            groups.setdefault(name, {})[run.folder.seed] = run
    return [row for name, group in groups.items() if len(group) > 1 for row in _compare(name, group)]


def _compare(name: str, group: Mapping[int, RunRecord]) -> Iterator[SeedComparison]:
    for metric in dict.fromkeys(metric for run in group.values() for metric in run.metrics):
        values = {seed: group[seed].metrics.get(metric, math.nan) for seed in sorted(group)}
        finite = {seed: value for seed, value in values.items() if math.isfinite(value)}
        if finite:
            numbers = list(finite.values())
            std = stdev(numbers) if len(numbers) > 1 else None
            yield SeedComparison(name, metric, tuple(finite), fmean(numbers), std, min(numbers), max(numbers))
