"""Runs a case's save once for each of its calls to the system, which fails there or kills the process, and looks.

    each_call.py CASE FOLDER (kill | ENOSPC | EIO)

A process of its own, since it forks. Prints how many calls there were, and how often the old and the new were found.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cases import CASES, Case

CALLS = ("pwrite", "pwritev", "write", "fsync", "fdatasync", "mkdir", "rmdir", "rename", "replace", "symlink", "unlink")
#: Calls that are made otherwise too.
EVENTS = {"open", "ctypes.dlsym"}


def at_call(number: int, strike: Callable[[], None]) -> list[int]:
    """Has ``strike`` called before each call from the ``number``-th on; gives the count of calls."""
    count = [0]

    def note() -> None:
        count[0] += 1
        if count[0] >= number:
            strike()

    def noted(call: Callable[..., Any]) -> Callable[..., Any]:
        def stand_in(*arguments: Any, **options: Any) -> Any:
            note()
            return call(*arguments, **options)

        return stand_in

    for name in CALLS:
        setattr(os, name, noted(getattr(os, name)))
    sys.addaudithook(lambda event, _: event in EVENTS and note())
    return count


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def failing(code: int) -> Callable[[], None]:
    def fail() -> None:
        raise OSError(code, os.strerror(code))

    return fail


RETURNED, RAISED, OVER, WRONG = range(4)


def child(case: Case, folder: Path, number: int, strike: Callable[[], None]) -> int:
    """Saves, and says how it ended."""
    try:
        count = at_call(number, strike)
        try:
            case.save(str(folder))
        except OSError:
            return RAISED
        return RETURNED if count[0] >= number else OVER
    except BaseException:
        traceback.print_exc()
        return WRONG


def run(case: Case, folder: Path, number: int, strike: Callable[[], None]) -> int | None:
    """Gives how a save in a process of its own ended; None where it was killed."""
    pid = os.fork()
    if pid == 0:
        status = WRONG
        try:
            status = child(case, folder, number, strike)
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (RETURNED, RAISED, OVER, -signal.SIGKILL), status
    return None if status < 0 else status


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def main(case: Case, top: Path, mode: str) -> None:
    strike = kill if mode == "kill" else failing(getattr(errno, mode))
    past, clean = top / "past", top / "clean"
    for folder in (past, clean):
        folder.mkdir()
        case.setup(str(folder))
        assert case.check(str(folder)) == "old"
    expected: dict[str, list[str]] = {}  # what is there after a save over the old, and over the new
    for state in ("old", "new"):
        case.save(str(clean))
        assert case.check(str(clean)) == "new"
        expected[state] = names(clean)
    found: Counter[str] = Counter()
    number, ended = 0, None
    while ended != OVER:
        number += 1
        folder = top / str(number)
        shutil.copytree(past, folder, symlinks=True)
        ended = run(case, folder, number, strike)
        state = case.check(str(folder))
        assert state == "new" or ended in (RAISED, None), f"call {number}: it returned, but the old one loads"
        found[state] += 1
        case.save(str(folder))
        assert case.check(str(folder)) == "new"
        assert names(folder) == expected[state], f"call {number}: leftovers"
        shutil.rmtree(folder)
    print(number - 1, found["old"], found["new"])


if __name__ == "__main__":
    main(CASES[sys.argv[1]], Path(sys.argv[2]), sys.argv[3])
