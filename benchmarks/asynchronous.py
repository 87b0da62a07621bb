"""How long does saving in the background hold up the training thread, and how much slower is the step after it?

A stack of linear layers is trained with Adam, 1.2 GB of state in all. A turn takes ordinary steps, saves twice, each time
with a step right after it and then a wait until the checkpoint is durable, and tells, of the second save:

- ``seconds``: how long the call to save held up the training thread, with buffers that the first save left;
- ``next_step_ratio``: the step right after it, as a multiple of the ordinary step.

``gated`` copies during the next forward and backward pass, and a hook holds ``optimizer.step`` until the copy is done. Its
step can only hide the copy if computing takes longer, which holds here: compare ``step_seconds`` with the memcpy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from cases import Case, Contender
from harness import main
from limits import LIMITS
from processes import Job, Place
from workloads import LAYERS

ROWS = {"full": 128, "quick": 256, "tiny": 4}
_STEPS = 3


class Training(NamedTuple):
    """A model and its optimizer, and what takes one step."""

    model: Any
    optimizer: Any
    step: Callable[[], None]


def training(place: Place) -> Training:
    """Return a model in training, far enough for Adam to have its state."""
    import torch

    count, width = LAYERS[place.scale]
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(width, width, bias=False) for _ in range(count)))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
    rows = torch.randn(ROWS[place.scale], width)

    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        model(rows).square().mean().backward()
        optimizer.step()

    step()
    return Training(model, optimizer, step)


# Each gives what saves (and is timed) and what waits for it.

Saver = tuple[Callable[[int], object], Callable[[], object]]


def ours(place: Place, run: Training, *, async_save: bool | str) -> Saver:
    """Is ours."""
    import multiframe_ckpt as mfc

    manager = mfc.CheckpointManager(place.target, async_save=async_save, max_to_keep=1, keep_best=0)  # type: ignore[arg-type]
    return partial(manager.save, model=run.model, optimizer=run.optimizer), manager.wait


def torch_save(place: Place, run: Training) -> Saver:
    """Is torch.save in the training loop."""
    import torch

    place.target.mkdir(parents=True, exist_ok=True)

    def save(epoch: int) -> None:
        state = {"model": run.model.state_dict(), "optimizer": run.optimizer.state_dict(), "epoch": epoch}
        torch.save(state, place.target / "checkpoint.pth")

    return save, lambda: None


def dcp_async(place: Place, run: Training) -> Saver:
    """Is torch.distributed.checkpoint.async_save."""
    import tempfile

    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp

    if not dist.is_initialized():
        meeting = Path(tempfile.mkdtemp(dir=place.target.parent)).absolute() / "store"
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
    saving: list[Any] = []

    def save(epoch: int) -> None:
        state = {"model": run.model.state_dict(), "optimizer": run.optimizer.state_dict()}
        saving.append(dcp.async_save(state, checkpoint_id=place.target / str(epoch)))

    return save, lambda: saving.pop().result()


SAVERS: dict[str, Callable[..., Saver]] = {"ours": ours, "torch.save": torch_save, "DCP": dcp_async}


def saving(place: Place, *, saver: str, **options: Any) -> Callable[[], dict[str, float]]:
    """Is a turn: ordinary steps, then saves with a step after each."""
    run = training(place)
    save, wait = SAVERS[saver](place, run, **options)
    timed(run.step)

    def turn() -> dict[str, float]:
        ordinary = median(timed(run.step) for _ in range(_STEPS))
        found: dict[str, float] = {}
        for epoch, prefix in enumerate(("first_", "")):
            found[f"{prefix}seconds"] = timed(partial(save, epoch))
            found[f"{prefix}next_step_ratio"] = timed(run.step) / ordinary
            found[f"{prefix}wait_seconds"] = timed(wait)
        return found | {"step_seconds": ordinary}

    return turn


def timed(call: Callable[[], object]) -> float:
    """Return the seconds a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


JOBS: dict[str, Job] = {"saving": saving, **LIMITS}


def cases(_: str) -> Iterator[Case]:
    """Yield the one case."""
    contenders = [
        Contender("memcpy, two threads", "limit", "memcpy", {"workers": 2}),
        Contender("torch.save", "peer", "saving", {"saver": "torch.save"}),
        Contender("DCP, async_save", "peer", "saving", {"saver": "DCP"}),
        *(
            Contender(f"ours, {label}", "ours", "saving", {"saver": "ours", "async_save": mode}, digest=True)
            for label, mode in (("in the loop", False), ("async_save=True", True), ('async_save="gated"', "gated"))
        ),
    ]
    yield Case("stall", "training", contenders, limit="memcpy, two threads", rounds=3)


if __name__ == "__main__":
    main("asynchronous", JOBS, cases)
