"""How long does it take to load a checkpoint, into memory of its own or mapped, with every byte touched?

Every library reads what it saved itself; ours, torch.load and flow.load read the same file or folder, which ours wrote.
With ``digest`` ours compares every byte with the digest in the file on the way. A mapped tensor is touched once a page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from cases import Case, Contender
from harness import main
from libraries import LIBRARIES, OURS, PEERS
from limits import LIMITS
from processes import Job, Place
from workloads import flat

_PAGE = 4096
#: What reads which file: the peers that read a format of ours read the same file as ours does.
_SOURCES = {"torch.save": "torch", "flow.save": "oneflow", "safetensors.torch": "safetensors"}
_LABELS = {"torch.save": "torch.load", "flow.save": "flow.load", "np.savez": "np.load"}


def ours(place: Place, *, backend: str, digest: bool) -> Callable[[], Any]:
    """Is ours, into memory of its own."""
    import multiframe_ckpt as mfc

    return lambda: mfc.load(place.source, backend=backend, verify=digest)


def peer(place: Place, *, library: str) -> Callable[[], Any]:
    """Is a library in plain use."""
    return lambda: LIBRARIES[library].load(place.source, place)


def ours_mapped(place: Place) -> Callable[[], Any]:
    """Is ours, with every tensor as a view of the mapped file."""
    import multiframe_ckpt as mfc

    def run() -> dict[str, Any]:
        checkpoint = mfc.open(place.source, verify=False)
        return touched({key: tensor.numpy() for key, tensor in checkpoint.tensors().items()})

    return run


def torch_mapped(place: Place) -> Callable[[], Any]:
    """Is torch.load(mmap=True)."""
    import torch

    return lambda: touched(torch.load(place.source, map_location="cpu", weights_only=True, mmap=True))


def safetensors_mapped(place: Place) -> Callable[[], Any]:
    """Is safetensors.torch.load_file, which maps the file."""
    from safetensors.torch import load_file

    return lambda: touched(load_file(place.source))


def touched(state: Any) -> Any:
    """Return the state after a look at one byte of every page."""
    import numpy as np

    for _, tensor in flat(state):
        array = tensor if isinstance(tensor, np.ndarray) else tensor.numpy()
        array.reshape(-1).view(np.uint8)[::_PAGE].max(initial=0)
    return state


JOBS: dict[str, Job] = {
    "ours": ours,
    "peer": peer,
    "ours, mapped": ours_mapped,
    "torch, mapped": torch_mapped,
    "safetensors, mapped": safetensors_mapped,
    **LIMITS,
}


def cases(scale: str) -> Iterator[Case]:
    """Yield loading into own memory for every workload, mapped for W1, and from a cold cache where the scale is full."""
    everything = [*peers(*PEERS), *ours_from("torch", "oneflow", "safetensors"), *ours_in_oneflow()]
    yield case("W1", everything, rounds=3)
    yield mapped_case("W1")
    if scale != "quick":
        bfloat16 = [*peers("torch.save", "safetensors.torch"), *ours_from("torch", "safetensors")]
        yield case("W2", bfloat16, rounds=1)
    small = [*peers("torch.save", "safetensors.torch", "flow.save"), *ours_from("torch", "oneflow"), *ours_in_oneflow()]
    yield case("W3", small, rounds=3)
    if scale != "quick":
        run = [*peers("torch.save", "DCP", "flow.save"), *ours_from("torch", "oneflow"), *ours_in_oneflow()]
        yield case("W4", run, rounds=1)
        cold = [*peers("torch.save", "safetensors.numpy"), *ours_from("torch", "oneflow")]
        yield case("W1", cold, cache="cold", rounds=1)
        yield mapped_case("W1", cache="cold", rounds=1)


def case(workload: str, contenders: list[Contender], **options: Any) -> Case:
    limits = [
        Contender("read into fresh memory", "limit", "read into fresh memory", source="torch"),
        Contender("memcpy, two threads", "limit", "memcpy", {"workers": 2}),
    ]
    return Case("load", workload, [*limits, *contenders], limit="read into fresh memory", moves=True, **options)


def mapped_case(workload: str, **options: Any) -> Case:
    contenders = [
        Contender("plain read", "limit", "plain read", source="torch"),
        Contender("torch.load(mmap=True)", "peer", "torch, mapped", source="torch"),
        Contender("safetensors.torch", "peer", "safetensors, mapped", source="safetensors"),
        *(
            Contender(f"ours, {format}", "ours", "ours, mapped", source=format, digest=False)
            for format in ("torch", "oneflow", "safetensors")
        ),
    ]
    return Case("load mapped", workload, contenders, limit="plain read", **options)


def peers(*names: str) -> list[Contender]:
    return [
        Contender(
            _LABELS.get(name, name),
            "peer",
            "peer",
            {"library": name},
            environment=PEERS[name].environment,
            source=_SOURCES.get(name, name),
        )
        for name in names
    ]


def ours_from(*formats: str) -> list[Contender]:
    return [
        Contender(
            f"ours, {format}", "ours", "ours", {"backend": "torch", "digest": digest}, source=format, digest=digest
        )
        for format in formats
        if format in OURS
        for digest in (False, True)
    ]


def ours_in_oneflow() -> list[Contender]:
    """Return ours as OneFlow's tensors, beside flow.load."""
    return [
        Contender(
            "ours, oneflow (OneFlow's tensors)",
            "ours",
            "ours",
            {"backend": "oneflow", "digest": digest},
            environment="oneflow",
            source="oneflow",
            digest=digest,
        )
        for digest in (False, True)
    ]


if __name__ == "__main__":
    main("load", JOBS, cases)
