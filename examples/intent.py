"""Tells what a sentence is about: train once, test many.

    intent.py --train --save_model --save_results --seed 0
    intent.py --seed 0                                          loads what was saved, and says how many seconds that saved
    multiframe-ckpt list outputs                                compares the seeds

The sentences are the first lines of the English conversations in the PyPI package chatterbot-corpus, the intent of each the
topic it is filed under there; a fifth of them is held out for the test. The classifier averages an embedding of each word
and each run of three letters.
"""

from __future__ import annotations

import argparse
import re
import time
from dataclasses import dataclass
from importlib.resources import as_file, files
from itertools import chain
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from torch import nn

import multiframe_ckpt as mfc

BUCKETS = 1 << 12  # of hashed features
FEWEST = 20  # sentences of an intent
BATCH = 16


@dataclass(frozen=True, slots=True)
class Sentences:
    """Sentences with the number of the intent of each."""

    texts: list[str]
    intents: list[int]


@dataclass(frozen=True, slots=True)
class Trained:
    """A classifier, the names of its intents, and how long its training took."""

    model: nn.Module
    names: list[str]
    seconds: float


class Classifier(nn.Module):
    """A bag of embedded features, and a linear layer on their mean."""

    def __init__(self, intents: int) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(BUCKETS, 32)
        self.output = nn.Linear(32, intents)

    def forward(self, texts: list[str]) -> torch.Tensor:
        """Return a score for each text and intent."""
        bags = [features(text) for text in texts]
        offsets = np.cumsum([0, *map(len, bags[:-1])])
        return self.output(self.embedding(torch.tensor(list(chain(*bags))), torch.from_numpy(offsets)))


def main() -> None:
    """Train or restore, then test."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=20, help="how often the sentences are gone through; default 20")
    arguments = mfc.add_checkpoint_arguments(parser).parse_args()
    run = mfc.RunFolder.of(
        arguments.output_dir, method="intent", dataset="chatterbot", backbone="ngrams", seed=arguments.seed
    )
    torch.set_num_threads(1)  # for a network this small, handing work to other cores costs more than the work
    names, train_set, test_set = corpus()

    def train() -> Trained:
        return trained(names, train_set, run, arguments)

    started = time.perf_counter()
    try:
        classifier = mfc.restore_or_train(run.model, train, restored, arguments=arguments)
    except mfc.NotTrainedError as problem:
        parser.exit(1, f"{problem}\n")
    seconds = time.perf_counter() - started
    if arguments.train:
        print(f"trained for {seconds:.1f} s on {len(train_set.texts)} sentences")
    else:
        print(f"loaded {run.model} in {seconds:.2f} s; that saved {classifier.seconds - seconds:.1f} s of training")

    accuracy = tested(classifier.model, test_set)
    print(f"accuracy on {len(test_set.texts)} held-out sentences of {len(names)} intents: {accuracy:.1%}")
    if arguments.save_results:
        print(f"results in {run.save_results({'accuracy': accuracy})}")


def corpus() -> tuple[list[str], Sentences, Sentences]:
    """Return the names of the intents, the sentences to train on and those held out; the same for every seed."""
    with as_file(files("chatterbot_corpus") / "data" / "english") as folder:
        found = {path.stem: first_lines(path.read_text("utf-8")) for path in sorted(folder.glob("*.yml"))}
    names = [name for name, texts in found.items() if len(texts) >= FEWEST]
    pairs = [(text, number) for number, name in enumerate(names) for text in found[name]]
    order = np.random.default_rng(0).permutation(len(pairs))
    parts = np.split(order, [len(pairs) * 4 // 5])
    train, test = (Sentences([pairs[i][0] for i in part], [pairs[i][1] for i in part]) for part in parts)
    return names, train, test


def first_lines(text: str) -> list[str]:
    """Return the first line of each conversation, without repeats; the files are plain enough to need no YAML reader."""
    lines = re.findall(r"^- - (.+(?:\n    .+)*)", text, re.MULTILINE)
    return list(dict.fromkeys(" ".join(line.split()).strip("'\"") for line in lines))


def features(text: str) -> list[int]:
    """Return the buckets of a text's words and runs of three letters; CRC-32, as Python's own hash changes by process."""
    words = re.findall(r"\w+", text.lower())
    runs = [f" {word} "[i : i + 3] for word in words for i in range(len(word))]
    return [crc32(part.encode()) % BUCKETS for part in (*words, *runs)] or [0]


def trained(names: list[str], sentences: Sentences, run: mfc.RunFolder, arguments: argparse.Namespace) -> Trained:
    """Train from the start, or go on with ``--resume``; with ``--save_model`` keep the run and then the model."""
    started = time.perf_counter()
    torch.manual_seed(arguments.seed)
    model = Classifier(len(names))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    keep = not arguments.no_save_optimizer
    with mfc.CheckpointManager(
        run.models, save_optimizer=keep, save_freq=arguments.save_freq, max_to_keep=2
    ) as manager:
        first = 0
        if arguments.resume:
            first = manager.resume(model=model, optimizer=optimizer, which=arguments.resume).epoch
        for epoch in range(first, arguments.epochs):
            loss = train_epoch(model, optimizer, sentences)
            if arguments.save_model:
                manager.save(epoch, model, optimizer, loss=loss, train_args=arguments)
    seconds = time.perf_counter() - started
    if arguments.save_model:
        kept = mfc.Checkpoint.from_run(
            model=model, epoch=arguments.epochs - 1, extra={"names": names, "seconds": seconds}
        )
        kept.save(run.model, overwrite=True)
    return Trained(model, names, seconds)


def restored(path: Path) -> Trained:
    checkpoint = mfc.open(path)
    model = Classifier(len(checkpoint["names"]))
    checkpoint.restore(model=model)
    return Trained(model, checkpoint["names"], checkpoint["seconds"])


def train_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, sentences: Sentences) -> float:
    """Go through the sentences once, in an order drawn from torch's generator; return the mean loss."""
    total = 0.0
    for batch in torch.randperm(len(sentences.texts)).split(BATCH):
        scores = model([sentences.texts[i] for i in batch])
        loss = nn.functional.cross_entropy(scores, torch.tensor([sentences.intents[i] for i in batch]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(batch)
    return total / len(sentences.texts)


def tested(model: nn.Module, sentences: Sentences) -> float:
    with torch.no_grad():
        answers = model(sentences.texts).argmax(dim=1)
    return float((answers == torch.tensor(sentences.intents)).float().mean())


if __name__ == "__main__":
    main()
