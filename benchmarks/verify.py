"""How long does it take to check every byte of a checkpoint, against reading the file?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from cases import Case, Contender
from harness import main
from libraries import OURS
from limits import LIMITS
from processes import Job, Place


def ours(place: Place) -> Callable[[], None]:
    """Is ours, as a user calls it; what is not whole fails."""
    import multiframe_ckpt as mfc

    def run() -> None:
        report = mfc.verify(place.source)
        if not report.whole or report.unchecked:
            raise SystemExit(f"found {report}, expected a whole checkpoint with a digest of every tensor")

    return run


JOBS: dict[str, Job] = {"ours": ours, **LIMITS}


def cases(_: str) -> Iterator[Case]:
    """Yield each format for W1; for the limit the same files are read and dropped."""
    for format in OURS:
        yield Case(f"verify {format}", "W1", contenders(format), limit="plain read")


def contenders(format: str) -> list[Contender]:
    reading: list[tuple[str, dict[str, Any]]] = [("plain read", {}), ("plain read, two threads", {"workers": 2})]
    limits = [Contender(label, "limit", "plain read", options, source=format) for label, options in reading]
    return [*limits, Contender("ours", "ours", "ours", source=format, digest=True)]


if __name__ == "__main__":
    main("verify", JOBS, cases)
