"""``multiframe-ckpt formats`` and ``backends``: what there is."""

from __future__ import annotations

from ..backend import backends
from ..formats import FORMATS
from ..formats.base import Format, HoldsMetadata
from ..terminal.table import table, width
from .output import Output
from .program import NAME, Status, verb

__all__ = ["backends_command", "formats_command"]


@verb(example=f"{NAME} formats")
def formats_command(out: Output) -> Status:
    """List the formats, and the suffixes that name them."""
    layouts = [kind() for kind in FORMATS.available()]
    rows = [(layout.name, " ".join(layout.suffixes) or "none", _summary(layout)) for layout in layouts]
    records = [
        {
            "name": layout.name,
            "suffixes": layout.suffixes,
            "summary": _summary(layout),
            "holds_metadata": isinstance(layout, HoldsMetadata),
        }
        for layout in layouts
    ]
    out.report({"formats": records}, table([("format", "suffixes", "what it is"), *rows], columns=width()))
    return Status.DONE


def _summary(layout: Format) -> str:
    return (layout.__doc__ or "").strip().partition("\n")[0].rstrip(".").replace("``", "")


@verb(example=f"{NAME} backends")
def backends_command(out: Output) -> Status:
    """List the backends, and why one is not here.

    To know whether a framework works it is imported, here only: the other verbs need none.
    """
    with out.waiting("importing frameworks"):
        records = backends()
    rows = [(row.name, "yes" if row.available else "no", row.version or row.reason or "-") for row in records]
    out.report({"backends": records}, table([("backend", "here", "version, or why not"), *rows], columns=width()))
    return Status.DONE
