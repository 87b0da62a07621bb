"""snapshot(): a tree over copies of its tensors, so that training may change the live ones.

Laying the copies out and making them are two steps: what training cannot change yet may be copied later (``gate``).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Condition

import numpy as np

from ..tree import LazyTensor, Path, Sharing, Strided, Tree, leaves, map_leaves, synchronized
from .memory import Memory

__all__ = ["Copy", "Copying", "Snapshot", "make_copies", "snapshot"]

#: Bytes: large enough that taking the next piece costs nothing, small enough that two threads end together.
_PIECE = 2 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Copy:
    """A tensor that is to be copied, its path in the tree, and the place for its bytes (1-D uint8)."""

    path: Path
    original: LazyTensor
    place: np.ndarray

    def tensor(self) -> LazyTensor:
        """Return the tensor over the place, to be read once the copy is made."""
        array = self.place.view(self.original.dtype.numpy).reshape(self.original.shape)
        return LazyTensor.from_array(array, alias=self.original.alias)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A tree that can be read once its copies are made, some of them ``now``, the others ``later``."""

    tree: Tree
    now: tuple[Copy, ...]
    later: tuple[Copy, ...]


def snapshot(tree: Tree, memory: Memory, *, later: Container[Hashable] = ()) -> Snapshot:
    """Lay out the copies; tensors that are one, or look into one storage, still do, and are copied once.

    ``later`` has the aliases of storages that may be copied later. One that is looked into at several places is copied
    now all the same: there may be something else in it.
    """
    tree = synchronized(tree)
    tensors = [(path, leaf) for path, leaf in leaves(tree) if isinstance(leaf, LazyTensor)]
    shared = Sharing({str(number): tensor for number, (_, tensor) in enumerate(tensors)}).kept_aliases
    copies = _laid_out(tensors, shared, memory)
    copied = {owner: copy.tensor() for owner, copy in copies.items()}

    def copy_of(_: Path, leaf: Tree) -> Tree:
        if not isinstance(leaf, LazyTensor):
            return leaf
        whole = copied[_owner(leaf, shared)]
        view = leaf.source if leaf.alias in shared else None
        return _view_of_copy(whole, leaf, view) if isinstance(view, Strided) else whole

    def may_wait(copy: Copy) -> bool:
        return copy.original.alias in later and copy.original.alias not in shared

    return Snapshot(
        map_leaves(tree, copy_of),
        now=tuple(copy for copy in copies.values() if not may_wait(copy)),
        later=tuple(copy for copy in copies.values() if may_wait(copy)),
    )


def _laid_out(
    tensors: Iterable[tuple[Path, LazyTensor]], shared: Container[Hashable], memory: Memory
) -> dict[Hashable, Copy]:
    """Return owner → the one copy that is made for it."""
    originals: dict[Hashable, tuple[Path, LazyTensor]] = {}
    for path, tensor in tensors:
        originals.setdefault(_owner(tensor, shared), (path, _original(tensor, shared)))
    places = memory.take([original.nbytes for _, original in originals.values()])
    return {owner: Copy(*originals[owner], place) for owner, place in zip(originals, places, strict=True)}


def _original(tensor: LazyTensor, shared: Container[Hashable]) -> LazyTensor:
    """Return what is copied for a tensor: its storage where that is shared, else itself."""
    return tensor.source.storage if isinstance(tensor.source, Strided) and tensor.alias in shared else tensor


def _owner(tensor: LazyTensor, shared: Container[Hashable]) -> Hashable:
    """Return what tensors have in common that are copied once."""
    if isinstance(tensor.source, Strided) and tensor.alias in shared:
        return tensor.alias
    return id(tensor) if tensor.identity is None else tensor.identity


def _view_of_copy(storage: LazyTensor, tensor: LazyTensor, view: Strided) -> LazyTensor:
    """Return the same view into a copy of its storage."""
    return tensor.with_(source=Strided(storage, tensor.dtype, tensor.shape, view.offset, view.strides), digest=None)


class Copying:
    """Copies under way, which any number of threads make together, piece by piece; ``at_end`` is called once, then."""

    def __init__(self, copies: Iterable[Copy], at_end: Callable[[], object] = lambda: None) -> None:
        self._pieces = _pieces(copies)
        self._at_end: Callable[[], object] | None = at_end
        self._turn = Condition()
        self._helping = 0
        self._problem: BaseException | None = None

    def help(self) -> None:
        """Make copies until none is left to begin; an error ends this for all, and comes out of :meth:`finish`."""
        with self._turn:
            self._helping += 1
        try:
            while (copy_piece := self._next()) is not None:
                copy_piece()
        except BaseException as problem:  # not handled: finish() raises it
            self._problem, self._pieces = problem, iter(())
        finally:
            with self._turn:
                self._helping -= 1
                self._turn.notify_all()

    def finish(self) -> None:
        """Help, wait for those that still copy, and raise the error of any, in every thread that calls this."""
        self.help()
        with self._turn:
            self._turn.wait_for(lambda: self._helping == 0)
            self._end()
        if self._problem is not None:
            raise self._problem

    def _end(self) -> None:
        at_end, self._at_end = self._at_end, None
        try:
            if at_end is not None:
                at_end()
        except BaseException as problem:  # not handled: finish() raises it
            self._problem = self._problem or problem

    def _next(self) -> Callable[[], None] | None:
        with self._turn:
            return next(self._pieces, None)


def make_copies(copies: Sequence[Copy]) -> None:
    """Make the copies with two threads, which fill the memory's bandwidth on two cores; more gain little anywhere.

    NumPy lets go of the interpreter as it copies.
    """
    copying = Copying(copies)
    with ThreadPoolExecutor(1, "multiframe-ckpt copy") as pool:
        if sum(copy.place.nbytes for copy in copies) > _PIECE:
            pool.submit(copying.help)
        copying.finish()


def _pieces(copies: Iterable[Copy]) -> Iterator[Callable[[], None]]:
    for copy in copies:
        tensor, target = copy.original, copy.tensor().numpy()
        if not tensor.source.is_in_memory:
            yield partial(_read_into, tensor, target)
            continue
        array = tensor.source.array()
        if not array.flags.c_contiguous or array.dtype != target.dtype:
            yield partial(np.copyto, target, array)
            continue
        flat = array.reshape(-1).view(np.uint8)  # as bytes: NumPy holds the interpreter for dtypes of others
        for start in range(0, flat.nbytes, _PIECE):
            yield partial(np.copyto, copy.place[start : start + _PIECE], flat[start : start + _PIECE])


def _read_into(tensor: LazyTensor, target: np.ndarray) -> None:
    """Read a tensor that is not in memory, compared with its digest if it has one."""
    if tensor.digest is None:
        tensor.source.into(target)
    else:
        np.copyto(target, tensor.numpy())
