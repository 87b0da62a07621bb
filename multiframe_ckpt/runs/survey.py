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
from .folder import CheckpointFolder
from .names import BEST, LATEST, pointer_stem, position_named
from .records import CheckpointRecord, numbers_of, read_record
from .run_folder import RunFolder

__all__ = ["RunRecord", "SeedComparison", "compare_seeds", "survey"]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run: its checkpoints in the order they were written, its saved model, and its numbers.

    ``name`` is relative to the folder that was surveyed. ``metrics`` are those of the newest complete checkpoint, and
    over them those of ``results.json``; ``problem`` says why that cannot be read. ``latest`` and ``best`` are the
    checkpoints that the pointers name.
    """

    name: str
    folder: RunFolder
    checkpoints: tuple[CheckpointRecord, ...]
    model: CheckpointRecord | None
    latest: Path | None
    best: Path | None
    metrics: Mapping[str, float]
    problem: str | None = None


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
    found = (_run(folder_of_run, top) for folder_of_run in _folders_of_runs(top))
    runs = [run for run in found if run.checkpoints or run.model]
    for run in runs:
        if run.problem is not None:
            warnings.warn(run.problem, CheckpointWarning, stacklevel=2)
    return runs


def _folders_of_runs(top: Path) -> Iterator[Path]:
    """Yield the folders with what may be checkpoints or a saved model directly in them; look into none and no link."""
    for path, folders, files in os.walk(top):
        if any(map(_is_part, (*folders, *files))) or _model_in(Path(path)).is_file():
            yield Path(path)
        folders[:] = sorted(name for name in folders if not (_is_part(name) or name.endswith(STAGE_SUFFIX)))


def _is_part(name: str) -> bool:
    return position_named(name) is not None or pointer_stem(name) is not None


def _model_in(folder: Path) -> Path:
    return folder / RunFolder(folder).model.name


def _run(path: Path, top: Path) -> RunRecord:
    """Return the run whose checkpoints lie in ``path``: that of the folder above where this is the one for models."""
    is_inside = path.name == RunFolder(path).models.name and path != top
    run_folder = RunFolder(path.parent if is_inside else path)
    checkpoints = CheckpointFolder(path)
    records = tuple(checkpoints.records())
    pointed = {pointer.partition(".")[0]: path / name for pointer, name in checkpoints.pointed().items()}
    trained = [record.metrics for record in records if record.complete][-1:]
    tested, problem = _results(run_folder.results)
    return RunRecord(
        name=_name(run_folder.path, top),
        folder=run_folder,
        checkpoints=records,
        model=read_record(_model_in(path)) if _model_in(path).is_file() else None,
        latest=pointed.get(LATEST),
        best=pointed.get(BEST),
        metrics={name: value for numbers in (*trained, tested) for name, value in numbers.items()},
        problem=problem,
    )


def _name(path: Path, top: Path) -> str:
    return path.resolve().name if path == top else path.relative_to(top).as_posix()


def _results(path: Path) -> tuple[dict[str, float], str | None]:
    """Return the numbers of a test's results, none where there is no file, and why the file cannot be read."""
    if not path.is_file():
        return {}, None
    try:
        return numbers_of(json.loads(path.read_text("utf-8"))), None
    except ValueError as problem:  # no JSON, or no UTF-8
        return {}, f"{path}: found no JSON ({problem}), expected results; left out"


def compare_seeds(runs: Iterable[RunRecord]) -> list[SeedComparison]:
    """Return each metric over the runs of two seeds and more that differ in nothing else.

    Values that are NaN or infinite do not count.
    """
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
