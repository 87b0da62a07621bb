"""A third party's dialect, unlike any built in: what a framework's own layout of optimizer states takes to write.

A state is a tuple of named tuples. Accumulators are flat, ``m/fc.weight``, and their matrices are turned; powers of beta say
the step; a scheduler's count is inside. The names of all parameters, with state or without, stand beside it.
"""

from math import log
from typing import Any, NamedTuple

from multiframe_ckpt.tensor import LazyTensor
from multiframe_ckpt.training.dialects import (
    NO_NAMES,
    Dialect,
    Facts,
    Group,
    NeutralState,
    Notes,
    OptimizerRow,
    OptimizerState,
    SchedulerState,
    note_unheld,
)

_ADAM = OptimizerRow(("lr", "betas", "eps", "weight_decay"), {"exp_avg": "m", "exp_avg_sq": "v"})
_SGD = OptimizerRow(("lr", "momentum", "weight_decay", "nesterov"), {"momentum_buffer": "velocity"})


class Hyper(NamedTuple):
    algorithm: str
    options: dict[str, Any]


class Slots(NamedTuple):
    powers: tuple[float, ...]  # beta1 ** step, beta2 ** step; under SGD the step
    tensors: dict[str, LazyTensor]


class Schedule(NamedTuple):
    kind: str
    count: int
    rates: tuple[list[float], list[float]]
    values: dict[str, Any]


class Toy(Dialect):
    name, framework, title = "toy", "toyframe", "Toyframe"
    goes_by_name = True
    scheduler_inside = True
    optimizers = {"Adam": _ADAM, "AdamW": _ADAM, "SGD": _SGD}
    schedulers = {"StepLR": {"step_size": "every", "gamma": "rate"}, "ExponentialLR": {"gamma": "rate"}}

    def is_optimizer(self, tree):
        return isinstance(tree, tuple) and len(tree) >= 3 and isinstance(tree[0], Hyper)

    def is_scheduler(self, tree):
        return self.is_optimizer(tree) and tree[2] is not None

    def facts(self, algorithm, options):
        return Facts(momentum_negated=algorithm == "SGD", one_step_for_all=True)

    def gather(self, checkpoint, path):
        state, beside = super().gather(checkpoint, path)[0], (f"{path[0]}_names",)
        return ((*state, checkpoint[beside[0]]), (beside,)) if beside[0] in checkpoint else (state, ())

    def spread(self, state, path):
        return {path: state[:3], (f"{path[0]}_names",): state[3]}

    def read(self, tree, names=NO_NAMES, *, class_name=None, notes):
        (algorithm, options), slots, schedule, *listed = tree
        own = {short: key for key, short in self.optimizers[algorithm].tensors.items()}
        tensors = {}
        for slot, tensor in slots.tensors.items():
            short, _, name = slot.partition("/")
            tensors.setdefault(name, {})[own[short]] = _turned(tensor)
        options = {"lr": options["learning_rate"]} | {key: options[key] for key in options if key != "learning_rate"}
        facts = self.facts(algorithm, options)
        if algorithm != "SGD":
            facts = Facts(one_step_for_all=True, decay_decoupled=algorithm == "AdamW")
        group = Group(tuple(listed[0] if listed else tensors), options, facts)
        steps = dict.fromkeys(tensors, _step(algorithm, options, slots.powers))
        return NeutralState(OptimizerState(algorithm, (group,), tensors, steps), schedule and self._scheduler(schedule))

    def _scheduler(self, schedule):
        values = {key: schedule.values[own] for key, own in self.schedulers[schedule.kind].items()}
        return SchedulerState(schedule.kind, schedule.count, values, *schedule.rates)

    def holds(self, neutral, key="state"):
        notes, state = Notes(key), neutral.optimizer
        note_unheld(self, neutral, notes)
        if state is not None:
            if len(state.groups) != 1:
                notes.refuse(f"found {len(state.groups)} groups, expected one: Toyframe has no groups")
            elif _step(state.algorithm, state.groups[0].options, _powers(state)) != state.step:
                notes.refuse(f"found step {state.step}, expected one that the powers of beta can tell")
            for name in (name for group in state.groups for name in group.extras if name != "param_names"):
                notes.leave_out(f"{name}, for which Toyframe has no place")
        return notes.holding()

    def write(self, neutral, names=NO_NAMES, *, like=None):
        state, row = neutral.optimizer, self.optimizers[neutral.optimizer.algorithm]
        options = {key: value for key, value in state.groups[0].options.items() if key in row.options}
        hyper = Hyper(state.algorithm, {"learning_rate": options.pop("lr")} | options)
        tensors = {
            f"{row.tensors[key]}/{name}": _turned(t) for name in state.tensors for key, t in state.tensors[name].items()
        }
        plan, schedule = neutral.scheduler, None
        if plan is not None:
            values = {own: plan.attributes[key] for key, own in self.schedulers[plan.algorithm].items()}
            schedule = Schedule(plan.algorithm, plan.step, (plan.base_lrs, plan.last_lrs), values)
        return hyper, Slots(_powers(state), tensors), schedule, list(state.names)


def _turned(tensor):
    return LazyTensor(tensor.dtype, tensor.shape[::-1], lambda: tensor.numpy().T)


def _powers(state):
    return (
        (float(state.step),)
        if state.algorithm == "SGD"
        else tuple(b**state.step for b in state.groups[0].options["betas"])
    )


def _step(algorithm, options, powers):
    if algorithm == "SGD":
        return int(powers[0])
    return round(log(powers[1]) / log(options["betas"][1])) if 0 < powers[1] < 1 else 0
