"""CheckpointManager: keeps a training run, and picks it up where it stood.

    with CheckpointManager("outputs/run", max_to_keep=3, monitor="val/loss") as manager:
        for epoch in range(manager.resume(model=model, optimizer=optimizer), epochs):
            ...
            manager.save(epoch, model, optimizer, metrics={"val": {"loss": loss}})

docs/keeping_runs.md says what is written when, and in which order, so that a kill at any moment loses nothing.
"""

from __future__ import annotations

import operator
import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, SupportsIndex

from ..checkpoint import Checkpoint
from ..checkpoint.restore import RestoreReport
from ..errors import CheckpointWarning, DamagedError, ReplacedError, ValueRefusedError
from ..formats import format_named
from ..storage.consistency import retry_if_replaced
from ..storage.transfer import read_through
from .background import Background, step_back
from .folder import BEST, LATEST, CheckpointFolder
from .gate import Gate
from .memory import Memory
from .preemption import EXIT_STATUS, Preemption
from .records import SAVE_COUNT, CheckpointRecord, numbers_of, read_record, signature_of
from .retention import Retention
from .snapshot import Copying, make_copies, snapshot

__all__ = ["CheckpointManager", "CheckpointRecord"]


class CheckpointManager:
    """Keeps the checkpoints of one run in ``output_dir``.

    ``save_freq``: epochs that are multiples of it are saved. ``save_optimizer=False`` leaves optimizer and scheduler
    out. ``max_to_keep`` keeps the last n (None: all), and beside them the ``keep_best`` best by ``monitor`` and those of
    every ``keep_every`` epochs. ``monitor`` names the loss, or a metric, nested ones as ``val/loss``; ``mode`` is ``min``
    or ``max``. ``format`` is any of ``multiframe-ckpt formats``, ``digest`` and ``durable`` are those of
    ``Checkpoint.save``. ``async_save`` writes in a thread, and with ``"gated"`` also copies there, while the next forward
    and backward run. ``save_on_sigterm`` makes the next save after a SIGTERM the last; ``rng`` keeps the states of the
    random generators.

    One manager writes to a folder at a time; any number may read.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        *,
        save_optimizer: bool = True,
        save_freq: int = 1,
        max_to_keep: int | None = None,
        keep_best: int = 1,
        keep_every: int | None = None,
        monitor: str = "loss",
        mode: Literal["min", "max"] = "min",
        format: str = "torch",
        async_save: bool | Literal["gated"] = False,
        digest: bool = True,
        durable: bool = True,
        save_on_sigterm: bool = False,
        rng: bool = True,
    ) -> None:
        _require_least("save_freq", save_freq, 1)
        _require_least("max_to_keep", max_to_keep, 1)
        _require_least("keep_best", keep_best, 0)
        _require_least("keep_every", keep_every, 1)
        if mode not in ("min", "max"):
            raise ValueRefusedError(
                f"mode: found {mode!r}, expected 'min' (as for a loss) or 'max' (as for an accuracy)"
            )
        if async_save not in (False, True, "gated"):
            raise ValueRefusedError(f"async_save: found {async_save!r}, expected False, True or 'gated'")
        self._layout = format_named(format)
        self._save_optimizer = save_optimizer
        self._save_freq = save_freq
        self._async = async_save
        self._digest = digest
        self._durable = durable
        self._checked = False
        self._rng = rng
        self._retention = Retention(max_to_keep, keep_best, keep_every, monitor, mode)
        self._folder = CheckpointFolder(Path(os.path.abspath(output_dir)))
        self._folder.sweep()
        self._background = Background()
        self._memory = Memory()
        self._gate = Gate()
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
            self.close()
        except Exception as lost:
            if problem is None:
                raise
            # What ended the block is what the caller must see.
            warnings.warn(f"{self.output_dir}: the last save failed: {lost}", CheckpointWarning, stacklevel=2)

    def close(self) -> None:
        """Wait for the save under way, frees its memory, and take hooks and the handler of SIGTERM away.

        A context manager does so at its end.
        """
        try:
            self.wait()
        finally:
            self._gate.release()
            self._memory.free()
            self._preemption.stop()

    def wait(self) -> None:
        """Wait until the last save is complete and durable; raise its error, once."""
        self._background.wait()

    def wait_before_update(self) -> None:
        """Wait until what a gated save copies is copied: call it before every update that no hook can hold back.

        From the first call on a gated save takes it that all updates of the optimizers it is given wait so.
        """
        self._gate.promised = True
        self._gate.wait()

    # Saving

    def save(
        self,
        epoch: int,
        model: object,
        optimizer: object = None,
        scheduler: object = None,
        *,
        metrics: Mapping[str, Any] | None = None,
        loss: Any = None,
        step: int | None = None,
        train_args: Any = None,
        scaler: object = None,
        extra: Mapping[str, Any] | None = None,
        force: bool = False,
    ) -> Path | None:
        """Save the run after an epoch and return the checkpoint's path, or None where ``save_freq`` passes it over.

        ``force`` saves all the same, as one does after the last epoch. What is older than the retention keeps is deleted
        once the new one is complete and durable. After a SIGTERM it saves, waits, and raises SystemExit(143).
        Raise a RefusedError, NoSpaceError or TargetExistsError before anything is written; with ``async_save`` the error
        of a save under way comes out of the next call, and of a gated one, the first apart, these too.
        """
        leaving = self.preempted
        self._raise_earlier(leaving=leaving)
        epoch = operator.index(epoch)
        _require_least("epoch", epoch, 0)
        if not (force or leaving or epoch % self._save_freq == 0):
            return None
        checkpoint = Checkpoint.from_run(
            model=model,
            optimizer=optimizer if self._save_optimizer else None,
            scheduler=scheduler if self._save_optimizer else None,
            scaler=scaler,
            epoch=epoch,
            step=step,
            loss=loss,
            metrics=metrics,
            train_args=train_args,
            rng=self._rng,
            extra=extra,
        )
        self._say_unmonitored(checkpoint)
        path = self._folder.checkpoint(epoch, self._layout.name)
        self._start(checkpoint, path, optimizer)
        if self.preempted:
            self.close()
            raise SystemExit(EXIT_STATUS)
        return path

    def _raise_earlier(self, *, leaving: bool) -> None:
        """Raise the error of an earlier save; one who must leave is only told, or the last save would be lost too."""
        try:
            self._background.check()
            if leaving:
                self.wait()
        except Exception as lost:
            if not leaving:
                raise
            warnings.warn(f"{self.output_dir}: the last save failed: {lost}", CheckpointWarning, stacklevel=3)

    def _say_unmonitored(self, checkpoint: Checkpoint) -> None:
        found = numbers_of(checkpoint.tree.get("metrics"), loss=checkpoint.tree.get("loss"))
        if not found or self._retention.best == 0:
            return
        value = found.get(self._retention.monitor)
        if value is None:
            what = f"nothing of that name, but {', '.join(sorted(found))}"
        elif value != value:
            what = f"NaN at epoch {checkpoint.tree['epoch']}"
        else:
            return
        warnings.warn(
            f"monitor {self._retention.monitor!r}: found {what}, expected a number; such a checkpoint cannot be the best "
            "(keep_best=0 to have none)",
            CheckpointWarning,
            stacklevel=3,
        )

    def _start(self, checkpoint: Checkpoint, path: Path, optimizer: object) -> None:
        """Check all that can be checked, then write, now or in the background."""
        self.wait()
        self._folder.require_pointers(self._layout.name)
        counted = self._counted(checkpoint)
        if not self._async:
            return self._write(counted, path)
        if self._async != "gated" or not self._checked:
            counted.plan(path, format=self._layout.name, overwrite=True)
            self._checked = True
        changed_by_updates = self._gate.hold(optimizer) if self._async == "gated" else ()
        copied = snapshot(counted.tree, self._memory, later=changed_by_updates)
        make_copies(copied.now)
        copying = self._gate.close(copied.later)
        try:
            self._background.start(lambda: self._finish(copying, replace(counted, tree=copied.tree), path))
        except BaseException:  # no thread could be started: nobody would open it
            self._gate.open()
            raise

    def _finish(self, copying: Copying, checkpoint: Checkpoint, path: Path) -> None:
        """Copy what could wait until the next update, and write, both as training leaves time for it."""
        step_back()
        copying.finish()
        self._write(checkpoint, path)

    def _counted(self, checkpoint: Checkpoint) -> Checkpoint:
        if SAVE_COUNT in checkpoint.tree:
            raise ValueRefusedError(
                f"extra: found the entry {SAVE_COUNT!r}, expected a name the manager does not use itself"
            )
        count = 1 + max((record.save_count for record in self._folder.records()), default=0)
        return replace(checkpoint, tree=checkpoint.tree | {SAVE_COUNT: count})

    def _write(self, checkpoint: Checkpoint, path: Path) -> None:
        """Write, then point, then delete: each step durable before the next."""
        checkpoint.save(path, format=self._layout.name, overwrite=True, digest=self._digest, durable=self._durable)
        records = self._folder.records()
        self._folder.point(LATEST, path.name)
        best = self._retention.best_first(records)
        if best and self._retention.best:
            self._folder.point(BEST, best[0].path.name)
        for record in self._retention.surplus(records):
            self._folder.discard(record)

    # Looking

    def checkpoints(self) -> list[CheckpointRecord]:
        """Return every checkpoint of the folder, damaged and unfinished ones too, in the order they were written."""
        return self._folder.records()

    def latest(self) -> CheckpointRecord | None:
        """Return the complete checkpoint that was written last, or None; warn where a newer one cannot be used."""
        return next(iter(_newest_first(self._folder.records(), stacklevel=3)), None)

    def best(self) -> CheckpointRecord | None:
        """Return the complete checkpoint with the best value of the monitor, of equals the earlier, or None."""
        return next(iter(self._retention.best_first(self._folder.records())), None)

    # Restoring

    def restore(
        self,
        *,
        model: object = None,
        optimizer: object = None,
        scheduler: object = None,
        scaler: object = None,
        which: str | SupportsIndex | os.PathLike[str] = "latest",
        rng: bool = True,
        strict: bool = True,
    ) -> RestoreReport:
        """Load a checkpoint into live objects: the ``latest``, the ``best``, the one of an epoch (a number), or a path.

        Its bytes are read and compared with their digests first; a latest or best one that is damaged is passed over
        with a warning. See ``Checkpoint.restore``. Raise FileNotFoundError where there is none.
        """

        def attempt() -> RestoreReport:
            _, checkpoint = self._chosen(which)
            return checkpoint.restore(
                model=model,
                optimizer=optimizer,
                scheduler=scheduler,
                scaler=scaler,
                rng=rng and self._rng,
                strict=strict,
            )

        return retry_if_replaced(self.output_dir, attempt)

    def resume(
        self,
        *,
        model: object = None,
        optimizer: object = None,
        scheduler: object = None,
        scaler: object = None,
        which: str | SupportsIndex | os.PathLike[str] = "latest",
        strict: bool = True,
    ) -> int:
        """Restore the run and return the epoch to go on with: 0 where nothing was saved, else the one after the last.

        Raise FileNotFoundError where there are checkpoints and none of them can be used: going on from 0 would bury
        them.
        """
        self.wait()
        if which == "latest" and not self._folder.records():
            return 0

        def attempt() -> int:
            record, checkpoint = self._chosen(which)
            if record.epoch is None:
                raise ValueRefusedError(
                    f"{record.path}: found no epoch, expected one to go on from; use restore(), and say where to begin"
                )
            checkpoint.restore(
                model=model, optimizer=optimizer, scheduler=scheduler, scaler=scaler, rng=self._rng, strict=strict
            )
            return record.epoch + 1

        return retry_if_replaced(self.output_dir, attempt)

    def _chosen(self, which: str | SupportsIndex | os.PathLike[str]) -> tuple[CheckpointRecord, Checkpoint]:
        self.wait()
        records = self._folder.records()
        if isinstance(which, SupportsIndex) or (isinstance(which, str) and which.isdecimal()):
            named = [record for record in records if record.epoch == int(which)][-1:]
            return self._first_whole(named, f"of epoch {which}", passing_over=False)
        if which == "latest":
            newest = _newest_first(records, stacklevel=6)
            return self._first_whole(newest, "that is complete", passing_over=True)
        if which == "best":
            best = self._retention.best_first(records)
            return self._first_whole(best, f"with a value of {self._retention.monitor!r}", passing_over=True)
        checkpoint = _whole(Path(which))
        return read_record(Path(which), signature_of(Path(which))), checkpoint

    def _first_whole(
        self, records: list[CheckpointRecord], what: str, *, passing_over: bool
    ) -> tuple[CheckpointRecord, Checkpoint]:
        for record in records:
            try:
                return record, _whole(record.path)
            except ReplacedError:
                raise
            except FileNotFoundError as problem:
                raise ReplacedError(f"{record.path}: found it deleted by another run, expected it") from problem
            except DamagedError as problem:
                if not passing_over:
                    raise
                warnings.warn(f"passed over: {record.path}: {problem}", CheckpointWarning, stacklevel=6)
        raise FileNotFoundError(
            f"{self.output_dir}: found no checkpoint {what}, expected one; see what is there with: "
            f"multiframe-ckpt list {self.output_dir}"
        )


def _whole(path: Path) -> Checkpoint:
    """Open a checkpoint after comparing all its bytes with their digests."""
    checkpoint = Checkpoint.open(path)
    for _ in read_through(checkpoint.tensors()):
        pass
    return checkpoint


def _newest_first(records: list[CheckpointRecord], stacklevel: int) -> list[CheckpointRecord]:
    """Return the complete ones, the last written first; warn of newer ones that cannot be used."""
    usable = [record for record in reversed(records) if record.complete]
    for record in records:
        if not record.complete and (not usable or _is_newer(record, usable[0])):
            warnings.warn(f"passed over: {record.problem}", CheckpointWarning, stacklevel=stacklevel)
    return usable


def _is_newer(record: CheckpointRecord, found: CheckpointRecord) -> bool:
    """Return whether a record that cannot be read may be newer than one that can: by its name, or by its time."""
    return (record.epoch or 0) > (found.epoch or 0) or record.modified_ns > found.modified_ns


def _require_least(name: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise ValueRefusedError(f"{name}: found {value}, expected {least} or more")
