"""The frame of every benchmark: contenders in turn, in fresh processes; what is told are medians, min-max and ratios.

A script in this folder makes a table of jobs and a list of cases, and hands both to :func:`main`. The contenders of a
case take turns (A B C, C A B, …), in another order each time; ``processes`` says what one turn is. Before each, the
target of the last is emptied, the system's unwritten data is written out, so that nobody pays for another's writing,
and what is to be read is brought into the page cache, or for ``cold`` cases out of it; where bytes are moved, memory for
them is brought back from the machine's host. Every case has its limit, measured in the same turns: ``cp``, a plain write
or read, a memcpy. Ratios are formed within a turn, and their median and range told.

A contender that fails is told by the type of its error, and the others go on. What a contender wrote or loaded of the tiny
workload must be, bit for bit, what the others did.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from cases import Case, Contender
from libraries import LIBRARIES, SOURCES
from machine import python_of
from processes import FailedRunError, Jobs, Order, Place, Run, Servers, serve
from results import Measured, add_ratios, describe, outcomes_of, results_folder, save, tell
from workloads import nbytes

ROUNDS = {"full": 1.0, "quick": 0.2, "tiny": 0.01}  # of a case's own number of rounds, at least one
_PIECE = 1 << 20
_MEMORY = 2.5  # times the workload: a file of it, a copy in memory, and some more


def main(
    name: str,
    jobs: Jobs,
    cases: Callable[[str], Iterable[Case]],
    *,
    notes: Sequence[str] = (),
    conclude: Callable[[dict[str, Any]], dict[str, Any]] = lambda document: {},
) -> None:
    """Run the benchmark ``name``, or its runs, as a server, where the command line says ``--serve``.

    ``cases`` gets the scale; ``conclude`` gives what is to be added to the results.
    """
    if sys.argv[1:2] == ["--serve"]:
        serve(SOURCES | dict(jobs), sys.argv[2])
        return
    arguments = parse_arguments(name)
    folder = Path("outputs", "benchmarks", name)  # in the project, not in the system's folder, which may be memory
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    start = time.monotonic()
    try:
        with Servers() as servers:
            bench = Bench(servers, folder, arguments.scale, arguments.rounds)
            outcomes = [
                outcome
                for case in cases(arguments.scale)
                if arguments.only in f"{case.name}, {case.workload}, {case.cache}"
                for outcome in bench.compare(case)
            ]
    finally:
        shutil.rmtree(folder)
    document = describe(name, arguments.scale, outcomes, notes) | {"seconds": round(time.monotonic() - start)}
    save(document | conclude(document), arguments.results)


def parse_arguments(name: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=f"The benchmark {name!r}; see its docstring.")
    parser.add_argument("--scale", choices=ROUNDS, default="full", help="quick: smaller, one round; tiny: does it run?")
    parser.add_argument("--rounds", type=int, help="turns of each contender; default: as the case says")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="only cases whose name, workload and cache hold this"
    )
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="where the JSON and the PNG go")
    arguments = parser.parse_args()
    whole = arguments.scale == "full" and not arguments.only and not arguments.rounds
    arguments.results = arguments.results or results_folder("full" if whole else "part of it")
    return arguments


# Measuring


@dataclass(frozen=True, slots=True)
class Bench:
    """Where runs are made: by which servers, in which folder, and at which scale; ``rounds`` overrides the cases'."""

    servers: Servers
    folder: Path
    scale: str
    rounds: int | None

    def compare(self, case: Case) -> Iterator[dict[str, Any]]:
        """Measure the contenders of a case in turn, say how they did, and yield their outcomes."""
        contenders = [each for each in case.contenders if python_of(each.environment)]
        measured: list[Measured] = [{} for _ in contenders]
        failed: dict[int, str] = {}
        agreed: dict[str, str] = {}
        print(f"\n{case.name}, {case.workload}, {case.cache} cache", flush=True)
        for turn in range(self.rounds or max(1, round(ROUNDS[self.scale] * case.rounds))):
            order = list(range(len(contenders)))
            Random(turn).shuffle(order)  # what one leaves behind of memory and cache is not always the same one's luck
            for number in order:
                contender = contenders[number]
                if number in failed:
                    continue
                try:
                    run = self.run(case, contender)
                except FailedRunError as problem:
                    failed[number] = problem.kind
                    print(f"{problem}\n  {contender.label} {dict(contender.options)}: failed, see above", flush=True)
                    continue
                for measure, value in run.measures.items():
                    measured[number].setdefault(measure, []).append(value)
                if run.fingerprint:
                    agreed[contender.label] = run.fingerprint
        require_agreement(case, agreed)
        outcomes = [
            outcome
            for number, contender in enumerate(contenders)
            for outcome in outcomes_of(case, contender, measured[number], failed.get(number))
        ]
        add_ratios(outcomes, case.limit)
        tell(outcomes)
        yield from outcomes

    def run(self, case: Case, contender: Contender) -> Run:
        """Run a contender once, from a clean start."""
        places = [
            Place(
                case.workload,
                scale,
                self.source(case.workload, scale, contender.source),
                self.folder / f"{name}{contender.suffix}",
            )
            for scale, name in ((self.scale, "target"), ("tiny", "warm_up"))
        ]
        os.sync()
        move_cache(places[0].source, cold=case.cache == "cold")
        order = Order(contender.job, contender.options, places[0], places[1], contender.flush)

        def before() -> None:
            if case.moves:
                fetch_memory(self.folder / "thrown_away", round(_MEMORY * nbytes(case.workload, self.scale)))
            if case.cache == "cold":
                move_cache(places[0].source, cold=True)

        try:
            return self.servers.run(contender.environment, order, before=before)
        finally:
            for place in places:
                self.put_away(place.target)

    def source(self, workload: str, scale: str, library: str | None) -> Path:
        """Return the workload as a library saves it, made the first time it is asked for."""
        if library is None:
            return self.folder / "none"
        made_by = LIBRARIES[library]
        name = f"source_{workload}_{scale}_{library}".replace(" ", "_").replace(".", "_")
        path = self.folder / f"{name}{made_by.suffix}"
        if not path.exists():
            tiny = Place(workload, "tiny", self.folder, self.folder / f"unused{made_by.suffix}")
            order = Order("make", {"library": library}, Place(workload, scale, self.folder, path), tiny)
            self.servers.run(made_by.environment, order)
            self.put_away(tiny.target)
        return path

    def put_away(self, path: Path) -> None:
        """Empty what was written and move it out of the way; it is deleted at the end.

        An ext4 without a journal passes over each inode that was given back within the last minute or five, and looks
        through all of them for every new file: deleting a target would make the next one slow.
        """
        if not path.exists():
            return
        for file in [path] if path.is_file() else path.rglob("*"):
            if file.is_file():
                os.truncate(file, 0)
        path.rename(self.folder / f"{path.name} {time.monotonic_ns()}")


def fetch_memory(path: Path, size: int) -> None:
    """Write and delete a file, so that as many bytes of memory are at hand, for the page cache and for processes.

    A virtual machine gives free memory back to its host: whoever takes it next would wait 1 to 2 s for each GB.
    """
    piece = bytes(_PIECE)
    with path.open("wb", buffering=0) as file:
        for _ in range(-(-size // _PIECE)):
            file.write(piece)
    path.unlink()


def move_cache(path: Path, *, cold: bool) -> None:
    """Read every file once, so that the page cache has it, or ask the kernel to drop it (all of it is on the disk)."""
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    for each in files:
        with each.open("rb", buffering=0) as file:
            if cold:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            else:
                while file.read(_PIECE):
                    pass


def require_agreement(case: Case, agreed: Mapping[str, str]) -> None:
    if len(set(agreed.values())) > 1:
        sys.exit(f"{case.name}, {case.workload}: found tensors that differ, expected the same of all: {dict(agreed)}")
