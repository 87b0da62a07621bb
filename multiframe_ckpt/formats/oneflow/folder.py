"""The ``oneflow`` layout: a folder a variable, as OneFlow ≤ 0.5 writes it and every OneFlow since 0.3 reads it.

    ckpt/<key>/meta      protobuf text: shape, dtype, and our comment line
    ckpt/<key>/out       raw values
    ckpt/snapshot_done   empty, written last: without it the save never finished

A checkpoint that nests is one such snapshot per container of tensors, ``ckpt/model_state_dict/<key>/…``, under a
``pickled_data`` whose tensors point into them: ``flow.load(ckpt)`` gives the whole nested object (0.6 to 1.0), and
``flow.load(ckpt/model_state_dict)`` one part of it (0.3 and later). docs/formats/oneflow.md has the bytes.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ...errors import CheckpointWarning, DamagedError, FormatError, IncompleteError, KeyRefusedError
from ...pickle.writer import require_plain
from ...progress import OnProgress, silent
from ...storage.folders import Folder, open_folder, read_folder
from ...tree import LazyTensor, Tree, join_key, leaves, tensors, tied_groups
from ...tree import Path as TreePath
from ...tree.digests import digest_of_bytes
from ..base import ProgressMeter, ReadOptions, Unread, WriteOptions, WritePlan, duplicated_ties
from .meta import Note
from .objects import OneFlowPickle, read_folder_pickle
from .variable import NewVariable, read_fast, read_variable, stored_dtype, write_variables

__all__ = ["MARKER", "PICKLE", "OneFlowFormat", "widened"]

MARKER = "snapshot_done"
PICKLE = "pickled_data"
_GRAPH = "model.mlir"
_BARE = "tensor"  # the folder of a checkpoint that is one tensor and nothing else


class OneFlowFormat:
    """OneFlow's per-variable directory."""

    name = "oneflow"
    suffixes: tuple[str, ...] = ()

    def sniff(self, path: Path) -> bool:
        """Return whether the path is a folder of variables, finished or not."""
        try:
            if (path / PICKLE).is_file():  # a nested checkpoint has markers below, also where it lost its own
                return (path / MARKER).exists() or _has_snapshot(path)
            return path.is_dir() and ((path / MARKER).exists() or any(_is_variable(entry) for entry in path.iterdir()))
        except (OSError, ValueError):  # ValueError: a path no system can have
            return False

    def read(self, path: Path, options: ReadOptions = ReadOptions()) -> Tree:
        """Return the tree; flat checkpoints in the order they were written where the note says it, else sorted by name.

        Raise IncompleteError without ``snapshot_done``, unless the options allow it.
        """
        if not path.is_dir():
            raise FormatError(
                f"{path}: found a file, expected a folder of variables; name no format to have it recognised"
            )
        skipped: list[str] = []
        tree = read_folder(path, lambda folder: _read(folder, options, skipped))
        for name in dict.fromkeys(skipped):
            warnings.warn(
                f"{path / name}: found no variable (a folder with 'out' and 'meta'); skipped, as OneFlow does",
                CheckpointWarning,
                stacklevel=3,
            )
        return tree

    def plan(self, tree: Tree) -> WritePlan:
        """Refuse names and dtypes that the folder or ``flow.load`` cannot hold; say what is widened and doubled."""
        table = tensors(tree)
        folders = _folders(tree)
        _refuse_names(folders)
        if not _is_flat(tree):
            require_plain(tree)
        return replace(duplicated_ties(table), widened=widened(table))

    def write(
        self, tree: Tree, path: Path, options: WriteOptions = WriteOptions(), *, on_progress: OnProgress = silent
    ) -> None:
        """Write the folder, the marker of each snapshot last."""
        self.plan(tree)
        folders = _folders(tree)
        table = tensors(tree)
        meter = ProgressMeter(table, on_progress)
        tied = {key: group[0] for group in tied_groups(table) for key in group}
        path.mkdir()
        snapshots = _snapshots(folders)
        places = {folder: (index, len(group)) for group in snapshots.values() for index, folder in enumerate(group)}
        pickled = None if _is_flat(tree) else OneFlowPickle(lambda tree_path, _: folders[tree_path]).dump(tree)
        seal = None if pickled is None else digest_of_bytes(pickled)
        variables = [
            NewVariable(folder, tensor, Note(*places[folder], tied=tied.get(key), pickle=seal), key)
            for folder, (key, tensor) in zip(folders.values(), table.items(), strict=True)
        ]
        for snapshot in snapshots:
            (path / snapshot).mkdir(parents=True, exist_ok=True)
        try:
            write_variables(path, variables, options, meter)
        except FileExistsError as taken:
            raise _refusal(str(taken.filename), "a name that this disk takes for another's") from None
        if pickled is not None:
            (path / PICKLE).write_bytes(pickled)
        for snapshot in sorted({*snapshots, ""}, reverse=True):
            _check_names(path / snapshot, snapshots.get(snapshot, []))
            (path / snapshot / MARKER).touch()

    def unread(self, path: Path, table: Mapping[str, LazyTensor]) -> Unread:
        """Return a nested checkpoint's variables that no tensor comes from, a tied one's others, and the extra files."""
        root = open_folder(path)
        read = _folders_of(table.values()) if root.has(PICKLE) else None
        copies, extra = dict[str, LazyTensor](), list[str]()
        for inside, _, names in os.walk(root.where):
            place = inside[len(root.where) :].lstrip("/") or "."
            own = _own_files(place, names)
            extra += [os.path.normpath(f"{place}/{name}") for name in names if name not in own]
            if read is not None and "out" in names and inside not in read:
                copies[f"{place}/out"] = _copy(root.inside(place))
        return Unread(tuple(sorted(extra)), copies)

    def describe(self, path: Path) -> dict[str, object]:
        """Return the framework and whether the checkpoint nests."""
        return {"framework": "oneflow", "container": "nested folders" if (path / PICKLE).is_file() else "folder"}


