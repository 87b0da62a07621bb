"""``multiframe-ckpt convert``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from ..convert import ConvertReport, convert
from ..storage.atomic import STAGE_SUFFIX
from .output import Output, count_of, human_size, listed
from .program import NAME, Status, verb

__all__ = ["convert_command"]

_MOST_LISTED = 10


@verb(example=f"{NAME} convert model.pth model_oneflow --to oneflow --rename 'module.*=*'")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@click.option("--to", metavar="FORMAT", help="Format of DST; default: by its suffix, or oneflow where it has none.")
@click.option("--include", metavar="GLOB", multiple=True, help="Keep tensors whose key matches; may be repeated.")
@click.option("--exclude", metavar="GLOB", multiple=True, help="Leave out tensors whose key matches; may be repeated.")
@click.option("--rename", metavar="OLD=NEW", multiple=True, help="Rename tensors; * matches any text; may be repeated.")
@click.option("--dtype", "cast", metavar="NAME", help="Cast the floating tensors of the weights, such as to bfloat16.")
@click.option("--weights-only", is_flag=True, help="Take the state dict out of a training checkpoint.")
@click.option("--overwrite", is_flag=True, help="Replace DST if it exists.")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be done; write nothing.")
@click.option("--allow-inert", is_flag=True, help="Keep objects of unknown types as plain dicts; nothing is run.")
@click.option("--allow-incomplete", is_flag=True, help="Read what is there of a save that never finished.")
def convert_command(out: Output, source: str, target: str, **options: Any) -> Status:
    """Write the checkpoint SRC to DST in another format.

    DST appears whole or not at all, and nothing is overwritten unless asked. Tensors are named by their keys, which
    'inspect' lists.
    """
    with out.progress("converting") as on_progress, _blamed_on(target):
        report = convert(source, target, **options, on_progress=on_progress)
    document = {name: getattr(report, name) for name in ConvertReport.__dataclass_fields__}
    out.report({**document, "lossless": report.lossless}, _lines(report))
    return Status.DONE


@contextmanager
def _blamed_on(target: str) -> Iterator[None]:
    """Names the target where the system names nothing, or the temporary folder that became nothing."""
    try:
        yield
    except OSError as problem:
        if problem.errno is None or (problem.filename is not None and STAGE_SUFFIX not in str(problem.filename)):
            raise
        raise OSError(problem.errno, problem.strerror, target) from problem


def _lines(report: ConvertReport) -> Iterator[str]:
    done = "would convert" if report.dry_run else "converted"
    yield f"{done} {report.source} ({report.source_format}) to {report.target} ({report.target_format})"
    yield f"{count_of(report.tensors, 'tensor')}, {human_size(report.nbytes)}"
    for title, items in _changes(report).items():
        if items:
            yield f"{title} ({len(items):,}):"
            yield from listed(items, most=_MOST_LISTED)
    yield _verdict(report)
    if report.dry_run:
        yield "dry run: nothing was written"


def _changes(report: ConvertReport) -> dict[str, list[str]]:
    """Gives what was done to whom, by a title that says what it means."""
    keeps_views = "" if report.target_format == "torch" else "; --to torch keeps them"
    return {
        "left out": list(report.excluded),
        "renamed": [f"{old} -> {new}" for old, new in report.renamed.items()],
        "cast": [f"{key} to {dtype}" for key, dtype in report.cast.items()],
        f"widened, as {report.target_format} needs; remembered, so the way back is exact": [
            f"{key} to {dtype}" for key, dtype in report.widened.items()
        ],
        "tied tensors written once each; remembered, so they come back tied": _groups(report.duplicated),
        f"views of one storage that become tensors of their own{keeps_views}": _groups(report.lost_ties),
        "objects of unknown types, written as plain dicts": list(report.inert),
        "metadata dropped, as this format has no place for it; --to safetensors keeps it": list(report.lost_metadata),
    }


def _groups(groups: tuple[tuple[str, ...], ...]) -> list[str]:
    return [" = ".join(group) for group in groups]


def _verdict(report: ConvertReport) -> str:
    if report.lossless:
        return "lossless: converting back gives every tensor and value again, bit for bit"
    losses = {
        "left out": len(report.excluded),
        "cast": len(report.cast),
        "no longer sharing a storage": sum(map(len, report.lost_ties)),
        "of unknown type": len(report.inert),
        "without a place for metadata": len(report.lost_metadata),
    }
    return f"not lossless: {', '.join(f'{count:,} {what}' for what, count in losses.items() if count)}"
