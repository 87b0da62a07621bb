"""The weights of a checkpoint that live models take, and their names as the models have them. Nothing is touched.

Several models in a checkpoint are told apart by what the live ones are called in their dict, by their place in a list, or
by the names and shapes of their parameters; never guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from ..backend import Backend
from ..backend.tensor_ops import is_stateful
from ..errors import MismatchError
from ..training import Part, choose_weights, find_parts, size_of
from ..tree import LazyTensor, Missing, Path, Tree, children, edit, has_tensors, leaves, replaced, tensors
from ..tree.keys import text_path
from ..tree.rules import Rename, renamed
from ..tree.wrappers import OF_WRAPPERS, bare_name, matching_names

__all__ = ["Slot", "fitted", "models_for", "slots_of", "source_for"]

#: A live object that has a state, and its path in the list or dict of such.
Slot: TypeAlias = tuple[Path, object]


def slots_of(obj: object) -> list[Slot]:
    """Return the objects with a state in a nest, each with its path; of tensors and plain values alone the whole."""
    found: list[Slot] = [(path, leaf) for path, leaf in leaves(obj) if is_stateful(leaf)]
    return found or [((), obj)]


def source_for(tree: Tree, target: object, backend: Backend, rules: Sequence[Rename], which: str | None) -> Tree:
    """Return what of a checkpoint is loaded into a live object: for modules their weights, else the whole of it."""
    slots = slots_of(target)
    if which is None and not all(_is_module(obj) for _, obj in slots):
        return _renamed(tree, rules)
    if [path for path, _ in slots] == [()]:
        live = backend.to_tree(target)
        return fitted(weights_for(tree, live, which).tree, live, rules)
    if which is not None:
        return _renamed(choose_weights(tree, which).tree, rules)
    if not _has_places(tree, slots):
        return _nest(tree, slots, backend, rules)
    asked_for = {path[0] for path, _ in slots}
    if isinstance(tree, Mapping):
        tree = {name: node for name, node in tree.items() if name in asked_for}
    return _renamed(tree, rules)


def _nest(tree: Tree, slots: Sequence[Slot], backend: Backend, rules: Sequence[Rename]) -> Tree:
    """Return a dict of what each live model takes, by its path's first name and so on."""
    found = zip(slots, models_for(tree, slots, backend), strict=True)
    states: dict[Path, Tree | Missing] = {
        path: fitted(part.tree, backend.to_tree(obj), ()) for (path, obj), part in found
    }
    return _renamed(replaced({}, states), rules)


def weights_for(tree: Tree, live: Tree, which: str | None = None) -> Part:
    """Return the weights for one live model, whose state dict is ``live``: the only ones, or the only ones that fit it."""
    if which is not None:
        return choose_weights(tree, which)
    candidates = _candidates(tree)
    fitting = [part for part in candidates if _fits(part.tree, live)]
    if len(candidates) == 1:
        return candidates[0]
    if len(fitting) == 1:
        return fitting[0]
    if candidates:
        raise _cannot_tell(candidates, 1)
    return choose_weights(tree)


def models_for(tree: Tree, slots: Sequence[Slot], backend: Backend) -> list[Part]:
    """Return the weights for several live models, in their order; raise MismatchError where whose is whose is not sure."""
    candidates = _candidates(tree)
    named = [_named(tree, path[-1]) for path, _ in slots]
    if all(named):
        return [part for part in named if part is not None]
    if len(candidates) == len(slots):
        if all(isinstance(part.path[-1], int) for part in candidates):
            return candidates
        fitting = [[part for part in candidates if _fits(part.tree, backend.to_tree(obj))] for _, obj in slots]
        chosen = [parts[0] for parts in fitting if len(parts) == 1]
        if len({part.path for part in chosen}) == len(slots):
            return chosen
    raise _cannot_tell(candidates, len(slots))


def fitted(state: Tree, live: Tree, rules: Sequence[Rename]) -> Tree:
    """Return a state dict with the names of a live one: renamed by rules, and by what only wraps a module."""
    state = _renamed(state, rules)
    if not isinstance(state, Mapping) or not isinstance(live, Mapping):
        return state
    texts = [[name for name in side if isinstance(name, str)] for side in (state, live)]
    names = matching_names(*texts)
    spare = {name for name in OF_WRAPPERS if name in state and name not in live}
    if not names and not spare:
        return state
    return {names.get(name, name): value for name, value in state.items() if name not in spare}


def _renamed(tree: Tree, rules: Sequence[Rename]) -> Tree:
    if not rules:
        return tree
    table = tensors(tree)
    return edit(tree, {old: [(new, table[old])] for old, new in renamed(table, rules).items()}, what="rename")


def _candidates(tree: Tree) -> list[Part]:
    return [each for part in find_parts(tree).models for each in _apart(part)]


def _apart(part: Part) -> Iterator[Part]:
    """Yield the models of a list or dict of models, and one model as it is."""
    inside = [] if isinstance(part.tree, LazyTensor) else list(children(part.tree) or ())
    if any(isinstance(child, LazyTensor) for _, child in inside):
        yield part
        return
    for name, child in inside:
        if has_tensors(child):
            yield from _apart(Part((*part.path, name), child))


def _named(tree: Tree, name: object) -> Part | None:
    """Return the one model or average whose key ends with a name."""
    parts = find_parts(tree)
    known = [each for part in parts.models for each in _apart(part)] + [*parts.models, *parts.averages]
    by_path = {part.path: part for part in known if not isinstance(name, int) and part.path}
    found = [part for path, part in by_path.items() if text_path(path)[-1] == name]
    return found[0] if len(found) == 1 else None


def _fits(state: Tree, live: Tree) -> bool:
    """Return whether two state dicts have the same tensors, by name without wrappers, and by shape."""
    return _outline(state) == _outline(live)


def _outline(state: Tree) -> dict[str, tuple[int, ...]]:
    return {bare_name(key): tensor.shape for key, tensor in tensors(state).items() if key not in OF_WRAPPERS}


def _is_module(obj: object) -> bool:
    return hasattr(obj, "state_dict") and hasattr(obj, "parameters")


def _has_places(tree: Tree, slots: Sequence[Slot]) -> bool:
    """Return whether a tree has something at the path of every live object."""
    nodes = [tree for _ in slots]
    for place, (path, _) in enumerate(slots):
        for name in path:
            inside = dict(children(nodes[place]) or ())
            if name not in inside:
                return False
            nodes[place] = inside[name]
    return True


def _cannot_tell(candidates: Sequence[Part], count: int) -> MismatchError:
    listed = ", ".join(f"{part.key!r} ({size_of(part)})" for part in candidates) or "none"
    is_list = all(part.path and isinstance(part.path[-1], int) for part in candidates)
    way_out = f"a list of {len(candidates)}" if is_list else "a dict of models under these names"
    choice = f", or choose one in load_into, with model_only={candidates[0].key!r}" if candidates and count == 1 else ""
    return MismatchError(
        f"weights: found {listed}, expected {count} that can be told apart by name, or by the names and shapes of their "
        f"parameters; pass {way_out}{choice}"
    )
