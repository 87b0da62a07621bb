"""Reading OneFlow's folders: a snapshot of variables, or a nested checkpoint, and what nobody asks for in it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence

from ...errors import CheckpointWarning, DamagedError, IncompleteError, MissingFileError
from ...storage.folders import Folder, files_below
from ...tree import Elementwise, LazyTensor, Tree
from ..base import ReadOptions, Unread
from .meta import Comment
from .names import GRAPH, MARKER, META, OUT, PICKLE
from .objects import read_folder_pickle
from .variable import read_variable
from .versions import facts_of

__all__ = ["has_snapshot", "is_variable", "read_folder", "unread"]

_Variables = Mapping[str, tuple[LazyTensor, Comment | None]]


def is_variable(folder: Folder, name: str) -> bool:
    """Return whether a variable lies under a name, or what is left of one."""
    return folder.has(f"{name}/{OUT}") or folder.has(f"{name}/{META}")


def has_snapshot(folder: Folder) -> bool:
    """Return whether a finished snapshot lies in a folder of this one."""
    return any(is_folder and folder.has(f"{name}/{MARKER}") for name, is_folder in folder.names().items())


def read_folder(folder: Folder, options: ReadOptions) -> tuple[Tree, Mapping[str, object]]:
    """Return the tree of a checkpoint's folder, and facts of it; warn of what in it is no variable."""
    if not folder.has(MARKER) and not options.allow_incomplete:
        raise _incomplete(folder)
    if folder.has(PICKLE):
        return read_folder_pickle(folder, PICKLE)
    variables = {
        name: _variable_or_none(folder, name, is_folder=is_folder)
        for name, is_folder in folder.names().items()
        if name != MARKER
    }
    skipped = [name for name, variable in variables.items() if variable is None]
    present = {name: variable for name, variable in variables.items() if variable is not None}
    if not options.allow_incomplete:
        _refuse_lost_pickle(folder, skipped)
        _check_count(folder.where, present)
    for name in skipped:
        warnings.warn(
            f"{folder.where}/{name}: found no variable (a folder with 'out' and 'meta'); skipped, as OneFlow does",
            CheckpointWarning,
            stacklevel=2,
        )
    comments = sorted((comment for _, comment in present.values() if comment), key=lambda comment: comment.index)
    facts = facts_of((comment.modules for comment in comments if comment.modules is not None), folder.where)
    return dict(_in_written_order(_tie(present))), facts


def _incomplete(folder: Folder) -> IncompleteError:
    if folder.has(GRAPH):
        return IncompleteError(
            f"{folder.where}: found a Graph export ({GRAPH}), expected a saved state dict; its variables can be looked at "
            "with allow_incomplete=True, under names such as 'model.l1.weight'"
        )
    return IncompleteError(
        f"{folder.where}: found no {MARKER}, expected the marker that a save writes last: this one never finished. "
        "Use an earlier checkpoint, or look anyway: allow_incomplete=True"
    )


def _variable_or_none(snapshot: Folder, name: str, *, is_folder: bool) -> tuple[LazyTensor, Comment | None] | None:
    """Return a variable, or None for what is none: a folder of something else, which one may not even enter."""
    if not is_folder and not snapshot.has(f"{name}/{OUT}"):
        return None
    try:
        return read_variable(snapshot, name)
    except (PermissionError, MissingFileError):
        return None


def _in_written_order(variables: _Variables) -> Iterator[tuple[str, LazyTensor]]:
    """Yield the tensors in the order they were written where every comment says it, else as they are."""
    positions = {name: comment.index for name, (_, comment) in variables.items() if comment is not None}
    names = sorted(variables, key=positions.__getitem__) if len(positions) == len(variables) else variables
    return ((name, variables[name][0]) for name in names)


def _tie(variables: _Variables) -> _Variables:
    """Tie variables that the comments say are one tensor, unless their digests say otherwise: one was written anew."""
    aliases: dict[tuple[str, str], Hashable] = {}
    tied = dict(variables)
    for name, (tensor, comment) in variables.items():
        if comment is not None and comment.tied is not None and comment.digest is not None:
            alias = aliases.setdefault((comment.tied, comment.digest), object())
            tied[name] = tensor.with_(alias=alias), comment
    return tied


