"""``multiframe-ckpt convert``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from ..operations.convert import ConvertReport, convert
from ..storage.atomic import STAGE_SUFFIX
from ..terminal.text import bulleted, human_size, plural
from .flags import as_flags
from .output import Output, document_of
from .program import NAME, Status, verb

__all__ = ["convert_command"]

_MOST_LISTED = 10


@verb(example=f"{NAME} convert model.pth model_oneflow --rename 'module.*=*'")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@click.option(
    "--to", "format", metavar="FORMAT", help="Format of DST; default: by its suffix, or oneflow where it has none."
)
@click.option(
    "--backend",
    metavar="NAME",
    help="Write optimizers and schedulers as this framework has them; default: the one whose format DST is.",
)
@click.option("--include", metavar="GLOB", multiple=True, help="Keep tensors whose key matches; may be repeated.")
@click.option("--exclude", metavar="GLOB", multiple=True, help="Leave out tensors whose key matches; may be repeated.")
@click.option("--rename", metavar="OLD=NEW", multiple=True, help="Rename tensors; * matches any text; may be repeated.")
@click.option(
    "--layout",
    metavar="RULE",
    multiple=True,
    help="Lay parameters out otherwise, such as 'fc.weight=turn'; may be repeated.",
)
@click.option("--dtype", metavar="NAME", help="Cast the floating tensors of the weights, such as to bfloat16.")
@click.option("--optimizer-dtype", metavar="NAME", help="Cast the floating tensors of optimizer state.")
@click.option("--model-only", is_flag=True, help="Take the state dict out of a training checkpoint.")
@click.option("--overwrite", is_flag=True, help="Replace DST if it exists.")
@click.option("--no-verify", "verify", flag_value=False, default=True, help="Do not check SRC against its digests.")
@click.option("--no-digest", "digest", flag_value=False, default=True, help="Write no digests into DST.")
@click.option("--no-durable", "durable", flag_value=False, default=True, help="Do not wait until DST is on the disk.")
@click.option(
    "--strict", is_flag=True, help="End with status 1 unless the conversion is exact and, of a run, resumable."
)
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be done; write nothing.")
@click.option("--allow-unknown", is_flag=True, help="Keep objects of unknown types as plain dicts; nothing is run.")
@click.option("--allow-incomplete", is_flag=True, help="Read what is there of a save that never finished.")
def convert_command(out: Output, source: str, target: str, strict: bool, **options: Any) -> Status:
    """Write SRC to DST in another format.

    DST appears whole or not at all, and nothing is overwritten unless asked. Tensors are named by their keys, which
    'inspect' lists.
    """
    with out.progress("converting") as on_progress, _blamed_on(target):
        report = convert(source, target, **options, on_progress=on_progress)
    out.report(document_of(report), _lines(report))
    return Status.DONE if report.ok or not strict else Status.DIFFERENT


@contextmanager
def _blamed_on(target: str) -> Iterator[None]:
    """Name the target where the system names nothing, or the temporary folder that became nothing."""
    try:
        yield
    except OSError as problem:
        if problem.errno is None or (problem.filename is not None and STAGE_SUFFIX not in str(problem.filename)):
            raise
        raise OSError(problem.errno, problem.strerror, target) from problem


def _lines(report: ConvertReport) -> Iterator[str]:
    done = "would convert" if report.dry_run else "converted"
    yield f"{done} {report.source} ({report.source_format}) to {report.target} ({report.target_format})"
    yield f"{plural(report.tensors, 'tensor')}, {human_size(report.nbytes)}"
    for what, why, items in _changes(report):
        if items:
            yield f"{what} ({len(items):,}){why}:"
            yield from bulleted(items, most=_MOST_LISTED, hint="; --json lists them all")
    yield from _verdicts(report)
    if report.dry_run:
        yield "dry run: nothing was written"


def _changes(report: ConvertReport) -> Iterator[tuple[str, str, list[str]]]:
    """Yield what was done, what to know of it, and to whom it was done."""
    yield "translated", ": optimizers and schedulers, as the other framework has them", list(report.translated)
    yield "not translated", ", so kept as they were", list(map(as_flags, report.untranslated))
    yield "to be minded", "", list(map(as_flags, report.warnings))
    yield "changed by the translation", "; translating back does not give them again", list(report.inexact)
    yield "left out", "", list(report.excluded)
    yield "laid out otherwise", "", [f"{key} = {how}" for key, how in report.laid_out.items()]
    yield "renamed", "", [f"{old} -> {new}" for old, new in report.renamed.items()]
    yield "cast", "", [f"{key} to {dtype}" for key, dtype in report.cast.items()]
    widened = [f"{key} to {dtype}" for key, dtype in report.widened.items()]
    yield "widened", f", as {report.target_format} needs; the way back is exact", widened
    yield "tied", ", written once each; they come back tied", [" = ".join(keys) for keys in report.duplicated]
    keep = "" if report.target_format == "torch" else "; --to torch keeps it"
    yield "no longer sharing a storage", keep, [", ".join(keys) for keys in report.lost_ties]
    yield "of unknown type", ", written as plain dicts", list(report.unknown)
    yield "metadata dropped", "; --to safetensors keeps it", list(report.lost_metadata)


def _verdicts(report: ConvertReport) -> Iterator[str]:
    yield f"{'exact' if report.exact else 'not exact'}: {report.exact_because}"
    if report.resumable is not None:
        yield f"{'resumable' if report.resumable else 'not resumable'}: {as_flags(report.resumable_because)}"
