"""How long does it take to see what a checkpoint holds, and to read one tensor of it?

Both in a process that has the library imported already. The tensor is the last one of the workload, copied into memory of
its own. A library that has no lazy way loads everything, as its users must.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from cases import Case, Contender
from harness import main
from libraries import LIBRARIES, PEERS
from processes import Job, Place, void
from workloads import describe

_SOURCES = {"torch.load(mmap=True)": "torch", "safetensors": "safetensors", "h5py": "h5py"}
_WHOLE = {"torch.load": ("torch.save", "torch"), "flow.load": ("flow.save", "oneflow")}


def ours(place: Place, *, read: bool, digest: bool) -> Callable[[], Any]:
    """Is ours."""
    import numpy as np

    import multiframe_ckpt as mfc

    key = last_key(place)

    def run() -> Any:
        tensors = mfc.open(place.source, verify=digest).tensors()
        return {key: np.array(tensors[key].numpy())} if read else listed(tensors)

    return run


def torch_mapped(place: Place, *, read: bool) -> Callable[[], Any]:
    """Is torch.load(mmap=True)."""
    import torch

    key = last_key(place)

    def run() -> Any:
        tensors = torch.load(place.source, map_location="cpu", weights_only=True, mmap=True)
        return {key: tensors[key].clone()} if read else listed(tensors)

    return run


def safetensors_lazy(place: Place, *, read: bool) -> Callable[[], Any]:
    """Is safe_open."""
    from safetensors import safe_open

    key = last_key(place)

    def run() -> Any:
        with safe_open(place.source, framework="numpy") as file:
            if read:
                return {key: file.get_tensor(key)}
            slices = ((name, file.get_slice(name)) for name in file.keys())  # noqa: SIM118
            return void([(name, found.get_shape(), found.get_dtype()) for name, found in slices])

    return run


def h5py_lazy(place: Place, *, read: bool) -> Callable[[], Any]:
    """Is h5py."""
    import h5py

    key = last_key(place)

    def run() -> Any:
        with h5py.File(place.source) as file:
            return {key: file[key][...]} if read else listed(file)

    return run


def whole(place: Place, *, read: bool, library: str) -> Callable[[], Any]:
    """Is a library that loads everything."""
    key = last_key(place)

    def run() -> Any:
        tensors = LIBRARIES[library].load(place.source, place)
        return {key: tensors[key]} if read else listed(tensors)

    return run


def last_key(place: Place) -> str:
    return list(describe(place.workload, place.scale))[-1]


def listed(tensors: Any) -> None:
    """Look at the key, the shape and the dtype of every tensor."""
    void([(key, tuple(tensor.shape), tensor.dtype) for key, tensor in tensors.items()])


JOBS: dict[str, Job] = {
    "ours": ours,
    "torch.load(mmap=True)": torch_mapped,
    "safetensors": safetensors_lazy,
    "h5py": h5py_lazy,
    "whole": whole,
}


def cases(scale: str) -> Iterator[Case]:
    """Yield both questions for W1 and for W3, whose many small tensors make headers matter."""
    yield Case("open and list", "W1", contenders(read=False))
    yield Case("read one tensor", "W1", contenders(read=True))
    yield Case("open and list", "W3", contenders(read=False), rounds=3)
    if scale != "quick":
        yield Case("read one tensor", "W3", contenders(read=True), rounds=3)


def contenders(*, read: bool) -> list[Contender]:
    lazy = [Contender(name, "peer", name, {"read": read}, source=source) for name, source in _SOURCES.items()]
    loading = [
        Contender(name, "peer", "whole", {"read": read, "library": library}, PEERS[library].environment, source=source)
        for name, (library, source) in _WHOLE.items()
    ]
    ours = [
        Contender(f"ours, {format}", "ours", "ours", {"read": read, "digest": digest}, source=format, digest=digest)
        for format in ("torch", "oneflow", "safetensors")
        for digest in (False, True)
    ]
    return [*lazy, *loading, *ours]


if __name__ == "__main__":
    main("open", JOBS, cases)
