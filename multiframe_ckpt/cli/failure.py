"""What an exception means at the end of a run: an exit status, and one line that says what to do."""

from __future__ import annotations

import errno
from enum import IntEnum

import click

from ..errors import DamagedError, MultiframeError
from .flags import as_flags

__all__ = ["Status", "message_of", "status_of"]


class Status(IntEnum):
    """The exit statuses."""

    DONE = 0  # or same
    DIFFERENT = 1  # or damaged
    UNUSABLE = 2
    INTERRUPTED = 130  # 128 + SIGINT, as shells count


_HALF = 1_000  # characters
#: Error number → what was found, what was expected, what to do.
_SYSTEM = {
    errno.ENOENT: ("nothing there", "a path that exists", "check it"),
    errno.EEXIST: ("something there already", "a free path, in folders", "choose another"),
    errno.EACCES: ("no permission", "one to read or write it", "see its owner and mode with: ls -ld"),
    errno.EPERM: ("no permission", "one to read or write it", "see its owner and mode with: ls -ld"),
    errno.ENOSPC: ("no room left on the disk", "room for all of it", "free some, or choose another disk"),
    errno.EDQUOT: ("a quota that is used up", "room for all of it", "free some, or choose another disk"),
    errno.EFBIG: (
        "a limit on the size of a file",
        "room for all of it",
        "raise it with: ulimit -f",
    ),
    errno.EROFS: ("a read-only disk", "a writable one", "choose another target"),
    errno.ENOTDIR: ("a file in the place of a folder", "a folder", "check the path"),
    errno.EISDIR: ("a folder", "a file", "check the path"),
    errno.ENAMETOOLONG: ("a name too long for the disk", "a shorter one", "choose another, or use --rename"),
    errno.ELOOP: ("symbolic links that lead in a circle", "a path that ends", "check the path"),
}


def status_of(problem: BaseException) -> Status:
    """Return the exit status that an exception ends a run with."""
    if isinstance(problem, KeyboardInterrupt | click.Abort):
        return Status.INTERRUPTED
    return Status.DIFFERENT if isinstance(problem, DamagedError) else Status.UNUSABLE


def message_of(problem: BaseException) -> str:
    """Return the line: the file, what was found, what was expected, what to do; a name without end is cut in its middle."""
    message = _message(problem)
    return message if len(message) <= 2 * _HALF else f"{message[:_HALF]}…{message[-_HALF:]}"


def _message(problem: BaseException) -> str:
    if isinstance(problem, KeyboardInterrupt | click.Abort):
        return "interrupted; what was not finished was not kept"
    if isinstance(problem, click.UsageError):
        return _usage(problem)
    if isinstance(problem, MultiframeError):
        return as_flags(str(problem))
    if isinstance(problem, OSError):
        return _system(problem)
    if isinstance(problem, MemoryError):
        return (
            "found too little memory, expected room for the largest tensor; free some, or leave it out with --exclude"
        )
    line = " ".join(f"{type(problem).__name__}: {problem}".split())
    return f"found an unexpected {line}; this is a bug of multiframe-ckpt or of a plugin: please report it"


def _usage(problem: click.UsageError) -> str:
    message = " ".join(problem.format_message().split()).rstrip(".").replace(". Did", "; did")
    if problem.ctx is None:
        return message
    usage = " ".join([problem.ctx.command_path, *problem.ctx.command.collect_usage_pieces(problem.ctx)])
    return f"{message[:1].lower()}{message[1:]}; usage: {usage} (--help says more)"


def _system(problem: OSError) -> str:
    if problem.errno is None:  # raised with a whole message of its own
        return str(problem)
    reason = problem.strerror or type(problem).__name__
    obstacle, expected, step = _SYSTEM.get(
        problem.errno, (reason, "to read or write it", "check the path and the disk, then try again")
    )
    return f"{problem.filename or 'system'}: found {obstacle}, expected {expected}; {step}"
