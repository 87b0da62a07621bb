"""``multiframe-ckpt list``: the runs below a folder, and how their seeds compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from ..runs.records import CheckpointRecord
from ..runs.survey import RunRecord, SeedComparison, compare_seeds, survey
from ..storage.leftovers import leftovers_below
from ..terminal.table import table, width
from ..terminal.text import human_size, plural
from .clean import left_over
from .flags import as_flags
from .output import Output
from .program import NAME, Status, verb

__all__ = ["list_command"]


@verb(example=f"{NAME} list outputs")
@click.argument("folder", metavar="DIR")
def list_command(out: Output, folder: str) -> Status:
    """List the training runs below DIR, and compare their seeds.

    Says of each checkpoint its epoch, step, size and metrics, whether it has the optimizer, and whether it can be used.
    Reads headers only.
    """
    with out.waiting("reading"):
        runs = survey(folder)
        found = leftovers_below(Path(folder))
    seeds = compare_seeds(runs)
    document = {"folder": folder, "runs": list(map(_run_document, runs)), "seeds": seeds, "leftovers": found}
    lines = [left_over(found, folder)] if found else []
    out.report(document, [*_lines(folder, runs, seeds), *lines])
    return Status.DONE


def _run_document(run: RunRecord) -> dict[str, Any]:
    return {
        "name": run.name,
        "path": run.folder.path,
        "seed": run.folder.seed,
        "metrics": run.metrics,
        "latest": run.latest,
        "best": run.best,
        "model": None if run.model is None else _checkpoint_document(run.model),
        "checkpoints": list(map(_checkpoint_document, run.checkpoints)),
    }


def _checkpoint_document(record: CheckpointRecord) -> dict[str, Any]:
    document = {field.name: getattr(record, field.name) for field in fields(record)}
    return {**document, "complete": record.complete}


def _lines(folder: str, runs: Sequence[RunRecord], seeds: Sequence[SeedComparison]) -> Iterator[str]:
    if not runs:
        yield f"{folder}: no run with checkpoints below it"
        return
    for run in runs:
        yield f"{run.name}: {_said_numbers(run.metrics) or 'no metrics'}"
        yield from _run_table(run)
        yield ""
    sizes = [record.nbytes for run in runs for record in (*run.checkpoints, *filter(None, [run.model]))]
    yield f"{plural(len(runs), 'run')}, {plural(len(sizes), 'file')} of checkpoints, {human_size(sum(sizes))}"
    if seeds:
        yield from ("", "over seeds")
        yield from table(map(_seed_row, seeds), header=_SEED_HEADER, right={2}, columns=width())


_HEADER = ("checkpoint", "epoch", "step", "size", "optimizer", "state", "metrics, or what is wrong")
_STEP = _HEADER.index("step")
_SEED_HEADER = ("runs", "metric", "n", "mean ± std", "min", "max")


def _run_table(run: RunRecord) -> Iterator[str]:
    """Yield a line for each checkpoint; steps have a column where the run counts them."""
    rows = [_HEADER, *_rows(run)]
    if all(row[_STEP] == "-" for row in rows[1:]):
        rows = [(*row[:_STEP], *row[_STEP + 1 :]) for row in rows]
    right = {index for index, name in enumerate(rows[0]) if name in ("epoch", "step", "size")}
    yield from table(rows[1:], header=rows[0], right=right, columns=width())


def _rows(run: RunRecord) -> Iterator[tuple[str, ...]]:
    for record in (*run.checkpoints, *filter(None, [run.model])):
        marks = [mark for mark, path in (("latest", run.latest), ("best", run.best)) if path == record.path]
        yield (
            record.path.name,
            "-" if record.epoch is None else str(record.epoch),
            "-" if record.step is None else str(record.step),
            human_size(record.nbytes),
            "yes" if record.has_optimizer else "no" if record.complete else "-",
            " ".join(["complete" if record.complete else "unusable", *marks]),
            as_flags(record.problem or "") or _said_numbers(record.metrics) or "-",
        )


def _said_numbers(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.6g}" for name, value in metrics.items())


def _seed_row(row: SeedComparison) -> tuple[str, ...]:
    std = "" if row.std is None else f" ± {row.std:.3g}"
    return row.runs, row.metric, str(len(row.seeds)), f"{row.mean:.6g}{std}", f"{row.least:.6g}", f"{row.most:.6g}"
