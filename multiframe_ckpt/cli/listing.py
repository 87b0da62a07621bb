"""``multiframe-ckpt formats`` and ``backends``: what there is."""

from __future__ import annotations

from ..backend import backends
from ..formats import FORMATS, Format, WritableFormat
from ..terminal.table import table, width
from .output import Output
from .program import NAME, Status, verb

__all__ = ["backends_command", "formats_command"]


@verb(example=f"{NAME} formats")
def formats_command(out: Output) -> Status:
    """List the formats, and the suffixes that name them."""
    formats = [kind() for kind in FORMATS.available()]
    rows = [(format.name, " ".join(format.suffixes) or "none", _use(format), _summary(format)) for format in formats]
    records = [
        {
            "name": format.name,
            "suffixes": format.suffixes,
            "summary": _summary(format),
            "writable": isinstance(format, WritableFormat),
            "holds_metadata": isinstance(format, WritableFormat) and format.holds_metadata,
        }
        for format in formats
    ]
    out.report({"formats": records}, table(rows, header=("format", "suffixes", "use", "what it is"), columns=width()))
    return Status.DONE


def _use(format: Format) -> str:
    return "read and written" if isinstance(format, WritableFormat) else "only read"


def _summary(format: Format) -> str:
    text = (format.__doc__ or "").strip().partition("\n")[0].rstrip(".").replace("``", "")
    return text if isinstance(format, WritableFormat) else f"{text}; only read"


@verb(example=f"{NAME} backends")
def backends_command(out: Output) -> Status:
    """List the backends, and why one is not here.

    To know whether a framework works it is imported, here only: the other verbs need none.
    """
    with out.waiting("importing frameworks"):
        records = backends()
    rows = [(row.name, "yes" if row.available else "no", row.version or row.reason or "-") for row in records]
    out.report({"backends": records}, table(rows, header=("backend", "here", "version, or why not"), columns=width()))
    return Status.DONE
