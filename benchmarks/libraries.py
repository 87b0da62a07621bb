"""The libraries that are compared: how each saves and loads a state, in plain use. Each is imported when it is called."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from processes import Job, Place, void
from workloads import describe, make, mapped


class Library(NamedTuple):
    """One way to save a state and to load it again into memory of its own, with the tensors that it takes."""

    save: Callable[[Any, Path], object]
    load: Callable[[Path, Place], Any]
    tensors: str = "torch"
    environment: str = "torch"
    suffix: str = ""
    nested: bool = True  # takes more than a flat dict of tensors


def _torch_save(state: Any, path: Path) -> None:
    import torch

    torch.save(state, path)


def _torch_load(path: Path, _: Place) -> Any:
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)


def _safetensors_torch_save(state: Any, path: Path) -> None:
    from safetensors.torch import save_file

    save_file(state, path)


def _safetensors_torch_load(path: Path, _: Place) -> Any:
    from safetensors.torch import load_file

    return {key: tensor.clone() for key, tensor in load_file(path).items()}


def _safetensors_numpy_save(state: Any, path: Path) -> None:
    from safetensors.numpy import save_file

    save_file(state, path)


def _safetensors_numpy_load(path: Path, _: Place) -> Any:
    from safetensors.numpy import load_file

    return load_file(path)


def _h5py_save(state: Any, path: Path) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for key, array in state.items():
            file.create_dataset(key, data=array)


def _h5py_load(path: Path, _: Place) -> Any:
    import h5py

    with h5py.File(path) as file:
        return {key: file[key][...] for key in file}


def _npz_save(state: Any, path: Path) -> None:
    import numpy as np

    np.savez(path, **state)


def _npz_load(path: Path, _: Place) -> Any:
    import numpy as np

    with np.load(path) as file:
        return dict(file.items())


def _dcp_save(state: Any, path: Path) -> None:
    import torch.distributed.checkpoint as dcp

    dcp.save(state, checkpoint_id=path, no_dist=True)


def _dcp_load(path: Path, place: Place) -> Any:
    import torch
    import torch.distributed.checkpoint as dcp

    blanks = describe(place.workload, place.scale)
    state = mapped(blanks, lambda blank: torch.empty(blank.shape, dtype=getattr(torch, blank.dtype)))
    dcp.load(state, checkpoint_id=path, no_dist=True)
    return state


def _orbax_save(state: Any, path: Path) -> None:
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        checkpointer.save(path.absolute(), state)


def _orbax_load(path: Path, _: Place) -> Any:
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        return checkpointer.restore(path.absolute())


#: TensorStore flushes every file unless it is told not to; the peers' flush is timed apart.
_TENSORSTORE_CONTEXT = {"file_io_sync": False}


def _tensorstore_spec(path: Path, key: str) -> dict[str, Any]:
    store = {"driver": "file", "path": f"{path.absolute()}/{key}"}
    return {"driver": "zarr3", "kvstore": store, "context": _TENSORSTORE_CONTEXT}


def _tensorstore_save(state: Any, path: Path) -> None:
    import tensorstore as ts

    opened = [
        (ts.open(_tensorstore_spec(path, key), create=True, dtype=array.dtype, shape=array.shape), array)
        for key, array in state.items()
    ]
    for written in [store.result().write(array) for store, array in opened]:
        written.result()


def _tensorstore_load(path: Path, _: Place) -> Any:
    import tensorstore as ts

    opened = {key: ts.open(_tensorstore_spec(path, key)) for key in sorted(os.listdir(path))}
    reads = {key: store.result().read() for key, store in opened.items()}
    return {key: read.result() for key, read in reads.items()}


def _flow_save(state: Any, path: Path) -> None:
    import oneflow

    oneflow.save(state, str(path))


def _flow_load(path: Path, _: Place) -> Any:
    import oneflow

    return oneflow.load(str(path))


def _ours_save(format: str) -> Callable[[Any, Path], object]:
    def save(state: Any, path: Path) -> None:
        import multiframe_ckpt as mfc

        mfc.save(state, path, format=format)

    return save


def _ours_load(path: Path, _: Place) -> Any:
    import multiframe_ckpt as mfc

    return mfc.load(path, backend="torch")


#: Ours, by format; a benchmark that measures them sets their options itself.
OURS = {
    format: Library(_ours_save(format), _ours_load, suffix=suffix)
    for format, suffix in (("torch", ".pth"), ("oneflow", ""), ("safetensors", ".safetensors"))
}

PEERS = {
    "torch.save": Library(_torch_save, _torch_load, suffix=".pth"),
    "safetensors.torch": Library(_safetensors_torch_save, _safetensors_torch_load, suffix=".safetensors", nested=False),
    "safetensors.numpy": Library(
        _safetensors_numpy_save, _safetensors_numpy_load, "numpy", suffix=".safetensors", nested=False
    ),
    "h5py": Library(_h5py_save, _h5py_load, "numpy", suffix=".h5", nested=False),
    "np.savez": Library(_npz_save, _npz_load, "numpy", suffix=".npz", nested=False),
    "DCP": Library(_dcp_save, _dcp_load),
    "flow.save": Library(_flow_save, _flow_load, "oneflow", "oneflow"),
    "Orbax": Library(_orbax_save, _orbax_load, "numpy", "peers"),
    "TensorStore": Library(_tensorstore_save, _tensorstore_load, "numpy", "peers", nested=False),
}

LIBRARIES = OURS | PEERS


def make_source(place: Place, *, library: str) -> Callable[[], None]:
    """Is the job that writes a workload with a library, for others to read."""
    state = make(place.workload, place.scale, LIBRARIES[library].tensors)
    return lambda: void(LIBRARIES[library].save(state, place.target))


SOURCES: dict[str, Job] = {"make": make_source}
