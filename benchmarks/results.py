"""What was measured, as JSON has it: outcomes with their spread, ratios to the limit, and nothing that names a machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from cases import Case, Contender
from machine import ROOT, describe_machine, versions
from workloads import nbytes

Measured = dict[str, list[float]]  # measure -> its value in every round


def results_folder(scale: str) -> Path:
    """Return where results go: those of less than the whole benchmark never replace those of the whole."""
    return ROOT / "benchmarks" / "results" if scale == "full" else ROOT / "outputs" / "benchmark-results"


def outcomes_of(case: Case, contender: Contender, measured: Measured, failed: str | None) -> Iterator[dict[str, Any]]:
    """Yield what was measured of a contender: once, or for one that is flushed twice."""
    names = {"case": case.name, "workload": case.workload, "cache": case.cache, "contender": contender.label}
    names |= {"kind": contender.kind, "environment": contender.environment}
    flags: dict[str, Any] = {"digest": contender.digest, "durable": contender.durable}
    if failed:
        yield names | flags | {"failed": failed}
        return
    flushed = measured.pop("flushed_seconds", None)
    yield names | flags | {"measured": {measure: spread(values) for measure, values in measured.items()}}
    if flushed:
        yield names | flags | {"durable": True, "measured": {"seconds": spread(flushed)}}


def add_ratios(outcomes: Sequence[dict[str, Any]], limit: str | None) -> None:
    """Add to each outcome its time as a multiple of the limit's of the same durability."""
    for outcome in outcomes:
        limits = [each for each in outcomes if each["contender"] == limit and each["durable"] == outcome["durable"]]
        if limits and "measured" in outcome and "measured" in limits[0]:
            outcome["times_the_limit"] = spread(ratios(outcome, limits[0]))


def ratios(a: dict[str, Any], b: dict[str, Any], measure: str = "seconds") -> list[float]:
    """Return a measure of one outcome over another's, round by round."""
    pairs = zip(a["measured"][measure]["values"], b["measured"][measure]["values"], strict=False)
    return [mine / theirs for mine, theirs in pairs if theirs]


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return median, min and max with the values themselves, rounded for JSON."""
    short = [float(f"{value:.5g}") for value in values]
    return {"median": median(short), "min": min(short), "max": max(short), "values": short}


def say_name(outcome: Mapping[str, Any]) -> str:
    """Return the contender with its options, as tables and charts show it."""
    digest = {None: "", True: ", digest", False: ", no digest"}[outcome["digest"]]
    return f"{outcome['contender']}{digest}{', durable' if outcome['durable'] else ''}"


def tell(outcomes: Sequence[dict[str, Any]]) -> None:
    """Print a line an outcome: its time, as a multiple of the limit's, and its peak memory over the idle process."""
    for outcome in outcomes:
        if "failed" in outcome:
            print(f"  {say_name(outcome):<58} failed: {outcome['failed']}")
            continue
        seconds = outcome["measured"]["seconds"]
        times = outcome.get("times_the_limit")
        memory = outcome["measured"].get("anonymous_bytes")
        line = f"  {say_name(outcome):<58}{seconds['median']:>9.4f} s ({seconds['min']:.4f}-{seconds['max']:.4f})"
        line += f"{times['median']:>9.2f} x limit" if times else ""
        print(line + (f"{memory['median'] / 1e6:>9.0f} MB" if memory else ""), flush=True)


def describe(name: str, scale: str, outcomes: Sequence[dict[str, Any]], notes: Sequence[str]) -> dict[str, Any]:
    """Return the results as JSON has them: no path and no name of a machine."""
    workloads = dict.fromkeys(outcome["workload"] for outcome in outcomes)
    environments = dict.fromkeys(outcome["environment"] for outcome in outcomes)
    return {
        "benchmark": name,
        "scale": scale,
        "machine": describe_machine(),
        "environments": {environment: versions(environment) for environment in environments},
        "workload_bytes": {workload: nbytes(workload, scale) for workload in workloads},
        "notes": list(notes),
        "outcomes": list(outcomes),
    }


def save(document: Mapping[str, Any], results: Path) -> None:
    """Write ``<benchmark>.json`` and ``<benchmark>.png``."""
    from chart import draw  # here, for its cost: workers import this module too

    results.mkdir(parents=True, exist_ok=True)
    name = document["benchmark"]
    (results / f"{name}.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    draw(document, results / f"{name}.png")
    print(f"\nwrote {name}.json and {name}.png after {document['seconds']} s", flush=True)
