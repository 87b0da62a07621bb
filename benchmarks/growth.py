"""Does the time grow in proportion to the bytes and to the number of tensors, and no faster?

Ours saves, opens, loads and converts 100 to 100,000 tensors of 1 KB, and 0.1 to 4 GB in 292 tensors, with digests, nothing
flushed. A line is fitted to the logarithms of the three largest sizes, where the time of a call itself no longer
counts: its slope is the exponent, and 1 is linear.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import log
from statistics import linear_regression
from typing import Any

import convert
import load
import open as opening
import save
from cases import Case, Contender
from harness import main
from libraries import OURS
from processes import Job, Place

COUNTS = {"full": (100, 1_000, 10_000, 100_000), "quick": (100, 1_000, 10_000), "tiny": (10, 100, 1000)}
GIGABYTES = {"full": (0.1, 0.4, 1.2, 4), "quick": (0.03, 0.1, 0.3), "tiny": (0.001, 0.002, 0.004)}
_FITTED = 3


def save_arrays(place: Place, *, format: str) -> Callable[[], None]:
    """Is ours, saving NumPy arrays: no framework's start to wait for."""
    return save.ours(place, format=format, tensors="numpy", digest=True, durable=False)


JOBS: dict[str, Job] = {
    "save": save_arrays,
    "open and list": opening.ours,
    "load": load.ours,
    "convert": convert.ours,
}


def cases(scale: str) -> Iterator[Case]:
    """Yield every size, twice over: by the number of tensors, and by bytes."""
    sizes = [f"tensors {count}" for count in COUNTS[scale]]
    sizes += [f"bytes {round(1e9 * size)}" for size in GIGABYTES[scale]]
    for workload in sizes:
        for job, contenders in jobs().items():
            yield Case(job, workload, contenders, rounds=1, moves=job != "open and list")


def jobs() -> dict[str, list[Contender]]:
    formats = ("torch", "oneflow")
    other = {"torch": "oneflow", "oneflow": "torch"}
    reading = {"backend": "numpy", "digest": True}
    listing = {"read": False, "digest": True}
    return {
        "save": [ours(name, "save", {"format": name}, suffix=OURS[name].suffix) for name in formats],
        "open and list": [ours(name, "open and list", listing, source=name) for name in formats],
        "load": [ours(name, "load", reading, source=name) for name in formats],
        "convert": [
            ours(
                name,
                "convert",
                {"to": other[name], "digest": True, "durable": False},
                source=name,
                suffix=OURS[other[name]].suffix,
            )
            for name in formats
        ],
    }


def ours(format: str, job: str, options: dict[str, Any], **where: str) -> Contender:
    label = f"ours, from {format}" if job == "convert" else f"ours, {format}"
    return Contender(label, "ours", job, options, digest=True, **where)


def fits(document: dict[str, Any]) -> dict[str, Any]:
    """Return, for every job and format, times over size with the exponent of the largest."""
    found: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for outcome in document["outcomes"]:
        over, _, size = outcome["workload"].partition(" ")
        # Jobs that move no tensor byte do not grow with bytes.
        if "measured" in outcome and (outcome["case"], over) != ("open and list", "bytes"):
            key = outcome["case"], outcome["contender"], over
            found.setdefault(key, []).append((float(size), outcome["measured"]["seconds"]["median"]))
    return {"fits": [fit(*key, points) for key, points in found.items() if len(points) >= _FITTED]}


def fit(case: str, contender: str, over: str, points: list[tuple[float, float]]) -> dict[str, Any]:
    largest = sorted(points)[-_FITTED:]
    slope = linear_regression([log(size) for size, _ in largest], [log(seconds) for _, seconds in largest]).slope
    sizes, seconds = zip(*sorted(points), strict=True)
    return {
        "case": case,
        "contender": contender,
        "over": over,
        "sizes": sizes,
        "seconds": seconds,
        "exponent": round(slope, 3),
    }


if __name__ == "__main__":
    main("growth", JOBS, cases, conclude=fits)
