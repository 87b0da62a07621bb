"""GroupedDialect: optimizer states that are ``{"state": {number: tensors}, "param_groups": [options]}``.

torch.optim began it. A framework that took it over has its own options, names and order: tables in the subclasses.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from ...tree import Entries, LazyTensor, Tree
from ..names import NO_NAMES, Names
from ..neutral import Facts, Group, NeutralState, OptimizerState, SchedulerState, plain_numbers
from ..optimizers import ADAMS, OPTIMIZERS, REQUIRED, WAY_OUT
from ..report import Notes
from .base import Dialect, OptimizerRow
from .numbering import labels, numbered, numbered_like
from .recognition import Grouped, decay_is_decoupled, recognised, require_grouped

__all__ = ["GroupedDialect"]

#: Options that say by being True how a step is run. Others are computed anew.
_WAYS = {"fused", "foreach", "capturable", "differentiable"}


class GroupedDialect(Dialect):
    """What such dialects share.

    ``run_options`` say how a step is run and what they are unless told otherwise. ``local_options`` mean something to the
    framework alone, and why. ``adamw_order`` are two options that stand in this order in AdamW, and not in Adam.
    ``giveaways`` are options and tensors of optimizers that no other framework has.
    """

    run_options: ClassVar[Mapping[str, Any]] = {}
    local_options: ClassVar[Mapping[str, str]] = {}
    rows_read: ClassVar[Mapping[str, OptimizerRow] | None] = None  # where more is read than written
    adamw_order: ClassVar[tuple[str, str]]
    giveaways: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def group_options(self, group: Mapping[str, Tree]) -> Mapping[str, Tree]:
        """Return the options of a group of this dialect."""

    @abstractmethod
    def step_of(self, state: Entries, entry: Entries) -> Tree:
        """Return the step of the parameter with this ``entry`` in the ``state`` of a tree, or None."""

    @abstractmethod
    def group_tree(
        self, options: dict[str, Tree], parameters: list[Any], like: Mapping[str, Tree] | None
    ) -> Mapping[str, Tree]:
        """Return a group of this dialect, with whatever else a live optimizer's group ``like`` holds."""

    @abstractmethod
    def state_tree(self, state: OptimizerState, names: Mapping[Hashable, str]) -> Tree:
        """Return the ``state`` of a tree; ``names`` are those of the parameters, by id."""

    @abstractmethod
    def read_scheduler(self, tree: Mapping[str, Tree], class_name: str | None, notes: Notes) -> SchedulerState:
        """Return a scheduler state of this dialect in neutral terms."""

    @abstractmethod
    def write_scheduler(self, state: SchedulerState) -> Tree:
        """Return a neutral scheduler state in this dialect."""

    @property
    def known_rows(self) -> Mapping[str, OptimizerRow]:
        """The optimizers that are read."""
        return self.optimizers if self.rows_read is None else self.rows_read

    def require_readable(self, options: Mapping[str, Tree], notes: Notes) -> None:
        """Raise for options under which a state is not what it is elsewhere."""

    def facts_read(self, algorithm: str, options: Mapping[str, Any]) -> Facts:
        """Return the facts of a group that was read, from the options that it really has."""
        return self.facts(algorithm, options)

    def read(self, tree: Tree, names: Names = NO_NAMES, *, class_name: str | None = None, notes: Notes) -> NeutralState:
        """Return an optimizer or scheduler state in neutral terms."""
        if self.is_optimizer(tree):
            state = require_grouped(tree, notes)
            return NeutralState(optimizer=self._read_optimizer(state, names, class_name, notes))
        if not isinstance(tree, Mapping):
            raise notes.error(f"found a {type(tree).__name__}, expected the state of an optimizer or a scheduler")
        return NeutralState(scheduler=self.read_scheduler(tree, class_name, notes))

    def algorithm(self, tree: Tree, *, class_name: str | None = None, notes: Notes) -> tuple[str, bool]:
        """Return the neutral name of a state's algorithm and whether it is certain, which Adam or AdamW may not be."""
        return self._algorithm(require_grouped(tree, notes), class_name, notes)

    def _algorithm(self, state: Grouped, class_name: str | None, notes: Notes) -> tuple[str, bool]:
        if class_name is None:
            return recognised(self, state, notes)
        name = class_name.rpartition(".")[2]
        if name not in OPTIMIZERS:
            raise notes.error(f"found the optimizer {class_name}, expected one of {', '.join(OPTIMIZERS)}; {WAY_OUT}")
        return ("AdamW" if name == "Adam" and decay_is_decoupled(self, state) else name), True

    def _read_optimizer(self, state: Grouped, names: Names, class_name: str | None, notes: Notes) -> OptimizerState:
        algorithm, certain = self._algorithm(state, class_name, notes)
        if not certain:
            notes.warn(
                f"found an Adam or AdamW with weight decay and no class name; read as {algorithm} by the order of its "
                "options, so load it into that class, or name it as 'optimizer_class' in the checkpoint"
            )
        decoupled = algorithm == "AdamW" if certain and algorithm in ADAMS else None
        names_of = labels(state, self._stored_names(state), names, notes)
        groups, tensors, steps = [], {}, {}
        for i, (group, parameters, group_names) in enumerate(
            zip(state.groups, state.parameters, names_of, strict=True)
        ):
            options = {name: plain_numbers(value, tuple) for name, value in self.group_options(group).items()}
            read = self._read_group(algorithm, options, decoupled, notes.at("param_groups", i))
            groups.append(replace(read, names=tuple(group_names), ids=tuple(parameters)))
            for name, parameter in zip(group_names, parameters, strict=True):
                stored = state.entries.get(parameter)
                entry: Entries = stored if isinstance(stored, Mapping) else {}
                held = self._read_entry(entry, algorithm, notes.at("state", parameter))
                if held:
                    tensors[name] = held
                if held or algorithm == "SGD":  # without momentum it has no tensors, and may count all the same
                    steps[name] = _read_step(self.step_of(state.entries, entry), parameter, algorithm, notes)
        return OptimizerState(algorithm, tuple(groups), tensors, steps)

    def _stored_names(self, state: Grouped) -> list[Tree]:
        return [self.group_options(group).get("param_names") for group in state.groups]

    def _read_group(self, algorithm: str, plain: Mapping[str, Any], decoupled: bool | None, notes: Notes) -> Group:
        self.require_readable(plain, notes)
        options = {name: plain.get(name, value) for name, value in OPTIMIZERS[algorithm].options.items()}
        for name, value in options.items():
            self._require_option(algorithm, name, value, notes)
        facts = self.facts_read(algorithm, {name: plain[name] for name in options if name in plain})
        known = {*options, *self.run_options, *self.local_options}
        if algorithm in ADAMS:
            known.add("decoupled_weight_decay")
            if decoupled is None and "decoupled_weight_decay" in plain:
                decoupled = bool(plain["decoupled_weight_decay"])
        return Group(
            names=(),
            options=options,
            facts=replace(facts, decay_decoupled=decoupled),
            extras={name: value for name, value in plain.items() if name not in known},
            local={name: (plain[name], reason) for name, reason in self._reasons(plain)},
        )

    def _require_option(self, algorithm: str, name: str, value: object, notes: Notes) -> None:
        if value is REQUIRED:
            raise notes.error(f"found no option {name!r}, expected one: every {algorithm} has it; the state is damaged")
        row = self.known_rows[algorithm]
        acts_on = row.idle.get(name, OPTIMIZERS[algorithm].options[name])
        if (name in row.idle or name not in row.options) and value != acts_on:
            raise notes.error(
                f"found {algorithm} with {name} = {value}, expected {acts_on}: {self.title}'s does not heed it; {WAY_OUT}"
            )

    def _reasons(self, options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Give the options in use that mean something in this framework alone, and what."""
        for name, value in options.items():
            if name in self.local_options:
                yield name, self.local_options[name]
            elif name in self.run_options and name in _WAYS and value is True:
                yield name, "which says how a step is run, not what it computes"

    def _read_entry(self, entry: Entries, algorithm: str, notes: Notes) -> dict[str, LazyTensor]:
        """Return a parameter's tensors under their neutral names."""
        neutral = {name: known for known, name in self.known_rows[algorithm].tensors.items()}
        tensors = {}
        for name, value in entry.items():
            if name in neutral and isinstance(value, LazyTensor):
                tensors[neutral[name]] = value
            elif name != "step" and value is not None:
                notes.leave_out(f"{name}, which is no tensor of {algorithm}")
        return tensors

    def write(self, neutral: NeutralState, names: Names = NO_NAMES, *, like: Tree = None) -> Tree:
        """Return an optimizer or scheduler state in this dialect."""
        if neutral.optimizer is None:
            assert neutral.scheduler is not None
            return self.write_scheduler(neutral.scheduler)
        state = neutral.optimizer
        targets: Sequence[Mapping[str, Tree] | None]
        if like is None:
            parameters, targets = numbered(state, names), [None] * len(state.groups)
        else:
            live = require_grouped(like, Notes("the live optimizer"))
            parameters, targets = numbered_like(state, live.parameters, self._stored_names(live), names), live.groups
        groups = [
            self.group_tree(self._options(state, group, [*named.values()], target), [*named], target)
            for group, named, target in zip(state.groups, parameters, targets, strict=True)
        ]
        every = {parameter: name for named in parameters for parameter, name in named.items()}
        return {"state": self.state_tree(state, every), "param_groups": groups}

    def own_tensors(self, state: OptimizerState, name: str) -> dict[str, LazyTensor]:
        """Return a parameter's tensors under this dialect's names, without those that it does not have."""
        row = self.optimizers[state.algorithm].tensors
        return {row[key]: tensor for key, tensor in state.tensors.get(name, {}).items() if key in row}

    def derived_options(self, state: OptimizerState, group: Group) -> Mapping[str, Any]:
        """Return the options of a group that follow from the others and the step."""
        return {}

    def option_order(self, algorithm: str, *, is_certain: bool) -> tuple[str, ...]:
        """Return an algorithm's options in order; ``is_certain`` says whether Adam and AdamW were told apart."""
        return self.optimizers[algorithm].options

    def _options(self, state: OptimizerState, group: Group, names: list[str], target: object) -> dict[str, Tree]:
        """Return the options of a group in order; for a live ``target`` without those that say how a step is run."""
        decoupled = group.facts.decay_decoupled
        known = {**self.run_options, **self.optimizers[state.algorithm].idle, **group.options}
        known |= self.derived_options(state, group)
        order = self.option_order(state.algorithm, is_certain=decoupled is not None)
        options = {name: known[name] for name in order if target is None or name not in self.run_options}
        if decoupled is not None:
            options["decoupled_weight_decay"] = decoupled
        if target is None and group.named and not group.ids:
            options["param_names"] = names
        return options | dict(group.extras)


def _read_step(step: Tree, parameter: Hashable, algorithm: str, notes: Notes) -> int:
    if step is None and algorithm != "SGD":  # which alone may do without a count
        raise notes.error(f"found no step of parameter {parameter}, expected one; the state is damaged")
    return int(plain_numbers(step or 0))
