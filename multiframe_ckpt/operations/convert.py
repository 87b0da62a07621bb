"""convert(): a checkpoint of one format becomes one of another, and a report says what that took."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..checkpoint import Checkpoint
from ..errors import UnknownNameError
from ..formats import EACH, ONCE, VERSIONS, Changes, format_for, writable_format
from ..progress import OnProgress, silent
from ..storage.paths import path_of
from ..terminal.text import bulleted, human_size, plural
from ..training import Carried, PartVerdict, RunVerdict, VerdictReport, dialect_named, dialects_to_write, judge_move
from ..tree import TOP, unknown_refused
from ..tree.moves import parse_move
from ..tree.rules import Select, parse_rename
from .crossing import Crossing, cross, losses_of_run
from .layout import Layout, lay_out
from .rules import DtypeRules, Edits, Rules, floating_dtype

__all__ = ["ConvertReport", "convert"]


_MOST_LISTED = 10


@dataclass(frozen=True, slots=True, repr=False)
class ConvertReport(VerdictReport):
    """What a conversion did. Keys are the source's."""

    source: str
    target: str
    source_format: str
    target_format: str
    tensors: int
    nbytes: int
    dry_run: bool = False
    edits: Edits = field(default_factory=Edits)
    layout: Layout = field(default_factory=Layout)
    crossing: Crossing = field(default_factory=Crossing)
    changes: Changes = field(default_factory=Changes)
    left_behind: tuple[str, ...] = ()  # what of whole models in the source no state dict has
    run: RunVerdict = field(default_factory=RunVerdict)

    @property
    def excluded(self) -> tuple[str, ...]:
        """The keys left out on request, and of tensors some of whose elements no layout rule takes."""
        return (*self.layout.left_out, *self.edits.excluded)

    @property
    def laid_out(self) -> Mapping[str, str]:
        """How each tensor is made that is laid out otherwise, by its key in the state dict; it can be undone: no loss."""
        return self.layout.laid_out

    @property
    def renamed(self) -> Mapping[str, str]:
        """The new key of each tensor that got one."""
        return self.edits.renamed

    @property
    def cast(self) -> Mapping[str, str]:
        """The new dtype of each tensor that was cast."""
        return self.edits.cast

    @property
    def widened(self) -> Mapping[str, str]:
        """The wider dtype of each tensor that the target holds in one; it is remembered, so no loss."""
        return self.changes.widened

    @property
    def duplicated(self) -> tuple[tuple[str, ...], ...]:
        """The groups of tied tensors that were written under each name; they are remembered, so no loss."""
        return self.changes.duplicated

    @property
    def duplicated_nbytes(self) -> int:
        """How many bytes more that takes."""
        return self.changes.duplicated_nbytes

    @property
    def named_once(self) -> tuple[tuple[str, ...], ...]:
        """The groups of tied tensors that were written under the first name, and named by the others."""
        return self.changes.named_once

    @property
    def lost_ties(self) -> tuple[tuple[str, ...], ...]:
        """The groups of tensors that shared a storage at different places, or were laid out differently, and do no more."""
        return (*self.layout.lost_ties, *self.changes.lost_ties)

    @property
    def lost_metadata(self) -> tuple[str, ...]:
        """The entries of the user's metadata that the target has no place for."""
        return self.changes.lost_metadata

    @property
    def lost_versions(self) -> tuple[str, ...]:
        """The keys of state dicts beside which the target does not keep the versions of their modules."""
        return self.changes.lost_versions

    @property
    def unknown(self) -> tuple[str, ...]:
        """The objects of unknown types, ``key: type``, that were written as plain dicts."""
        return self.edits.unknown

    @property
    def translated(self) -> tuple[str, ...]:
        """The optimizers and schedulers that are now in the other framework's dialect."""
        return self.crossing.report.converted

    @property
    def untranslated(self) -> tuple[str, ...]:
        """The parts that cannot cross, and why; the target has them as they were."""
        return self.crossing.report.left_out

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to mind of the parts that were translated."""
        return self.crossing.report.warnings

    @property
    def inexact(self) -> tuple[str, ...]:
        """The keys of the values in translated parts that translating back does not give again."""
        return self.crossing.inexact

    @property
    def exact(self) -> bool:
        """Whether converting back gives every tensor and plain value of the source again, bit for bit and tied as it was.

        Of what was renamed or laid out otherwise, the way back is the rules that undo it: every element is in the target.
        What only the way back adds, such as an option at its default, is no loss.
        """
        return not _losses(self)

    @property
    def exact_because(self) -> str:
        """The verdict on exactness as a sentence, with what was lost."""
        if self.exact:
            return "converting back gives every tensor and value again, bit for bit"
        losses = ", ".join(f"{count:,} {loss}" for loss, count in _losses(self).items())
        return f"{losses}, which converting back does not give again"

    @property
    def parts(self) -> tuple[PartVerdict, ...]:
        """The parts of the run, and what becomes of each; empty where there is no run."""
        return self.run.parts

    @property
    def headline(self) -> str:
        """From what to what."""
        done = "would convert" if self.dry_run else "converted"
        return f"{done} {self.source} ({self.source_format}) to {self.target} ({self.target_format})"

    def lines(self, *, columns: int | None = None, more: str = "") -> Iterator[str]:
        """Yield what was done, what it changed, and the two verdicts."""
        yield self.headline
        yield f"{plural(self.tensors, 'tensor')}, {human_size(self.nbytes)}"
        for what, why, items in self._changes():
            if items:
                yield f"{what} ({len(items):,}){why}:"
                yield from bulleted(items, most=_MOST_LISTED, hint=more)
        yield from self._verdicts()
        if self.dry_run:
            yield "dry run: nothing was written"

    def _changes(self) -> Iterator[tuple[str, str, list[str]]]:
        """Yield what was done, what to know of it, and to whom it was done."""
        yield "translated", ": optimizers and schedulers, as the other framework has them", list(self.translated)
        yield "not translated", ", so kept as they were", list(self.untranslated)
        yield "to be minded", "", list(self.warnings)
        yield "changed by the translation", "; translating back does not give them again", list(self.inexact)
        yield "left out", "", list(self.excluded)
        yield "laid out otherwise", "", [f"{key} = {how}" for key, how in self.laid_out.items()]
        yield "renamed", "", [f"{old} -> {new}" for old, new in self.renamed.items()]
        yield "cast", "", [f"{key} to {dtype}" for key, dtype in self.cast.items()]
        widened = [f"{key} to {dtype}" for key, dtype in self.widened.items()]
        yield "widened", f", as {self.target_format} needs; the way back is exact", widened
        cost = f", written under each name, {human_size(self.duplicated_nbytes)} more; they come back tied"
        yield "tied", cost, [" = ".join(keys) for keys in self.duplicated]
        yield "tied", ", written under the first name alone", [" = ".join(keys) for keys in self.named_once]
        keep = "" if self.target_format == "torch" else "; format='torch' keeps it"
        yield "no longer sharing a storage", keep, [", ".join(keys) for keys in self.lost_ties]
        yield "of unknown type", ", written as plain dicts", list(self.unknown)
        yield "left behind of whole models", ", which become their state dicts", list(self.left_behind)
        lost_versions = [key or TOP for key in self.lost_versions]
        yield "without the versions of their modules", " (_metadata), which some ask for when they load", lost_versions
        yield "metadata dropped", "; format='safetensors' keeps it", list(self.lost_metadata)

    def _verdicts(self) -> Iterator[str]:
        yield f"{'exact' if self.exact else 'not exact'}: {self.exact_because}"
        if self.resumable is not None:
            yield f"{'resumable' if self.resumable else 'not resumable'}: {self.resumable_because}"


def _losses(report: ConvertReport) -> dict[str, int]:
    """Return how many tensors, values or entries a conversion lost, by what happened to them."""
    counts = {
        "changed by the translation": len(report.inexact),
        "left out": len(report.excluded),
        "cast": len(report.cast),
        "no longer sharing a storage": sum(map(len, report.lost_ties)),
        "of unknown type": len(report.unknown),
        "entries of metadata dropped": len(report.lost_metadata),
        "state dicts without the versions of their modules": len(report.lost_versions),
        "parts of whole models left behind": len(report.left_behind),
    }
    return {loss: count for loss, count in counts.items() if count}


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    format: str | None = None,
    backend: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    rename: Sequence[str] = (),
    layout: Sequence[str] = (),
    dtype: str | None = None,
    optimizer_dtype: str | None = None,
    model_only: bool | str = False,
    overwrite: bool = False,
    verify: bool = True,
    digest: bool = True,
    durable: bool = True,
    ties: str = EACH,
    dry_run: bool = False,
    allow_unknown: bool = False,
    allow_incomplete: bool = False,
    on_progress: OnProgress = silent,
) -> ConvertReport:
    """Write the checkpoint at ``source`` to ``target`` in ``format`` (default: by suffix, or ``oneflow``).

    ``include`` and ``exclude`` are globs over keys; ``rename`` rules read ``OLD=NEW`` (:mod:`~multiframe_ckpt.tree.rules`);
    ``layout`` rules lay parameters out otherwise, and optimizers' tensors with them (:mod:`~multiframe_ckpt.tree.moves`);
    they name parameters by their keys in the state dict, and are done first, so that other rules name what comes of them.
    ``dtype`` names the dtype that floating tensors of the weights get, ``optimizer_dtype`` that of the optimizer's;
    ``model_only`` takes the weights out of a training checkpoint, a text as its value those at that key, or the running
    average of a model, ``ema``; ``dry_run`` writes nothing. Tensors are selected,
    cast and renamed in this order, and named by their keys in the source. ``verify``, ``digest`` and ``durable`` are
    those of :meth:`Checkpoint.open` and :meth:`Checkpoint.save`. ``backend`` names the framework in whose dialect
    optimizers and schedulers are written: by default OneFlow's in OneFlow's formats, PyTorch's in its own, and in
    others as they are. What cannot cross stays as it is and is named in the report. Needs no framework.

    ``ties="once"`` writes one of tied tensors and names the others beside it, in formats whose readers understand that
    (safetensors); where they are one tensor anyway (torch, hdf5, json) nothing changes.

    The target appears whole or not at all. Raise FormatError for a bad source, RefusedError for what the target cannot
    hold, TargetExistsError unless ``overwrite``.
    """
    _require_dialect(backend)
    if ties not in (EACH, ONCE):
        raise UnknownNameError(f"ties={ties!r}: found no way to write ties, expected {EACH!r} or {ONCE!r}")
    dtypes = DtypeRules(floating_dtype("dtype", dtype), floating_dtype("optimizer_dtype", optimizer_dtype))
    select = Select(tuple(include), tuple(exclude))
    rules = Rules(select, dtypes, tuple(map(parse_rename, rename)), model_only)
    opened = Checkpoint.open(source, verify=verify, allow_incomplete=allow_incomplete)
    target = path_of(target)
    writer = writable_format(format) if format else format_for(target)
    laid_out, layout_report = lay_out(opened.tree, tuple(map(parse_move, layout)), model_only=model_only)
    edited, edits = rules.apply(laid_out)
    if edits.unknown and not allow_unknown:
        remedy = "Leave their tensors out with exclude" if model_only else "Take the weights alone: model_only=True"
        raise unknown_refused(edits.unknown, str(source), remedy)
    dialect = backend or writer.dialect
    tree, crossing = cross(edited, dialect)
    versions = rules.carried(opened.meta.get(VERSIONS) or {}, opened.tree, tree)
    checkpoint = replace(opened, tree=tree, meta={**opened.meta, VERSIONS: versions})
    planned = checkpoint.plan(
        target, format=writer.name, overwrite=overwrite, digest=digest, durable=durable, ties=ties
    )
    if not dry_run:
        planned.write(on_progress)
    carried = Carried(
        dialect_named(dialect) if dialect else None,
        opened.meta.get("framework"),
        crossing.report,
        losses_of_run(opened.tree, edits, layout_report),
    )
    table = checkpoint.tensors()
    return ConvertReport(
        source=str(source),
        target=str(target),
        source_format=str(opened.meta["format"]),
        target_format=writer.name,
        tensors=len(table),
        nbytes=sum(tensor.nbytes for tensor in table.values()),
        dry_run=dry_run,
        edits=edits,
        layout=layout_report,
        crossing=crossing,
        changes=planned.changes,
        left_behind=tuple(opened.meta.get("left_behind", ())),
        run=judge_move(opened.tree, tree, carried),
    )


def _require_dialect(backend: str | None) -> None:
    if backend not in (None, *dialects_to_write()):
        raise UnknownNameError(
            f"backend: found {backend!r}, expected one of {', '.join(dialects_to_write())}, which have their own dialects"
        )
