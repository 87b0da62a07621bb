"""OneFlow 0.8: OneFlow 0.9 with fewer options, without Adadelta, and with SGD's momentum kept as −lr · buffer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...tree import Tree
from ..neutral import Facts, NeutralState, OptimizerState
from ..report import Holding, Notes
from .base import OptimizerRow
from .oneflow import OneFlow, has_every_option, own_grouped

__all__ = ["OneFlow08"]

#: Options of every optimizer, and of SGD, that came with 0.9.
_NEWER = {"fused"}
_NEWER_IN_SGD = {"dampening", "nesterov", "maximize"}


def _older(algorithm: str, row: OptimizerRow) -> OptimizerRow:
    newer = _NEWER | (_NEWER_IN_SGD if algorithm == "SGD" else set())
    return replace(row, options=tuple(name for name in row.options if name not in newer))


_OPTIMIZERS = {
    algorithm: _older(algorithm, row) for algorithm, row in OneFlow.optimizers.items() if algorithm != "Adadelta"
}


class OneFlow08(OneFlow):
    """OneFlow 0.8; its schedulers' states are those of 0.9."""

    name = "oneflow-0.8"
    title = "OneFlow 0.8"
    optimizers = _OPTIMIZERS
    rows_read = OneFlow.optimizers  # versions between the two have some of 0.9's options

    def is_optimizer(self, tree: Tree) -> bool:
        """Return whether a tree has groups with ``_options`` that lack some of 0.9's."""
        state = own_grouped(tree)
        return state is not None and not has_every_option(state)

    def facts(self, algorithm: str, options: Mapping[str, Any]) -> Facts:
        """Return what OneFlow 0.8 does: the buffer of momentum is what is added to the weights."""
        has_momentum = algorithm == "SGD" and bool(options.get("momentum"))
        facts = super().facts(algorithm, options)
        return replace(facts, momentum_times_lr=has_momentum, momentum_negated=has_momentum)

    def facts_read(self, algorithm: str, options: Mapping[str, Any]) -> Facts:
        """Return the facts of a group: a version between the two has 0.9's momentum with the options that tell."""
        is_newer = algorithm == "SGD" and {"dampening", "nesterov"} & {*options}
        return super().facts(algorithm, options) if is_newer else self.facts(algorithm, options)

    def holds(self, neutral: NeutralState, key: str = "state") -> Holding:
        """Return what of a state OneFlow 0.8 can hold: the reasons for what came with 0.9 come first."""
        notes = Notes(key)
        if neutral.optimizer is not None:
            _check_newer(neutral.optimizer, notes)
        rest = super().holds(neutral, key)
        return replace(rest, refused=(*notes.refused, *rest.refused))


def _check_newer(state: OptimizerState, notes: Notes) -> None:
    if state.algorithm == "Adadelta":
        notes.refuse("found Adadelta, which OneFlow has since 0.9, expected another optimizer; use OneFlow 0.9")
    for i, group in enumerate(state.groups):
        used = sorted(name for name in _NEWER_IN_SGD if state.algorithm == "SGD" and group.options.get(name))
        if used:
            notes.at("param_groups", i).refuse(
                f"found SGD with {', '.join(used)}, which OneFlow has since 0.9; use OneFlow 0.9"
            )
