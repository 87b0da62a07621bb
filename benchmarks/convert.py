"""How long does a conversion take, and how much memory, against what a user does today?

Today one loads with the framework that saved and saves with the one, or the library, that shall load. The cases:

    torch → oneflow       torch.load, then by hand a folder a variable; in OneFlow's environment, torch.load and flow.save
    oneflow → torch       by hand, or flow.load, then torch.save
    torch → safetensors   torch.load, safetensors.torch.save_file
    safetensors → torch   safetensors.torch.load_file, torch.save
    open …                what a checkpoint holds: multiframe_ckpt.open against torch.load(mmap=True), safe_open, flow.load

Ours writes durably (staged, every file flushed to the disk, then renamed), checks the digests that the source carries and
writes digests. The peers do nothing of that as they are; so each is also measured with its files flushed at the end. The
sources lie in the page cache. Peak memory counts the pages of mapped files, which the system can take back, like any other.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from harness import Case, Contender, Job, environment, main, run_worker

ROOT = Path(__file__).resolve().parent.parent
NOTES = (
    "Ratios are to ours: above 1, the peer takes that many times the time or the memory.",
    "Ours flushes every file to the disk before the target appears, checks the source's digests and writes new ones.",
    "The peers do neither; 'then fsync' is the same peer with its files and folders flushed at the end.",
)


class Size(NamedTuple):
    """How many float32 tensors of which shape an input has."""

    tensors: int
    shape: tuple[int, ...]


TINY = "2 tensors, 2 kB"
SIZES = {
    TINY: Size(2, (16, 16)),
    "1,000 tensors, 4 MB": Size(1000, (32, 32)),
    "10 tensors, 200 MB": Size(10, (2500, 2000)),
}
FILES = {"torch": "model.pth", "oneflow": "model_oneflow", "safetensors": "model.safetensors"}
_META = "shape {{\n{dims}}}\ndata_type: kFloat\n"


# The jobs. Each imports what it needs when it is called, since what it imports is part of what is measured.


def make_inputs(size: Size) -> Job:
    import numpy as np
    import safetensors.torch
    import torch

    import multiframe_ckpt as mfc

    def job(_: Path, folder: Path) -> None:
        random = np.random.default_rng(0)
        folder.mkdir()
        state = {
            f"layers.{number}.weight": torch.from_numpy(random.standard_normal(size.shape, dtype=np.float32))
            for number in range(size.tensors)
        }
        torch.save(state, folder / FILES["torch"])
        safetensors.torch.save_file(state, folder / FILES["safetensors"])
        mfc.convert(folder / FILES["torch"], folder / FILES["oneflow"], to="oneflow")

    return job


def ours(to: str) -> Job:
    import multiframe_ckpt as mfc

    def job(source: Path, target: Path) -> None:
        mfc.convert(source, target, to=to)

    return job


def same_tensors() -> Job:
    import multiframe_ckpt as mfc

    return lambda source, target: mfc.diff(mfc.open(source), mfc.open(target)).equal


def torch_to_folders() -> Job:
    import torch

    def job(source: Path, target: Path) -> None:
        target.mkdir()
        for name, tensor in torch.load(source, map_location="cpu", weights_only=True).items():
            (target / name).mkdir()
            tensor.numpy().tofile(target / name / "out")
            dims = "".join(f"  dim: {dim}\n" for dim in tensor.shape)
            (target / name / "meta").write_text(_META.format(dims=dims))
        (target / "snapshot_done").touch()

    return job


def torch_to_flow() -> Job:
    import oneflow as flow
    import torch

    def job(source: Path, target: Path) -> None:
        state = torch.load(source, map_location="cpu", weights_only=True)
        flow.save({name: flow.tensor(tensor.numpy()) for name, tensor in state.items()}, str(target))

    return job


def folders_to_torch() -> Job:
    import numpy as np
    import torch

    def job(source: Path, target: Path) -> None:
        state = {}
        for folder in sorted(path for path in source.iterdir() if path.is_dir()):
            shape = [int(dim) for dim in re.findall(r"^  dim: (\d+)$", (folder / "meta").read_text(), re.MULTILINE)]
            state[folder.name] = torch.from_numpy(np.fromfile(folder / "out", np.float32).reshape(shape))
        torch.save(state, target)

    return job


def flow_to_torch() -> Job:
    import oneflow as flow
    import torch

    def job(source: Path, target: Path) -> None:
        state = flow.load(str(source))
        torch.save({name: torch.from_numpy(tensor.numpy()) for name, tensor in state.items()}, target)

    return job


def torch_to_safetensors() -> Job:
    import safetensors.torch
    import torch

    def job(source: Path, target: Path) -> None:
        safetensors.torch.save_file(torch.load(source, map_location="cpu", weights_only=True), target)

    return job


def safetensors_to_torch() -> Job:
    import safetensors.torch
    import torch

    return lambda source, target: torch.save(safetensors.torch.load_file(source), target)


def open_ours() -> Job:
    import multiframe_ckpt as mfc

    return lambda source, _: len(mfc.open(source).tensors())


def open_torch() -> Job:
    import torch

    return lambda source, _: len(torch.load(source, map_location="cpu", mmap=True, weights_only=True).keys())


def open_safetensors() -> Job:
    import safetensors

    def job(source: Path, _: Path) -> int:
        with safetensors.safe_open(source, framework="numpy") as file:
            return len(file.keys())

    return job


def open_flow() -> Job:
    import oneflow as flow

    return lambda source, _: len(flow.load(str(source)))


def then_fsync(peer: Callable[[], Job]) -> Job:
    run = peer()

    def job(source: Path, target: Path) -> None:
        run(source, target)
        for path in (*below(target), str(target), str(target.parent)):
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)

    return job


def below(folder: Path) -> Iterator[str]:
    for parent, folders, files in os.walk(folder, topdown=False):
        yield from (os.path.join(parent, name) for name in (*files, *folders))


PEERS: dict[str, Callable[[], Job]] = {
    "torch.load, folders by hand": torch_to_folders,
    "torch.load, flow.save": torch_to_flow,
    "folders by hand, torch.save": folders_to_torch,
    "flow.load, torch.save": flow_to_torch,
    "torch.load, save_file": torch_to_safetensors,
    "load_file, torch.save": safetensors_to_torch,
}
OPENERS: dict[str, Callable[[], Job]] = {
    "torch.load(mmap=True)": open_torch,
    "safe_open": open_safetensors,
    "flow.load": open_flow,
}
JOBS: Mapping[str, Callable[[], Job]] = {
    **{f"make {name}": partial(make_inputs, size) for name, size in SIZES.items()},
    **{f"to {name}": partial(ours, name) for name in FILES},
    "same tensors": same_tensors,
    "open": open_ours,
    **OPENERS,
    **PEERS,
    **{f"{name}, then fsync": partial(then_fsync, peer) for name, peer in PEERS.items()},
}

#: From, to, and what the peer does.
CONVERSIONS = (
    ("torch", "oneflow", "torch.load, folders by hand"),
    ("oneflow", "torch", "folders by hand, torch.save"),
    ("torch", "safetensors", "torch.load, save_file"),
    ("safetensors", "torch", "load_file, torch.save"),
    ("torch", "oneflow", "torch.load, flow.save"),
    ("oneflow", "torch", "flow.load, torch.save"),
)
OPENINGS = (("torch", "torch.load(mmap=True)"), ("safetensors", "safe_open"), ("oneflow", "flow.load"))


def cases(arguments: argparse.Namespace, folder: Path) -> Iterator[Case]:
    """Gives the cases of every size; those whose peer is OneFlow run, ours too, in OneFlow's environment."""
    oneflow = find_oneflow(arguments.oneflow_python)
    tiny = inputs(TINY, folder)
    for size in [TINY] if arguments.quick else list(SIZES):
        source = tiny if size == TINY else inputs(size, folder)
        for case in (*conversions(size, source, tiny, oneflow), *openings(size, source, tiny, oneflow)):
            if arguments.only in f"{case.name}, {case.size}":
                yield case


