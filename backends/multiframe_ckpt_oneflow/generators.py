"""OneFlow's random generators (0.9): whole states in and out, and which generators a program draws from.

A CPU generator is a 32-bit Mersenne Twister: 624 words, and how many of them are used up. OneFlow's ``get_state`` gives
the words without that position (``CPUGeneratorState`` has ``states[624]`` and ``seed``), and ``set_state`` begins at the
next turn, so that a state comes back as another. Here the position is found by drawing a turn and looking which words
came out, and it is set by going back a turn and drawing as many.

A program draws from more than the default generator: every ``nn.Dropout`` makes one of its own, always with the same
seed, and all data loaders share one that is the default of an argument, made when ``oneflow.utils.data`` is imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from inspect import signature
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from multiframe_ckpt.tree import LazyTensor, Tree, expect_tensor, key_of, leaves

if TYPE_CHECKING:  # OneFlow may be absent, and is imported late
    from oneflow import Generator

__all__ = ["generator_state", "generators_of", "set_generator_state"]

_WORDS = 624
_CPU_STATE = 8 * (_WORDS + 1)  # each word as int64, and the seed
#: What stands before it in the state of a generator of all devices that has drawn on the CPU alone: five int64, a tag.
_TAG, _TAG_AT = b"cpu:0", 40
_CLOSE = 2.0**-23  # OneFlow gives a draw as a float32


def generators_of(flow: ModuleType, model: object) -> Iterator[tuple[str, Generator]]:
    """Yield the generators by name: the default one, that of the data loaders, and those of the modules of the model, or
    of a list or dict of models."""
    yield "default", flow.default_generator
    arguments = signature(flow.utils.data.DataLoader.__init__).parameters
    shared = arguments["generator"].default if "generator" in arguments else None
    if hasattr(shared, "get_state"):
        yield "data_loader", shared
    for path, one in leaves(model):
        for name, module in one.named_modules() if isinstance(one, flow.nn.Module) else ():
            if hasattr(getattr(module, "generator", None), "get_state"):
                yield " ".join(["module", *([key_of(path)] if path else []), name]), module.generator


def generator_state(flow: ModuleType, generator: Generator) -> dict[str, Tree]:
    """Return the seed, the state and the position in it; the generator goes on as if nothing had been asked.

    The position is None for a generator that has not drawn, or has drawn on other devices than the CPU.
    """
    raw = generator.get_state().numpy().copy()
    kept: dict[str, Tree] = {
        "seed": int(generator.initial_seed()),
        "state": LazyTensor.from_array(raw),
        "position": None,
    }
    offset = _words_at(raw)
    if offset is not None:
        drawn = flow.rand(_WORDS, generator=generator).numpy().astype(np.float64)
        kept["position"] = _position(_words(raw, offset), drawn)
        set_generator_state(flow, generator, kept)
    return kept


def set_generator_state(flow: ModuleType, generator: Generator, kept: Mapping[str, Tree]) -> None:
    """Set the generator to what :func:`generator_state` gave."""
    generator.manual_seed(kept["seed"])
    raw, position = expect_tensor(kept.get("state"), "a generator's state").numpy().copy(), kept["position"]
    offset = _words_at(raw)
    if offset is not None and isinstance(position, int) and position < _WORDS:
        words = _turned_back(_words(raw, offset)).astype(np.int64)
        raw[offset : offset + 8 * _WORDS] = words.view(np.uint8)
        generator.set_state(flow.tensor(raw))
        flow.rand(position, generator=generator)
    elif raw.size >= _CPU_STATE:
        generator.set_state(flow.tensor(raw))


def _words_at(raw: np.ndarray) -> int | None:
    """Return the offset of the words in a state of the CPU alone, or None for any other."""
    if raw.size == _CPU_STATE:
        return 0
    tag_end = _TAG_AT + len(_TAG)
    tagged = raw.size == tag_end + _CPU_STATE and raw[_TAG_AT:tag_end].tobytes() == _TAG
    return tag_end if tagged else None


def _words(raw: np.ndarray, offset: int) -> np.ndarray:
    return np.frombuffer(raw.tobytes(), np.int64, _WORDS, offset).astype(np.uint32)


def _position(words: np.ndarray, drawn: np.ndarray) -> int | None:
    likely = np.flatnonzero(np.abs(_draws(words, 0) - drawn[0]) < _CLOSE)
    for position in (*likely.tolist(), _WORDS):
        if np.abs(_draws(words, position) - drawn).max() < _CLOSE:
            return int(position)
    return None


def _draws(words: np.ndarray, position: int) -> np.ndarray:
    """Return what a Mersenne Twister in this state draws in one turn, between 0 and 1."""
    twister = np.random.RandomState(0)
    twister.set_state(("MT19937", words, position, 0, 0.0))
    return twister.randint(0, 1 << 32, size=_WORDS, dtype=np.uint32) / 2.0**32


def _turned_back(words: np.ndarray) -> np.ndarray:
    """Return the words of the turn before: the inverse of MT19937's recurrence (Matsumoto and Nishimura, 1998).

    The low 31 bits of the first word, which the recurrence does not use, may come out as others.
    """
    upper, lower, matrix = 0x8000_0000, 0x7FFF_FFFF, 0x9908_B0DF
    old = [int(word) for word in words]

    def undone(index: int) -> int:
        mixed = old[index % _WORDS] ^ old[(index + 397) % _WORDS]
        return (mixed ^ matrix) << 1 | 1 if mixed & upper else mixed << 1

    for index in reversed(range(_WORDS)):
        old[index] = undone(index) & upper | undone(index - 1) & lower
    return np.array(old, np.uint32)
