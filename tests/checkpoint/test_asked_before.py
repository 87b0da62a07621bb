"""What a framework's own loading would raise at, or swallow and go wrong, is known before anything is touched: torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.tree import LazyTensor, leaves

torch = pytest.importorskip("torch")
# torch warns of GradScaler without a GPU, and of schedulers that step before their optimizer.
pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.cuda.amp.GradScaler"),
    pytest.mark.filterwarnings("ignore:Detected call of"),
]
nn, optim, lr_scheduler = torch.nn, torch.optim, torch.optim.lr_scheduler
# torch 2.6 and newer keep the names of parameters.
NAMES = hasattr(optim.Optimizer, "_process_value_according_to_param_policy") and tuple(
    map(int, torch.__version__.split(".")[:2])
) >= (2, 6)


class Net(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 4)

    def forward(self, batch: Any) -> Any:
        return self.third(self.second(self.first(batch)))


def trained(make: Callable[[Any], Any], dtype: Any = torch.float32, *, steps: int = 2) -> dict[str, Any]:
    torch.manual_seed(steps)
    net = Net().to(dtype)
    optimizer = make(net)
    for _ in range(steps):
        net(torch.ones(2, 3, dtype=dtype)).square().sum().backward()
        optimizer.step()
    return {"model": net, "optimizer": optimizer}


def adam(net: Any) -> Any:
    return optim.AdamW(net.parameters(), lr=0.01)


def backwards(net: Any) -> Any:
    return optim.AdamW(reversed([*net.parameters()]), lr=0.01)


def bits(live: dict[str, Any]) -> list[Any]:
    tree = mfc.Checkpoint.from_objects(live).tree
    return [(path, leaf.numpy().tobytes() if isinstance(leaf, LazyTensor) else leaf) for path, leaf in leaves(tree)]


def refused(saved: dict[str, Any], live: dict[str, Any], message: str) -> None:
    """Loading is a mismatch by that message, whichever way; nothing live has changed."""
    before = bits(live)
    tree = mfc.Checkpoint.from_run(**saved)
    with pytest.raises(mfc.MismatchError, match=message):
        tree.restore(**live)
    assert bits(live) == before


def test_moments_of_another_shape_are_a_mismatch_by_key() -> None:
    message = r"optimizer/state/0/exp_avg: found float32 \(4,\), expected float32 \(3, 3\)"
    refused(trained(backwards), trained(adam, steps=0), message)


@pytest.mark.parametrize("make", [optim.Adam, optim.Adagrad, optim.RMSprop, optim.Adamax, optim.NAdam, optim.Adadelta])
@pytest.mark.parametrize("steps", [0, 2])
def test_moments_of_another_shape_are_found_in_warm_and_cold_optimizers(make: Any, steps: int) -> None:
    saved = trained(lambda net: make(reversed([*net.parameters()]), lr=0.01))
    live = trained(lambda net: make(net.parameters(), lr=0.01), steps=steps)
    refused(saved, live, "optimizer/state/0")


FACTORED = hasattr(optim, "Adafactor")


@pytest.mark.skipif(not FACTORED, reason="this torch has no Adafactor")
def test_factored_and_flat_moments_have_shapes_of_their_own() -> None:
    saved, live = (
        trained(lambda net: optim.Adafactor(net.parameters())),
        trained(lambda net: optim.Adafactor(net.parameters()), steps=0),
    )
    assert "optimizer" in mfc.Checkpoint.from_run(**saved).restore(**live).restored
    tree = mfc.Checkpoint.from_run(**saved).tree
    entry = tree["optimizer_state_dict"]["state"][4]  # of the third layer's weight, 4 by 3
    entry["row_var"], entry["col_var"] = entry["col_var"], entry["row_var"]
    with pytest.raises(mfc.MismatchError, match=r"state/4/row_var: found float32 \(1, 3\), expected float32 \(4, 1\)"):
        mfc.Checkpoint(tree).restore(**trained(lambda net: optim.Adafactor(net.parameters()), steps=0))


def test_the_flat_moments_of_lbfgs_are_of_the_same_parameters() -> None:
    saved, live = (optim.LBFGS(Net().parameters()) for _ in range(2))
    first = next(iter(saved.param_groups[0]["params"]))
    saved.state[first]["d"] = torch.zeros(7)
    with pytest.raises(mfc.MismatchError, match=r"state/0/d: found float32 \(7,\), expected float32 \(40,\)"):
        mfc.Checkpoint.from_objects(saved).load_into(live)


@pytest.mark.skipif(not NAMES, reason="this torch keeps no names of parameters")
def test_moments_that_would_be_swapped_are_a_mismatch_where_their_parameters_have_names() -> None:
    def pairs(net: Any) -> Any:
        return [("first.weight", net.first.weight), ("second.weight", net.second.weight)]

    saved = trained(lambda net: optim.AdamW(pairs(net), lr=0.01))
    message = r"param_names: found 'first\.weight', expected 'second\.weight'"
    refused(saved, trained(lambda net: optim.AdamW(reversed(pairs(net)), lr=0.01), steps=0), message)
    refused(saved, trained(lambda net: optim.AdamW([net.second.weight, net.first.weight]), steps=0), message)
    named = trained(lambda net: optim.AdamW(reversed(pairs(net)), lr=0.01), steps=0)["optimizer"]
    with pytest.raises(mfc.MismatchError, match=r"param_groups/0/param_names: found 'first\.weight'"):
        mfc.Checkpoint.from_objects(saved["optimizer"]).load_into(named)


@pytest.mark.skipif(not NAMES, reason="this torch keeps no names of parameters")
def test_names_that_differ_by_a_wrapper_are_the_same() -> None:
    saved = trained(lambda net: optim.AdamW(nn.DataParallel(net).named_parameters(), lr=0.01))
    live = trained(lambda net: optim.AdamW(net.named_parameters(), lr=0.01), steps=0)
    assert mfc.Checkpoint.from_run(**saved).restore(**live).restored == ("model", "optimizer")


class Precise(optim.Optimizer):  # type: ignore[misc]
    """Keeps float32 moments of parameters of any dtype, as large models are trained."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.01})

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                average = state.setdefault("exp_avg", torch.zeros_like(parameter, dtype=torch.float32))
                average.mul_(0.9).add_(parameter.grad.float(), alpha=0.1)
                parameter.sub_((average * group["lr"]).to(parameter.dtype))


