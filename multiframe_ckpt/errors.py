"""Every error this library raises on purpose.

    MultiframeError
    ├── FormatError (ValueError)              a path that cannot be read as a checkpoint
    │   ├── UnknownFormatError                no known format is recognised there
    │   ├── DamagedError                      promised bytes are missing, or are not the promised ones
    │   │   ├── MissingFileError              a file of its folder is not there
    │   │   └── ReplacedError                 another save replaced or deleted it while it was read: read again
    │   ├── IncompleteError                   a save that never finished
    │   └── UnsafeError                       content that is refused rather than obeyed
    ├── RefusedError (ValueError)             a tree that the target cannot hold as it is
    │   ├── KeyRefusedError                   a name the format cannot hold
    │   ├── DtypeRefusedError                 a dtype the format cannot hold, nor any exact wider one
    │   └── ValueRefusedError                 a plain value or container the format cannot hold
    ├── MismatchError (ValueError)            a strict load whose keys, shapes or dtypes differ
    ├── AnswerError (ValueError)              an answer that is wrong, or needed with nobody to ask
    ├── UnknownNameError (LookupError)        a format or backend nobody registered
    ├── UnknownKeyError (KeyError)            a key that a checkpoint does not hold
    ├── UnavailableError (ImportError)        a backend whose framework is absent or broken
    ├── TargetExistsError (FileExistsError)   a target that would be overwritten unasked
    ├── NoSpaceError (OSError, ENOSPC)        a disk with too little space for a save
    ├── LinkRefusedError (OSError, ENOTSUP)   a file system without the links a pointer needs
    └── NotTrainedError (FileNotFoundError)   a test of a model that was never trained and saved

    CheckpointWarning (UserWarning)           something odd that does not stop the work

A message names the file or key, what was found, what was expected, and the next step.
"""

from __future__ import annotations

import errno

__all__ = [
    "AnswerError",
    "CheckpointWarning",
    "DamagedError",
    "DtypeRefusedError",
    "FormatError",
    "IncompleteError",
    "KeyRefusedError",
    "LinkRefusedError",
    "MismatchError",
    "MissingFileError",
    "MultiframeError",
    "NoSpaceError",
    "NotTrainedError",
    "RefusedError",
    "ReplacedError",
    "TargetExistsError",
    "UnavailableError",
    "UnknownFormatError",
    "UnknownKeyError",
    "UnknownNameError",
    "UnsafeError",
    "ValueRefusedError",
]


class MultiframeError(Exception):
    """The root of the tree above."""


class FormatError(MultiframeError, ValueError):
    """A path that cannot be read as a checkpoint.

    ``missing`` are the tensors or members that the checkpoint names and does not hold, ``extra`` those it holds and does
    not name, where that is what is wrong.
    """

    def __init__(self, message: str, *, missing: tuple[str, ...] = (), extra: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.missing = missing
        self.extra = extra


class UnknownFormatError(FormatError):
    """No known format is recognised at the path."""


class DamagedError(FormatError):
    """Promised bytes are missing, or are not the promised ones."""


class MissingFileError(DamagedError):
    """A file of a checkpoint's folder that is not there, or has a name that no file can have."""


class ReplacedError(DamagedError):
    """Another save replaced or deleted the checkpoint while it was read; what is there now can be read."""


class IncompleteError(FormatError):
    """A save that never finished."""


class UnsafeError(FormatError):
    """Content that is refused rather than obeyed: unknown objects, paths or links that lead outside."""


class RefusedError(MultiframeError, ValueError):
    """A tree that the target cannot hold as it is; nothing was written."""


class KeyRefusedError(RefusedError):
    """A name the format cannot hold."""


class DtypeRefusedError(RefusedError):
    """A dtype the format cannot hold, nor any exact wider one."""


class ValueRefusedError(RefusedError):
    """A plain value or container the format cannot hold."""


class MismatchError(MultiframeError, ValueError):
    """A strict load whose keys, shapes or dtypes differ; the target is untouched. ``report`` is the LoadReport."""

    def __init__(self, message: str, report: object = None) -> None:
        super().__init__(message)
        self.report = report


class AnswerError(MultiframeError, ValueError):
    """An answer to a question that is wrong, or that is needed where nobody can be asked; the message has the flag."""


class UnknownNameError(MultiframeError, LookupError):
    """A format or backend nobody registered."""


class UnknownKeyError(MultiframeError, KeyError):
    """A key that a checkpoint does not hold; the message has the nearest ones."""

    def __str__(self) -> str:
        return Exception.__str__(self)  # KeyError would give the message in quotes


class UnavailableError(MultiframeError, ImportError):
    """A backend whose framework is absent or broken."""


class TargetExistsError(MultiframeError, FileExistsError):
    """A target that would be overwritten unasked."""


class _SystemError(MultiframeError, OSError):
    """An error of the system that callers may tell by its ``errno``."""

    _code: int

    def __init__(self, message: str) -> None:
        super().__init__(self._code, message)

    def __str__(self) -> str:
        return str(self.strerror)

    def __reduce__(self) -> tuple[type[_SystemError], tuple[str]]:
        return type(self), (str(self),)


class NoSpaceError(_SystemError):
    """A disk with too little space for a save; nothing was written."""

    _code = errno.ENOSPC


class LinkRefusedError(_SystemError):
    """A file system without the links a pointer needs; what it was to point to is saved."""

    _code = errno.ENOTSUP


class NotTrainedError(MultiframeError, FileNotFoundError):
    """A test of a model that was never trained and saved; the message has the command that does."""


class CheckpointWarning(UserWarning):
    """Something odd in a checkpoint that does not stop the work."""
