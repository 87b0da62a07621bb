"""Makes golden files with real OneFlow, in the form of oneflow.tar.gz:  python make_golden.py OUT [GROUP]

    OUT/<group>/<name>/ckpt            what flow.save wrote
    OUT/<group>/<name>/expected.json   what flow.load of the same OneFlow gave
    OUT/<group>/<name>/expected.npz    the arrays that expected.json names

Needs OneFlow 0.8.0 or 0.9.0 on Python 3.10 (``make environments`` builds one). The group is ``oneflow-<version>``
unless named. The archive beside this file also holds groups written by hand (``legacy``, ``handpickled``), which no
OneFlow writes.
"""

from __future__ import annotations

import collections
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import oneflow as flow

nn = flow.nn


def mlp() -> Any:
    return nn.Sequential(
        collections.OrderedDict(l1=nn.Linear(6, 5), a=nn.ReLU(), l2=nn.Linear(5, 4), b=nn.ReLU(), l3=nn.Linear(4, 2))
    )


def trained(
    optimizer_of: Callable[[Any], Any], steps: int = 7, scheduler_of: Callable[[Any], Any] | None = None
) -> Any:
    net = mlp()
    optimizer = optimizer_of(net.parameters())
    scheduler = scheduler_of(optimizer) if scheduler_of else None
    rng = np.random.default_rng(0)
    for _ in range(steps):
        net(flow.tensor(rng.standard_normal((8, 6)).astype(np.float32))).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if scheduler is not None:
            scheduler.step()
    state = {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "best": 0.25}
    return state | ({"scheduler": scheduler.state_dict()} if scheduler is not None else {})


def tied() -> dict[str, Any]:
    weight = nn.Parameter(flow.arange(6, dtype=flow.float32).reshape(2, 3))
    return {"encoder": weight, "decoder": weight, "other": flow.ones(2)}


def special() -> dict[str, Any]:
    bits32 = np.array([0x7FC00001, 0xFFC12345, 0x7F800000, 0xFF800000, 1, 0x80000000], np.uint32).view(np.float32)
    bits16 = np.arange(65536, dtype=np.uint16).view(np.float16)
    return {"f32": flow.tensor(bits32), "f64": flow.tensor(bits32.astype(np.float64)), "f16": flow.tensor(bits16)}


ODD_NAMES = ("", "a/b", "..", "é", "W", "w", "x" * 300)
DTYPES = ("float64", "float32", "float16", "int8", "int32", "int64", "uint8", "bool")

MAKERS: dict[str, tuple[str, Callable[[], Any]]] = {
    "mlp_state_dict": ("plain MLP", lambda: mlp().state_dict()),
    "tied_parameters": ("one Parameter under two keys", tied),
    "dtypes": ("every dtype", lambda: {n: flow.tensor(np.arange(6).astype(n)) for n in DTYPES}),
    "special_floats": ("NaN payloads, infinities, denormals, -0", special),
    "scalars_and_empty": ("0-d and empty", lambda: {"s": flow.tensor(np.array(2.5)), "e": flow.zeros(0, 3)}),
    "bare_tensor": ("no dict", lambda: flow.ones(2, 3)),
    "odd_names": ("keys live in the pickle", lambda: {name: flow.ones(1) for name in ODD_NAMES}),
    "plain_python": ("no tensor", lambda: {"epoch": 5, "best": 0.25, "names": ["a", None, True], "raw": b"\0\xff"}),
    "ckpt_sgd_momentum": ("SGD", lambda: trained(lambda p: flow.optim.SGD(p, lr=0.1, momentum=0.9))),
    "ckpt_adam": ("Adam", lambda: trained(lambda p: flow.optim.Adam(p, lr=1e-3))),
    "ckpt_adamw_steplr": (
        "AdamW and StepLR",
        lambda: trained(
            lambda p: flow.optim.AdamW(p, lr=1e-3, weight_decay=0.01),
            scheduler_of=lambda o: flow.optim.lr_scheduler.StepLR(o, 3, 0.5),
        ),
    ),
}


class Expected:
    """Describes what flow.load gave, and collects its arrays."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self.tensors: list[dict[str, Any]] = []
        self._objects: dict[int, int] = {}

    def node(self, value: Any, path: tuple[Any, ...] = ()) -> Any:
        if isinstance(value, flow.Tensor):
            return self._tensor(value, path)
        if isinstance(value, dict):
            kind = type(value).__name__
            return {"t": kind, "items": [[self._key(k), self.node(v, (*path, k))] for k, v in value.items()]}
        if isinstance(value, list | tuple):
            return {"t": type(value).__name__, "items": [self.node(v, (*path, i)) for i, v in enumerate(value)]}
        if isinstance(value, float):
            return {"t": "float", "v": value.hex()}
        if isinstance(value, bytes):
            return {"t": "bytes", "v": value.hex()}
        return {"t": type(value).__name__, "v": value}

    def _key(self, key: Any) -> Any:
        return key if isinstance(key, str) else {"py": type(key).__name__, "repr": repr(key)}

    def _tensor(self, tensor: Any, path: tuple[Any, ...]) -> dict[str, Any]:
        name = f"t{len(self.arrays)}"
        self.arrays[name] = tensor.numpy().copy()
        node = {
            "t": "Parameter" if isinstance(tensor, nn.Parameter) else "Tensor",
            "npz": name,
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).partition(".")[2],
            "requires_grad": bool(tensor.requires_grad),
            "obj": self._objects.setdefault(id(tensor), len(self._objects)),
        }
        self.tensors.append({"path": [str(part) for part in path], **node})
        return node


def make(folder: Path, note: str, obj: Any) -> None:
    """Writes one golden file."""
    folder.mkdir(parents=True)
    flow.save(obj, str(folder / "ckpt"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = flow.load(str(folder / "ckpt"))
    expected = Expected()
    tree = expected.node(loaded)
    np.savez(folder / "expected.npz", **expected.arrays)
    facts = {
        "fixture": folder.name,
        "written_by": f"oneflow {flow.__version__} flow.save",
        "layout": "pickled_data",
        "note": note,
        "read_by": {flow.__version__: "ok"},
        "tree": tree,
        "tensors": expected.tensors,
    }
    (folder / "expected.json").write_text(json.dumps(facts, indent=1))


def main() -> None:
    """Makes every file."""
    out = Path(sys.argv[1])
    group = sys.argv[2] if len(sys.argv) > 2 else f"oneflow-{flow.__version__}"
    for name, (note, maker) in MAKERS.items():
        make(out / group / name, note, maker())
        print(out / group / name)


if __name__ == "__main__":
    main()
