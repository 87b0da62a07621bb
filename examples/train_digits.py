"""The digit classifier trained for some steps in either framework, from the start or from a checkpoint of either.

    train_digits.py --backend torch   --last_step 80  --save run.pt
    train_digits.py --backend oneflow --last_step 100 --save later --resume converted

``move_a_run.py`` runs it. The loss on held-out digits after each step is kept in the checkpoint's metrics.

The two frameworks round differently. Where a gradient is as small as AdamW's default eps of 1e-8, as that of a pixel that
is hardly ever lit, its rounding decides the step; an eps of 1e-6 keeps such steps small.
"""

from __future__ import annotations

import argparse
import importlib
from itertools import count, islice
from pathlib import Path
from typing import Any

from digits import SEED, batches, digits, held_out, network, train_step

import multiframe_ckpt as mfc


def main() -> None:
    """Train from step 0, or from the checkpoint's, and save."""
    arguments = parse_arguments()
    framework = importlib.import_module(arguments.backend)
    framework.manual_seed(SEED)
    model = network(framework)
    optimizer = framework.optim.AdamW(model.parameters(), lr=2e-3, eps=1e-6)
    scheduler = framework.optim.lr_scheduler.StepLR(optimizer, step_size=100, gamma=0.5)

    first = 0
    if arguments.resume:
        rest = {} if arguments.model_only else {"optimizer": optimizer, "scheduler": scheduler}
        report = mfc.open(arguments.resume).restore(model=model, **rest)
        print(f"{framework.__name__} {framework.__version__}, step {report.step}: {report}")
        first = report.step

    curve = train(framework, model, optimizer, scheduler, range(first, arguments.last_step))
    checkpoint = mfc.Checkpoint.from_run(
        model=model,
        optimizer=optimizer,
        scheduler=scheduler,
        step=arguments.last_step,
        metrics={"held_out_loss": curve},
    )
    checkpoint.save(arguments.save, overwrite=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backend", choices=("torch", "oneflow"), required=True, help="the framework that trains")
    parser.add_argument("--last_step", type=int, required=True, help="the step to stop after, of 50 digits each")
    parser.add_argument(
        "--save", type=Path, required=True, help="the checkpoint to write; .pt, or a folder for OneFlow"
    )
    parser.add_argument("--resume", type=Path, metavar="CHECKPOINT", help="go on from here")
    parser.add_argument("--model_only", action="store_true", help="take nothing but the weights from --resume")
    return parser.parse_args()


def train(framework: Any, model: Any, optimizer: Any, scheduler: Any, steps: range) -> list[float]:
    """Take the steps, each on the batch of its number; return the loss on held-out digits after each."""
    images, labels = digits()
    curve = []
    for batch in islice(batches(count()), steps.start, steps.stop):
        train_step(framework, model, optimizer, images[batch], labels[batch])
        scheduler.step()
        loss, _ = held_out(framework, model)
        curve.append(loss)
    return curve


if __name__ == "__main__":
    main()