def _refuse_lost_pickle(folder: Folder, names: Iterable[str]) -> None:
    """Refuse a folder of snapshots that lost its pickle: without it the parts are no checkpoint, and nothing is left."""
    for name in names:
        if folder.names()[name] and _has_marker(folder, name):
            raise DamagedError(
                f"{folder.where}: found a snapshot in {name!r} and no {PICKLE}, expected the file that says how the parts "
                f"belong together; restore it from a copy, or open {name!r} by itself",
                missing=(PICKLE,),
            )


def _has_marker(folder: Folder, name: str) -> bool:
    try:
        return any(os.path.basename(file) == MARKER for file in files_below(folder.folder(name)))
    except PermissionError:  # one that may not be entered
        return False


def _check_count(where: str, variables: _Variables) -> None:
    comment_count = sum(comment is not None for _, comment in variables.values())
    for name, (_, comment) in variables.items():
        if comment is None and comment_count:
            raise DamagedError(
                f"{where}/{name}/meta: found no comment line of ours, expected one as {comment_count} other variables "
                "have: the file was cut short, or the variable saved anew by another tool; restore it, or look anyway: "
                "allow_incomplete=True"
            )
        if comment is not None and comment.count > len(variables):
            raise DamagedError(
                f"{where}: found {len(variables)} variables, expected {comment.count} as {name}/meta says; restore the "
                "others, or look anyway: allow_incomplete=True"
            )


def unread(folder: Folder, tensors: Iterable[LazyTensor]) -> Unread:
    """Return a nested checkpoint's variables that no tensor comes from, a tied one's others, and the extra files.

    Raise DamagedError for folders of variables that lost what is in them: reading passes over them, as OneFlow does.
    """
    read = _folders_of(tensors) if folder.has(PICKLE) else None
    files = list(files_below(folder))
    if read is None:
        _require_variables(folder, files)
    present = {os.path.dirname(name) for name in files if os.path.basename(name) == OUT}
    extra = tuple(name for name in sorted(files) if not _is_of_use(name, present))
    copies = {
        f"{key or '.'}/{OUT}": _copy_of_tensor(folder, key)
        for key in sorted(present)
        if read is not None and f"{folder.where}/{key}".rstrip("/") not in read
    }
    return Unread(extra, copies)


def _require_variables(folder: Folder, files: Sequence[str]) -> None:
    """Raise DamagedError, naming all, for folders of variables without an ``out``: nothing else lies empty there."""
    filled = {name.partition("/")[0] for name in files}
    begun = {key for key, _, base in (name.partition("/") for name in files) if base in (OUT, META)}
    folders = [
        name for name, is_folder in folder.names().items() if is_folder and (name in begun or name not in filled)
    ]
    missing = tuple(f"{name}/{OUT}" for name in folders if not folder.has(f"{name}/{OUT}"))
    if missing:
        raise DamagedError(
            f"{folder.where}: found no file {', '.join(missing[:5])}{', …' if len(missing) > 5 else ''}, expected one in "
            "the folder of each variable; restore it from a copy",
            missing=missing,
        )


def _is_of_use(name: str, variables: set[str]) -> bool:
    """Return whether the format has a use for a file; ``variables`` are the folders of variables."""
    key, base = os.path.dirname(name), os.path.basename(name)
    return base == MARKER or (base in (OUT, META) and key in variables) or name == PICKLE


def _folders_of(tensors: Iterable[LazyTensor]) -> set[str]:
    """Return the folders in which the tensors' files lie."""
    sources = (tensor.source for tensor in tensors)
    extents = (source.base.extent if isinstance(source, Elementwise) else source.extent for source in sources)
    return {os.path.dirname(extent.where) for extent in extents if extent is not None}


def _copy_of_tensor(folder: Folder, key: str) -> LazyTensor:
    variable = read_variable(folder, key)
    if variable is None:
        raise DamagedError(
            f"{folder.where}/{key}/{OUT}: found a pipe, device or dangling link, expected a file; restore it from a copy"
        )
    return variable[0]
