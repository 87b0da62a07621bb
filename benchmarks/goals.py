"""The goals, as data: every bound on what was measured, and where in the results it is read.

A ratio is one contender's time over another's in the same turn of the same run. Bounds that say "x times as fast as" divide
the peer's time by ours, those that say "at most x times" ours by the limit's.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import NamedTuple


class Pick(NamedTuple):
    """Names one outcome of a benchmark; ours as it says, whatever ``digest`` a row asks for."""

    contender: str
    case: str
    workload: str = "W1"


class Goal(NamedTuple):
    """One bound: ``measure`` of ``above`` over that of ``below`` (or alone, in ``unit``), at least or at most ``bound``."""

    job: str
    text: str
    benchmark: str
    above: Pick
    below: Pick | None
    at_least: bool
    bound: float
    digest: bool | None = False
    measure: str = "seconds"
    unit: str = "×"


MEGABYTES, MILLISECONDS = "MB", "ms"
DIGESTS = (False, True)


def faster(job: str, benchmark: str, ours: Pick, peer: Pick, bound: float, digest: bool | None, name: str = "") -> Goal:
    """Return the goal to be at least ``bound`` times as fast as a peer."""
    return Goal(job, f"≥ {bound:g} × {name or peer.contender}", benchmark, peer, ours, True, bound, digest)


def within(
    job: str, benchmark: str, ours: Pick, limit: Pick, bound: float, digest: bool | None, name: str = ""
) -> Goal:
    """Return the goal to take at most ``bound`` times as long as a limit."""
    return Goal(job, f"≤ {bound:g} × {name or limit.contender}", benchmark, ours, limit, False, bound, digest)


def conversions() -> Iterator[Goal]:
    ours, cp = Pick("ours", "torch → oneflow"), Pick("cp", "torch → oneflow")
    by_flow = Pick("torch.load + flow.save", "torch → oneflow")
    by_hand = Pick("torch.load + tofile", "torch → oneflow")
    yield within("torch → oneflow", "convert", ours, cp, 0.9, False, "cp -r")
    yield faster("torch → oneflow", "convert", ours, by_flow, 7, False)
    yield faster("torch → oneflow", "convert", ours, by_hand, 4, False)
    yield within("torch → oneflow", "convert", ours, cp, 1.3, True, "cp -r")
    ours, cp = Pick("ours", "oneflow → torch"), Pick("cp", "oneflow → torch")
    yield within("oneflow → torch", "convert", ours, cp, 0.9, False)
    yield faster("oneflow → torch", "convert", ours, Pick("flow.load + torch.save", "oneflow → torch"), 5, False)
    yield within("oneflow → torch", "convert", ours, cp, 1.3, True)
    pairs = [" → ".join(pair) for pair in permutations(("torch", "oneflow", "safetensors"), 2)]
    for pair in pairs:
        if "safetensors" in pair:
            name = "cp -r" if pair.endswith("oneflow") else "cp"
            yield within(pair, "convert", Pick("ours", pair), Pick("cp", pair), 1.1, False, name)
            yield within(pair, "convert", Pick("ours", pair), Pick("cp", pair), 1.5, True, name)
    for pair in pairs:
        for digest in DIGESTS:
            job = f"memory of {pair}, over the idle process"
            yield Goal(
                job, "≤ 64 MB", "convert", Pick("ours", pair), None, False, 64, digest, "anonymous_bytes", MEGABYTES
            )


def saves() -> Iterator[Goal]:
    ours, safetensors = Pick("ours, torch", "save"), Pick("safetensors.torch", "save")
    yield faster("save torch", "save", ours, Pick("torch.save", "save"), 2, False)
    yield faster("save torch", "save", ours, safetensors, 1, False, "safetensors.save_file")
    yield faster("save torch", "save", ours, Pick("torch.save", "save"), 1.5, True)
    beside_flow = Pick("ours, oneflow (OneFlow's tensors)", "save")
    yield faster("save oneflow", "save", beside_flow, Pick("flow.save", "save"), 3.5, False)
    yield faster(
        "save oneflow", "save", Pick("ours, oneflow", "save"), safetensors, 0.9, False, "safetensors.save_file"
    )
    yield faster("save oneflow", "save", beside_flow, Pick("flow.save", "save"), 2.5, True)


def loads() -> Iterator[Goal]:
    torch, oneflow = Pick("ours, torch", "load"), Pick("ours, oneflow", "load")
    beside_flow = Pick("ours, oneflow (OneFlow's tensors)", "load")
    for digest, bound in ((False, 2.5), (True, 2)):
        yield faster("load torch into own memory", "load", torch, Pick("torch.load", "load"), bound, digest)
        yield faster("load oneflow into own memory", "load", oneflow, Pick("torch.load", "load"), bound, digest)
    yield faster("load oneflow into own memory", "load", beside_flow, Pick("flow.load", "load"), 4, False)
    for format in ("torch", "oneflow", "safetensors"):
        mapped = Pick(f"ours, {format}", "load mapped")
        by_torch, by_safetensors = (Pick(f, "load mapped") for f in ("torch.load(mmap=True)", "safetensors.torch"))
        yield faster(f"load {format} mapped, touch all", "load", mapped, by_torch, 1, False)
        yield faster(f"load {format} mapped, touch all", "load", mapped, by_safetensors, 0.8, False)


def openings() -> Iterator[Goal]:
    for case in ("open and list", "read one tensor"):
        for format in ("torch", "oneflow", "safetensors"):
            ours = Pick(f"ours, {format}", case)
            for digest in DIGESTS:
                if case == "open and list":
                    job = f"{case}, {format}, 292 tensors"
                    yield Goal(job, "≤ 5 ms", "open", ours, None, False, 5, digest, unit=MILLISECONDS)
                yield faster(f"{case}, {format}", "open", ours, Pick("torch.load(mmap=True)", case), 3, digest)


def small_tensors() -> Iterator[Goal]:
    where = "20,000 small tensors"
    for digest in DIGESTS:
        flow = Pick("ours, oneflow (OneFlow's tensors)", "save", "W3")
        yield faster(f"{where}: save oneflow", "save", flow, Pick("flow.save", "save", "W3"), 2, digest)
        flow = flow._replace(case="load")
        yield faster(f"{where}: load oneflow", "load", flow, Pick("flow.load", "load", "W3"), 2, digest)
        flow = Pick("ours, oneflow", "open and list", "W3")
        yield faster(f"{where}: list oneflow", "open", flow, Pick("flow.load", "open and list", "W3"), 2, digest)
        torch = Pick("ours, torch", "save", "W3")
        yield faster(f"{where}: save torch", "save", torch, Pick("torch.save", "save", "W3"), 1.5, digest)
        torch = torch._replace(case="load")
        yield faster(f"{where}: load torch", "load", torch, Pick("torch.load", "load", "W3"), 1.5, digest)
        torch = torch._replace(case="open and list")
        yield faster(f"{where}: list torch", "open", torch, Pick("torch.load", "open and list", "W3"), 1.5, digest)


def others() -> Iterator[Goal]:
    stall = "asynchronous save: stall of the training thread"
    ours, memcpy = Pick("ours, async_save=True", "stall", "training"), Pick("memcpy, two threads", "stall", "training")
    yield within(stall, "asynchronous", ours, memcpy, 1.2, True)
    gated = Pick('ours, async_save="gated"', "stall", "training")
    yield Goal("gated save: stall", "≤ 5 ms", "asynchronous", gated, None, False, 5, True, unit=MILLISECONDS)
    yield Goal(
        "gated save: the next step", "≤ 1.1 × an ordinary step", "asynchronous", gated, None, False, 1.1, True,
        "next_step_ratio",
    )  # fmt: skip
    imported, numpy = Pick("import multiframe_ckpt", "import", "nothing"), Pick("import numpy", "import", "nothing")
    yield within("import multiframe_ckpt", "start", imported, numpy, 1.3, None)
    helped = Pick("multiframe-ckpt --help", "command", "nothing")
    python = Pick('python -c "import numpy"', "command", "nothing")
    yield within("multiframe-ckpt --help", "start", helped, python, 2, None)
    for format in ("torch", "oneflow", "safetensors"):
        case = f"verify {format}"
        yield faster(case, "verify", Pick("ours", case), Pick("plain read", case), 0.8, True, "reading the file")


GOALS = (*conversions(), *saves(), *loads(), *openings(), *small_tensors(), *others())

#: Linear growth: the exponent fitted to the largest sizes, of every job and format, over tensors and over bytes.
LARGEST_EXPONENT = 1.1
