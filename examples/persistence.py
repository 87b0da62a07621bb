"""A small language model that is kept by hand: ``persistence.py save | load | continue | chat``.

A GPT of two layers learns English letter by letter from Python's own help texts, which every Python ships. Its vocabulary
is stored beside its weights as an entry of the user's own, so that a checkpoint can be used without the text it came from.

    save        trains a new model for a few epochs and saves it: binary, as JSON, or both
    load        lists what was saved, loads the one that is chosen, and lets it write, or trains it on
    continue    loads one with its optimizer, trains on, and saves it
    chat        lets a model go on from what is typed; ``save`` saves it, ``quit`` leaves

Everything asked has a flag that answers it; where there is no terminal nothing is asked.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from pydoc_data import topics
from typing import Literal

import numpy as np
import torch
from torch import nn

import multiframe_ckpt as mfc
from multiframe_ckpt.errors import AnswerError
from multiframe_ckpt.interactive import (
    Answers,
    Choice,
    add_answer_arguments,
    ask_terminal,
    choose,
    save_by_hand,
    say_line,
)

with suppress(ImportError):  # not on every system
    import readline  # noqa: F401  input() then has line editing

CONTEXT = 64  # letters that the model sees at once
WIDTH, HEADS, LAYERS = 64, 4, 2
BATCH, HANDLERS = 16, 60  # sequences in a step, steps in an epoch
LETTERS = 60_000  # of the text
SEED = 7


class Block(nn.Module):
    """Attention to the letters before, then a small network on each letter."""

    def __init__(self) -> None:
        super().__init__()
        self.before_attention, self.before_network = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.queries_keys_values = nn.Linear(WIDTH, 3 * WIDTH)
        self.attended = nn.Linear(WIDTH, WIDTH)
        self.network = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, letters: torch.Tensor) -> torch.Tensor:
        """Take and return (batch, length, WIDTH)."""
        batch, length, _ = letters.shape
        mixed = self.queries_keys_values(self.before_attention(letters)).view(batch, length, 3, HEADS, -1)
        attended = nn.functional.scaled_dot_product_attention(*mixed.permute(2, 0, 3, 1, 4), is_causal=True)
        letters = letters + self.attended(attended.transpose(1, 2).reshape(batch, length, WIDTH))
        return letters + self.network(self.before_network(letters))


class Gpt(nn.Module):
    """A model that says for each letter which one comes next."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.letter = nn.Embedding(vocabulary, WIDTH)
        self.place = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.last = nn.LayerNorm(WIDTH)
        self.next = nn.Linear(WIDTH, vocabulary)

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        """Take (batch, length) letters by number, and give (batch, length, vocabulary) scores."""
        places = torch.arange(numbers.shape[1])
        return self.next(self.last(self.blocks(self.letter(numbers) + self.place(places))))


