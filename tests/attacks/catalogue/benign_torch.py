"""Files that real torch writes, where it is here."""

from __future__ import annotations

import enum
import sys
import types
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .case import Benign

__all__ = ["CASES"]

Arrays = Mapping[str, np.ndarray]


def _torch() -> Any:
    import torch  # where these makers are called it is here

    return torch


def _state(place: Path, **options: Any) -> Arrays:
    torch = _torch()
    weight = torch.arange(6.0).reshape(2, 3)
    state = {
        "w": weight,
        "t": weight.T,
        "row": weight[1],
        "last": torch.arange(8.0).reshape(1, 2, 2, 2).to(memory_format=torch.channels_last),
        "half": torch.ones(3).half(),
        "bf16": torch.ones(3).bfloat16(),
        "conj": torch.tensor([1 + 2j]).conj(),
        "neg": torch.tensor([1 + 2j]).conj().imag,
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "expanded": torch.ones(1).expand(4),
        "bool": torch.tensor([True, False]),
    }
    torch.save(OrderedDict(state), place, **options)
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    return {
        "w": rows,
        "t": rows.T,
        "row": rows[1],
        "last": np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2),
        "conj": np.array([1 - 2j], np.complex64),
        "neg": np.array([-2], np.float32),
        "parameter": np.ones(2, np.float32),
        "scalar": np.array(7),
        "empty": np.zeros((0, 3), np.float32),
        "expanded": np.ones(4, np.float32),
        "bool": np.array([True, False]),
    }


def _as_stream(place: Path) -> Arrays:
    return _state(place, _use_new_zipfile_serialization=False)


def _in_protocol_4(place: Path) -> Arrays:
    return _state(place, pickle_protocol=4)


def _in_protocol_5(place: Path) -> Arrays:
    return _state(place, pickle_protocol=5)


def _model(place: Path) -> Arrays:
    torch = _torch()
    layer = torch.nn.Linear(3, 2)
    torch.save(torch.nn.Sequential(layer, torch.nn.BatchNorm1d(2)), place)
    return {"0.weight": layer.weight.detach().numpy(), "1.running_mean": np.zeros(2, np.float32)}


def _lightning(place: Path) -> Arrays:
    """A checkpoint as Lightning writes it: its own classes and the user's, by name."""
    torch = _torch()
    module = types.ModuleType("lightning_stand_in")
    module.AttributeDict = type("AttributeDict", (dict,), {"__module__": module.__name__})  # type: ignore[attr-defined]
    module.TrainerFn = enum.Enum("TrainerFn", {"FITTING": "fit"}, module=module.__name__)  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    checkpoint = {
        "epoch": 1,
        "global_step": 10,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": layer.state_dict(),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 1}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": module.AttributeDict(lr=0.1, stage=module.TrainerFn.FITTING),
    }
    try:
        torch.save(checkpoint, place)
    finally:
        del sys.modules[module.__name__]
    return {"state_dict/weight": layer.weight.detach().numpy(), "state_dict/bias": layer.bias.detach().numpy()}


CASES: dict[str, Benign] = {
    "what torch.save writes": Benign(_state, needs="torch"),
    "what torch.save wrote before 1.6": Benign(_as_stream, needs="torch"),
    "what torch.save writes in protocol 4": Benign(_in_protocol_4, needs="torch"),
    "what torch.save writes in protocol 5": Benign(_in_protocol_5, needs="torch"),
    "a whole model": Benign(_model, needs="torch"),
    "what Lightning writes": Benign(_lightning, needs="torch", has_unknown=True),
}
