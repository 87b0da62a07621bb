"""Stops a run within an epoch and goes on at the very next batch: the weights at the end are the same bits.

The run counts both clocks: it saves after steps, and each save says in which epoch that was. What the library cannot see
is where the batches stand. They say it themselves, by ``state_dict()``, as torchdata's ``StatefulDataLoader`` does; it is
saved as an entry of the user's own (``extra=``) and comes back with ``resume``. Dropout draws from torch's generator, which
is kept.

The same training runs twice, once without interruption and once with one. The exit status is 1 where the weights differ.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from digits import BATCH, SEED, TRAINED_ON, digits, train_step
from torch import nn

import multiframe_ckpt as mfc

EPOCHS = 2


class Batches:
    """The numbers of the digits in each batch, shuffled anew in each epoch; they know where they stand."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._begun_at, self._taken = self._generator.get_state(), 0

    def __iter__(self) -> Iterator[torch.Tensor]:
        self._generator.set_state(self._begun_at)
        order = torch.randperm(TRAINED_ON, generator=self._generator)
        for batch in order.split(BATCH)[self._taken :]:
            self._taken += 1
            yield batch
        self._begun_at, self._taken = self._generator.get_state(), 0

    def state_dict(self) -> dict[str, Any]:
        """Return where the generator stood when this epoch was shuffled, and how many batches of it were taken."""
        return {"begun_at": self._begun_at, "taken": self._taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where such a state says."""
        self._begun_at, self._taken = state["begun_at"], state["taken"]


def main() -> None:
    """Train without interruption and with one, and compare."""
    arguments = parse_arguments()
    torch.set_num_threads(1)  # for a network this small, handing work to other cores costs more than the work
    with TemporaryDirectory() as folder:
        whole = train(Path(folder), arguments.save_freq, seed=SEED)
    train(arguments.output_dir, arguments.save_freq, seed=SEED, stop_after=arguments.stop_after)
    print(f"stopped after {arguments.stop_after} steps; a new process would go on so:")
    resumed = train(arguments.output_dir, arguments.save_freq, seed=SEED + 1)
    if not all(torch.equal(whole[name], resumed[name]) for name in whole):
        sys.exit(f"{arguments.output_dir}: found weights that differ from those of the run that was not stopped")
    print("the weights at the end are the same, bit for bit")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--output_dir",
        type=Path,
        default=Path("outputs", "within_epoch"),
        help="a run that is there goes on; default outputs/within_epoch",
    )
    parser.add_argument("--save_freq", type=int, default=25, metavar="N", help="save every N steps; default 25")
    parser.add_argument(
        "--stop_after", type=int, default=60, metavar="N", help=f"steps, of {EPOCHS * TRAINED_ON // BATCH}; default 60"
    )
    return parser.parse_args()


def train(folder: Path, save_freq: int, *, seed: int, stop_after: int | None = None) -> dict[str, torch.Tensor]:
    """Train to the end, or for some steps, and return the weights; a run that is there goes on, whatever the seed."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=40, gamma=0.8)
    images, labels = digits()
    batches = Batches(seed)
    with mfc.CheckpointManager(folder, save_freq=save_freq, max_to_keep=2) as manager:
        start = manager.resume(model=model, optimizer=optimizer, scheduler=scheduler)
        if start.within_epoch:
            batches.load_state_dict(start.extra["batches"])
            print(f"going on at {start}")
        step, loss = start.step, start.report.loss
        for epoch in range(start.epoch, EPOCHS):
            for batch in batches:
                loss = train_step(torch, model, optimizer, images[batch], labels[batch])
                scheduler.step()
                extra = {"batches": batches.state_dict()}
                manager.save(epoch, model, optimizer, scheduler, step=step, loss=loss, extra=extra)
                step += 1
                if step == stop_after:
                    return model.state_dict()
            print(f"epoch {epoch}: loss {loss:.4f} on its last batch")
    return model.state_dict()


if __name__ == "__main__":
    main()
