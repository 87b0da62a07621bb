"""A digit classifier, saved as OneFlow's per-variable directory and read back: ``mnist.py --backend torch|oneflow``.

The directory is the same whichever framework saved it, and either reads it. The reloaded model must name as many of the
held-out digits right as the one that was trained; the exit status is 1 where it does not.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from digits import SEED, TRAINED_ON, batches, digits, held_out, network, train_step

import multiframe_ckpt as mfc


def main() -> None:
    """Train, save, reload and compare."""
    arguments = parse_arguments()
    framework = importlib.import_module(arguments.backend)
    model = trained(framework, arguments.epochs)
    _, before = held_out(framework, model)

    mfc.save(model.state_dict(), arguments.output, format="oneflow", overwrite=True)
    saved = mfc.open(arguments.output)
    print(f"saved {len(saved.tensors())} tensors in {arguments.output}/, in the format {saved.meta['format']!r}")

    fresh = network(framework)
    fresh.load_state_dict(mfc.load(arguments.output, backend=arguments.backend))
    _, after = held_out(framework, fresh)
    print(f"accuracy as trained {before:.1%}, read back {after:.1%}")
    if before != after:
        sys.exit(f"{arguments.output}: found accuracies that differ, expected equal ones")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backend", choices=("torch", "oneflow"), default="torch", help="default: torch")
    parser.add_argument("--epochs", type=int, default=10, help="how often the digits are gone through; default 10")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("outputs", "mnist", "mnist_model"),
        metavar="DIRECTORY",
        help="where the model is saved; replaced if it is there; default outputs/mnist/mnist_model",
    )
    return parser.parse_args()


def trained(framework: Any, epochs: int) -> Any:
    """Return the classifier, trained in ``framework`` on 4,000 digits."""
    images, labels = digits()
    print(f"{framework.__name__} {framework.__version__}: training on {TRAINED_ON:,} real digits")
    framework.manual_seed(SEED)
    model = network(framework)
    optimizer = framework.optim.Adam(model.parameters(), lr=2e-3)
    for epoch in range(epochs):
        losses = [train_step(framework, model, optimizer, images[i], labels[i]) for i in batches([epoch])]
        print(f"epoch {epoch + 1:2}: loss {sum(losses) / len(losses):.4f}")
    return model


if __name__ == "__main__":
    main()
