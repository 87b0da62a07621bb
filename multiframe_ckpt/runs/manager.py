"""CheckpointManager: keeps a training run, and picks it up where it stood.

    with CheckpointManager("outputs/run", max_to_keep=3, monitor="val/loss") as manager:
        start = manager.resume(model=model, optimizer=optimizer)
        for epoch in range(start.epoch, epochs):
            ...
            manager.save(epoch, model, optimizer, metrics={"val": {"loss": loss}})

docs/keeping_runs.md says what is written when, and in which order, so that a kill at any moment loses nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal, SupportsIndex, TypeVar

from ..checkpoint.capture import capture
from ..checkpoint.checkpoint import PlannedSave, plan_save
from ..checkpoint.position import WITHIN_EPOCH, Position
from ..checkpoint.restore import RestoreReport
from ..checkpoint.run_state import RunState
from ..checkpoint.versions import versions_of_run
from ..errors import ValueRefusedError
from ..formats import Versions, WritableFormat, WriteOptions, writable_format
from ..storage.consistency import retry_if_replaced
from ..storage.paths import path_of
from ..tree import Tree
from ..tree.gc_pause import make_tree
from .background import Background, Now, Save, Writer
from .beginning import why_none_begins, why_none_goes_on
from .clocks import Every, falls_on, require_every, saved_position
from .folder import CheckpointFolder
from .gate import Gated
from .history import Chosen, History, Which
from .names import BEST, LATEST, suffix_of
from .notices import Notices, warn_of
from .pointers import make_way, point, require_no_lost_checkpoint, require_pointers
from .preemption import EXIT_STATUS, Preemption
from .records import SAVE_COUNT, CheckpointRecord, numbers_of
from .resume_point import ResumePoint
from .retention import Retention

__all__ = ["CheckpointManager", "CheckpointRecord"]

T = TypeVar("T")

_WRITERS: Mapping[bool | str, Callable[[], Writer]] = {False: Now, True: Background, "gated": Gated}


@dataclass(frozen=True, slots=True)
class SaveOptions:
    """When the run is saved, what of it, and how it is written."""

    format: WritableFormat
    save_freq: Every
    save_optimizer: bool
    rng: bool
    write: WriteOptions

    def __post_init__(self) -> None:
        require_every("save_freq", self.save_freq)


class CheckpointManager:
    """Keeps the checkpoints of one run in ``output_dir``.

    ``save_freq``: epochs that are multiples of it are saved, or steps where steps are counted; a number for each clock is
    ``{"epoch": 1, "step": 1000}``. ``save_optimizer=False`` leaves optimizer and scheduler out. ``max_to_keep`` keeps the
    last n (None: all), and beside them the ``keep_best`` best by ``monitor`` and those that fall on ``keep_every``, which
    is told as ``save_freq`` is. ``monitor`` names the loss, or a metric, nested ones as ``val/loss``; ``mode`` is ``min``
    or ``max``. ``format`` is any of ``multiframe-ckpt formats``, ``digest`` and ``durable`` are those of
    ``Checkpoint.save``. ``async_save`` writes in a thread, and with ``"gated"`` also copies there, while the next forward
    and backward run. ``save_on_sigterm`` makes the next save after a SIGTERM the last; ``rng`` keeps the states of the
    random generators.

    One manager writes to a folder at a time; any number may read. What a save will need is checked here: raise
    TargetExistsError for something of another's in a pointer's place, LinkRefusedError for a disk without links,
    NotADirectoryError for a file in the folder's; where nothing can be written a CheckpointWarning says so.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        *,
        save_optimizer: bool = True,
        save_freq: Every = 1,
        max_to_keep: int | None = None,
        keep_best: int = 1,
        keep_every: Every | None = None,
        monitor: str = "loss",
        mode: Literal["min", "max"] = "min",
        format: str = "torch",
        async_save: bool | Literal["gated"] = False,
        digest: bool = True,
        durable: bool = True,
        save_on_sigterm: bool = False,
        rng: bool = True,
    ) -> None:
        if async_save not in tuple(_WRITERS):
            raise ValueRefusedError(f"async_save: found {async_save!r}, expected False, True or 'gated'")
        write = WriteOptions(digest, durable=durable)
        self._options = SaveOptions(writable_format(format), save_freq, save_optimizer, rng, write)
        self._folder = CheckpointFolder(Path(os.path.abspath(path_of(output_dir))))
        self._history = History(self._folder, Retention(max_to_keep, keep_best, keep_every, monitor, mode))
        #: The pointers that saves move.
        self._stems = (LATEST, BEST) if keep_best else (LATEST,)
        self._folder.sweep()
        warn_of(why_none_begins(self._folder, self._stems, self._options.format.name))
        self._writer = _WRITERS[async_save]()
        self._notices = Notices()
        self._preemption = Preemption(watch=save_on_sigterm)

    @property
    def output_dir(self) -> Path:
        """The folder of the checkpoints; it is made by the first save."""
        return self._folder.path

    @property
    def preempted(self) -> bool:
        """Whether SIGTERM came: a long epoch may look, stop early, and save."""
        return self._preemption.asked

    def __enter__(self) -> CheckpointManager:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._close()
        except Exception as lost:
            if problem is None:
                raise
            # What ended the block is what the caller must see.
            warn_of([f"{self.output_dir}: the last save failed: {lost}"])
        warn_of(self._notices.new())

    def close(self) -> None:
        """Wait for the save under way, free its memory, and take hooks and the handler of SIGTERM away.

        A context manager does so at its end.
        """
        self._close()
        warn_of(self._notices.new())

    def _close(self) -> None:
        try:
            self._writer.close()
        finally:
            self._preemption.stop()

    def wait(self) -> None:
        """Wait until the last save is complete and durable; raise its error, once."""
        self._writer.wait()
        warn_of(self._notices.new())

    def wait_before_update(self) -> None:
        """Wait until what a gated save copies is copied: call it before every update that no hook can hold back.

        From the first call on a gated save takes it that all updates of the optimizers it is given wait so.
        """
        self._writer.wait_before_update()

    def save(
        self,
        epoch: SupportsIndex | None = None,
        model: object = None,
        optimizer: object = None,
        scheduler: object = None,
        *,
        metrics: Mapping[str, object] | None = None,
        loss: object = None,
        step: SupportsIndex | None = None,
        train_args: object = None,
        scaler: object = None,
        extra: Mapping[str, object] | None = None,
        force: bool = False,
    ) -> Path | None:
        """Save the run and return the checkpoint's path, or None where ``save_freq`` passes it over.

        With ``epoch``, when that is done; with ``step``, when that is; with both, after a step within the epoch. No save
        replaces another: an epoch or step that is saved once more gets a name of its own.

        ``force`` saves all the same, as one does after the last epoch. What is older than the retention keeps is deleted
        once the new one is complete and durable. After a SIGTERM it saves, waits, and raises SystemExit(143).
        Raise a RefusedError, NoSpaceError or TargetExistsError before anything is written; with ``async_save`` the error
        of a save under way comes out of the next call, and of a gated one, the first apart, these too.
        """
        leaving = self.preempted
        warn_of(self._news_of_earlier_saves(leaving=leaving))
        ended = saved_position(epoch, step)
        if not (force or leaving or falls_on(self._options.save_freq, ended, unnamed=True)):
            return None
        facts = (ended.epoch, ended.step, loss, metrics, train_args)
        run = RunState(model, optimizer, scheduler, scaler, *facts, self._options.rng, extra)
        if not run.objects and not extra:
            raise ValueRefusedError("model: found nothing to save, expected a model; hand it to save()")
        kept = run if self._options.save_optimizer else replace(run, optimizer=None, scheduler=None)
        tree, _ = make_tree(capture, kept)
        warn_of(self._why_never_best(tree, ended))
        path, save = self._next_save(tree, ended, optimizer, versions_of_run(kept))
        warn_of(self._writer.prepare(save))
        self._writer.start(save)
        leaving = self.preempted
        if leaving:
            self._close()
        warn_of(self._notices.new())
        if leaving:
            raise SystemExit(EXIT_STATUS)
        return path

    def _news_of_earlier_saves(self, *, leaving: bool) -> Iterator[str]:
        """Raise the error of an earlier save; one who must leave is only warned, or the last save would be lost too."""
        try:
            self._writer.check()
            if leaving:
                self._writer.wait()
        except Exception as lost:
            if not leaving:
                raise
            yield f"{self.output_dir}: the last save failed: {lost}"
        yield from self._notices.new()

    def _why_never_best(self, tree: Mapping[str, Tree], ended: Position) -> list[str]:
        numbers = numbers_of(tree.get("metrics"), loss=tree.get("loss"))
        why = self._history.retention.why_never_best(numbers, ended)
        return [] if why is None else [why]

    def _next_save(
        self, tree: dict[str, Tree], ended: Position, optimizers: object, versions: Versions
    ) -> tuple[Path, Save]:
        """Wait for the save before, and return the next one and its path; raise what its names refuse."""
        self._writer.wait()
        options, format = self._options, self._options.format
        require_pointers(self._folder, self._stems, format.name)
        count = 1 + max((record.save_count for record in self._folder.records()), default=0)
        path = self._folder.free_path(ended, f"checkpoint{suffix_of(format.name)}", count)
        plan = partial(plan_save, path=path, format=format, options=replace(options.write, versions=versions))
        return path, Save(_marked(tree, ended, count), optimizers, plan, self._commit)

    def _commit(self, planned: PlannedSave) -> None:
        """Write, then point, then delete: each step durable before the next."""
        retention = self._history.retention
        planned.write()
        make_way(self._folder, self._stems)
        point(self._folder, LATEST, planned.path.name)
        records = self._folder.records()
        best = retention.best_first(records)
        if best and retention.keep_best:
            point(self._folder, BEST, best[0].path.name)
        for record in retention.surplus(records):
            self._discard(record)

    def _discard(self, record: CheckpointRecord) -> None:
        doubt = self._folder.discard(record)
        if doubt is not None:
            self._notices.add(f"kept beyond max_to_keep: {doubt}")

    def checkpoints(self) -> list[CheckpointRecord]:
        """Return every checkpoint of the folder, damaged and unfinished ones too, in the order they were written."""
        return self._folder.records()

    def latest(self) -> CheckpointRecord | None:
        """Return the complete checkpoint that was written last, or None; warn where a newer one cannot be used."""
        passed_over: list[str] = []
        newest = self._history.newest_first(passed_over)
        warn_of(passed_over)
        return next(iter(newest), None)

    def best(self) -> CheckpointRecord | None:
        """Return the complete checkpoint with the best value of the monitor, of equals the earlier, or None."""
        return next(iter(self._history.best_first()), None)

    def restore(
        self,
        *,
        model: object = None,
        optimizer: object = None,
        scheduler: object = None,
        scaler: object = None,
        which: Which = "latest",
        rng: bool = True,
        rename: Sequence[str] = (),
        strict: bool = True,
    ) -> RestoreReport:
        """Load a checkpoint into live objects: ``latest``, ``best``, an epoch or step by its number, a name, or a path.

        Its bytes are read and compared with their digests first; a latest or best one that is damaged is passed over
        with a warning. See ``Checkpoint.restore``. Raise FileNotFoundError where there is none.
        """
        live = RunState(model, optimizer, scheduler, scaler, rng=rng and self._options.rng)
        passed_over: list[str] = []
        try:
            return self._load(which, lambda chosen: chosen.restore(live, rename=rename, strict=strict), passed_over)
        finally:
            warn_of(passed_over)

    def resume(
        self,
        *,
        model: object = None,
        optimizer: object = None,
        scheduler: object = None,
        scaler: object = None,
        which: Which = "latest",
        rename: Sequence[str] = (),
        strict: bool = True,
    ) -> ResumePoint:
        """Restore the run and return where to go on: ``start.epoch``, ``start.step``, and whether ``within_epoch``.

        Both are 0 where nothing was saved. A number for ``which`` is an epoch, or in a run that counts steps alone a step.
        ``rename`` and ``strict`` are those of :meth:`Checkpoint.restore`.

        Raise FileNotFoundError where there are checkpoints and none of them can be used: going on from 0 would bury
        them.
        """
        self._writer.wait()
        if which == "latest" and not self._folder.records():
            require_no_lost_checkpoint(self._folder)
            return ResumePoint()
        warn_of(why_none_goes_on(self._folder))
        live = RunState(model, optimizer, scheduler, scaler, rng=self._options.rng)
        passed_over: list[str] = []
        try:
            return self._load(which, lambda chosen: chosen.resume(live, rename=rename, strict=strict), passed_over)
        finally:
            warn_of(passed_over)

    def _load(self, which: Which, load: Callable[[Chosen], T], passed_over: list[str]) -> T:
        """Return what ``load`` makes of the checkpoint that is meant; choose again where that was replaced meanwhile."""
        self._writer.wait()

        def attempt() -> T:
            passed_over.clear()
            return load(self._history.choose(which, passed_over))

        return retry_if_replaced(self.output_dir, attempt)


def _marked(tree: dict[str, Tree], ended: Position, count: int) -> Tree:
    """Add the manager's own entries: the number of the save, and whether it was made within an epoch."""
    taken = {SAVE_COUNT, WITHIN_EPOCH} & set(tree)
    if taken:
        raise ValueRefusedError(
            f"extra: found the entry {min(taken)!r}, expected a name the manager does not use itself"
        )
    return tree | {SAVE_COUNT: count} | ({WITHIN_EPOCH: True} if ended.within_epoch else {})
