"""The workloads: what is saved, loaded and converted, as trees of plain values and tensors filled with random numbers.

    W1   GPT-2 medium: 292 float32 tensors, 1.42 GB        W3   20,000 float32 tensors of 1 to 64 KB, 0.3 GB
    W2   the same in bfloat16, 0.71 GB                     W4   a training run of 101 million parameters, 1.2 GB:
    tensors N   N tensors of 1 KB                               model, Adam's state, epoch, metrics
    bytes N     N bytes of float32 in 292 tensors
    training    the weights of 24 linear layers, 101 million, with Adam's state, 1.2 GB

Each has a ``full``, a ``quick`` and a ``tiny`` scale of the same structure.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

#: (layers, width, vocabulary) of a GPT-2 at each scale.
GPT2_MEDIUM = {"full": (24, 1024, 50257), "quick": (24, 320, 50257), "tiny": (1, 16, 64)}
RUN = {"full": (12, 768, 20000), "quick": (12, 224, 20000), "tiny": (1, 16, 64)}
LAYERS = {"full": (24, 2048), "quick": (24, 512), "tiny": (2, 16)}  # (square linear layers, width)
SMALL_TENSORS = {"full": 20_000, "quick": 2_000, "tiny": 5}
_BLOCK = 1 << 22  # random numbers that every tensor is filled from, each from a place of its own


class Blank(NamedTuple):
    """A tensor to be made."""

    shape: tuple[int, ...]
    dtype: str = "float32"


def describe(name: str, scale: str) -> dict[str, Any]:
    """Return the workload as a tree whose tensors are blanks."""
    kind, _, count = name.partition(" ")
    if kind == "nothing":
        return {}
    if kind == "tensors":
        return {f"layers.{number}": Blank((256,)) for number in range(int(count) if scale != "tiny" else 3)}
    if kind == "bytes":
        return {f"layers.{number}": Blank((int(count) // 4 // 292 if scale != "tiny" else 7,)) for number in range(292)}
    return _NAMED[kind](scale)


def gpt2(layers: int, width: int, vocabulary: int, dtype: str = "float32") -> dict[str, Blank]:
    """Return the state dict of a GPT-2, in its own order."""
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (vocabulary, width), "wpe.weight": (1024, width)}
    for number in range(layers):
        parts = {"ln_1": (), "attn.c_attn": (3,), "attn.c_proj": (1,), "ln_2": (), "mlp.c_fc": (4,), "mlp.c_proj": (1,)}
        for part, times in parts.items():
            outputs = (times[0] if times else 1) * width
            rows = 4 * width if part == "mlp.c_proj" else width
            shapes[f"h.{number}.{part}.weight"] = (rows, outputs) if times else (width,)
            shapes[f"h.{number}.{part}.bias"] = (outputs,)
    shapes |= {"ln_f.weight": (width,), "ln_f.bias": (width,)}
    return {key: Blank(shape, dtype) for key, shape in shapes.items()}


def _gpt2_medium(scale: str) -> dict[str, Any]:
    return gpt2(*GPT2_MEDIUM[scale])


def _bfloat16(scale: str) -> dict[str, Any]:
    return gpt2(*GPT2_MEDIUM[scale], dtype="bfloat16")


def _small_tensors(scale: str) -> dict[str, Any]:
    """Return sizes that are even on a logarithmic scale; the golden ratio spreads them without a generator."""
    sizes = (int(256 * 64 ** (number * 0.618034 % 1)) for number in range(SMALL_TENSORS[scale]))
    return {f"layers.{number}.weight": Blank((size,)) for number, size in enumerate(sizes)}


def _run(scale: str) -> dict[str, Any]:
    model = gpt2(*RUN[scale])
    state = {
        number: {"step": Blank(()), "exp_avg": blank, "exp_avg_sq": blank}
        for number, blank in enumerate(model.values())
    }
    options = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False}
    options |= {"maximize": False, "foreach": None, "capturable": False, "differentiable": False, "fused": None}
    groups = [options | {"decoupled_weight_decay": False, "params": list(range(len(model)))}]
    optimizer = {"state": state, "param_groups": groups}
    return {"model_state_dict": model, "optimizer_state_dict": optimizer, "epoch": 3, "metrics": {"loss": 0.25}}


def _training(scale: str) -> dict[str, Any]:
    count, width = LAYERS[scale]
    parts = ("weight", "exp_avg", "exp_avg_sq")
    return {f"{number}.{part}": Blank((width, width)) for number in range(count) for part in parts}


_NAMED = {"W1": _gpt2_medium, "W2": _bfloat16, "W3": _small_tensors, "W4": _run, "training": _training}


def make(name: str, scale: str, kind: str) -> dict[str, Any]:
    """Return the workload in memory, of ``numpy``, ``torch`` or ``oneflow`` tensors."""
    fill = _filler()
    wrap = _WRAPPERS[kind]
    return dict(mapped(describe(name, scale), lambda blank: wrap(fill(blank), blank.dtype)))


def mapped(tree: Any, function: Callable[[Any], Any]) -> Any:
    """Return the tree with every blank, or tensor, replaced."""
    if isinstance(tree, Blank) or hasattr(tree, "dtype"):
        return function(tree)
    if isinstance(tree, Mapping):
        return {key: mapped(value, function) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(mapped(value, function) for value in tree)
    return tree


def flat(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield every tensor with its key."""
    if hasattr(tree, "dtype"):
        yield "/".join(path), tree
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from flat(value, (*path, str(key)))


