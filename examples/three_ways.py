"""The three ways a PyTorch model is kept, through one library: its weights, the whole model, a run in the middle of it.

1. Weights only: the state dict. Small, safe to open, needs the code of the model.
2. Whole model: a pickle that names the model's code and builds it again, so only for files you trust. The weights in it
   can be read without trust, and without running anything.
3. In-training checkpoint: weights, optimizer, scheduler, random states, progress. The run goes on where it stood.

Everything written is an ordinary file that plain ``torch.load`` reads; the first and the third with
``weights_only=True``. The exit status is 1 where a way does not give back what went in, or where going on from epoch 0's
checkpoint does not improve the loss.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from digits import SEED, batches, digits, held_out, network, train_step

import multiframe_ckpt as mfc


def main() -> None:
    """Train one epoch, keep it in three ways, and go on from the third."""
    folder = parse_arguments().output_dir
    torch.manual_seed(SEED)
    run = new_run()
    train_epoch(run, 0)
    loss, accuracy = held_out(torch, run["model"])
    print(f"after epoch 0: loss {loss:.4f}, accuracy {accuracy:.1%} on digits held out\n")
    weights_only(run["model"], folder / "weights.pth")
    whole_model(run["model"], folder / "whole_model.pth")
    in_training(run, folder / "checkpoint_epoch_0000.pth")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--output_dir",
        type=Path,
        default=Path("outputs", "three_ways"),
        help="where the files go, over those of the last time; default outputs/three_ways",
    )
    return parser.parse_args()


def new_run() -> dict[str, Any]:
    """Return the live objects of a run that has not begun."""
    model = network(torch)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return {
        "model": model,
        "optimizer": optimizer,
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5),
    }


def train_epoch(run: dict[str, Any], epoch: int) -> None:
    images, labels = digits()
    for batch in batches([epoch]):
        train_step(torch, run["model"], run["optimizer"], images[batch], labels[batch])
    run["scheduler"].step()


def weights_only(model: torch.nn.Module, path: Path) -> None:
    print("1. Weights only")
    mfc.save(model.state_dict(), path, overwrite=True)
    fresh = network(torch)
    fresh.load_state_dict(mfc.load(path, backend="torch"))
    report_size(path)
    expect_equal(model, fresh, path)


def whole_model(model: torch.nn.Module, path: Path) -> None:
    print("\n2. Whole model")
    mfc.save_whole_model(model, path, overwrite=True)
    report_size(path)
    built = mfc.load(path, trusted=True)
    print(f"load(trusted=True) built a {type(built).__name__} of {len(built)} modules from the code the file names")
    expect_equal(model, built, path)
    weights = mfc.load(path, backend="torch")
    print(f"load() ran nothing of the file and gave its {len(weights)} tensors as a state dict")
    fresh = network(torch)
    fresh.load_state_dict(weights)
    expect_equal(model, fresh, path)


def in_training(run: dict[str, Any], path: Path) -> None:
    print("\n3. In-training checkpoint")
    loss, _ = held_out(torch, run["model"])
    mfc.Checkpoint.from_run(**run, epoch=0, metrics={"loss": loss}, rng=True).save(path, overwrite=True)
    report_size(path)
    resumed = new_run()
    checkpoint = mfc.open(path)
    report = checkpoint.restore(**resumed)
    checkpoint.resume_check(**resumed)
    print(f"{report}; that was epoch {report.epoch}, with a loss of {report.metrics['loss']:.4f}")
    expect_equal(run["model"], resumed["model"], path)
    train_epoch(resumed, report.epoch + 1)
    after, accuracy = held_out(torch, resumed["model"])
    print(f"after epoch {report.epoch + 1}: loss {after:.4f}, accuracy {accuracy:.1%}")
    if after >= loss:
        sys.exit(f"{path}: found a loss of {after:.4f} after going on from it, expected less than {loss:.4f}")


def report_size(path: Path) -> None:
    print(f"{path}: {path.stat().st_size:,} bytes")


def expect_equal(model: torch.nn.Module, other: torch.nn.Module, path: Path) -> None:
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    if not all(torch.equal(a, b) for a, b in pairs):
        sys.exit(f"{path}: found weights that differ from those that were saved, expected the same bits")
    print("the weights read back are the same, bit for bit")


if __name__ == "__main__":
    main()
