"""Writing OneFlow's folders: a snapshot for each container of tensors, and the pickle above those of a nested one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

from ...errors import KeyRefusedError
from ...pickle.writer import require_plain
from ...progress import OnProgress
from ...tree import LazyTensor, Sharing, Tree, join_key, leaves, tensors
from ...tree import Path as TreePath
from ...tree.digests import digest_of_bytes
from ..base import Changes, Plan, WriteOptions
from .meta import Comment
from .names import MARKER, PICKLE
from .objects import OneFlowPickle
from .variable import NewVariable, VariablesPlan, stored_dtype, write_variables
from .versions import texts_of

__all__ = ["plan_folder", "widened"]

_LONE_TENSOR = "tensor"  # the folder of a checkpoint that is one tensor and nothing else


def widened(table: Mapping[str, LazyTensor]) -> dict[str, str]:
    """Return key → stored dtype for the tensors that OneFlow needs wider; raise DtypeRefusedError where none is."""
    stored = {key: stored_dtype(key, tensor.dtype).name for key, tensor in table.items()}
    return {key: name for key, name in stored.items() if name != table[key].dtype.name}


def plan_folder(tree: Tree, options: WriteOptions) -> Plan:
    """Lay out the variables, snapshots and pickle of a tree."""
    table = tensors(tree)
    sharing = Sharing(table)
    folders = _folder_of_each_tensor(tree)
    _refuse_names(folders)
    is_flat = _is_flat(tree)
    if not is_flat:
        require_plain(tree)
    changes = Changes.of(sharing, duplicates=True, widened=widened(table))
    modules = texts_of(options.versions.get("", {})) if is_flat else []
    lost_versions = ("",) if len(modules) > len(table) else ()
    changes = replace(changes, lost_metadata=tuple(options.metadata), lost_versions=lost_versions)
    pickled = None if is_flat else OneFlowPickle(lambda path, _: folders[path], options.versions).dump(tree)
    snapshots = _variables_of_snapshots(folders)
    positions = {folder: (index, len(group)) for group in snapshots.values() for index, folder in enumerate(group)}
    first_of_tie = {key: group[0] for group in sharing.ties for key in group}
    pickle_digest = None if pickled is None else digest_of_bytes(pickled)
    comments = [
        Comment(*positions[folder], tied=first_of_tie.get(key), pickle=pickle_digest, modules=text)
        for folder, key, text in zip_longest(folders.values(), table, modules[: len(table)])
    ]
    variables = tuple(map(NewVariable, folders.values(), table.values(), comments, table))
    return _Plan(variables, pickled, options.digest, changes, snapshots)


@dataclass(frozen=True, slots=True)
class _Plan(VariablesPlan):
    """Variables, the folders of each snapshot by its own ('' for the top), and the pickle of a nested checkpoint."""

    snapshots: Mapping[str, list[str]]

    def write(self, target: Path, on_progress: OnProgress) -> None:
        """Write the folder, the marker of each snapshot last."""
        target.mkdir()
        for snapshot in self.snapshots:
            (target / snapshot).mkdir(parents=True, exist_ok=True)
        try:
            write_variables(target, self.variables, on_progress, digest=self.digest)
        except FileExistsError as taken:
            raise _refusal(str(taken.filename), "a name that this disk takes for another's") from None
        if self.pickled is not None:
            (target / PICKLE).write_bytes(self.pickled)
        for snapshot in sorted({*self.snapshots, ""}, reverse=True):
            _require_names_kept(target / snapshot, self.snapshots.get(snapshot, []))
            (target / snapshot / MARKER).touch()


def _is_flat(tree: Tree) -> bool:
    if not isinstance(tree, dict):
        return False
    return all(isinstance(key, str) and isinstance(leaf, LazyTensor) for key, leaf in tree.items())


def _folder_of_each_tensor(tree: Tree) -> dict[TreePath, str]:
    """Return each tensor's folder, relative to the checkpoint."""
    paths = [path for path, leaf in leaves(tree) if isinstance(leaf, LazyTensor)]
    return {path: "/".join(str(part) for part in path) or _LONE_TENSOR for path in paths}


def _variables_of_snapshots(folders: Mapping[TreePath, str]) -> dict[str, list[str]]:
    """Return the variables of each snapshot by the snapshot's folder, '' for the top."""
    snapshots: dict[str, list[str]] = {}
    for folder in folders.values():
        snapshots.setdefault(os.path.dirname(folder), []).append(folder)
    return snapshots


def _refuse_names(folders: Mapping[TreePath, str]) -> None:
    path_of: dict[str, TreePath] = {}
    for path, folder in folders.items():
        for part in path:
            problem = _name_problem(str(part))
            if problem:
                raise _refusal(join_key(path), f"the name {str(part)[:80]!r}, {problem}")
        if folder in path_of:
            raise _refusal(join_key(path), f"keys that both become the folder {folder!r}")
        path_of[folder] = path


def _name_problem(name: str) -> str | None:
    try:
        raw = os.fsencode(name)
    except UnicodeEncodeError:
        return "which has a lone surrogate"
    problems = {
        "which cannot be a folder": name in ("", ".", "..") or "/" in name or "\0" in name,
        "which is a file of the format itself": name in (MARKER, PICKLE),
        f"which is {len(raw)} bytes long, more than a folder's name can be (255)": len(raw) > 255,
        "which reads back as another": os.fsdecode(raw) != name,
    }
    return next((text for text, is_so in problems.items() if is_so), None)


def _refusal(key: str, problem: str) -> KeyRefusedError:
    return KeyRefusedError(
        f"{key}: found {problem}, expected names that OneFlow's folders can hold; "
        "use format='oneflow-pickle', which holds any key, or rename=['OLD=NEW']"
    )


def _require_names_kept(snapshot: Path, folders: Iterable[str]) -> None:
    """Refuse names that the disk changed, as one that normalises Unicode does."""
    present = set(os.listdir(snapshot)) if snapshot.is_dir() else set()
    for folder in folders:
        if os.path.basename(folder) not in present:
            raise _refusal(folder, "a name that this disk changes")
