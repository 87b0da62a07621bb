"""``multiframe-ckpt inspect``, ``diff`` and ``verify``: looking at checkpoints without changing any."""

from __future__ import annotations

from typing import Any

import click

from ..checkpoint import Checkpoint
from ..operations.diff import diff
from ..operations.inspect import inspect
from ..operations.verify import verify
from .clean import warn_of_leftovers
from .output import Output
from .program import NAME, OptionalValue, Status, verb

__all__ = ["diff_command", "inspect_command", "verify_command"]


@verb(example=f"{NAME} inspect model.pth")
@click.argument("path")
@click.option("--format", "format", metavar="NAME", help="Read it as this format; default: recognised by content.")
@click.option("--allow-incomplete", is_flag=True, help="Read what is there of a save that never finished.")
def inspect_command(out: Output, path: str, **options: Any) -> Status:
    """Say what PATH holds; reads headers only."""
    warn_of_leftovers(path)
    with out.waiting("reading"):
        checkpoint = Checkpoint.open(path, **options)
        report = inspect(checkpoint)
    out.show(report)
    return Status.DONE


@verb(example=f"{NAME} diff model.pth model_oneflow --atol 1e-6")
@click.argument("a")
@click.argument("b")
@click.option("--rtol", type=click.FloatRange(min=0), default=0.0, help="Relative tolerance; default 0.")
@click.option("--atol", type=click.FloatRange(min=0), default=0.0, help="Absolute tolerance; default 0: bit for bit.")
@click.option("--include", metavar="GLOB", multiple=True, help="Compare tensors whose key matches; may be repeated.")
@click.option("--exclude", metavar="GLOB", multiple=True, help="Leave out tensors whose key matches; may be repeated.")
@click.option(
    "--rename", metavar="OLD=NEW", multiple=True, help="Compare tensors of A by other names; may be repeated."
)
@click.option(
    "--model-only",
    cls=OptionalValue,
    metavar="[=KEY]",
    help="Compare the weights alone; =KEY says which, =ema the running average.",
)
@click.option(
    "--dialect",
    metavar="NAME",
    help="Compare optimizers and schedulers as this framework has them, or as-is; default: as that of A has them.",
)
def diff_command(out: Output, a: str, b: str, **options: Any) -> Status:
    """Compare checkpoints A and B key by key.

    They may be of different formats and frameworks. Without a tolerance tensors are compared bit for bit. A and what
    'convert' made of it by the same options are the same.
    """
    with out.waiting("comparing"):
        report = diff(a, b, **options)
    out.show(report, rtol=options["rtol"], atol=options["atol"])
    return Status.DONE if report.equal else Status.DIFFERENT


@verb(example=f"{NAME} verify model_oneflow")
@click.argument("path")
def verify_command(out: Output, path: str) -> Status:
    """Read every byte of PATH and compare it with its digests."""
    warn_of_leftovers(path)
    with out.waiting("verifying"):
        report = verify(path)
    out.show(report)
    return Status.DONE if report.whole else Status.DIFFERENT
