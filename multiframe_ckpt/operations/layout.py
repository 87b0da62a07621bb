"""Layout: what a conversion does to lay parameters out otherwise, and the tensors of optimizers with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..training import Part, choose_weights, find_parts
from ..training.moments import move_moments
from ..tree import MISSING, LazyTensor, Missing, Path, Sharing, Tree, edit, expect_entries, replaced, tensors
from ..tree.move_plan import MovePlan, plan_moves
from ..tree.moves import Move

__all__ = ["Layout", "lay_out"]


@dataclass(frozen=True, slots=True)
class Layout:
    """What was laid out otherwise. Keys are those in the state dict, before for what is lost, else after."""

    laid_out: Mapping[str, str] = field(default_factory=dict)  # key → how it was made, as a rule has it
    left_out: tuple[str, ...] = ()  # tensors some of whose elements are in no other
    lost_ties: tuple[tuple[str, ...], ...] = ()  # groups that were one tensor and are laid out each by itself


def lay_out(tree: Tree, rules: Sequence[Move], *, model_only: bool | str) -> tuple[Tree, Layout]:
    """Return the tree with its weights, and unless ``model_only`` its optimizers, laid out by the rules; none is read.

    Rules name parameters by their keys in the state dict; a text as ``model_only`` says which.
    """
    if not rules:
        return tree, Layout()
    model = choose_weights(tree, model_only if isinstance(model_only, str) else None)
    weights = tensors(model.tree)
    plan = plan_moves(weights, rules=rules)
    moved = plan.apply(weights)
    placed: dict[str, list[tuple[str, LazyTensor]]] = {key: [] for key in weights}
    for move in plan.moves:
        placed[move.sources[0]].append((move.key, moved[move.key]))
    changes = _in_place_of(model, edit(model.tree, placed, what="layout of"), tree)
    for part in () if model_only else find_parts(tree).optimizers:
        changes[part.path] = move_moments(part, plan, weights)
    return replaced(tree, changes), Layout(plan.laid_out, plan.left_out, _lost_ties(weights, plan, moved))


def _in_place_of(model: Part, weights: Tree, tree: Tree) -> dict[Path, Tree | Missing]:
    """Return what changes in a tree where other weights take the place of a model's, which may stand loose at the top."""
    if model.path or model.tree is tree:
        return {model.path: weights}
    gone: dict[Path, Tree | Missing] = {(name,): MISSING for name in expect_entries(model.tree, model.key)}
    return gone | {(name,): tensor for name, tensor in expect_entries(weights, model.key).items()}


def _lost_ties(
    weights: Mapping[str, LazyTensor], plan: MovePlan, moved: Mapping[str, LazyTensor]
) -> tuple[tuple[str, ...], ...]:
    """Return the groups of tensors that lay on each other and were not all moved alike."""
    sharing = Sharing(weights)
    identities = {key: {moved[move.key].identity for move in plan.moves if key in move.sources} for key in weights}
    changed = {key for move in plan.moves if move.changes for key in move.sources}
    ties = [tuple(group) for group in sharing.ties if len(set().union(*(identities[key] for key in group))) > 1]
    return (*ties, *(tuple(group) for group in sharing.overlaps if changed & {*group}))
