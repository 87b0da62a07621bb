"""Two tensors read side by side, piece by piece: never whole, and never what only seems to be there."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..storage.parallel import SMALL_NBYTES
from ..storage.transfer import data_spans, read_span, recut
from ..tree import LazyTensor, Strided
from ..tree.digests import PIECE, bytes_of

__all__ = ["unlike_pieces", "without_repeats"]


def without_repeats(a: LazyTensor, b: LazyTensor) -> tuple[LazyTensor, LazyTensor]:
    """Return what is to be compared of two tensors: where both repeat the same few elements, these once."""
    parts = [tensor[_once(tensor.source)] for tensor in (a, b) if isinstance(tensor.source, Strided)]
    if len(parts) < 2 or parts[0].shape != parts[1].shape or parts[0].shape == a.shape:
        return a, b
    for tensor in (a, b):
        tensor.compare_once(memoryview(bytearray(PIECE)))  # parts are not compared with digests
    return parts[0], parts[1]


def _once(view: Strided) -> tuple[slice, ...]:
    return tuple(slice(0, 1) if step == 0 else slice(None) for step in view.strides)


def unlike_pieces(a: LazyTensor, b: LazyTensor) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read both, piece by piece, and yield those elements of the same place whose bits are not the same."""
    for pair in _pairs(a, b):
        x, y = (np.frombuffer(piece, np.uint8) for piece in pair)
        if not np.array_equal(x, y):
            yield x.view(a.dtype.numpy), y.view(b.dtype.numpy)


def _pairs(a: LazyTensor, b: LazyTensor) -> Iterator[tuple[memoryview, ...]]:
    """Yield the bytes of both, as many of each at a time: those of small tensors at once."""
    if a.nbytes <= SMALL_NBYTES:
        return iter([(bytes_of(a.numpy()), bytes_of(b.numpy()))])
    holes = [spans for spans in map(data_spans, (a, b)) if sum(map(len, spans)) < a.nbytes]
    if len(holes) == 2:
        return (pair for span in _merged([*holes[0], *holes[1]], a) for pair in _pairs_in(a, b, span))
    sizes = [min(PIECE, a.nbytes - start) for start in range(0, a.nbytes, PIECE)]
    return zip(*(recut(tensor.pieces(memoryview(bytearray(PIECE))), sizes) for tensor in (a, b)), strict=True)


def _merged(spans: list[range], tensor: LazyTensor) -> Iterator[range]:
    """Yield spans of whole elements that hold what any of these does, one behind the other and none on another."""
    size, end = tensor.dtype.itemsize, 0
    for span in sorted(spans, key=lambda span: span.start):
        start, stop = span.start // size * size, min(-(-span.stop // size) * size, tensor.nbytes)
        if stop > end:
            yield range(max(end, start), stop)
            end = stop


def _pairs_in(a: LazyTensor, b: LazyTensor, span: range) -> Iterator[tuple[memoryview, ...]]:
    """Yield the bytes of both in a part."""
    return zip(*(read_span(tensor, span, memoryview(bytearray(PIECE))) for tensor in (a, b)), strict=True)
