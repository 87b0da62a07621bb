"""FormatContract: what every layout on disk must hold to, as tests.

    class TestMyFormat(FormatContract):
        format = MyFormat()

pytest then runs the whole suite. A layout that cannot hold everything says so in the class attributes.
"""

from __future__ import annotations

import tempfile
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ..dtypes import DTYPES, DType
from ..errors import FormatError, RefusedError, ValueRefusedError
from ..formats.base import Format
from ..progress import Progress
from ..tree import LazyTensor, Tree, Unknown, map_leaves
from .strategies import trees
from .trees import assert_trees_equal, flat_tree, rich_tree

__all__ = ["FormatContract"]

_MIB = 1 << 20
#: A damaged file may claim any size; reading it may not allocate more than this over what the file holds.
_DAMAGE_ALLOWANCE = 32 * _MIB


class FormatContract:
    """The suite. ``format`` is the layout under test; the other attributes say what it need not hold."""

    format: ClassVar[Format]
    dtypes: ClassVar[Sequence[DType]] = DTYPES
    #: RefusedErrors that the layout may answer a random tree with, instead of holding it.
    may_refuse: ClassVar[tuple[type[RefusedError], ...]] = ()
    #: Whether a flipped bit anywhere in the file either changes nothing or is noticed by headers and digests.
    notices_every_flip: ClassVar[bool] = False

    def refused_trees(self) -> list[tuple[Tree, type[RefusedError]]]:
        """Return trees that the layout refuses, each with the error; extend it with the layout's own."""
        return [({"x": Unknown("some.module.Class")}, ValueRefusedError)]

    def trees(self) -> st.SearchStrategy[Tree]:
        """Return the random trees to try."""
        return trees(dtypes=self.dtypes)

    def written(self, tree: Tree, folder: Path, name: str = "checkpoint") -> Path:
        """Write the tree to a fresh path in ``folder`` and return the path."""
        path = folder / (name + (self.format.suffixes[0] if self.format.suffixes else ""))
        self.format.write(tree, path)
        return path

    def test_a_state_dict_comes_back_bit_for_bit(self, tmp_path: Path) -> None:
        """Flat names to tensors, ties included."""
        assert_trees_equal(self.format.read(self.written(flat_tree(), tmp_path)), flat_tree())

    def test_a_training_checkpoint_comes_back_bit_for_bit(self, tmp_path: Path) -> None:
        """Every dtype and every kind of plain value, nested."""
        tree = rich_tree(self.dtypes)
        with self._allowing_refusal():
            assert_trees_equal(self.format.read(self.written(tree, tmp_path)), tree)

    @pytest.mark.parametrize("tree", [{}, {"a": {}}, {"epoch": 1}], ids=["nothing", "empty dict", "no tensor"])
    def test_a_tree_without_tensors_comes_back(self, tree: Tree, tmp_path: Path) -> None:
        """Empty checkpoints are checkpoints."""
        with self._allowing_refusal():
            assert_trees_equal(self.format.read(self.written(tree, tmp_path)), tree)

    @settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def test_any_tree_comes_back_bit_for_bit_or_is_refused_by_plan_and_write_alike(self, data: st.DataObject) -> None:
        """Random trees; a refusal must be one that ``may_refuse`` lists."""
        tree = data.draw(self.trees())
        with tempfile.TemporaryDirectory() as folder:
            try:
                self.format.plan(tree)
            except self.may_refuse as refusal:
                with pytest.raises(type(refusal)):
                    self.written(tree, Path(folder))
            else:
                assert_trees_equal(self.format.read(self.written(tree, Path(folder))), tree)

    def test_plan_raises_what_write_raises(self, tmp_path: Path) -> None:
        """So that a dry run can be believed."""
        for position, (tree, error) in enumerate(self.refused_trees()):
            with pytest.raises(error):
                self.format.plan(tree)
            with pytest.raises(error):
                self.written(tree, tmp_path, str(position))

    def test_writing_twice_gives_the_same_bytes(self, tmp_path: Path) -> None:
        """No time, no random number, no address gets into a file."""
        first, second = (_contents(self.written(flat_tree(), tmp_path, name)) for name in ("first", "second"))
        assert first == second

    def test_progress_ends_at_every_byte_moved(self, tmp_path: Path) -> None:
        """And never goes back."""
        events: list[Progress] = []
        self.format.write(flat_tree(), tmp_path / "checkpoint", on_progress=events.append)
        done = [event.done_bytes for event in events]
        assert done == sorted(done)
        assert done[-1] == events[-1].total_bytes
        # A layout that holds ties moves a tied tensor once.
        distinct = {tensor.identity or key: tensor.nbytes for key, tensor in flat_tree().items()}
        assert sum(distinct.values()) <= done[-1] <= sum(tensor.nbytes for tensor in flat_tree().values())

    def test_sniff_knows_its_own_files_whatever_they_are_called(self, tmp_path: Path) -> None:
        """By content, not by suffix."""
        path = self.written(flat_tree(), tmp_path)
        assert self.format.sniff(path)
        assert self.format.sniff(path.rename(tmp_path / "renamed.xyz"))

    def test_sniff_says_no_to_what_is_not_there_empty_or_a_folder(self, tmp_path: Path) -> None:
        """None of them raises."""
        (tmp_path / "empty").touch()
        (tmp_path / "folder").mkdir()
        assert not any(
            self.format.sniff(tmp_path / name) for name in ("missing", "empty", "folder", "empty/inside", "\0")
        )

    @settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
    @given(content=st.binary(max_size=200))
    @example(content=b"PK\x03\x04")
    @example(content=b"\x89HDF\r\n\x1a\n")
    @example(content=b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    @example(content=b"\x80\x02}q\x00.")
    @example(content=b'{"format": ')
    @example(content=b"[" * 5000)
    def test_garbage_raises_nothing_in_sniff_and_a_format_error_in_read(self, content: bytes) -> None:
        """A damaged file and a wrong one are told of alike."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "garbage"
            path.write_bytes(content)
            assert self.format.sniff(path) in (True, False)
            with pytest.raises(FormatError):
                self.format.read(path)

    def test_a_file_cut_short_anywhere_is_a_format_error(self, tmp_path: Path) -> None:
        """Unless the cut loses nothing, as that of a last newline."""
        blob = self._file_bytes(tmp_path)
        for length in range(len(blob)):
            self._read_damaged(blob[:length], tmp_path, lambda tree: assert_trees_equal(tree, _damage_tree()))

    def test_a_flipped_bit_anywhere_is_a_format_error_or_reads_without_one(self, tmp_path: Path) -> None:
        """Never another exception, never an allocation that the file's size does not warrant."""
        blob = self._file_bytes(tmp_path)
        expected = _damage_tree() if self.notices_every_flip else None
        for position in range(len(blob)):
            for mask in (1 << position % 8, 0xFF) if position < 1024 else (1 << position % 8,):
                flipped = bytearray(blob)
                flipped[position] ^= mask
                self._read_damaged(
                    bytes(flipped),
                    tmp_path,
                    lambda tree: None if expected is None else assert_trees_equal(tree, expected),
                )

    def test_reading_moves_no_tensor_bytes(self, tmp_path: Path) -> None:
        """Reading a file allocates far less than its tensors take."""
        big = LazyTensor.of_array(np.zeros((1024, 512)))
        path = self.written({"big": big}, tmp_path)
        with _peak_below(big.nbytes // 4):
            tree = self.format.read(path)
        assert tree["big"].nbytes == big.nbytes

    def test_a_file_replaced_after_it_was_read_still_gives_its_own_tensors(self, tmp_path: Path) -> None:
        """A run may save over the checkpoint that another process is reading."""
        path = self.written(flat_tree(), tmp_path)
        if path.is_dir():
            pytest.skip("a folder's files are replaced together with it")
        tree = self.format.read(path)
        self.written({"z.weight": LazyTensor.of_array(np.zeros(3))}, tmp_path, "other").replace(path)
        assert_trees_equal(tree, flat_tree())

    @contextmanager
    def _allowing_refusal(self) -> Iterator[None]:
        try:
            yield
        except self.may_refuse as refusal:
            pytest.skip(f"refused: {refusal}")

    def _file_bytes(self, folder: Path) -> bytes:
        path = self.written(_damage_tree(), folder)
        if path.is_dir():
            pytest.skip("for layouts that are one file")
        return path.read_bytes()

    def _read_damaged(self, blob: bytes, folder: Path, judge: Callable[[Tree], Any]) -> None:
        path = folder / "damaged"
        path.write_bytes(blob)
        with _peak_below(_DAMAGE_ALLOWANCE):
            try:
                self.format.sniff(path)
                tree = map_leaves(self.format.read(path), _read_now)
            except FormatError:
                return
        judge(tree)


def _read_now(path: tuple[Any, ...], leaf: Tree) -> Tree:
    """Return a tensor with its bytes read and, where its file has a digest of them, checked."""
    if not isinstance(leaf, LazyTensor):
        return leaf
    array = leaf.numpy()
    return LazyTensor.of_array(array, alias=leaf.alias)


def _damage_tree() -> Tree:
    """Return a tree that is small, since it is read once for each of its file's bits."""
    weight = LazyTensor.of_array(np.array([[1, -2, 3]], np.float32), alias="weight")
    return {"model": {"w": weight, "t": weight, "n": LazyTensor.of_array(np.array(7))}, "epoch": 3, "lr": (0.5, "x")}


def _contents(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


@contextmanager
def _peak_below(limit: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit, f"found a peak of {peak} bytes, expected fewer than {limit}"
