"""layout=, with PyTorch: what another program laid out otherwise loads into a model, and training goes on bit for bit."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.tree.move_plan import plan_moves

torch = pytest.importorskip("torch")

#: Kernels as Flax and Keras lay them out: a linear one (in, out), a convolution's HWIO.
RULES = ["fc.weight=turn of fc.kernel", "conv.weight=turn:3,2,0,1 of conv.kernel"]
KINDS = {"fc.weight": "linear", "conv.weight": "conv2d"}


def model() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        OrderedDict(conv=torch.nn.Conv2d(3, 4, 3), flat=torch.nn.Flatten(), fc=torch.nn.Linear(16, 16))
    )


def train(net: Any, optimizer: Any, steps: int) -> None:
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        net(torch.randn(2, 3, 4, 4)).square().sum().backward()
        optimizer.step()


def laid_out_by_another(net: Any, optimizer: Any) -> dict[str, Any]:
    """Return the run as a program would save it that has kernels."""

    def kernel(name: str, value: Any) -> Any:
        turned = value.permute(2, 3, 1, 0) if value.ndim == 4 else value.T if value.ndim == 2 else value
        return turned.contiguous()

    names = [name for name, _ in net.named_parameters()]
    state = optimizer.state_dict()
    weights = {name.replace("weight", "kernel"): kernel(name, value) for name, value in net.state_dict().items()}
    entries = {
        number: {key: kernel(names[number], value) for key, value in entry.items()}
        for number, entry in state["state"].items()
    }
    return {"model_state_dict": weights, "optimizer_state_dict": {**state, "state": entries}}


def test_weights_and_moments_turned_together_go_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    net = model()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    train(net, optimizer, 3)
    torch.save(laid_out_by_another(net, optimizer), tmp_path / "run.pth")
    report = mfc.convert(tmp_path / "run.pth", tmp_path / "own.pth", layout=RULES)
    assert report.exact
    fresh = model()
    fresh_optimizer = torch.optim.Adam(fresh.parameters(), lr=0.5)
    mfc.open(tmp_path / "own.pth").restore(model=fresh, optimizer=fresh_optimizer)
    train(net, optimizer, 3)
    train(fresh, fresh_optimizer, 3)
    for name, value in net.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name


def test_a_models_names_and_kinds_say_how_kernels_are_to_be_turned(tmp_path: Path) -> None:
    net = model()
    torch.save(laid_out_by_another(net, torch.optim.Adam(net.parameters()))["model_state_dict"], tmp_path / "w.pth")
    source = mfc.open(tmp_path / "w.pth").tensors()
    template = mfc.Checkpoint.from_objects(net).tensors()
    plan = plan_moves(source, template, kinds=KINDS)
    assert [f"{key}={how}" for key, how in plan.laid_out.items()] == RULES[::-1]
    with pytest.raises(mfc.ValueRefusedError, match=r"layout=\['fc.weight=turn of fc.kernel'\]"):
        plan_moves(source, template, kinds={"conv.weight": "conv2d"})
    fresh = model()
    with torch.no_grad():
        for value in fresh.parameters():
            value.zero_()
    mfc.Checkpoint(plan.apply(source)).load_into(fresh)
    for name, value in net.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name