def widened(table: dict[str, LazyTensor]) -> dict[str, str]:
    """Return key → stored dtype for the tensors that OneFlow needs wider; raise DtypeRefusedError where none is."""
    stored = {key: stored_dtype(key, tensor.dtype).name for key, tensor in table.items()}
    return {key: name for key, name in stored.items() if name != table[key].dtype.name}


def _is_variable(folder: Path) -> bool:
    return (folder / "out").is_file() or (folder / "meta").is_file()


def _has_snapshot(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(entry.is_dir() and os.path.exists(f"{entry.path}/{MARKER}") for entry in entries)


def _is_flat(tree: Tree) -> bool:
    return isinstance(tree, dict) and all(isinstance(k, str) and isinstance(v, LazyTensor) for k, v in tree.items())


def _incomplete(folder: Folder) -> IncompleteError:
    if folder.has(_GRAPH):
        return IncompleteError(
            f"{folder.where}: found a Graph export ({_GRAPH}), expected a saved state dict; its variables can be looked at "
            "with allow_incomplete=True, under names such as 'model.l1.weight'"
        )
    return IncompleteError(
        f"{folder.where}: found no {MARKER}, expected the marker that a save writes last: this one never finished. "
        "Use an earlier checkpoint, or look anyway: allow_incomplete=True"
    )


# Reading


def _read(folder: Folder, options: ReadOptions, skipped: list[str]) -> Tree:
    skipped.clear()  # of a folder that was replaced while it was read
    if not folder.has(MARKER) and not options.allow_incomplete:
        raise _incomplete(folder)
    if folder.has(PICKLE):
        return read_folder_pickle(folder, PICKLE, allow_unknown=options.allow_unknown)
    return _read_snapshot(folder, options, skipped)


def _read_snapshot(folder: Folder, options: ReadOptions, skipped: list[str]) -> dict[str, LazyTensor]:
    found: dict[str, tuple[LazyTensor, Note | None]] = {}
    for name, is_folder in folder.names().items():
        if name == MARKER:
            continue
        variable = _variable(folder, name) if is_folder or folder.has(f"{name}/out") else None
        if variable is None:
            skipped.append(name)
        else:
            found[name] = variable
    if not options.allow_incomplete:
        _refuse_parts(folder.where, skipped)
        _check_count(folder.where, found)
    places = {name: note.index for name, (_, note) in found.items() if note is not None}
    names = sorted(found, key=places.__getitem__) if len(places) == len(found) else found
    _tie(found.values())
    return {name: found[name][0] for name in names}


def _variable(snapshot: Folder, name: str) -> tuple[LazyTensor, Note | None] | None:
    """Return a variable, or None for what is none: a folder of something else, which one may not even enter."""
    usual = read_fast(snapshot, name)
    if usual is not None:
        return usual
    try:
        folder = snapshot.inside(name)
    except (PermissionError, FileNotFoundError, NotADirectoryError):
        return None
    return read_variable(folder)


def _copy(folder: Folder) -> LazyTensor:
    variable = read_variable(folder)
    if variable is None:
        raise DamagedError(
            f"{folder.where}/out: found a pipe, device or dangling link, expected a file; restore it from a copy"
        )
    return variable[0]


def _own_files(place: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return the names that the layout has a use for in a folder of these names."""
    files = ("out", "meta", MARKER) if "out" in names else (MARKER,)
    return (*files, PICKLE) if place == "." else files


def _folders_of(tensors: Iterable[LazyTensor]) -> set[str]:
    """Return the folders in which the tensors' files lie."""
    extents = [tensor.derived.base.extent if tensor.derived else tensor.extent for tensor in tensors]
    return {os.path.dirname(extent.where) for extent in extents if extent is not None}


def _tie(variables: Iterable[tuple[LazyTensor, Note | None]]) -> None:
    """Tie variables that the notes say are one tensor, unless their digests say otherwise: one was written anew."""
    ties: dict[tuple[str, str], Hashable] = {}
    for tensor, note in variables:
        if note is not None and note.tied is not None and note.digest is not None:
            tensor.alias = ties.setdefault((note.tied, note.digest), object())


def _refuse_parts(where: str, names: Iterable[str]) -> None:
    """Refuse a folder of snapshots that lost its pickle: without it the parts are no checkpoint, and nothing is left."""
    for name in names:
        part = os.path.join(where, name)
        below = () if os.path.islink(part) else os.walk(part)
        if any(MARKER in files for _, _, files in below):
            raise DamagedError(
                f"{where}: found a snapshot in {name!r} and no {PICKLE}, expected the file that says how the parts belong "
                f"together; restore it from a copy, or open {name!r} by itself",
                missing=(PICKLE,),
            )


def _check_count(where: str, found: dict[str, tuple[LazyTensor, Note | None]]) -> None:
    noted = sum(note is not None for _, note in found.values())
    for name, (_, note) in found.items():
        if note is None and noted:
            raise DamagedError(
                f"{where}/{name}/meta: found no comment line of ours, expected one as {noted} other variables have: "
                "the file was cut short, or the variable saved anew by another tool; restore it, or look anyway: "
                "allow_incomplete=True"
            )
        if note is not None and note.count > len(found):
            raise DamagedError(
                f"{where}: found {len(found)} variables, expected {note.count} as {name}/meta says; restore the others, or "
                "look anyway: allow_incomplete=True"
            )


# Writing


def _folders(tree: Tree) -> dict[TreePath, str]:
    """Return each tensor's folder, relative to the checkpoint."""
    paths = [path for path, leaf in leaves(tree) if isinstance(leaf, LazyTensor)]
    return {path: "/".join(str(part) for part in path) or _BARE for path in paths}


def _snapshots(folders: dict[TreePath, str]) -> dict[str, list[str]]:
    """Return the variables of each snapshot by the snapshot's folder, '' for the top."""
    snapshots: dict[str, list[str]] = {}
    for folder in folders.values():
        snapshots.setdefault(os.path.dirname(folder), []).append(folder)
    return snapshots


def _refuse_names(folders: dict[TreePath, str]) -> None:
    owners: dict[str, TreePath] = {}
    for path, folder in folders.items():
        for part in path:
            problem = _problem(str(part))
            if problem:
                raise _refusal(join_key(path), f"the name {str(part)[:80]!r}, {problem}")
        if folder in owners:
            raise _refusal(join_key(path), f"keys that both become the folder {folder!r}")
        owners[folder] = path


def _problem(name: str) -> str | None:
    try:
        raw = os.fsencode(name)
    except UnicodeEncodeError:
        return "which has a lone surrogate"
    problems = {
        "which cannot be a folder": name in ("", ".", "..") or "/" in name or "\0" in name,
        "which is a file of the layout itself": name in (MARKER, PICKLE),
        f"which is {len(raw)} bytes long, more than a folder's name can be (255)": len(raw) > 255,
        "which reads back as another": os.fsdecode(raw) != name,
    }
    return next((text for text, is_so in problems.items() if is_so), None)


def _refusal(key: str, found: str) -> KeyRefusedError:
    return KeyRefusedError(
        f"{key}: found {found}, expected names that OneFlow's folders can hold; "
        "use format='oneflow-pickle', which holds any key, or rename=['OLD=NEW']"
    )


def _check_names(snapshot: Path, folders: Iterable[str]) -> None:
    """Refuse names that the disk changed, as one that normalises Unicode does."""
    there = set(os.listdir(snapshot)) if snapshot.is_dir() else set()
    for folder in folders:
        if os.path.basename(folder) not in there:
            raise _refusal(folder, "a name that this disk changes")
