"""Turned, rows of, reshaped: any part of them is NumPy's part of the whole, whatever they are made of."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multiframe_ckpt.dtypes import dtype_named
from multiframe_ckpt.errors import DamagedError
from multiframe_ckpt.storage import transfer
from multiframe_ckpt.storage.files import LocalFile, open_file
from multiframe_ckpt.storage.transfer import CopyJob, copy, materialized
from multiframe_ckpt.testing.strategies import indices
from multiframe_ckpt.tree import (
    Elementwise,
    Joined,
    LazyTensor,
    Part,
    Reshaped,
    Rows,
    Source,
    Strided,
    Turned,
)
from multiframe_ckpt.tree import bands as bands_module
from multiframe_ckpt.tree.digests import digest_of

UINT8, FLOAT32, BFLOAT16 = dtype_named("uint8"), dtype_named("float32"), dtype_named("bfloat16")
assert UINT8 and FLOAT32 and BFLOAT16
SOURCES = ("memory", "file", "strided", "elementwise", "joined", "computed", "turned")


def in_file(path: Path, array: np.ndarray, digest: str | None = None) -> LazyTensor:
    """Write an array behind three bytes of something else, so that it is not aligned."""
    path.write_bytes(b"abc" + array.tobytes())
    return LazyTensor.in_file(open_file(path), FLOAT32, array.shape, 3, what="values", digest=digest)


def tensor_of(kind: str, array: np.ndarray, path: Path) -> LazyTensor:
    """Return a tensor of the array's values from a source of a kind."""
    if kind == "memory":
        return LazyTensor.from_array(array)
    if kind == "computed":
        return LazyTensor.from_function(FLOAT32, array.shape, lambda: array)
    if kind == "strided":  # stored with its axes the other way round
        file = in_file(path, array.T).source.file
        raw = LazyTensor.in_file(file, UINT8, (array.nbytes,), 3, what="values")
        strides = tuple(step // 4 for step in np.array(array.T, order="C").T.strides)
        return LazyTensor(FLOAT32, array.shape, Strided(raw, FLOAT32, array.shape, 0, strides))
    if kind == "elementwise":
        base = in_file(path, array - 1)
        return LazyTensor(FLOAT32, array.shape, Elementwise(base, FLOAT32, lambda part: part + 1))
    if kind == "joined" and array.ndim and len(array) > 1:
        cut = len(array) // 2
        zeros = (0,) * (array.ndim - 1)
        parts = (
            Part((0, *zeros), in_file(path, array[:cut])),
            Part((cut, *zeros), in_file(path.with_suffix(".2"), array[cut:])),
        )
        return LazyTensor(FLOAT32, array.shape, Joined(FLOAT32, array.shape, parts))
    if kind == "turned":
        axes = tuple(reversed(range(array.ndim)))
        return LazyTensor(FLOAT32, array.shape, Turned(in_file(path, array.T), axes))
    return in_file(path, array)


def pieces_of(tensor: LazyTensor, nbytes: int = 64) -> bytes:
    return b"".join(bytes(piece) for piece in tensor.pieces(memoryview(bytearray(nbytes))))


def numbered(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(1, 1 + int(np.prod(shape)), dtype=np.float32).reshape(shape)


shapes = st.lists(st.integers(0, 7), max_size=4).map(tuple)


@st.composite
def laid_out(draw: st.DrawFn, path: Path) -> tuple[LazyTensor, np.ndarray]:
    """Return a tensor laid out otherwise once or twice, and the array it is to equal."""
    array = numbered(draw(shapes))
    tensor = tensor_of(draw(st.sampled_from(SOURCES)), array, path)
    for _ in range(draw(st.integers(1, 2))):
        kind = draw(st.sampled_from(["turned", "rows", "reshaped"]))
        source: Source
        if kind == "turned":
            axes = draw(st.permutations(range(array.ndim)))
            array = array.transpose(axes)
            source = Turned(tensor, axes)
        elif kind == "rows" and array.ndim:
            start, stop = sorted(draw(st.tuples(*[st.integers(0, len(array))] * 2)))
            array = array[start:stop]
            source = Rows(tensor, start, stop)
        else:
            array = array.reshape(draw(st.sampled_from([(array.size,), (1, array.size), (array.size, 1)])))
            source = Reshaped(tensor, array.shape)
        tensor = LazyTensor(FLOAT32, array.shape, source)
    return tensor, array


#: Bands and tiles of a few elements, so that small tensors are cut as large ones are.
small_bands = mock.patch.multiple(bands_module, _MOST=96, _LEAST=24, _TILE=32, _SKIP=8, _LINES=16)


@small_bands
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_all_and_any_part_are_numpys(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("turned") / "values"
    tensor, array = data.draw(laid_out(path))
    assert tensor.shape == array.shape
    np.testing.assert_array_equal(tensor.numpy(), array)
    assert pieces_of(tensor) == array.tobytes()
    out = np.zeros(array.shape, np.float32)
    tensor.source.into(out)
    np.testing.assert_array_equal(out, array)
    index = data.draw(indices(array.shape))
    np.testing.assert_array_equal(tensor[index].numpy(), array[index])
    assert pieces_of(tensor[index]) == array[index].tobytes()


@small_bands
@settings(max_examples=100, deadline=None)
@given(rows=st.integers(1, 40), columns=st.integers(1, 40), kind=st.sampled_from(SOURCES))
def test_a_matrix_is_filled_by_its_blocks(
    tmp_path_factory: pytest.TempPathFactory, rows: int, columns: int, kind: str
) -> None:
    path = tmp_path_factory.mktemp("turned") / "values"
    array = numbered((rows, columns))
    source = Turned(tensor_of(kind, array, path), (1, 0))
    out = np.zeros((columns, rows), np.float32)
    for block_rows, block_columns, block in source.blocks():
        assert not out[block_rows.start : block_rows.stop, block_columns.start : block_columns.stop].any()
        out[block_rows.start : block_rows.stop, block_columns.start : block_columns.stop] = block
    np.testing.assert_array_equal(out, array.T)


@small_bands
@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16])
@pytest.mark.parametrize("head", [b"", b"head"])
def test_a_large_matrix_is_copied_in_blocks_as_it_would_be_in_order(tmp_path: Path, dtype: Any, head: bytes) -> None:
    array = numbered((600, 500)).astype(dtype.numpy)
    (tmp_path / "source").write_bytes(array.tobytes())
    base = LazyTensor.in_file(
        open_file(tmp_path / "source"), dtype, array.shape, 0, what="values", digest=digest_of(array)
    )
    tensor = LazyTensor(dtype, (500, 600), Turned(base, (1, 0)))
    copies = {}
    for name, least in ("blocks", 1), ("pieces", 1 << 40):
        with (tmp_path / name).open("x+b") as file, mock.patch("multiframe_ckpt.tree.turned.IN_BLOCKS", (least, 1)):
            digests = copy(CopyJob("w", tensor, file.fileno(), 5, ("xxh3", "crc32"), head))
        copies[name] = digests, (tmp_path / name).read_bytes()
    assert copies["blocks"] == copies["pieces"]
    assert copies["blocks"][1] == bytes(5) + head + array.T.tobytes()


@small_bands
def test_a_target_that_is_cut_short_while_blocks_are_written_is_an_error(tmp_path: Path) -> None:
    tensor = LazyTensor(FLOAT32, (500, 600), Turned(in_file(tmp_path / "values", numbered((600, 500))), (1, 0)))
    write = transfer._write_rows

    def write_and_cut(descriptor: int, *rest: Any) -> None:
        write(descriptor, *rest)
        os.ftruncate(descriptor, 0)

    with (
        (tmp_path / "target").open("x+b") as file,
        mock.patch("multiframe_ckpt.tree.turned.IN_BLOCKS", (1, 1)),
        mock.patch.object(transfer, "_write_rows", write_and_cut),
        pytest.raises(DamagedError, match="cut short by another program"),
    ):
        copy(CopyJob("w", tensor, file.fileno(), 0, ("xxh3",)))


@pytest.mark.parametrize("blockwise", [1, 1 << 40])
@pytest.mark.parametrize("made", ["turned", "rows", "reshaped", "turned rows", "turned cast", "turned view"])
def test_damage_of_the_other_tensor_is_seen(tmp_path: Path, made: str, blockwise: int) -> None:
    array = numbered((600, 500))
    base = in_file(tmp_path / "values", array, digest_of(array))
    with (tmp_path / "values").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    if made == "turned view":
        raw = LazyTensor.in_file(base.source.file, UINT8, (array.nbytes,), 3, what="values", digest=digest_of(array))
        base = LazyTensor(FLOAT32, (500, 500), Strided(raw, FLOAT32, (500, 500), 0, (500, 1)))
    if made == "turned cast":
        base = LazyTensor(FLOAT32, base.shape, Elementwise(base, FLOAT32, np.negative))
    tensor = {
        "turned": lambda: LazyTensor(FLOAT32, (500, 600), Turned(base, (1, 0))),
        "turned cast": lambda: LazyTensor(FLOAT32, (500, 600), Turned(base, (1, 0))),
        "turned view": lambda: LazyTensor(FLOAT32, (500, 500), Turned(base, (1, 0))),
        "rows": lambda: LazyTensor(FLOAT32, (500, 500), Rows(base, 0, 500)),
        "reshaped": lambda: LazyTensor(FLOAT32, (500, 600), Reshaped(base, (500, 600))),
        "turned rows": lambda: LazyTensor(
            FLOAT32, (500, 500), Turned(LazyTensor(FLOAT32, (500, 500), Rows(base, 0, 500)), (1, 0))
        ),
    }[made]()
    assert tensor.is_covered
    with (
        (tmp_path / "out").open("x+b") as file,
        mock.patch("multiframe_ckpt.tree.turned.IN_BLOCKS", (blockwise, 1)),
        pytest.raises(DamagedError, match="digest"),
    ):
        copy(CopyJob("w", tensor, file.fileno(), 0, ("xxh3",)))
    with pytest.raises(DamagedError, match="digest"):
        materialized({"w": tensor})
    with pytest.raises(DamagedError, match="digest"):
        tensor.numpy()


def test_the_other_tensor_is_compared_once_for_all_its_rows(tmp_path: Path) -> None:
    array = numbered((600, 500))
    base = in_file(tmp_path / "values", array, digest_of(array))
    read: list[int] = []
    real = LocalFile.read_into

    def counted(self: LocalFile, offset: int, buffer: memoryview) -> None:
        read.append(len(buffer))
        real(self, offset, buffer)

    with mock.patch.object(LocalFile, "read_into", counted):
        for start, stop in pairwise([0, 200, 400, 600]):
            part = LazyTensor(FLOAT32, (200, 500), Rows(base, start, stop))
            assert pieces_of(part, 1 << 20) == array[start:stop].tobytes()
    assert sum(read) == 2 * array.nbytes


def test_turning_maps_no_file_and_keeps_little_memory(tmp_path: Path) -> None:
    array = np.zeros((3000, 4000), np.float32)
    base = in_file(tmp_path / "values", array)
    tensor = LazyTensor(FLOAT32, (4000, 3000), Turned(base, (1, 0)))
    with (
        mock.patch.object(LocalFile, "contents", side_effect=AssertionError("mapped")),
        mock.patch.multiple(bands_module, _MOST=1 << 20, _LEAST=1 << 18, _TILE=1 << 16),
        mock.patch.object(bands_module.np, "empty", wraps=np.empty) as empty,
    ):
        for _ in tensor.pieces(memoryview(bytearray(1 << 16))):
            pass
        for _ in tensor.source.blocks():
            pass
    assert max(int(np.prod(call.args[0])) for call in empty.call_args_list) <= 1 << 20


def test_streams_at_once_share_the_memory_of_bands() -> None:
    memory = bands_module._Memory()
    with memory.stream(), memory.band() as alone, memory.stream(), memory.band() as second:
        assert (alone, second) == (bands_module._MOST, bands_module._LEAST)
    with memory.stream(), memory.stream(), memory.band() as first, memory.band() as second:
        assert first == second == bands_module._MOST // 2
    with memory.stream(), memory.band() as nbytes:
        assert nbytes == bands_module._MOST


def test_axes_that_are_not_each_axis_once_are_refused() -> None:
    tensor = LazyTensor.from_array(numbered((2, 3)))
    with pytest.raises(ValueError, match=r"found axes \(0, 0\), expected each of 2 axes once"):
        Turned(tensor, (0, 0))
