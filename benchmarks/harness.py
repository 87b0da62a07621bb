"""The frame of every benchmark: contenders in turn, in fresh processes; what is told are ratios with their spread.

A script in this folder makes a table of jobs and the cases, and hands both to :func:`main`. Each contender of a case is the
script itself, started again as a worker, so that nothing one run leaves in memory helps the next:

- ``process``: one job in a fresh process: its wall time from start to exit, imports and all, as a user waits for it, and
  its peak memory.
- ``inside``: the job's time in a process that has made its imports and run the job once on a tiny input.

The contenders of a case take turns (A B C, A B C, …). Before each turn the target is removed and the system's unwritten
data is flushed, so that nobody pays for another's writing. A ratio is formed within a round, and its median and quartiles
over the rounds are told: above 1 the contender takes that many times what the first one, ours, takes.

This process imports nothing large: the kernel counts a parent's memory as the least peak of its children.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
ROUNDS = 5

Job = Callable[[Path, Path], object]  # source, target -> what the contenders of a case must agree on
Jobs = Mapping[str, Callable[[], Job]]  # name -> makes the imports and gives the job

#: Measure -> its title, and how one value reads.
MEASURES: dict[str, tuple[str, Callable[[float], str]]] = {
    "process_seconds": ("time of the process", lambda value: f"{value:.3f} s"),
    "inside_seconds": ("time without start and imports", lambda value: f"{1e3 * value:.1f} ms"),
    "peak_bytes": ("peak memory of the process", lambda value: f"{value / 1e6:.0f} MB"),
}


class Contender(NamedTuple):
    """One way of doing a case's work: a job, and the Python that runs it."""

    label: str
    job: str
    series: str = "peer"  # contenders of several cases that are drawn alike; "ours" opens a case
    python: str = sys.executable


@dataclass(frozen=True, slots=True)
class Case:
    """Work that several contenders do alike, ours first; ``check`` names a job that must find their target right."""

    name: str
    size: str
    source: Path
    tiny: Path  # what a worker warms up on
    suffix: str
    contenders: tuple[Contender, ...]
    check: str | None = None


@dataclass(frozen=True)
class Spread:
    """Values of several rounds, with their median and quartiles."""

    values: Sequence[float]

    @cached_property
    def summary(self) -> dict[str, float]:
        """The median, and the quartiles as low and high."""
        low, _, high = quantiles(self.values, method="inclusive") if len(self.values) > 1 else [self.values[0]] * 3
        return {"median": median(self.values), "low": low, "high": high}

    def against(self, other: Spread) -> Spread:
        """Gives the ratios to another's values, round by round."""
        return Spread([mine / theirs for mine, theirs in zip(self.values, other.values, strict=True)])

    def document(self) -> dict[str, Any]:
        """Gives the summary and the values, rounded, for JSON."""
        return {
            **{name: _short(value) for name, value in self.summary.items()},
            "values": list(map(_short, self.values)),
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was measured of one contender of a case, by measure, and its ratios to the first contender."""

    case: Case
    contender: Contender
    spreads: Mapping[str, Spread]
    ratios: Mapping[str, Spread] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Gives everything as JSON has it, without paths."""
        measured = {measure: spread.document() for measure, spread in self.spreads.items()}
        ratios = {measure: spread.document() for measure, spread in self.ratios.items()}
        names = {"case": self.case.name, "size": self.case.size, "contender": self.contender.label}
        return {**names, "series": self.contender.series, "measured": measured, "ratio_to_ours": ratios}


def main(
    name: str, jobs: Jobs, cases: Callable[[argparse.Namespace, Path], Iterable[Case]], *, notes: Sequence[str]
) -> None:
    """Runs the benchmark ``name``, or one job of it where the command line says ``--worker``.

    ``cases`` gets the command line and an empty folder for its inputs.
    """
    if sys.argv[1:2] == ["--worker"]:
        work(jobs, *sys.argv[2:])
        return
    arguments = parse_arguments(name)
    folder = Path("outputs", "benchmarks", name)  # in the project, not in the system's folder, which may be memory
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    outcomes: list[Outcome] = []
    for case in cases(arguments, folder):
        found = compare(case, 1 if arguments.quick else arguments.rounds, folder)
        tell(found)
        outcomes += found
    for note in notes:
        print(note)
    save(name, outcomes, notes, arguments.results)
    shutil.rmtree(folder)


def parse_arguments(name: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=f"The benchmark {name!r}; see its docstring.")
    parser.add_argument("--quick", action="store_true", help="one round over tiny inputs: does it run at all?")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"turns of each contender; default {ROUNDS}")
    parser.add_argument("--only", default="", metavar="TEXT", help="only cases whose name and size hold this text")
    parser.add_argument(
        "--oneflow-python", metavar="PATH", help="a Python with real OneFlow; default: where there is one"
    )
    parser.add_argument("--results", type=Path, default=HERE / "results", help="where the JSON and the PNG go")
    return parser.parse_args()


# In the worker


def work(jobs: Jobs, mode: str, job: str, source: str, target: str, tiny: str) -> None:
    """Runs one job and prints, as one line of JSON, what it gave and how long it took inside."""
    run = jobs[job]()
    if mode == "inside":
        run(Path(tiny), Path(f"{target}.tiny"))
    start = time.perf_counter()
    result = run(Path(source), Path(target))
    print(json.dumps({"result": result, "seconds": time.perf_counter() - start}))


# In the benchmark


class Run(NamedTuple):
    """What one worker did."""

    result: Any
    wall_seconds: float
    inside_seconds: float
    peak_bytes: int


