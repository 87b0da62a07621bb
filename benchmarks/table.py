"""Writes the table of goals in docs/performance.md from the results: what was asked for, what was measured, reached or not.

The text around the table is written by hand and stays as it is. Results of a smaller scale go to a copy of the page beside
them, never into docs/.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from goals import GOALS, LARGEST_EXPONENT, MEGABYTES, MILLISECONDS, Goal, Pick
from harness import ROUNDS
from machine import ROOT
from results import ratios, results_folder

BEGIN, END = "<!-- written by benchmarks/table.py: begin -->\n", "<!-- end -->\n"
PAGE = ROOT / "docs" / "performance.md"
_HEAD = "| job | digest | goal | measured (min–max) | reached | both durable |\n|---|---|---|---|---|---|\n"
_UNITS = {MEGABYTES: 1e-6, MILLISECONDS: 1e3}

Documents = dict[str, dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--scale", choices=ROUNDS, default="full", help="which results; default: those of the full scale"
    )
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="where they lie, if elsewhere")
    arguments = parser.parse_args()
    results = arguments.results or results_folder(arguments.scale)
    documents = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))}
    page = PAGE if results == results_folder("full") else results / PAGE.name
    page.write_text(with_table(PAGE.read_text(encoding="utf-8"), table(documents)), encoding="utf-8")
    print(f"wrote the table of {page.name}")


def with_table(text: str, lines: str) -> str:
    """Return the page with another table between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"{PAGE.name}: found no marks around a table, expected {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n{lines}\n{END}{after}"


def table(documents: Documents) -> str:
    """Return where it was measured, the rows, and how many were reached."""
    lines = [row(goal, documents) for goal in GOALS] + list(growth_rows(documents.get("growth", {})))
    reached, missed = (sum(f" | {word} | " in line for line in lines) for word in ("yes", "**no**"))
    rest = len(lines) - reached - missed
    counts = f"{reached} of {len(lines)} goals reached, {missed} not reached, {rest} not measured.\n"
    return "\n".join([*machines(documents), counts, _HEAD + "\n".join(lines)]) + "\n"


def machines(documents: Documents) -> Iterator[str]:
    """Yield one line for every machine and scale the results are from: one, where all is of one run."""
    found: dict[str, list[str]] = {}
    for name, document in documents.items():
        machine = document["machine"]
        where = (
            f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['file_system']}; "
            f"scale {document['scale']}"
        )
        found.setdefault(where, []).append(name)
    for where, names in sorted(found.items()):
        yield f"{where}: {', '.join(sorted(names))}.\n"


def row(goal: Goal, documents: Documents) -> str:
    digest = {None: "–", False: "off", True: "on"}[goal.digest]
    if goal.benchmark not in documents:
        return f"| {goal.job} | {digest} | {goal.text} | – | not measured | – |"
    outcomes = documents[goal.benchmark]["outcomes"]
    plain = values(goal, outcomes, durable=False)
    if isinstance(plain, str):
        return f"| {goal.job} | {digest} | {goal.text} | {plain} | not measured | – |"
    found = median(plain)
    reached = found >= goal.bound if goal.at_least else found <= goal.bound
    durable = values(goal, outcomes, durable=True) if goal.below and goal.benchmark in ("save", "convert") else ""
    also = "–" if isinstance(durable, str) else say(durable, goal.unit)
    verdict = "yes" if reached else "**no**"
    return f"| {goal.job} | {digest} | {goal.text} | {say(plain, goal.unit)} | {verdict} | {also} |"


def values(goal: Goal, outcomes: list[dict[str, Any]], *, durable: bool) -> list[float] | str:
    """Return what a goal is about, round by round, or why there is nothing."""
    above = find(goal.above, goal, outcomes, durable)
    below = find(goal.below, goal, outcomes, durable) if goal.below else {"measured": {}}
    for outcome in (above, below):
        if outcome is None or "failed" in outcome:
            return f"{outcome['contender']} failed: {outcome['failed']}" if outcome else "a contender is not here"
    assert above is not None and below is not None
    if goal.below:
        return ratios(above, below, goal.measure) or "no round of both"
    scale = _UNITS.get(goal.unit, 1)
    return [scale * value for value in above["measured"][goal.measure]["values"]]


def find(pick: Pick | None, goal: Goal, outcomes: list[dict[str, Any]], durable: bool) -> dict[str, Any] | None:
    assert pick is not None
    return next(
        (
            each
            for each in outcomes
            if (each["contender"], each["case"], each["workload"]) == pick
            and each["cache"] == "warm"
            and each["durable"] == durable
            and each["digest"] in (None, True if goal.digest is None else goal.digest)
        ),
        None,
    )


def say(found: list[float], unit: str) -> str:
    shown = [f"{value:.1f}" if value >= 10 else f"{value:.2f}" for value in (median(found), min(found), max(found))]
    return f"{shown[0]} {unit} ({shown[1]}–{shown[2]})"


def growth_rows(document: dict[str, Any]) -> Iterator[str]:
    """Yield a row a job: the steepest of its exponents, by format."""
    over = {"tensors": "growth with the number of tensors", "bytes": "growth with bytes"}
    for kind, job in over.items():
        fits = [fit for fit in document.get("fits", []) if fit["over"] == kind]
        goal = f"linear: exponent ≤ {LARGEST_EXPONENT}"
        if not fits:
            yield f"| {job} | on | {goal} | nothing | not measured | – |"
        for case in dict.fromkeys(fit["case"] for fit in fits):
            mine = [fit for fit in fits if fit["case"] == case]
            verdict = "yes" if max(fit["exponent"] for fit in mine) <= LARGEST_EXPONENT else "**no**"
            measured = "; ".join(f"{fit['contender'].removeprefix('ours, ')} {fit['exponent']:.2f}" for fit in mine)
            yield f"| {job}: {case} | on | {goal} | {measured} | {verdict} | – |"


if __name__ == "__main__":
    main()