class Kept(Precise):
    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)


def mixed(make: Any) -> Callable[[Any], Any]:
    """Momentum in float32 from the first step on, which torch's own SGD takes beside bfloat16."""

    def made(net: Any) -> Any:
        optimizer = make(net.parameters(), lr=0.01, momentum=0.9)
        for parameter in net.parameters():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter, dtype=torch.float32)
        return optimizer

    return made


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda net: Precise(net.parameters()), lambda net: Precise(net.parameters())),
        (lambda net: Kept(net.parameters()), lambda net: Kept(net.parameters())),
        (mixed(optim.SGD), lambda net: optim.SGD(net.parameters(), lr=0.01, momentum=0.9)),
        (mixed(optim.SGD), mixed(optim.SGD)),
    ],
)
@pytest.mark.parametrize("steps", [0, 1])
def test_float32_moments_of_bfloat16_weights_are_resumed(first: Any, second: Any, steps: int) -> None:
    saved, live = trained(first, torch.bfloat16), trained(second, torch.bfloat16, steps=0)
    if steps and not live["optimizer"].state:
        live = trained(first, torch.bfloat16, steps=1)
    mfc.Checkpoint.from_run(**saved).restore(**live)
    assert {leaf.dtype for entry in live["optimizer"].state.values() for leaf in entry.values()} == {torch.float32}
    for run in (saved, live):
        run["optimizer"].zero_grad()
        run["model"](torch.ones(2, 3, dtype=torch.bfloat16)).sum().backward()
        run["optimizer"].step()
    for one, other in zip(saved["model"].parameters(), live["model"].parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("make", [optim.Adam, optim.AdamW, optim.NAdam])
def test_moments_of_a_dtype_at_which_the_next_step_would_end_are_a_mismatch(make: Any) -> None:
    saved = trained(lambda net: make(net.parameters(), lr=0.01))
    live = trained(lambda net: make(net.parameters(), lr=0.01), torch.bfloat16, steps=0)
    saved["model"].to(torch.bfloat16)
    refused(saved, live, r"optimizer/state/0/exp_avg: found float32 \(3, 3\), expected bfloat16")


def scaler(*, enabled: bool) -> Any:
    return torch.amp.GradScaler("cpu", enabled=enabled) if hasattr(torch.amp, "GradScaler") else None


needs_scaler = pytest.mark.skipif(not hasattr(torch.amp, "GradScaler"), reason="this torch has scalers for GPUs alone")


@needs_scaler
def test_the_empty_state_of_a_disabled_scaler_is_refused_before_anything_is_touched() -> None:
    saved = trained(adam) | {"scaler": scaler(enabled=False)}
    live = trained(adam, steps=1) | {"scaler": scaler(enabled=True)}
    refused(saved, live, "scaler: found an empty state, as a disabled object has")
    report = mfc.Checkpoint.from_run(**saved).restore(**live, strict=False)
    assert [one.key for one in report.load.mismatched] == ["scaler"]
    assert torch.equal(saved["model"].first.weight, live["model"].first.weight)


@needs_scaler
def test_a_disabled_scaler_takes_no_state_and_the_report_says_so() -> None:
    saved = trained(adam) | {"scaler": scaler(enabled=True)}
    report = mfc.Checkpoint.from_run(**saved).restore(**trained(adam, steps=0) | {"scaler": scaler(enabled=False)})
    assert report.left_out == ("scaler_state_dict: the live scaler is disabled and takes no state",)
    assert report.restored == ("model", "optimizer")


@needs_scaler
def test_a_scalers_state_that_lacks_something_is_refused_before_anything_is_touched() -> None:
    tree = dict(mfc.Checkpoint.from_run(**trained(adam), scaler=scaler(enabled=True)).tree)
    tree["scaler_state_dict"] = {name: v for name, v in tree["scaler_state_dict"].items() if name != "growth_interval"}
    live = trained(adam, steps=1) | {"scaler": scaler(enabled=True)}
    before = bits(live)
    with pytest.raises(mfc.MismatchError, match="scaler: found a state without 'growth_interval'"):
        mfc.Checkpoint(tree).restore(**live)
    assert bits(live) == before


SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "step": lambda optimizer: lr_scheduler.StepLR(optimizer, 2),
    "cosine": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 9),
    "lambda": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 1.0),
    "plateau": lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer),
    "sequence": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer, [lr_scheduler.ConstantLR(optimizer), lr_scheduler.ExponentialLR(optimizer, 0.9)], [3]
    ),
    "longer sequence": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer,
        [lr_scheduler.ConstantLR(optimizer), *(lr_scheduler.ExponentialLR(optimizer, 0.9) for _ in range(2))],
        [3, 5],
    ),
    "other sequence": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer, [lr_scheduler.ConstantLR(optimizer), lr_scheduler.StepLR(optimizer, 2)], [3]
    ),
}


