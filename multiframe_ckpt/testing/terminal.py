"""Terminal: a program in a real pseudo-terminal, to be talked to as a person would.

It never sleeps: it waits for what the program writes, and for its end, and fails with all that was on the screen where
neither comes.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

__all__ = ["Terminal"]

_PATIENCE = 60.0  # seconds, for a program that imports a framework on a busy machine
# Ctrl-C reaches a program as a signal only from the terminal that controls it. Not by Popen's preexec_fn: newer Pythons
# warn of it in a process with threads. Nor from a parent that ignores it, as what a shell runs in the background does.
_TAKE_TERMINAL = (
    "import fcntl, os, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "signal.signal(signal.SIGINT, signal.SIG_DFL); os.execvp(sys.argv[1], sys.argv[1:])"
)
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A running program whose standard streams are a terminal of its own, which also controls it."""

    def __init__(
        self, command: Sequence[str], *, folder: Path, environment: Mapping[str, str] = {}, columns: int = 100
    ) -> None:
        self._master, child = pty.openpty()
        fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("4H", 40, columns, 0, 0))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _TAKE_TERMINAL, *command],
            cwd=folder,
            env={**os.environ, "TERM": "xterm", **environment},
            stdin=child,
            stdout=child,
            stderr=child,
            start_new_session=True,
        )
        os.close(child)
        self._raw = b""
        self._seen = 0

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._master)

    @property
    def screen(self) -> str:
        """Everything written so far, without escape sequences; lines that were written over are there too."""
        return _ESCAPES.sub("", self._raw.decode("utf-8", "replace")).replace("\r\n", "\n")

    def expect(self, text: str) -> None:
        """Wait until the program writes ``text``, after what was expected before."""
        while text not in self.screen[self._seen :]:
            if not self._read():
                raise AssertionError(f"found no {text!r}, expected it on the screen:\n{self.screen}")
        self._seen = self.screen.index(text, self._seen) + len(text)

    def type(self, line: str) -> None:
        """Types a line and Enter."""
        self.press(f"{line}\n")

    def press(self, keys: str) -> None:
        """Types keys as they are: ``\\x04`` is Ctrl-D."""
        os.write(self._master, keys.encode())

    def interrupt(self) -> None:
        """Press Ctrl-C once the program waits for a key.

        Between showing a prompt and reading, Python would note the signal and act on it only after the next line, which
        a person never is fast enough to see.
        """
        state = Path(f"/proc/{self._process.pid}/stat")
        deadline = time.monotonic() + _PATIENCE
        while state.exists() and state.read_text().rpartition(") ")[2][0] == "R" and time.monotonic() < deadline:
            os.sched_yield()
        self.press("\x03")

    def finished(self) -> int:
        """Wait for the program's end and return its exit status."""
        while self._read():
            pass
        try:
            return self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"found a program that goes on, expected its end:\n{self.screen}") from None

    def _read(self) -> bool:
        """Read what there is, waiting for some; return whether there was any."""
        ready, _, _ = select.select([self._master], [], [], _PATIENCE)
        try:
            piece = os.read(self._master, 1 << 16) if ready else b""
        except OSError:  # EIO: the program has closed its side
            return False
        self._raw += piece
        return bool(piece)
