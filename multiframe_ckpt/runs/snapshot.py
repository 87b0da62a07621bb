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

#: Large enough that taking the next piece costs nothing, small enough that two threads end together.
_PIECE = 2 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Copy:
    """A tensor that is to be copied, its path in the tree, and the place for its bytes."""

    path: Path
    original: LazyTensor
    place: np.ndarray

    def tensor(self) -> LazyTensor:
        """Return the tensor over the place, to be read once the copy is made."""
        of = self.original
        array = self.place.view(of.dtype.numpy).reshape(of.shape)
        return LazyTensor.from_array(array, alias=of.alias)


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
    found = [(path, leaf) for path, leaf in leaves(tree) if isinstance(leaf, LazyTensor)]
    several = Sharing({str(number): leaf for number, (_, leaf) in enumerate(found)}).split_aliases
    originals: dict[Hashable, tuple[Path, LazyTensor]] = {}
    for path, leaf in found:
        originals.setdefault(_owner(leaf, several), (path, _whole(leaf, several)))
    places = memory.take([original.nbytes for _, original in originals.values()])
    copies = [Copy(*what, place) for what, place in zip(originals.values(), places, strict=True)]
    made = dict(zip(originals, (copy.tensor() for copy in copies), strict=True))

    def copied(_: Path, leaf: Tree) -> Tree:
        if not isinstance(leaf, LazyTensor):
            return leaf
        own = made[_owner(leaf, several)]
        return _into(own, leaf, leaf.source) if isinstance(leaf.source, Strided) and leaf.alias in several else own

    def may_wait(copy: Copy) -> bool:
        return copy.original.alias in later and copy.original.alias not in several

    return Snapshot(
        map_leaves(tree, copied),
        tuple(copy for copy in copies if not may_wait(copy)),
        tuple(copy for copy in copies if may_wait(copy)),
    )


def _whole(tensor: LazyTensor, several: Container[Hashable]) -> LazyTensor:
    """Return what is copied for a tensor: its storage where others look into that elsewhere, else itself."""
    return tensor.source.storage if isinstance(tensor.source, Strided) and tensor.alias in several else tensor


def _owner(tensor: LazyTensor, several: Container[Hashable]) -> Hashable:
    """Return what tensors have in common that are copied once."""
    if isinstance(tensor.source, Strided) and tensor.alias in several:
        return tensor.alias
    identity = tensor.identity
    return id(tensor) if identity is None else identity


def _into(storage: LazyTensor, tensor: LazyTensor, view: Strided) -> LazyTensor:
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
        except BaseException as problem:  # told, not handled
            self._problem, self._pieces = problem, iter(())
        finally:
            with self._turn:
                self._helping -= 1
                self._turn.notify_all()

    def finish(self) -> None:
        """Help, waits for those that still copy, and raise the error of any, in every thread that calls this."""
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
        except BaseException as problem:  # told, not handled
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
        if not array.flags.c_contiguous:
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