@pytest.mark.filterwarnings("ignore::multiframe_ckpt.CheckpointWarning")
@pytest.mark.parametrize("saved", SCHEDULES)
@pytest.mark.parametrize("live", SCHEDULES)
def test_the_state_of_another_schedule_is_refused_before_anything_is_touched(saved: str, live: str) -> None:
    first, second = trained(adam), trained(adam, steps=1)
    first["scheduler"], second["scheduler"] = (
        SCHEDULES[kind](run["optimizer"]) for kind, run in ((saved, first), (live, second))
    )
    checkpoint, before = mfc.Checkpoint.from_run(**first), bits(second)
    if saved == live:
        assert "scheduler" in checkpoint.restore(**second).restored
        return
    with pytest.raises(mfc.MismatchError, match="scheduler"):
        checkpoint.restore(**second)
    assert bits(second) == before


def without(state: Any, name: str) -> Any:
    groups = [{key: value for key, value in group.items() if key != name} for group in state["param_groups"]]
    return {**state, "param_groups": groups}


@pytest.mark.parametrize("name", ["lr", "betas", "eps", "weight_decay"])
def test_groups_without_an_option_that_a_step_needs_are_refused(name: str) -> None:
    saved, live = trained(adam), trained(adam, steps=1)
    state = without(mfc.Checkpoint.from_objects(saved["optimizer"]).tree, name)
    before = bits(live)
    with pytest.raises(mfc.MismatchError, match=f"param_groups/0: found a parameter group without '{name}'"):
        mfc.Checkpoint(state).load_into(live["optimizer"])
    assert bits(live) == before


class Fussy:
    """An object of a program's own, whose loading refuses what nobody else could know."""

    def state_dict(self) -> dict[str, int]:
        return {"count": 1}

    def load_state_dict(self, state: Any) -> None:
        raise RuntimeError("not on a Tuesday")


def test_an_object_of_a_programs_own_that_refuses_its_state_is_named_with_what_stands_before_it() -> None:
    live = {"model": Net(), "fussy": Fussy()}
    with pytest.raises(mfc.MismatchError, match=r"^fussy: .*not on a Tuesday.*loaded already: model$"):
        mfc.Checkpoint.from_objects({"model": Net(), "fussy": Fussy()}).load_into(live)


def test_a_tied_model_takes_no_two_values() -> None:
    net = Net()
    net.second.weight = net.first.weight
    before = net.first.weight.detach().clone()
    with pytest.raises(mfc.MismatchError, match=r"'first\.weight' and 'second\.weight' are one tensor"):
        mfc.Checkpoint.from_objects(Net()).load_into(net)
    assert torch.equal(net.first.weight, before)
    other = Net()
    other.second.weight = nn.Parameter(other.first.weight.detach().clone())
    mfc.Checkpoint.from_objects(other).load_into(net)
    assert torch.equal(net.second.weight, other.first.weight)
