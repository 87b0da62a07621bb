"""The victim: a process of its own that puts one file after another through every verb and says what that did to it.

Run as ``python victim.py FD``; a line of JSON asks on standard input, one answers on the descriptor. What each verb cost
is measured here, and a hook on Python's audit events notes whatever is opened, imported or started meanwhile. No
framework is imported, and the same honest files are read again after each attack: what a file leaves behind would show.
"""

from __future__ import annotations

import gc
import hashlib
import io
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import rich.cells  # noqa: F401  (imported when text is first wrapped)

import multiframe_ckpt as mfc
from multiframe_ckpt.cli import program
from multiframe_ckpt.formats import FORMATS
from multiframe_ckpt.formats.base import WritableFormat

resource = __import__("resource")  # POSIX, as the tests that start this have made sure
_MEMORY = 3 << 30
_STARTED = (
    "os.system",
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "subprocess.Popen",
    "pty.spawn",
)
_NEVER = (*_STARTED, "pickle.find_class", "shelve.open", "socket.", "urllib.", "ftplib.", "webbrowser.")
_LIBRARIES = (sys.prefix, sys.base_prefix, str(Path(mfc.__file__).resolve().parents[1]), "/proc/self/", os.devnull)
#: What readers import when they are first asked for something rare.
_LAZY = ("multiframe_ckpt", "numpy", "h5py", "ml_dtypes", "click", "rich", "xxhash", "encodings", "isal")


class Watch:
    """Notes what happens in this process while it is on."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.allowed: tuple[str, ...] = ()
        self.on = False
        sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        self.on = False  # what the hook itself does is not the reader's doing
        try:
            if event.startswith(_NEVER) or (event == "ctypes.dlopen" and args[0] is not None):
                self.seen.append(f"{event} {args!r:.200}")
            elif event == "open" and isinstance(args[0], str | bytes):
                place = os.path.realpath(os.fsdecode(args[0]))
                if not place.startswith(self.allowed):
                    self.seen.append(f"open {place}")
            elif event == "import" and args[0] not in sys.stdlib_module_names and not args[0].startswith(_LAZY):
                self.seen.append(f"import {args[0]}")
            elif event == "exec" and not args[0].co_filename.startswith(("<frozen", *self.allowed)):
                self.seen.append(f"exec {args[0].co_filename} {args[0].co_names}")
        finally:
            self.on = True


def memory(field: str) -> int:
    """Gives a size of this process in bytes, or 0 where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(field)), 0)


def forget_peak() -> None:
    """Makes the peak what is used now, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


class Tail(io.TextIOBase):
    """Keeps the end of what is written: a terminal takes no memory of this process either."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        """Takes more text."""
        self.text = (self.text + text)[-20_000:]
        return len(text)


def on_command_line(*arguments: str) -> dict[str, Any]:
    out, err = Tail(), Tail()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            program.main(list(arguments))
        except SystemExit as end:
            return {"status": int(end.code or 0), "out": out.text, "err": err.text}


def loaded(path: str, **options: bool) -> dict[str, Any]:
    mfc.load(path, backend="numpy", **options)
    return {"status": 0}


def managed(folder: str, doing: Callable[[mfc.CheckpointManager], object]) -> dict[str, Any]:
    with mfc.CheckpointManager(folder) as manager:
        doing(manager)
    return {"status": 0}


def verbs(path: str, work: str) -> dict[str, Callable[[], dict[str, Any]]]:
    """Gives everything that can be done with a file."""
    target, folder = f"{work}/converted.pt", os.path.dirname(path)
    return {
        "inspect": lambda: on_command_line("inspect", path),
        "inspect --json": lambda: on_command_line("inspect", path, "--json", "--allow-incomplete"),
        "verify": lambda: on_command_line("verify", path),
        "diff": lambda: on_command_line("diff", path, path),
        "convert": lambda: on_command_line("convert", path, target, "--allow-unknown"),
        "list": lambda: on_command_line("list", folder),
        "load": lambda: loaded(path),
        "load unknown": lambda: loaded(path, allow_unknown=True, allow_incomplete=True),
        "latest": lambda: managed(folder, mfc.CheckpointManager.latest),
        "best": lambda: managed(folder, mfc.CheckpointManager.best),
        "resume": lambda: managed(folder, mfc.CheckpointManager.resume),
    }


def measured(verb: Callable[[], dict[str, Any]], watch: Watch) -> dict[str, Any]:
    """Runs a verb and gives what came out, with its processor seconds, its memory at the peak, and what it touched."""
    forget_peak()
    before, started, watch.seen = memory("VmRSS:"), time.process_time(), []
    watch.on = True
    try:
        found = verb()
    except (mfc.MultiframeError, OSError) as problem:
        found = {"refused": type(problem).__name__, "message": str(problem)[:20_000]}
    except BaseException:
        found = {"broken": traceback.format_exc()[-4000:]}
    finally:
        watch.on = False
    spent, peak = time.process_time() - started, memory("VmHWM:") - before
    return {**found, "seconds": spent, "peak": peak, "touched": watch.seen}


def attacked(path: str, work: str, only: list[str] | None, watch: Watch) -> dict[str, Any]:
    watch.allowed = (*_LIBRARIES, os.path.realpath(os.path.dirname(path)), os.path.realpath(work))
    return {name: measured(verb, watch) for name, verb in verbs(path, work).items() if only is None or name in only}


def honest_files(folder: Path) -> list[Path]:
    """Makes a file of each format, and reads it, so that all there is to import is imported."""
    tied = mfc.LazyTensor.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), alias="w")
    tree = {"model": {"w": tied, "t": tied}, "epoch": 3, "lr": [0.5, None, (True, "x", 2**70)]}
    names = [kind.name for kind in FORMATS.available() if issubclass(kind, WritableFormat)]
    for name in names:
        mfc.Checkpoint(tree).save(folder / name / "checkpoint_epoch_0001", format=name)
    return [folder / name / "checkpoint_epoch_0001" for name in names]


def digest(paths: list[Path]) -> str:
    """Gives a digest of all that the files hold."""
    found = hashlib.sha256()
    for path in paths:
        checkpoint = mfc.open(path)
        found.update(repr((checkpoint.meta, checkpoint.tree)).encode())
        for key, tensor in checkpoint.tensors().items():
            found.update(repr((key, tensor.dtype, tensor.shape)).encode() + tensor.numpy().tobytes())
    return found.hexdigest()


def main() -> None:
    answers = open(int(sys.argv[1]), "w", encoding="utf-8")  # noqa: PTH123, SIM115
    work = Path(sys.argv[2])
    warnings.simplefilter("ignore", mfc.CheckpointWarning)
    honest = honest_files(work / "honest")
    watch = Watch()
    for path in honest:
        attacked(str(path), str(work), None, watch)
        (work / "converted.pt").unlink()
    before = digest(honest)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_DATA, (memory("VmData:") + _MEMORY, resource.RLIM_INFINITY))
    for line in sys.stdin:
        asked = json.loads(line)
        gc.collect()
        answer = {"verbs": attacked(asked["path"], str(work), asked.get("only"), watch)}
        (work / "converted.pt").unlink(missing_ok=True)
        answer["unchanged"] = digest(honest) == before
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
