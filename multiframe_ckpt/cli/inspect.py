"""``multiframe-ckpt inspect``, ``diff`` and ``verify``: looking at checkpoints without changing any."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from ..checkpoint import Checkpoint
from ..operations.diff import Change, DiffReport, diff
from ..operations.inspect import InspectReport, TensorRow, inspect
from ..operations.verify import VerifyReport, verify
from ..terminal.table import table, width
from ..terminal.text import bulleted, human_size, plural, printable, safe_repr
from ..tree import TOP, LazyTensor, Path, Tree, children, is_plain, key_of
from .flags import as_flags
from .output import Output, document_of
from .program import NAME, Status, verb

__all__ = ["diff_command", "inspect_command", "verify_command"]

_TENSOR_HEADER = ("dtype", "shape", "size", "tensor")
_SHORTEST_VALUE = 20
#: How people call the frameworks.
_FRAMEWORKS = {"torch": "PyTorch", "oneflow": "OneFlow"}


@verb(example=f"{NAME} inspect model.pth")
@click.argument("path")
@click.option("--format", "format", metavar="NAME", help="Read it as this format; default: recognised by content.")
@click.option("--allow-incomplete", is_flag=True, help="Read what is there of a save that never finished.")
def inspect_command(out: Output, path: str, **options: Any) -> Status:
    """Say what PATH holds; reads headers only."""
    with out.waiting("reading"):
        checkpoint = Checkpoint.open(path, **options)
        report = inspect(checkpoint)
    out.report(document_of(report), _inspect_lines(report, checkpoint.tree))
    return Status.DONE


def _inspect_lines(report: InspectReport, tree: Tree) -> Iterator[str]:
    facts = {name: value for name, value in report.meta.items() if not isinstance(value, Mapping)}
    rows = {
        "format": report.format,
        "framework": _FRAMEWORKS.get(framework, framework) if (framework := report.framework) else "not said",
        **{name: value if isinstance(value, str) else safe_repr(value) for name, value in facts.items()},
        "tensors": f"{len(report.tensors):,}",
        "parameters": f"{report.parameters:,}",
        "size": human_size(report.nbytes, exact=True),
        "dtypes": ", ".join(f"{name} ({count:,})" for name, count in report.dtypes.items()) or "none",
        "resume": _resume(report.resume),
    }
    yield report.path
    yield from table(rows.items(), columns=width())
    for name, part in report.meta.items():
        if isinstance(part, Mapping) and part:
            yield from ("", name, *_value_lines(part))
    values = list(_value_lines(tree))
    if values:
        yield from ("", "values", *values)
    if report.tensors:
        yield ""
        yield from table(report.tensors, header=_TENSOR_HEADER, right={2}, spell=_tensor_cells, columns=width())


def _resume(parts: Mapping[str, bool]) -> str:
    """Return the grade of a checkpoint as one to resume from: how many of the parts it has, and which."""
    kept, lost = (", ".join(name for name, there in parts.items() if there is wanted) for wanted in (True, False))
    what = [text for text in (kept, f"loses {lost}" if lost else "") if text]
    return f"{sum(parts.values())}/{len(parts)}: {'; '.join(what)}"


def _tensor_cells(row: TensorRow) -> tuple[str, ...]:
    tie = f" (tied to {row.tied_to})" if row.tied_to is not None else ""
    return row.dtype, str(list(row.shape)), human_size(row.nbytes), (row.key or TOP) + tie


def _value_lines(tree: Tree, path: Path = ()) -> Iterator[str]:
    """Yield ``key = value`` for each plain value; a list of plain values, such as an optimizer's params, is one."""
    inside = children(tree)
    if isinstance(tree, LazyTensor):
        return
    if inside is None or not tree or (isinstance(tree, list | tuple) and all(map(is_plain, tree))):
        yield _clipped(f"  {printable(key_of(path))} = ", safe_repr(tree))
        return
    for name, node in inside:
        yield from _value_lines(node, (*path, name))


def _clipped(head: str, value: str) -> str:
    """Return one line, in a terminal no longer than it is wide where the key leaves room."""
    room = max((width() or 0) - len(head), _SHORTEST_VALUE)
    return head + (value if width() is None or len(value) <= room else f"{value[: room - 3]}...")


@verb(example=f"{NAME} diff model.pth model_oneflow --atol 1e-6")
@click.argument("a")
@click.argument("b")
@click.option("--rtol", type=click.FloatRange(min=0), default=0.0, help="Relative tolerance; default 0.")
@click.option("--atol", type=click.FloatRange(min=0), default=0.0, help="Absolute tolerance; default 0: bit for bit.")
def diff_command(out: Output, a: str, b: str, rtol: float, atol: float) -> Status:
    """Compare checkpoints A and B key by key.

    They may be of different formats and frameworks. Without a tolerance tensors are compared bit for bit.
    """
    with out.waiting("comparing"):
        left, right = (Checkpoint.open(path) for path in (a, b))
        report = diff(left, right, rtol=rtol, atol=atol)
    out.report({**document_of(report), "rtol": rtol, "atol": atol}, _diff_lines(report))
    return Status.DONE if report.equal else Status.DIFFERENT


def _diff_lines(report: DiffReport) -> Iterator[str]:
    sections = {
        f"only in {report.a}": [key or TOP for key in report.removed],
        f"only in {report.b}": [key or TOP for key in report.added],
        "changed": [_said_change(change) for change in report.changed],
    }
    for title, items in sections.items():
        if items:
            yield f"{title} ({len(items):,}):"
            yield from bulleted(items)
    largest = f"; largest difference {report.largest:.6g}" if report.largest else ""
    if report.equal:
        yield f"same: all {report.same:,} tensors and values{largest}"
    else:
        counts = {"removed": report.removed, "added": report.added, "changed": report.changed}
        differing = ", ".join(f"{len(keys):,} {what}" for what, keys in counts.items() if keys)
        yield f"different: {differing}, {report.same:,} the same{largest}"


def _said_change(change: Change) -> str:
    key = change.key or TOP
    if change.largest is None:
        return f"{key}: {change.found} -> {change.expected}"
    return f"{key}: {change.found}, {change.expected}, by at most {change.largest:.6g}"


@verb(example=f"{NAME} verify model_oneflow")
@click.argument("path")
def verify_command(out: Output, path: str) -> Status:
    """Read every byte of PATH and compare it with its digests."""
    with out.waiting("verifying"):
        report = verify(path)
    out.report(document_of(report), _verify_lines(report))
    return Status.DONE if report.whole else Status.DIFFERENT


def _verify_lines(report: VerifyReport) -> Iterator[str]:
    if report.whole:
        yield f"{report.path} ({report.format}): whole"
    else:
        yield f"{report.path}: damaged"
        yield from bulleted(list(map(as_flags, report.problems)))
    yield f"{report.checked:,} of {plural(report.tensors, 'tensor')} match their digest"
    sections = {
        "missing": report.missing,
        "extra, named by nothing and left alone": report.extra,
        "no digest to compare with, read all the same": report.unchecked,
    }
    for title, items in sections.items():
        if items:
            yield f"{title} ({len(items):,}):"
            yield from bulleted([item or TOP for item in items])
