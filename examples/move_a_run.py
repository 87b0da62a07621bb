"""A training run that changes its framework half-way: PyTorch to OneFlow, and OneFlow to PyTorch.

The digit classifier is trained in one framework and saved; the command line converts the checkpoint; the other framework
goes on from it, with the optimizer and the learning-rate schedule where they stood. Beside it run

- the run that stayed: the same steps without a break in the framework it began in, and
- the control: the move by weights alone, as a state dict is carried over by hand, with a fresh optimizer.

Draws the loss on held-out digits after every step, and prints how far apart the parameters are at the end. The exit status
is 1 where the moved run did not end where the run that stayed did, or where the control did too.

Each training is a process of its own (``train_digits.py``), so that OneFlow may live in another Python. Everything is
written under ``outputs/move_a_run`` of the current folder, over what is there.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # before pyplot: there may be no screen
import matplotlib.pyplot as plt

import multiframe_ckpt as mfc

NAMES = {"torch": "PyTorch", "oneflow": "OneFlow"}
OUTPUT = Path("outputs", "move_a_run")
CURVES = OUTPUT / "loss_curves.png"
TRAINING = Path(__file__).resolve().with_name("train_digits.py")
LIGHT, DARK, RED = "#9ec5e8", "#0b3c6f", "#d1495b"
SAME = 5e-6  # the largest difference of any parameter that rounding may leave
ELSEWHERE = 1e-3  # the least that the control must show, or the test could not tell


@dataclass(frozen=True, slots=True)
class Moved:
    """One direction as it went: the held-out losses by step of each run, and how far two of them ended from the third."""

    here: str
    there: str
    at_step: int
    stayed: list[float]
    moved: list[float]
    control: list[float]
    distance: float
    control_distance: float


def main() -> None:
    """Move a run both ways, draw the curves, and judge."""
    arguments = parse_arguments()
    pythons = {"torch": sys.executable, "oneflow": arguments.oneflow_python}
    both = [move(here, there, pythons, arguments) for here, there in (("torch", "oneflow"), ("oneflow", "torch"))]
    draw(both)
    print(f"\nLargest difference of a parameter from the run that stayed, {arguments.steps_after} steps after the move")
    for way in both:
        title = f"{NAMES[way.here]} to {NAMES[way.there]}"
        print(f"  {title}: moved {way.distance:.1e}, by weights only {way.control_distance:.1e}")
    print(f"The loss curves are drawn in {CURVES}")
    if any(way.distance > SAME or way.control_distance <= ELSEWHERE for way in both):
        sys.exit(f"expected at most {SAME:g} for a moved run and more than {ELSEWHERE:g} by weights only; see above")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--oneflow-python", default=sys.executable, metavar="PATH", help="a Python with real OneFlow; default: this one"
    )
    parser.add_argument("--steps_before", type=int, default=400, help="steps before the move; default 400")
    parser.add_argument("--steps_after", type=int, default=20, help="steps after it; default 20")
    return parser.parse_args()


def move(here: str, there: str, pythons: dict[str, str], arguments: argparse.Namespace) -> Moved:
    """Move a run from one framework to the other, with the run that stays and the control beside it."""
    folder = OUTPUT / f"{here}_to_{there}"
    at_step, end = arguments.steps_before, arguments.steps_before + arguments.steps_after
    print(f"\n{NAMES[here]} to {NAMES[there]}, after {at_step} steps of {end}")

    def train(backend: str, name: str, last_step: int, *resume: object) -> Path:
        saved = folder / (f"{name}.pt" if backend == "torch" else name)
        options = ("--backend", backend, "--last_step", last_step, "--save", saved)
        run(pythons[backend], TRAINING, *options, *resume)
        return saved

    begun = train(here, "begun", at_step)
    stayed = mfc.open(train(here, "stayed", end))
    converted = folder / ("converted.pt" if there == "torch" else "converted")
    command = ("convert", begun, converted, "--to", there, "--overwrite")
    print("$", shlex.join(["multiframe-ckpt", *map(str, command)]))
    run(Path(sysconfig.get_path("scripts"), "multiframe-ckpt"), *command)
    moved = mfc.open(train(there, "moved", end, "--resume", converted))
    control = mfc.open(train(there, "control", end, "--resume", converted, "--model_only"))
    return Moved(
        here,
        there,
        at_step,
        *(losses(checkpoint) for checkpoint in (stayed, moved, control)),
        distance(stayed, moved),
        distance(stayed, control),
    )


def run(*command: object) -> None:
    """Run a command; show what it said on standard error only where it failed, as OneFlow always says something there."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    print(done.stdout, end="")
    if done.returncode != 0:
        sys.exit(f"{done.stderr}\n{command[0]}: found exit status {done.returncode}, expected 0; see above")


def losses(checkpoint: mfc.Checkpoint) -> list[float]:
    tree: Any = checkpoint.tree
    return list(tree["metrics"]["held_out_loss"])


def distance(a: mfc.Checkpoint, b: mfc.Checkpoint) -> float:
    """Return the largest difference of any parameter, whatever frameworks wrote the two checkpoints."""
    return mfc.diff(mfc.Checkpoint(a.weights()), mfc.Checkpoint(b.weights())).largest


def draw(both: list[Moved]) -> None:
    """Draw a column for each direction: the losses around the move, and below how far each is from the run that stayed."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 6.6), sharex="col", height_ratios=(3, 2), layout="constrained")
    for way, (above, below) in zip(both, axes.T, strict=True):
        draw_losses(above, way)
        draw_gaps(below, way)
        for axis in (above, below):
            axis.axvline(way.at_step, color="0.4", linewidth=1, linestyle=":")
            axis.grid(color="0.92")
            axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("loss on held-out digits")
    axes[1, 0].set_ylabel("distance of that loss\nfrom the run that stayed")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(CURVES, dpi=130)


def draw_losses(axis: Any, way: Moved) -> None:
    first = max(1, way.at_step - len(way.moved))
    after = range(way.at_step, way.at_step + 1 + len(way.moved))
    parted = way.stayed[way.at_step - 1]  # both lines leave the run where it was saved
    axis.plot(
        range(first, after.stop), way.stayed[first - 1 :], color=LIGHT, linewidth=6, label="stayed where it began"
    )
    axis.plot(after, [parted, *way.moved], color=DARK, label="moved with its optimizer and schedule")
    axis.plot(after, [parted, *way.control], color=RED, label="moved by its weights only")
    axis.set_title(f"{NAMES[way.here]} to {NAMES[way.there]}, after step {way.at_step}", loc="left", fontweight="bold")


def draw_gaps(axis: Any, way: Moved) -> None:
    """Draw the distances on a logarithmic scale: they lie orders of magnitude apart."""
    after = range(way.at_step + 1, way.at_step + 1 + len(way.moved))
    for curve, color in ((way.moved, DARK), (way.control, RED)):
        axis.plot(after, [abs(a - b) for a, b in zip(curve, way.stayed[way.at_step :], strict=True)], color=color)
    axis.set_yscale("log")
    axis.set_xlabel("training step")


if __name__ == "__main__":
    main()
