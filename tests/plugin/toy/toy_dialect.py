"""A third party's dialect, unlike any built in: what another layout of optimizer states takes to write.

A state is a tuple of named tuples. Accumulators are flat, ``m/fc.weight``, their matrices are turned, and powers of beta
say the step; a scheduler's count stands inside, the names of all parameters beside.
"""

from math import log
from typing import NamedTuple

from multiframe_ckpt.contracts import (
    NO_NAMES,
    Dialect,
    Facts,
    Group,
    LazyTensor,
    NeutralState,
    Notes,
    OptimizerRow,
    OptimizerState,
    SchedulerState,
    note_unheld,
)


class Hyper(NamedTuple):
    algorithm: str
    learning_rate: float
    options: dict


class Slots(NamedTuple):
    powers: tuple[float, ...]  # beta1 ** step, beta2 ** step; under SGD the step itself
    tensors: dict


class Schedule(NamedTuple):
    algorithm: str
    count: int
    values: dict
    rates: tuple


ADAM = OptimizerRow(("lr", "betas", "eps", "weight_decay"), {"exp_avg": "m", "exp_avg_sq": "v"})
SGD = OptimizerRow(("lr", "momentum", "weight_decay", "nesterov"), {"momentum_buffer": "velocity"})
OPTIMIZERS = {"Adam": ADAM, "AdamW": ADAM, "SGD": SGD}
SCHEDULERS = {"StepLR": {"step_size": "every", "gamma": "rate"}, "ExponentialLR": {"gamma": "rate"}}


class Toy(Dialect):
    name, framework, title = "toy", "toyframe", "Toyframe"
    goes_by_name = scheduler_inside = True
    optimizers, schedulers = OPTIMIZERS, SCHEDULERS

    def is_optimizer(self, tree):
        return isinstance(tree, tuple) and len(tree) > 2 and isinstance(tree[0], tuple) and tree[0][0] in OPTIMIZERS

    def is_scheduler(self, tree):
        return self.is_optimizer(tree) and tree[2] is not None

    def facts(self, algorithm, options):
        return Facts(momentum_negated=algorithm == "SGD", one_step_for_all=True, decay_decoupled=algorithm == "AdamW")

    def gather(self, checkpoint, path):
        state, beside = checkpoint[path[0]], (f"{path[0]}_names",)
        return ((*state, checkpoint[beside[0]]), (beside,)) if beside[0] in checkpoint else (state, ())

    def spread(self, state, path):
        return {path: state[:3], (f"{path[0]}_names",): state[3]}

    def read(self, tree, names=NO_NAMES, *, class_name=None, notes):
        (algorithm, rate, options), (powers, slots), schedule, *listed = tree
        keys = {slot: key for key, slot in OPTIMIZERS[algorithm].tensors.items()}
        tensors = {}
        for slot, tensor in slots.items():
            tensors.setdefault(slot.partition("/")[2], {})[keys[slot.partition("/")[0]]] = turned(tensor)
        options = {"lr": rate, **options}
        group = Group(tuple(listed[0] if listed else tensors), options, self.facts(algorithm, options))
        steps = dict.fromkeys(tensors, step_of(algorithm, options, powers))
        inside = None
        if schedule is not None:
            kind, count, values, rates = schedule
            inside = SchedulerState(kind, count, {key: values[own] for key, own in SCHEDULERS[kind].items()}, *rates)
        return NeutralState(OptimizerState(algorithm, (group,), tensors, steps), inside)

    def holds(self, neutral, key="state"):
        notes = Notes(key)
        note_unheld(self, neutral, notes)
        state = neutral.optimizer
        if state and len(state.groups) > 1:
            notes.refuse(f"found {len(state.groups)} groups, expected one: Toyframe has no groups")
        for group in state.groups if state and not notes.refused else ():
            if step_of(state.algorithm, group.options, powers_of(state)) != state.step:
                notes.refuse(f"found step {state.step}, expected one that powers of beta can tell")
            for name in {*group.extras} - {"param_names"}:
                notes.leave_out(f"{name}, for which Toyframe has no place")
        return notes.holding()

    def write(self, neutral, names=NO_NAMES, *, like=None):
        state, plan, schedule = neutral.optimizer, neutral.scheduler, None
        row, options = OPTIMIZERS[state.algorithm], state.groups[0].options
        hyper = Hyper(state.algorithm, options["lr"], {key: options[key] for key in row.options[1:]})
        slots = {f"{row.tensors[k]}/{name}": turned(t) for name, held in state.tensors.items() for k, t in held.items()}
        if plan is not None:
            values = {own: plan.attributes[key] for key, own in SCHEDULERS[plan.algorithm].items()}
            schedule = Schedule(plan.algorithm, plan.step, values, (plan.base_lrs, plan.last_lrs))
        return hyper, Slots(powers_of(state), slots), schedule, list(state.names)


def turned(tensor):
    return LazyTensor.from_function(tensor.dtype, tensor.shape[::-1], lambda: tensor.numpy().T)


def powers_of(state):
    return tuple(b**state.step for b in state.groups[0].options["betas"]) if state.algorithm != "SGD" else (state.step,)


def step_of(algorithm, options, powers):
    return powers[0] if algorithm == "SGD" else round(log(powers[1]) / log(options["betas"][1])) if powers[1] else 0
