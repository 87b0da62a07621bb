"""How long does it take to save a state that is in memory, against each library and against a plain write?

Ours saves the live tensors of the framework that the peer saves: torch's, and in OneFlow's environment OneFlow's. With
``digest`` it writes a digest of every tensor; where it is not ``durable`` the file still appears whole or not at all, and
nothing is flushed, as with the peers. Each peer is told twice: as it is, and followed by one flush of all it wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from cases import Case, Contender
from harness import main
from libraries import LIBRARIES, OURS, PEERS
from limits import LIMITS
from processes import Job, Place, void
from workloads import make

NOTES = ("Orbax flushes what it writes by itself.",)


def ours(place: Place, *, format: str, tensors: str, digest: bool, durable: bool) -> Callable[[], None]:
    """Is ours, as a user calls it."""
    import multiframe_ckpt as mfc

    state = make(place.workload, place.scale, tensors)
    return lambda: void(mfc.save(state, place.target, format=format, digest=digest, durable=durable))


def peer(place: Place, *, library: str) -> Callable[[], None]:
    """Is a library in plain use."""
    state = make(place.workload, place.scale, LIBRARIES[library].tensors)
    return lambda: void(LIBRARIES[library].save(state, place.target))


JOBS: dict[str, Job] = {"ours": ours, "peer": peer, **LIMITS}


def cases(scale: str) -> Iterator[Case]:
    """Yield W1 with every peer, and the other workloads with those that matter there."""
    limits = [
        Contender("plain write", "limit", "plain write", suffix=".bin", flush=True),
        Contender("memcpy, two threads", "limit", "memcpy", {"workers": 2}),
    ]
    yield case("W1", [*limits, *peers(list(PEERS)), *everywhere("torch", "oneflow", "safetensors")], rounds=3)
    if scale != "quick":
        bfloat16 = peers(["torch.save", "safetensors.torch"])
        yield case("W2", [*limits, *bfloat16, *ours_in("torch", "torch", "oneflow", "safetensors")], rounds=1)
    small = peers(["torch.save", "safetensors.torch", "flow.save"])
    yield case("W3", [*limits, *small, *everywhere("torch", "oneflow")], rounds=1)
    if scale != "quick":
        run = peers(["torch.save", "DCP", "flow.save"])
        yield case("W4", [*limits, *run, *everywhere("torch", "oneflow")], rounds=1)


def case(workload: str, contenders: list[Contender], **options: Any) -> Case:
    return Case("save", workload, contenders, limit="plain write", moves=True, **options)


def peers(names: list[str]) -> list[Contender]:
    return [
        Contender(
            name,
            "peer",
            "peer",
            {"library": name},
            environment=PEERS[name].environment,
            suffix=PEERS[name].suffix,
            flush=True,
        )
        for name in names
    ]


def everywhere(*formats: str) -> list[Contender]:
    """Return ours in torch's environment, and for OneFlow's format in OneFlow's too, beside flow.save."""
    return [*ours_in("torch", *formats), *ours_in("oneflow", "oneflow")]


def ours_in(environment: str, *formats: str) -> list[Contender]:
    where = " (OneFlow's tensors)" if environment == "oneflow" else ""
    return [
        Contender(
            f"ours, {format}{where}",
            "ours",
            "ours",
            {"format": format, "tensors": environment, "digest": digest, "durable": durable},
            environment=environment,
            suffix=OURS[format].suffix,
            digest=digest,
            durable=durable,
        )
        for format in formats
        for digest in (False, True)
        for durable in (False, True)
    ]


if __name__ == "__main__":
    main("save", JOBS, cases, notes=NOTES)