def inputs(size: str, folder: Path) -> Path:
    target = folder / f"{size.split()[0].replace(',', '')}_tensors"
    run_worker(sys.executable, "process", f"make {size}", folder, target, folder)
    return target


def conversions(size: str, source: Path, tiny: Path, oneflow: str | None) -> Iterator[Case]:
    for start, to, peer in CONVERSIONS:
        python = oneflow if "flow." in peer else sys.executable
        if python is not None:
            contenders = (
                Contender("multiframe_ckpt.convert", f"to {to}", "ours", python),
                Contender(peer, peer, "the peer as it is", python),
                Contender(f"{peer}, then fsync", f"{peer}, then fsync", "the peer, then fsync", python),
            )
            files = source / FILES[start], tiny / FILES[start], Path(FILES[to]).suffix
            yield Case(f"{start} → {to}", size, *files, contenders, check="same tensors")


def openings(size: str, source: Path, tiny: Path, oneflow: str | None) -> Iterator[Case]:
    for kind, peer in OPENINGS:
        python = oneflow if peer == "flow.load" else sys.executable
        if python is not None and (kind != "torch" or can_map(python)):
            contenders = (
                Contender("multiframe_ckpt.open", "open", "ours", python),
                Contender(peer, peer, "the peer as it is", python),
            )
            yield Case(f"open {kind}", size, source / FILES[kind], tiny / FILES[kind], "", contenders)


def can_map(python: str) -> bool:
    """Says whether torch there has ``mmap=True``, which came with 2.1."""
    return tuple(map(int, environment(python)["torch"].split(".")[:2])) >= (2, 1)


def find_oneflow(asked: str | None) -> str | None:
    """Gives a Python whose OneFlow works: the one asked for, this one, or the one that ``make test`` sets up."""
    for python in [asked] if asked else [sys.executable, str(ROOT / ".envs" / "oneflow" / "bin" / "python")]:
        command: Sequence[Any] = [python, "-c", "import oneflow, torch"]
        if Path(python).exists() and subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return python
    if asked:
        sys.exit(f"--oneflow-python: found no working OneFlow in {asked}, expected one")
    print("no real OneFlow here: its cases are left out; 'make environments' sets one up")
    return None


if __name__ == "__main__":
    main("convert", JOBS, cases, notes=NOTES)
