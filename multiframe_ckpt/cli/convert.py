"""``multiframe-ckpt convert``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from ..operations.convert import convert
from ..storage.atomic import STAGE_SUFFIX
from .output import Output
from .program import NAME, OptionalValue, Status, verb

__all__ = ["convert_command"]


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
@click.option(
    "--model-only",
    cls=OptionalValue,
    metavar="[=KEY]",
    help="Take the weights out of a training checkpoint; =KEY says which, =ema the running average.",
)
@click.option("--overwrite", is_flag=True, help="Replace DST if it exists.")
@click.option("--no-verify", "verify", flag_value=False, default=True, help="Do not check SRC against its digests.")
@click.option("--no-digest", "digest", flag_value=False, default=True, help="Write no digests into DST.")
@click.option("--no-durable", "durable", flag_value=False, default=True, help="Do not wait until DST is on the disk.")
@click.option(
    "--ties",
    type=click.Choice(["each", "once"]),
    default="each",
    help="Write tied tensors under each name, or one of them, and name the others.",
)
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
    out.show(report)
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