def run_worker(python: str, mode: str, job: str, source: Path, target: Path, tiny: Path) -> Run:
    """Runs a job in a fresh process; ends with what it said where it fails."""
    command = [python, sys.argv[0], "--worker", mode, job, str(source), str(target), str(tiny)]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        said = subprocess.run(command, capture_output=True, text=True, check=False).stderr
        sys.exit(f"{said}\nworker {job!r}: found exit status {process.returncode}, expected 0; see above")
    answer = json.loads(printed.splitlines()[-1])
    return Run(answer["result"], wall, answer["seconds"], usage.ru_maxrss * 1024)  # Linux counts kilobytes


def compare(case: Case, rounds: int, folder: Path) -> list[Outcome]:
    """Measures the contenders of a case in turn; ends where they disagree or one's target is not right."""
    target = folder / f"target{case.suffix}"
    values: list[dict[str, list[float]]] = [{measure: [] for measure in MEASURES} for _ in case.contenders]
    agreed = None
    for turn in range(rounds):
        for mine, contender in zip(values, case.contenders, strict=True):
            runs = {}
            for mode in ("process", "inside"):
                clear(target)
                runs[mode] = run_worker(contender.python, mode, contender.job, case.source, target, case.tiny)
            agreed = require_right(case, contender, runs["process"], target, agreed) if turn == 0 else agreed
            mine["process_seconds"].append(runs["process"].wall_seconds)
            mine["inside_seconds"].append(runs["inside"].inside_seconds)
            mine["peak_bytes"].append(runs["process"].peak_bytes)
    clear(target)
    spreads = [{measure: Spread(found) for measure, found in mine.items()} for mine in values]
    return [
        Outcome(case, contender, mine, {measure: mine[measure].against(spreads[0][measure]) for measure in MEASURES})
        for contender, mine in zip(case.contenders, spreads, strict=True)
    ]


def clear(target: Path) -> None:
    """Removes what a run left, and writes out what the system still holds back."""
    for path in (target, Path(f"{target}.tiny")):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    os.sync()


def require_right(case: Case, contender: Contender, run: Run, target: Path, agreed: Any) -> Any:
    right = run.result == (run.result if agreed is None else agreed)
    if case.check:
        right &= run_worker(sys.executable, "process", case.check, case.source, target, case.tiny).result is True
    if not right:
        sys.exit(f"{case.name}, {case.size}: {contender.label}: found a wrong result, {run.result}; expected {agreed}")
    return run.result


# Telling


def tell(outcomes: Sequence[Outcome]) -> None:
    """Prints a case: the medians, and in brackets the quartiles of the ratios to ours."""
    case = outcomes[0].case
    print(f"\n{f'{case.name}, {case.size}':<42}{''.join(f'{title:>39}' for title, _ in MEASURES.values())}")
    for outcome in outcomes:
        cells = []
        for measure, (_, say) in MEASURES.items():
            ratio = outcome.ratios[measure].summary
            spread = "{median:.2f}x ({low:.2f}-{high:.2f})".format(**ratio) if outcome is not outcomes[0] else ""
            cells.append(f"{say(outcome.spreads[measure].summary['median']):>13}{spread:>26}")
        print(f"  {outcome.contender.label:<40}{''.join(cells)}", flush=True)


def save(name: str, outcomes: Sequence[Outcome], notes: Sequence[str], results: Path) -> None:
    """Writes ``<name>.json`` and ``<name>.png``."""
    from chart import draw  # here, for its cost: see the module docstring

    results.mkdir(parents=True, exist_ok=True)
    pythons = {outcome.contender.python for outcome in outcomes}
    document = {
        "benchmark": name,
        "machine": machine(),
        "environments": [
            environment(python) for python in sorted(pythons, key=lambda python: python != sys.executable)
        ],
        "rounds": len(outcomes[0].spreads["process_seconds"].values),
        "measures": {measure: title for measure, (title, _) in MEASURES.items()},
        "notes": list(notes),
        "outcomes": [outcome.document() for outcome in outcomes],
    }
    (results / f"{name}.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    draw(document, results / f"{name}.png")
    print(f"wrote {name}.json and {name}.png to {results}")


def machine() -> dict[str, Any]:
    """Gives what a reader needs to place the numbers, and nothing that names the machine."""
    model = next((line for line in _lines("/proc/cpuinfo") if line.startswith("model name")), ": unknown")
    mounts = [line.split()[1:3] for line in _lines("/proc/mounts")]
    ours = [(point, kind) for point, kind in mounts if Path.cwd().is_relative_to(point)]
    return {
        "cpu": model.partition(":")[2].strip(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "system": os.uname().sysname,
        "load_average": round(os.getloadavg()[2], 1),  # of the last 15 minutes; about 1 where nothing else ran
        "file_system": max(ours, key=lambda mount: len(mount[0]), default=("", "unknown"))[1],
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


#: Asks an interpreter for its version and those of the packages that matter here.
_VERSIONS = """
import json, platform, importlib.metadata as metadata
names = ("multiframe-ckpt", "numpy", "torch", "oneflow", "safetensors")
found = {dist.metadata["Name"].lower(): dist.version for dist in metadata.distributions() if dist.metadata["Name"]}
print(json.dumps({"python": platform.python_version()} | {name: found[name] for name in names if name in found}))
"""


def environment(python: str) -> dict[str, str]:
    """Gives the versions in the environment of a Python."""
    done = subprocess.run([python, "-c", _VERSIONS], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def _short(value: float) -> float:
    return float(f"{value:.5g}")
