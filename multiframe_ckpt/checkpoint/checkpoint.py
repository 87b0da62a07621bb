"""Checkpoint: what was saved, as a tree, with where it came from. Opening one reads headers only."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from ..backend import (
    Backend,
    LoadReport,
    SupportsWholeModels,
    backend_named,
    backend_of,
    default_backend,
    mismatch,
    warn_of_tuples,
)
from ..errors import MismatchError, UnknownKeyError, ValueRefusedError
from ..formats import (
    EACH,
    ONCE,
    VERSIONS,
    Changes,
    Plan,
    ReadOptions,
    Versions,
    WritableFormat,
    WriteOptions,
    format_for,
    format_to_write,
    open_path,
    require_replaceable,
)
from ..progress import OnProgress, silent
from ..storage.atomic import staged, target_exists
from ..storage.consistency import retry_if_replaced
from ..storage.free_space import require_free_space
from ..storage.paths import path_of
from ..storage.transfer import materialized
from ..terminal.text import human_size, plural, printable
from ..training import choose_weights
from ..tree import LazyTensor, Tree, known, synchronized, tensors
from ..tree.gc_pause import make_tree, take_apart
from ..tree.rules import parse_rename
from .capture import capture
from .items import item, names_at_top
from .live_models import source_for
from .restore import RestoreReport, restore
from .resume_check import ResumeCheck, check_resume
from .run_state import RunState
from .versions import versions_of, versions_of_run

__all__ = ["Checkpoint", "PlannedSave", "load", "open", "plan_save", "require_free", "save", "save_whole_model"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, repr=False)
class Checkpoint:
    """A tree of tensors and plain values, and ``meta``: plain facts such as its format, path and framework.

    ``checkpoint["model_state_dict"]`` is what lies under a name, and ``checkpoint["model_state_dict/l1.weight"]`` a tensor.
    ``meta["metadata"]`` is the user's own str → str metadata, in formats that have a slot for it.
    """

    tree: Tree
    meta: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_objects(cls, obj: object, *, backend: str | None = None) -> Checkpoint:
        """Return the checkpoint of a state dict, a module, tensors, or any nested mix of these with plain values.

        The framework is recognised by the objects, or named by ``backend``. Tensors are not copied: they are read when
        the checkpoint is saved or sent on, as they are then. Raise ValueRefusedError for what a tree cannot hold.
        """
        owner = backend_named(backend) if backend else backend_of(obj)
        return cls(make_tree(owner.to_tree, obj), _facts(owner, versions_of(obj)))

    @classmethod
    def from_run(
        cls,
        *,
        model: object = None,
        optimizer: object = None,
        scheduler: object = None,
        scaler: object = None,
        epoch: int | None = None,
        step: int | None = None,
        loss: Any = None,
        metrics: Mapping[str, Any] | None = None,
        train_args: Any = None,
        rng: bool = False,
        extra: Mapping[str, Any] | None = None,
        backend: str | None = None,
    ) -> Checkpoint:
        """Return the checkpoint of a training run, named part by part and written under the field's usual keys.

        ``loss`` and ``metrics`` become plain numbers; ``train_args`` may be a Namespace, dataclass or dict; ``rng`` adds
        the states of Python's, NumPy's and the framework's random generators; ``extra`` holds further entries, such as a
        vocabulary. Tensors are not copied, as in :meth:`from_objects`.
        """
        run = RunState(model, optimizer, scheduler, scaler, epoch, step, loss, metrics, train_args, rng, extra)
        tree, owner = make_tree(capture, run, backend=backend)
        return cls(tree, _facts(owner, versions_of_run(run)))

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        format: str | None = None,
        verify: bool = True,
        allow_incomplete: bool = False,
    ) -> Checkpoint:
        """Return the checkpoint at ``path``, reading headers only; no framework is needed and nothing of it is run.

        The format is recognised by content, or named. Raise FileNotFoundError, or a FormatError for what is unknown,
        damaged, incomplete or unsafe. Bytes of a tensor that are not the ones its digest promises are a DamagedError
        when they are read, unless ``verify=False``. Objects of types that are not known stand in the tree as Unknown nodes,
        and refuse nothing until all of it is written or built. ``allow_incomplete`` reads what is there of a save that
        never finished.
        """
        options = ReadOptions(verify, allow_incomplete)
        kind, opened = make_tree(open_path, path_of(path), format, options)
        meta: dict[str, Any] = {"format": kind.name, "path": str(path), **opened.facts}
        if opened.metadata is not None:
            meta["metadata"] = opened.metadata
        return cls(opened.tree, meta)

    def __repr__(self) -> str:
        """Return one line: where it lies, its format or framework, how many tensors, and their bytes."""
        table = tensors(self.tree)
        nbytes = sum(tensor.nbytes for tensor in table.values())
        kind = self.meta.get("format") or self.meta.get("backend")
        parts = (printable(str(kind)) if kind else "", plural(len(table), "tensor"), human_size(nbytes))
        return f"<Checkpoint {self._where}: {', '.join(filter(None, parts))}>"

    @property
    def _where(self) -> str:
        return printable(str(self.meta.get("path") or "in memory"))

    def __getitem__(self, key: object) -> Any:
        """Return what lies under a name at the top (``"model_state_dict"``), or under a key as ``tensors()`` spells them.

        Tensors are unread. Raise UnknownKeyError, a KeyError that names the nearest keys, where nothing is.
        """
        return item(self.tree, key, self._where)

    def __contains__(self, key: object) -> bool:
        """Return whether something lies under a key."""
        try:
            self[key]
        except UnknownKeyError:
            return False
        return True

    def __iter__(self) -> Iterator[object]:
        """Iterate over the names at the top."""
        return names_at_top(self.tree)

    def keys(self) -> list[object]:
        """Return the names at the top; :meth:`tensors` has the keys of all tensors."""
        return list(self)

    def tensors(self) -> dict[str, LazyTensor]:
        """Return every tensor by its key (``l1.weight``, ``model_state_dict/l1.weight``), in order, unread."""
        return tensors(self.tree)

    def weights(self, which: str | None = None) -> Tree:
        """Return the weights: what holds tensors and is neither optimizer, scheduler, scaler nor random state, unread.

        Of several models ``which`` chooses one by its key, or ``"ema"``, the running average. Raise KeyRefusedError, which
        lists them with their sizes, where there are several or none at that key, ValueRefusedError where there is none.
        """
        return choose_weights(self.tree, which, parameter="which").tree

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        format: str | None = None,
        overwrite: bool = False,
        digest: bool = True,
        durable: bool = True,
        allow_unknown: bool = False,
        on_progress: OnProgress = silent,
    ) -> Changes:
        """Write the checkpoint all-or-nothing and durably; return what the format had to change.

        The format is named, or the one the suffix asks for, or for a path without suffix ``oneflow``. Values that the
        source's digests do not match are a DamagedError, and what the format cannot hold is a RefusedError; in both
        cases, as after any failure, what was at ``path`` is still there. An existing path is a TargetExistsError
        unless ``overwrite``; a folder that holds anything but a checkpoint is never replaced. A disk that cannot hold it
        is a NoSpaceError before anything is written.

        ``digest=False`` writes no digests, by which damage is seen. ``durable=False`` does not wait for the disk: a
        power cut soon after may lose the checkpoint, and what it replaced. ``allow_unknown=True`` writes Unknown nodes as
        plain dicts of their parts; without it they are an UnsafeError that names them all.
        """
        planned = self.plan(
            path, format=format, overwrite=overwrite, digest=digest, durable=durable, allow_unknown=allow_unknown
        )
        planned.write(on_progress)
        return planned.changes

    def plan(
        self,
        path: str | os.PathLike[str],
        *,
        format: str | None = None,
        overwrite: bool = False,
        digest: bool = True,
        durable: bool = True,
        allow_unknown: bool = False,
        ties: str = EACH,
    ) -> PlannedSave:
        """Lay the checkpoint out for a path; raise what :meth:`save` would refuse, before any byte is written.

        With ``ties="once"`` a tied tensor is written once and its other names beside it; raise ValueRefusedError where the
        readers of the format would miss those.
        """
        path = path_of(path)
        kind = format_to_write(path, format)
        options = WriteOptions(
            digest=digest,
            metadata=self.meta.get("metadata") or {},
            overwrite=overwrite,
            durable=durable,
            allow_unknown=allow_unknown,
            versions=self.meta.get(VERSIONS) or {},
            ties=ties,
        )
        return plan_save(self.tree, path=path, format=kind, options=options)

    def to_backend(self, backend: str | None = None, *, device: str | None = None, allow_unknown: bool = False) -> Any:
        """Return the checkpoint as live objects of a framework, read now, every dtype unchanged.

        Optimizer state stays in its own dialect: :meth:`restore` and ``convert`` translate it. OneFlow copies late: load
        tensors that another framework goes on to change with :meth:`load_into`, which waits for the copy.

        Without ``backend``: the one that MULTIFRAME_CKPT_BACKEND names, else the one framework that the program has
        imported; of several that it has, the file's own; else NumPy arrays. None is imported for the choice. Raise
        UnavailableError where the framework is not here, and UnsafeError for Unknown nodes, which ``allow_unknown=True``
        gives as plain dicts of their parts.
        """
        remedy = "Load the weights alone: load_into() a model"
        tree = known(self.tree, self._where, remedy, allow_unknown=allow_unknown)
        owner = backend_named(backend) if backend else default_backend(self.meta.get("framework"))
        live = take_apart(lambda: owner.from_tree(materialized(tree), device=device))
        warn_of_tuples(tree)
        return live

    def load_into(
        self, target: object, *, rename: Sequence[str] = (), model_only: str | None = None, strict: bool = True
    ) -> LoadReport:
        """Load into a live module (its weights, or several modules theirs), optimizer, scheduler or nested mix, in place.

        Of several models the one is taken whose parameters have the module's names and shapes; ``model_only`` chooses, as
        :meth:`weights` does. ``rename`` rules (:mod:`~multiframe_ckpt.tree.rules`) name parameters by their keys in the
        state dict; names that differ by what only wraps a module (``module.``, ``_orig_mod.``) need none.

        Return the keys that were loaded, missing, unexpected and mismatched, with close matches. With ``strict`` any
        difference is a MismatchError and nothing is touched. A dtype is never changed: cast first. Raise
        ValueRefusedError for tensors that are values, as JAX's are: :meth:`loaded_like` gives new ones.
        """
        backend = backend_of(target)
        source = source_for(self.tree, target, backend, tuple(map(parse_rename, rename)), model_only)
        try:
            return backend.load_into(target, source, strict=strict)
        except MismatchError as problem:
            if "path" in self.meta and isinstance(problem.report, LoadReport):
                raise mismatch(self._where, problem.report) from None
            raise

    def loaded_like(self, like: T, *, strict: bool = True) -> tuple[T, LoadReport]:
        """Return new values in the structure of ``like``, NamedTuples included, and the report of :meth:`load_into`.

        ``like`` is never touched; without ``strict`` what does not fit is its own. Raise ValueRefusedError for modules,
        optimizers and other objects that can only be filled in place.
        """
        return backend_of(like).loaded_like(like, self.tree, strict=strict)

    def restore(
        self,
        *,
        model: object = None,
        optimizer: object = None,
        scheduler: object = None,
        scaler: object = None,
        rng: bool = True,
        rename: Sequence[str] = (),
        strict: bool = True,
    ) -> RestoreReport:
        """Load a training run into live objects, in place, and say what was restored, what was not, and what it changed.

        Each object may be a list or dict of several, nested as it was saved. The parts are found by what they hold: weights
        as :meth:`load_into` finds them, ``rename`` included. Optimizer and scheduler may be of the other framework: their
        state is translated. Build them all first, then restore them in one call. With ``strict`` any difference is a
        MismatchError, as is a model that the checkpoint lacks, and what cannot cross a ValueRefusedError, and nothing is
        touched. Any other part that is not there starts fresh, with a CheckpointWarning. ``rng`` sets the random
        generators of Python, NumPy and the framework.
        """
        run = RunState(model, optimizer, scheduler, scaler, rng=rng)
        where = self._where if "path" in self.meta else "checkpoint"
        return restore(self.tree, run, rename=rename, strict=strict, where=where)

    def resume_check(
        self,
        *,
        model: object = None,
        optimizer: object = None,
        scheduler: object = None,
        rename: Sequence[str] = (),
        strict: bool = True,
    ) -> ResumeCheck:
        """Return whether live objects stand exactly where the checkpoint says: call it after restoring, before training.

        Catches the resume that seems to work but left the optimizer cold, or a scheduler built too late that reset the
        learning rate. ``rename`` is that of :meth:`restore`. With ``strict`` anything of the kind is a MismatchError.
        """
        return check_resume(self.tree, RunState(model, optimizer, scheduler), rename=rename, strict=strict)


@dataclass(frozen=True, slots=True)
class PlannedSave:
    """A checkpoint laid out for a path, where it can be written: :meth:`write` does."""

    path: Path
    format: str
    plan: Plan
    options: WriteOptions
    changes: Changes  # that the format has to make

    def write(self, on_progress: OnProgress = silent) -> None:
        """Write all-or-nothing; see :meth:`Checkpoint.save`.

        Time has gone by since the plan: what may not be replaced is refused once more.
        """
        require_free(self.path, overwrite=self.options.overwrite)
        with staged(self.path, overwrite=self.options.overwrite, durable=self.options.durable) as fresh:
            self.plan.write(fresh, on_progress)


def _facts(owner: Backend, versions: Versions) -> dict[str, Any]:
    return {"backend": owner.name, **({VERSIONS: versions} if versions else {})}


def plan_save(tree: Tree, *, path: Path, format: WritableFormat, options: WriteOptions) -> PlannedSave:
    """Lay a tree out for a path; raise what writing would refuse, before any byte is written."""
    tree = known(tree, str(path), "Save the weights alone", allow_unknown=options.allow_unknown)
    plan = take_apart(lambda: format.plan(synchronized(tree), options))
    if options.ties == ONCE and plan.changes.duplicated:
        raise ValueRefusedError(
            f"{path}: ties='once': found {' = '.join(plan.changes.duplicated[0][:3])}, expected no tied tensors in "
            f"{format.name}, whose readers ask for each by its name; leave ties='each', or write format='safetensors'"
        )
    warn_of_tuples(tree)
    require_free(path, overwrite=options.overwrite)
    require_free_space(path, plan.nbytes)
    lost = plan.changes.lost_versions if format.holds_versions else tuple(options.versions)
    return PlannedSave(path, format.name, plan, options, replace(plan.changes, lost_versions=lost))


def require_free(path: Path, *, overwrite: bool) -> None:
    """Raise TargetExistsError, or a FormatError for a folder that is no checkpoint, before any work is done."""
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise target_exists(path)
    if path.is_dir():
        require_replaceable(path)


def save(
    obj: object,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    backend: str | None = None,
    overwrite: bool = False,
    digest: bool = True,
    durable: bool = True,
    on_progress: OnProgress = silent,
) -> Changes:
    """Write live objects as a checkpoint: :meth:`Checkpoint.from_objects`, then :meth:`Checkpoint.save`."""
    return Checkpoint.from_objects(obj, backend=backend).save(
        path, format=format, overwrite=overwrite, digest=digest, durable=durable, on_progress=on_progress
    )


def save_whole_model(
    model: object, path: str | os.PathLike[str], *, overwrite: bool = False, durable: bool = True
) -> None:
    """Pickle a PyTorch module with the names of its code, as ``torch.save(model)`` does, all-or-nothing and durably.

    Only :func:`load` with ``trusted=True`` builds it again; its weights are read by all. Raise ValueRefusedError for a
    path of another format, and for objects of a framework that pickles no models.
    """
    path = path_of(path)
    pickles = _pickling(backend_of(model))
    format = format_for(path).name
    if format != "torch":
        raise ValueRefusedError(
            f"{path}: found a whole model to be written as {format}, expected torch, which alone holds one; "
            "choose a path such as model.pth, or save its state dict"
        )
    require_free(path, overwrite=overwrite)
    with staged(path, overwrite=overwrite, durable=durable) as fresh:
        pickles.save_model(model, str(fresh))


def load(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    backend: str | None = None,
    device: str | None = None,
    verify: bool = True,
    trusted: bool = False,
    allow_unknown: bool = False,
    allow_incomplete: bool = False,
) -> Any:
    """Return a checkpoint as live objects: :meth:`Checkpoint.open`, then :meth:`Checkpoint.to_backend`.

    Without ``backend`` they are tensors of the one framework that the program has imported; of several that it has, the
    file's own; else NumPy arrays. The environment variable MULTIFRAME_CKPT_BACKEND names another.

    A whole pickled PyTorch model comes as its state dict. With ``trusted=True`` it is built by ``torch.load``, which
    imports and runs what the file names: for files that you or people you trust wrote, never for others. A folder that
    another save replaces meanwhile is read again.
    """
    if trusted:
        return _pickling(backend_named(backend or "torch")).load_model(str(path), device=device)

    def read() -> Any:
        checkpoint = Checkpoint.open(path, format=format, verify=verify, allow_incomplete=allow_incomplete)
        return checkpoint.to_backend(backend, device=device, allow_unknown=allow_unknown)

    return retry_if_replaced(path_of(path), read)


def _pickling(backend: Backend) -> SupportsWholeModels:
    if isinstance(backend, SupportsWholeModels):
        return backend
    raise ValueRefusedError(
        f"{backend.name}: found a backend that cannot pickle whole models, expected torch; save its state dict"
    )


open = Checkpoint.open
