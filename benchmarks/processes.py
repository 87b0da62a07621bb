"""One run: a job in a process of its own, which says when it is ready, and times itself; its memory is watched from here.

A server in each environment makes the imports that take long and forks a process for every run, so that nothing one run
leaves in memory helps the next. The process runs the job once on a tiny workload, makes what the job starts from (a state
in memory, say), and says that it is ready: that is the idle process. Then the job runs. The harness reads the kernel's
counters of the process every two milliseconds, which costs less than a hundredth of a core; peaks are told over the idle
process, anonymous memory (its own) and mapped files apart.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from select import select
from typing import Any, NamedTuple, TextIO

from machine import python_of
from workloads import fingerprint

SAMPLING_SECONDS = 0.002
LIMIT_SECONDS = 600  # a run that takes longer is given up


class Place(NamedTuple):
    """Where a job works: the workload and its scale, what it reads, and what it writes."""

    workload: str
    scale: str
    source: Path
    target: Path


#: Imports what it needs, makes what it starts from, and gives what is timed. A dict that this gives replaces the measures.
Job = Callable[..., Callable[[], Any]]
Jobs = Mapping[str, Job]


class Order(NamedTuple):
    """What a process is told to do; ``flush``: what it wrote is flushed afterwards, and that is timed too."""

    job: str
    options: Mapping[str, Any]
    place: Place
    tiny: Place
    flush: bool = False


class Run(NamedTuple):
    """What one process measured, and a digest of what it made of the tiny workload: None where nobody can compare."""

    measures: dict[str, float]
    fingerprint: str | None


class FailedRunError(Exception):
    """A process that ended otherwise than by its answer; ``kind`` is the type of its error."""

    def __init__(self, kind: str, said: str) -> None:
        super().__init__(said)
        self.kind = kind


#: What a server imports before it forks. OneFlow and JAX start threads, which do not survive a fork: each run imports them.
PRELOADED = {
    "torch": ("multiframe_ckpt", "torch", "safetensors.torch", "safetensors.numpy"),
    "oneflow": ("multiframe_ckpt",),
    "peers": ("numpy",),
}


# In the processes


def serve(jobs: Jobs, environment: str) -> None:
    """Do what the orders on standard input say, one after the other, each in a process of its own."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a job prints
    for module in PRELOADED[environment]:
        import_module(module)
    for line in iter(sys.stdin.readline, ""):
        child = os.fork()
        if child == 0:
            try:
                work(jobs, line, channel)
            except BaseException as problem:  # told to the harness, which goes on with the others
                _say(channel, {"failed": type(problem).__name__, "said": traceback.format_exc()})
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status:
            _say(channel, {"failed": f"exit status {status}", "said": "it ended without a word"})


def work(jobs: Jobs, text: str, channel: TextIO) -> None:
    """Do what an order says: say that it is ready, and once it is told to go on, what it measured and made."""
    _say(channel, {"pid": os.getpid()})
    job, options, place, tiny, flush = json.loads(text)
    places = [Place(workload, scale, Path(source), Path(target)) for workload, scale, source, target in (tiny, place)]
    prepare = partial(jobs[job], **options)
    small = prepare(places[0])()
    run = prepare(places[1])
    gc.collect()
    _say(channel, {"ready": True})
    sys.stdin.readline()
    start = time.perf_counter()
    result = run()
    measures = {"seconds": time.perf_counter() - start}
    if flush:
        flush_all(places[1].target)
        measures["flushed_seconds"] = time.perf_counter() - start
    _say(channel, result if isinstance(result, dict) and "seconds" in result else measures)
    del result, run
    _say(channel, {"fingerprint": fingerprint(small, places[0].target)})


def _say(channel: TextIO, answer: Any) -> None:
    print(json.dumps(answer), file=channel, flush=True)


def void(_: object) -> None:
    """Return nothing: where a job gives nothing, what it wrote is compared with what the others wrote."""


def flush_all(path: Path) -> None:
    """Make what lies at ``path`` durable: a file with its folder, or, for a folder, the file system in one call."""
    if path.is_dir():
        descriptor = os.open(path, os.O_RDONLY)
        if ctypes.CDLL(None).syncfs(descriptor) != 0:
            raise OSError("syncfs failed")
        os.close(descriptor)
        return
    for each in (path, path.parent):
        descriptor = os.open(each, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


# In the harness


class Servers:
    """The servers of the environments, each started when it is first needed; a context manager ends them."""

    def __init__(self) -> None:
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._running.values():
            server.communicate()  # the end of its orders ends it

    def run(self, environment: str, order: Order, *, before: Callable[[], object] = lambda: None) -> Run:
        """Run an order in a process of its own; ``before`` is called once it is ready. Raise FailedRunError."""
        server = self._server(environment)
        text = json.dumps([*order[:2], *(list(map(str, place)) for place in order[2:4]), order.flush])
        _write(server, text)
        pid = _answer(server)["pid"]
        _watch(server, pid, {})
        _answer(server)
        before()
        idle = _memory(pid)
        _write(server, "go on")
        peak = _watch(server, pid, idle)
        measures = _answer(server)
        found = _answer(server)["fingerprint"]
        over = {f"{kind}_bytes": peak[kind] - idle[kind] for kind in idle}
        return Run({**over, "idle_anonymous_bytes": idle["anonymous"], **measures}, found)

    def _server(self, environment: str) -> subprocess.Popen[bytes]:
        if environment not in self._running:
            self._running[environment] = subprocess.Popen(
                [str(python_of(environment)), sys.argv[0], "--serve", environment],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,  # what is read ahead would be hidden from select
            )
        return self._running[environment]


def _watch(server: subprocess.Popen[bytes], pid: int, idle: Mapping[str, int]) -> dict[str, int]:
    """Return the peaks of a process's memory until it answers; end it where it takes too long."""
    peak = dict(idle)
    give_up = time.monotonic() + LIMIT_SECONDS
    while not select([server.stdout], [], [], SAMPLING_SECONDS)[0]:
        for kind, value in _memory(pid).items():
            peak[kind] = max(peak.get(kind, 0), value)
        if time.monotonic() > give_up:
            os.kill(pid, signal.SIGKILL)
            break
    return peak


def _write(server: subprocess.Popen[bytes], line: str) -> None:
    assert server.stdin is not None
    server.stdin.write(f"{line}\n".encode())


def _answer(server: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert server.stdout is not None
    line = server.stdout.readline()
    if not line:
        raise SystemExit(f"a server ended with {server.wait()}, expected it to run until the end: {server.args}")
    answer = dict(json.loads(line))
    if "failed" in answer:
        raise FailedRunError(answer["failed"], answer["said"])
    return answer


_PAGE = os.sysconf("SC_PAGE_SIZE")


def _memory(pid: int) -> dict[str, int]:
    """Return the anonymous and the mapped bytes that are resident: statm's second field less its third, and its third."""
    try:
        resident, shared = map(int, Path(f"/proc/{pid}/statm").read_text().split()[1:3])
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return {"anonymous": 0, "mapped": 0}
    return {"anonymous": (resident - shared) * _PAGE, "mapped": shared * _PAGE}