class Run:
    """A model in training, with the vocabulary that it was made for and the epochs that it has seen."""

    def __init__(self, vocabulary: list[str], learning_rate: float = 6e-3) -> None:
        torch.manual_seed(SEED)
        self.vocabulary = vocabulary
        self.model = Gpt(len(vocabulary))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=learning_rate)
        self.epochs = 0
        self.loss = float("nan")

    def train(self, epochs: int) -> None:
        """Train on, and print the loss on text that is held out; the batches of an epoch depend on its number alone."""
        numbers = torch.tensor(self.numbers(text()))
        learnt, held_out = numbers[: -LETTERS // 10], numbers[-LETTERS // 10 :]
        if self.epochs == 0:
            print(f"{sum(part.numel() for part in self.model.parameters()):,} parameters, {len(numbers):,} letters")
        for epoch in range(self.epochs, self.epochs + epochs):
            for batch in batches(learnt, np.random.default_rng([SEED, epoch])):
                self.optimizer.zero_grad()
                self.loss_of(batch).backward()
                self.optimizer.step()
            self.epochs = epoch + 1
            self.loss = self.tested(held_out)
            print(f"epoch {self.epochs}: loss {self.loss:.4f}")

    def tested(self, held_out: torch.Tensor) -> float:
        """Return the loss on text that the model does not learn from, at the same places every time."""
        with torch.no_grad():
            return float(self.loss_of(next(batches(held_out, np.random.default_rng(SEED), sequences=64))))

    def loss_of(self, batch: torch.Tensor) -> torch.Tensor:
        """Return how badly each next letter of a (sequences, CONTEXT + 1) batch is foretold."""
        scores = self.model(batch[:, :-1])
        return nn.functional.cross_entropy(scores.reshape(-1, len(self.vocabulary)), batch[:, 1:].reshape(-1))

    def numbers(self, letters: str) -> list[int]:
        """Return the letters by number; those that the vocabulary lacks are left out."""
        number = {letter: at for at, letter in enumerate(self.vocabulary)}
        return [number[letter] for letter in letters if letter in number]

    def written(self, beginning: str, length: int) -> str:
        """Return ``length`` letters that may follow, the same ones for the same beginning."""
        numbers = self.numbers(beginning) or [0]
        generator = torch.Generator().manual_seed(SEED)
        with torch.no_grad():
            for _ in range(length):
                scores = self.model(torch.tensor([numbers[-CONTEXT:]]))[0, -1]
                likely = torch.softmax(scores / 0.7, dim=0)
                numbers.append(int(torch.multinomial(likely, 1, generator=generator)))
        return "".join(self.vocabulary[number] for number in numbers[-length:])

    def checkpoint(self) -> mfc.Checkpoint:
        """Return the run as it stands, with the vocabulary as an entry of its own."""
        return mfc.Checkpoint.from_run(
            model=self.model,
            optimizer=self.optimizer,
            epoch=self.epochs,
            metrics={"loss": self.loss},
            extra={"vocabulary": self.vocabulary},
        )

    @classmethod
    def of(cls, checkpoint: mfc.Checkpoint, choice: Choice) -> Run:
        """Return the run that a checkpoint holds, at the learning rate that was chosen."""
        if not isinstance(checkpoint.tree, dict) or "vocabulary" not in checkpoint.tree:
            raise mfc.MismatchError(f"{choice.path}: found no vocabulary, expected a model that this example saved")
        run = cls(checkpoint["vocabulary"])
        report = checkpoint.restore(model=run.model, optimizer=run.optimizer, rng=False)
        run.epochs, run.loss = report.epoch or 0, (report.metrics or {}).get("loss", run.loss)
        for group in run.optimizer.param_groups:
            group["lr"] = choice.learning_rate or group["lr"]
        return run


def text() -> str:
    """Return the help texts of the Python that runs this."""
    return "\n".join(topics.topics[name] for name in sorted(topics.topics))[:LETTERS]


def batches(numbers: torch.Tensor, draw: np.random.Generator, *, sequences: int = BATCH) -> Iterator[torch.Tensor]:
    """Yield an epoch's batches, each (sequences, CONTEXT + 1), from random places of the text."""
    for _ in range(HANDLERS):
        starts = draw.integers(0, len(numbers) - CONTEXT - 1, sequences)
        yield torch.stack([numbers[start : start + CONTEXT + 1] for start in starts.tolist()])


def save(arguments: argparse.Namespace) -> None:
    run = Run(sorted(set(text())), arguments.lr)
    run.train(arguments.epochs)
    saved_by_hand(run, arguments)


def load(arguments: argparse.Namespace) -> None:
    run, choice = loaded(arguments)
    if run is None:
        print("nothing was loaded")
    elif choice.action == "continue":
        train_on(run, choice, arguments)
    else:
        print(arguments.prompt + run.written(arguments.prompt, arguments.length))


def go_on(arguments: argparse.Namespace) -> None:
    run, choice = loaded(arguments, "continue")
    assert run is not None
    train_on(run, choice, arguments)


def train_on(run: Run, choice: Choice, arguments: argparse.Namespace) -> None:
    print(f"going on from epoch {run.epochs}, where the loss was {run.loss:.4f}")
    run.train(choice.epochs or 0)
    saved_by_hand(run, arguments)


def chat(arguments: argparse.Namespace) -> None:
    if arguments.say is None and not at_terminal(arguments):
        raise AnswerError("--say: found no line and nobody to ask, expected one or more; give each with --say")
    run, _ = loaded(arguments, "use")
    assert run is not None
    print("type a beginning and the model goes on; 'save [binary|json|both] [NAME]' saves it, 'quit' leaves")
    for line in lines(arguments):
        words = line.split()
        if words[:1] == ["quit"]:
            return
        if words[:1] == ["save"]:
            save_command(run, arguments, words[1:])
        elif words:
            print(line + run.written(line, arguments.length))


def lines(arguments: argparse.Namespace) -> Iterator[str]:
    """Yield what was said beforehand, or what is typed until Ctrl-D."""
    if arguments.say is not None:
        yield from arguments.say
        return
    with suppress(EOFError):
        while True:
            yield ask_terminal("> ")


def save_command(run: Run, arguments: argparse.Namespace, words: list[str]) -> None:
    """Save as ``save json mine`` says, and ask for what it does not say. To a person a failure does not end the chat."""
    said = dict(zip(("save", "name"), words, strict=False))
    try:
        saved_by_hand(run, argparse.Namespace(**{**vars(arguments), **said}))
    except EOFError:
        print("not saved")
    except mfc.MultiframeError as problem:
        if not at_terminal(arguments):
            raise
        say_line(str(problem))


def at_terminal(arguments: argparse.Namespace) -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty() and not arguments.no_input


def loaded(
    arguments: argparse.Namespace, action: Literal["use", "continue"] | None = None
) -> tuple[Run | None, Choice]:
    """Return the run that is chosen among those saved, and the choice; None for none, where no action needs one."""
    found: list[Run] = []
    answers = Answers.of(arguments)
    choice = choose(
        arguments.output_dir,
        load=lambda checkpoint, choice: found.append(Run.of(checkpoint, choice)),
        answers=replace(answers, action=action or answers.action),
        ask=None if arguments.no_input else ask_terminal,
    )
    print(f"the same as flags: {shlex.join(choice.arguments)}")
    return found[0] if found else None, choice


def saved_by_hand(run: Run, arguments: argparse.Namespace) -> None:
    copies = save_by_hand(
        run.checkpoint(),
        name=f"gpt_epoch_{run.epochs:04d}",
        folder=arguments.output_dir,
        answers=Answers.of(arguments),
        ask=None if arguments.no_input else ask_terminal,
    )
    print(f"the same as flags: {shlex.join(copies.arguments)}")


def parse_arguments() -> argparse.Namespace:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--output_dir",
        type=Path,
        default=Path("outputs", "persistence"),
        help="where models are saved and looked for; default outputs/persistence",
    )
    writing = argparse.ArgumentParser(add_help=False)
    writing.add_argument("--length", type=int, default=200, help="how many letters the model writes; default 200")
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    parsers = {
        name: verbs.add_parser(name, help=what, description=what, parents=[common, *([writing] if writes else [])])
        for name, (_, what, writes) in VERBS.items()
    }
    add_answer_arguments(parsers["save"], loading=False)
    parsers["save"].add_argument("--epochs", type=int, default=10, help="how many epochs to train; default 10")
    parsers["save"].add_argument("--lr", type=float, default=6e-3, help="the learning rate; default 0.006")
    add_answer_arguments(parsers["load"])
    parsers["load"].add_argument("--prompt", default="The ", help="what the model goes on from; default 'The '")
    add_answer_arguments(parsers["continue"])
    add_answer_arguments(parsers["chat"])
    parsers["chat"].add_argument("--say", action="append", metavar="LINE", help="a line of the chat; may be repeated")
    return parser.parse_args()


VERBS = {
    "save": (save, "train a new model and save it", False),
    "load": (load, "load a saved model and let it write", True),
    "continue": (go_on, "load a saved model, train on, and save it", False),
    "chat": (chat, "let a saved model go on from what is typed", True),
}


def main() -> int:
    """Run a verb; return the exit status."""
    arguments = parse_arguments()
    torch.set_num_threads(1)  # so small a model is slower on more, many times so where other programs run
    try:
        VERBS[arguments.verb][0](arguments)
    except mfc.MultiframeError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    except EOFError:  # Ctrl-D at a question
        print("left; nothing more was done")
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