def nbytes(name: str, scale: str) -> int:
    """Return how many bytes the tensors have."""
    sizes = {"float32": 4, "bfloat16": 2}
    total = 0

    def count(blank: Blank) -> None:
        nonlocal total
        elements = sizes[blank.dtype]
        for side in blank.shape:
            elements *= side
        total += elements

    mapped(describe(name, scale), count)
    return total


def _filler() -> Callable[[Blank], Any]:
    import numpy as np  # here, so that what only times a start need not import it

    block = np.random.default_rng(0).standard_normal(_BLOCK, dtype=np.float32)
    sources = {"float32": block, "bfloat16": np.ascontiguousarray(block.view("int16")[1::2])}  # the upper halves
    where = 0

    def fill(blank: Blank) -> Any:
        nonlocal where
        source = sources[blank.dtype]
        array = np.empty(blank.shape, source.dtype)
        into = array.reshape(-1)
        done = 0
        while done < into.size:
            count = min(into.size - done, source.size - where)
            into[done : done + count] = source[where : where + count]
            done += count
            where = (where + count + 1) % source.size
        return array

    return fill


def _numpy(array: Any, dtype: str) -> Any:
    if dtype == "float32":
        return array
    import ml_dtypes

    return array.view(getattr(ml_dtypes, dtype))


def _torch(array: Any, dtype: str) -> Any:
    import torch

    return torch.from_numpy(array).view(getattr(torch, dtype))


def _oneflow(array: Any, _: str) -> Any:
    import oneflow

    tensor = oneflow.tensor(array)
    tensor.numpy()  # waits for the copy, which OneFlow makes later than it says
    return tensor


_WRAPPERS = {"numpy": _numpy, "torch": _torch, "oneflow": _oneflow}


def fingerprint(result: Any, target: Path) -> str | None:
    """Return a digest of the tensors in ``result``, else of those in the checkpoint at ``target``; None where none are."""
    tensors = dict(flat(result)) or _written(target)
    found = sorted((key, list(tensor.shape), zlib.crc32(_raw(tensor))) for key, tensor in tensors.items())
    return hashlib.sha256(repr(found).encode()).hexdigest()[:16] if found else None


def _written(target: Path) -> dict[str, Any]:
    if not target.exists():
        return {}
    try:
        import multiframe_ckpt as mfc
    except ImportError:
        return {}  # the environment of other peers
    try:
        return {key: tensor.numpy() for key, tensor in mfc.open(target).tensors().items()}
    except mfc.FormatError:
        return {}  # a layout of others, which we do not read


@cache
def _torch_module() -> Any:
    import torch

    return torch


def _raw(tensor: Any) -> bytes:
    if type(tensor).__module__.split(".")[0] == "torch":
        tensor = tensor.detach().contiguous().reshape(-1).view(_torch_module().uint8)
    array = tensor.numpy() if hasattr(tensor, "numpy") else tensor
    return bytes(memoryview(array.reshape(-1).view("u1"))) if array.size else b""
