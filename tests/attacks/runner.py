"""Puts files before the victim, and watches the folder that nothing may open."""

from __future__ import annotations

import ctypes
import json
import os
import select
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["Runner", "Sentry", "watched"]

_VICTIM = Path(__file__).with_name("victim.py")
_PATIENCE = 60  # seconds until a verb that waits for something is given up
_OPENED = 0x020 | 0x100 | 0x001 | 0x002 | 0x200  # IN_OPEN | IN_CREATE | IN_ACCESS | IN_MODIFY | IN_DELETE
_FOLDER = 0x40000000  # IN_ISDIR


class Runner:
    """A victim that is started when it is needed, and again when it died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def _start(self) -> None:
        self._work = tempfile.TemporaryDirectory()
        answers, write = os.pipe()
        # Python says in a file why it had to die.
        self._last_words = open(os.path.join(self._work.name, "stderr"), "w+", encoding="utf-8")  # noqa: PTH123, SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", str(_VICTIM), str(write), self._work.name],
            stdin=subprocess.PIPE,
            stderr=self._last_words,
            pass_fds=[write],
            text=True,
        )
        os.close(write)
        self._answers = open(answers, encoding="utf-8")  # noqa: PTH123, SIM115

    def attack(self, path: Path, only: list[str] | None = None) -> dict[str, Any]:
        """Gives what each verb did with the file; ``{"died": …}`` where the victim hung or is no more."""
        if self._process is None:
            self._start()
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(json.dumps({"path": str(path), "only": only}) + "\n")
        self._process.stdin.flush()
        ready = select.select([self._answers], [], [], _PATIENCE)[0]
        line = self._answers.readline() if ready else ""
        if line:
            return dict(json.loads(line))
        return {"died": self.stop() if ready else f"it hung for {_PATIENCE} s: {self.stop()}"}

    def stop(self) -> str:
        """Ends the victim and gives its last words."""
        if self._process is None:
            return ""
        self._process.kill()
        self._process.communicate()
        self._last_words.seek(0)
        words = f"status {self._process.returncode}: {self._last_words.read()[-2000:]}"
        self._last_words.close()
        self._answers.close()
        self._work.cleanup()
        self._process = None
        return words


class Sentry:
    """Tells by inotify what was opened in a folder, by whatever code; knows nothing where the system has none."""

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._events = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(libc, "inotify_init1") else -1
        if self._events >= 0:
            libc.inotify_add_watch(self._events, os.fsencode(folder), _OPENED)

    def opened(self) -> list[str]:
        """Gives the names of files that were opened, made or removed since."""
        try:
            raw = os.read(self._events, 1 << 16) if self._events >= 0 else b""
        except BlockingIOError:
            return []
        return list(self._names(raw))

    def _names(self, raw: bytes) -> Iterator[str]:
        at = 0
        while at < len(raw):
            _, mask, _, length = struct.unpack_from("<iIII", raw, at)
            name = raw[at + 16 : at + 16 + length].rstrip(b"\0").decode("utf-8", "replace")
            if name and not mask & _FOLDER:
                yield name
            at += 16 + length

    def close(self) -> None:
        if self._events >= 0:
            os.close(self._events)


@contextmanager
def watched(folder: Path) -> Iterator[Sentry]:
    sentry = Sentry(folder)
    try:
        yield sentry
    finally:
        sentry.close()
