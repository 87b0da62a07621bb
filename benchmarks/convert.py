"""How long does a conversion take, and how much memory, against what a user does today and against cp?

Today one loads with the framework that saved and saves with the one, or the library, that shall load, or writes the folders
of OneFlow's layout by hand. Sources carry digests. With ``digest`` ours compares the source's bytes with theirs and writes
new ones; without it does neither. Where it is not ``durable`` nothing is flushed, as with the peers. The limit is cp, or
cp -r, of the checkpoint as it is to become: the same bytes, in the same files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from itertools import permutations
from pathlib import Path
from typing import Any

from cases import Case, Contender
from harness import main
from libraries import OURS
from limits import LIMITS
from processes import Job, Place, void

_META = "shape {{\n{dims}}}\ndata_type: kFloat\n"


def ours(place: Place, *, to: str, digest: bool, durable: bool) -> Callable[[], None]:
    """Is ours, as a user calls it."""
    import multiframe_ckpt as mfc

    options = {"format": to, "verify": digest, "digest": digest, "durable": durable}
    return lambda: void(mfc.convert(place.source, place.target, **options))


# What a user does today: how a state comes into memory, and how it leaves it.


def torch_load(source: Path) -> Mapping[str, Any]:
    import torch

    return torch.load(source, map_location="cpu", weights_only=True)


def torch_map(source: Path) -> Mapping[str, Any]:
    import torch

    return torch.load(source, map_location="cpu", weights_only=True, mmap=True)


def flow_load(source: Path) -> Mapping[str, Any]:
    import oneflow
    import torch

    return {name: torch.from_numpy(tensor.numpy()) for name, tensor in oneflow.load(str(source)).items()}


def from_folders(source: Path) -> Mapping[str, Any]:
    import numpy as np
    import torch

    state = {}
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        shape = [int(dim) for dim in re.findall(r"^  dim: (\d+)$", (folder / "meta").read_text(), re.MULTILINE)]
        state[folder.name] = torch.from_numpy(np.fromfile(folder / "out", np.float32).reshape(shape))
    return state


def load_file(source: Path) -> Mapping[str, Any]:
    from safetensors.torch import load_file

    return load_file(source)


def torch_save(state: Mapping[str, Any], target: Path) -> None:
    import torch

    torch.save(dict(state), target)


def flow_save(state: Mapping[str, Any], target: Path) -> None:
    import oneflow

    oneflow.save({name: oneflow.tensor(tensor.numpy()) for name, tensor in state.items()}, str(target))


def to_folders(state: Mapping[str, Any], target: Path) -> None:
    target.mkdir()
    for name, tensor in state.items():
        (target / name).mkdir()
        tensor.numpy().tofile(target / name / "out")
        dims = "".join(f"  dim: {dim}\n" for dim in tensor.shape)
        (target / name / "meta").write_text(_META.format(dims=dims))
    (target / "snapshot_done").touch()


def save_file(state: Mapping[str, Any], target: Path) -> None:
    from safetensors.torch import save_file

    save_file(dict(state), target)


LOADS = {
    "torch.load": torch_load,
    "torch.load(mmap=True)": torch_map,
    "flow.load": flow_load,
    "fromfile": from_folders,
    "load_file": load_file,
}
SAVES = {"torch.save": torch_save, "flow.save": flow_save, "tofile": to_folders, "save_file": save_file}

#: From, to, how one loads, and how one saves.
TODAY = (
    ("torch", "oneflow", "torch.load", "flow.save"),
    ("torch", "oneflow", "torch.load", "tofile"),
    ("torch", "oneflow", "torch.load(mmap=True)", "tofile"),
    ("torch", "safetensors", "torch.load", "save_file"),
    ("oneflow", "torch", "flow.load", "torch.save"),
    ("oneflow", "torch", "fromfile", "torch.save"),
    ("oneflow", "safetensors", "fromfile", "save_file"),
    ("safetensors", "torch", "load_file", "torch.save"),
    ("safetensors", "oneflow", "load_file", "tofile"),
)


def peer(place: Place, *, load: str, save: str) -> Callable[[], None]:
    """Is one of what users do today."""
    if "flow." in load + save:
        import_module("oneflow")  # takes seconds and belongs to no conversion
    return lambda: void(SAVES[save](LOADS[load](place.source), place.target))


JOBS: dict[str, Job] = {"ours": ours, "peer": peer, **LIMITS}


#: Ours, by (digest, durable).
_FLAGS = ((False, False), (False, True), (True, False), (True, True))


def cases(scale: str) -> Iterator[Case]:
    """Yield every ordered pair of the three formats for W1, and the two that OneFlow's users need for the others."""
    for source, target in permutations(OURS, 2):
        yield case(source, target, "W1", flags=_FLAGS, rounds=3)
    for source, target in (("torch", "oneflow"), ("oneflow", "torch")):
        if scale != "quick":
            yield case(source, target, "W2", flags=((False, False), (True, False)), rounds=1)
    if scale != "quick":
        yield case("torch", "oneflow", "W1", flags=((False, False), (True, True)), cache="cold", rounds=1)


def case(source: str, target: str, workload: str, *, flags: tuple[tuple[bool, bool], ...], **options: Any) -> Case:
    suffix = OURS[target].suffix
    contenders = [
        Contender("cp", "limit", "cp", source=target, suffix=suffix, flush=True),
        *(
            Contender(
                f"{load} + {save}",
                "peer",
                "peer",
                {"load": load, "save": save},
                environment="oneflow" if "flow." in load + save else "torch",
                source=source,
                suffix=suffix,
                flush=True,
            )
            for start, end, load, save in TODAY
            if (start, end) == (source, target) and workload != "W2"  # by hand, bfloat16 cannot become OneFlow's
        ),
        *(
            Contender(
                "ours",
                "ours",
                "ours",
                {"to": target, "digest": digest, "durable": durable},
                source=source,
                suffix=suffix,
                digest=digest,
                durable=durable,
            )
            for digest, durable in flags
        ),
    ]
    return Case(f"{source} → {target}", workload, contenders, limit="cp", moves=True, **options)


if __name__ == "__main__":
    main("convert", JOBS, cases)
