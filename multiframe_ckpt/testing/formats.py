"""What every format must hold to, as tests: one suite for those that are only read, a larger one for those written too.

    class TestMyFormat(FormatContract):
        format = MyFormat()

    class TestMyReader(ReadOnlyFormatContract):
        format = MyReader()

        def samples(self, folder):
            path = folder / "sample.mine"
            path.write_bytes(…)
            yield path, {"w": LazyTensor.from_array(…)}

pytest then runs the whole suite, over files and folders of this machine and over bytes in memory. A format that cannot
hold everything says so in the class attributes.
"""

from __future__ import annotations

import tempfile
import tracemalloc
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ..dtypes import DTYPES, DType
from ..errors import CheckpointWarning, FormatError, MultiframeError, RefusedError, ValueRefusedError
from ..formats import Changes, Format, Opened, ReadOptions, WritableFormat, WriteOptions
from ..formats.opening import head_of
from ..progress import OnProgress, Progress, silent
from ..storage.folders import Folder
from ..tree import File, LazyTensor, Tree, Unknown, map_leaves, node_at, tensors
from ..tree import Path as TreePath
from .places import MemoryFile, MemoryFolder, in_memory, place_at
from .strategies import indices, trees
from .trees import assert_trees_equal, flat_tree, rich_tree, untied

__all__ = ["FormatContract", "ReadOnlyFormatContract", "changes", "open_at", "read", "recognises", "write"]

_MIB = 1 << 20
#: A damaged file may claim any size; reading it may not allocate more than this over what the file holds.
_DAMAGE_ALLOWANCE = 32 * _MIB
#: Stands for the name of a checkpoint that is one file, and not one of a folder's.
_BY_ITSELF = ""


def open_at(format: Format, place: Path | File | Folder, options: ReadOptions | None = None) -> Opened:
    """Return what a format makes of a place, or of what lies at a path."""
    return format.open(place_at(place) if isinstance(place, Path) else place, options or ReadOptions())


def read(format: Format, place: Path | File | Folder, options: ReadOptions | None = None) -> Tree:
    """Return the tree that lies at a place or path."""
    return open_at(format, place, options).tree


def recognises(format: Format, place: Path | File | Folder) -> bool:
    """Return whether a format recognises a place or path, as the library asks it."""
    try:
        return format.recognises(head_of(place_at(place) if isinstance(place, Path) else place))
    except (MultiframeError, OSError, ValueError):  # ValueError: a path no system can have
        return False


def changes(format: WritableFormat, tree: Tree) -> Changes:
    """Return what writing a tree would change."""
    return format.plan(tree, WriteOptions()).changes


def write(
    format: WritableFormat,
    tree: Tree,
    target: Path,
    options: WriteOptions | None = None,
    *,
    on_progress: OnProgress = silent,
) -> None:
    """Plan a tree and write it to a fresh path."""
    format.plan(tree, options or WriteOptions()).write(target, on_progress)


class ReadOnlyFormatContract:
    """The suite of a format that is read. ``format`` is the one under test, :meth:`samples` gives files of it."""

    format: ClassVar[Format]
    #: Whether a flipped bit anywhere in the file either changes nothing or is noticed by headers and digests.
    notices_every_flip: ClassVar[bool] = False

    def samples(self, folder: Path) -> Iterable[tuple[Path, Tree]]:
        """Write checkpoints of the format into a folder; yield the path of each and the tree that it holds."""
        raise NotImplementedError

    def test_a_sample_reads_as_its_tree(self, tmp_path: Path) -> None:
        """Bit for bit, from this machine's disk and from memory."""
        for path, tree in self.samples(tmp_path):
            assert_trees_equal(open_at(self.format, path).tree, tree)
            assert_trees_equal(open_at(self.format, in_memory(path)).tree, tree)

    def test_it_knows_its_own_files_whatever_they_are_called(self, tmp_path: Path) -> None:
        """By content, not by suffix."""
        for path, _ in self.samples(tmp_path):
            assert recognises(self.format, in_memory(path))
            assert recognises(self.format, place_at(path.rename(tmp_path / "renamed.xyz")))

    def test_it_does_not_know_what_is_empty(self, tmp_path: Path) -> None:
        """Neither files nor folders."""
        (tmp_path / "file").touch()
        (tmp_path / "folder").mkdir()
        places = [place_at(tmp_path / "file"), place_at(tmp_path / "folder"), MemoryFile(b""), MemoryFolder({})]
        assert not any(recognises(self.format, place) for place in places)

    @settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
    @given(content=st.binary(max_size=200))
    @example(content=b"PK\x03\x04")
    @example(content=b"\x89HDF\r\n\x1a\n")
    @example(content=b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    @example(content=b"\x80\x02}q\x00.")
    @example(content=b'{"format": ')
    @example(content=b"[" * 5000)
    def test_garbage_is_a_format_error(self, content: bytes) -> None:
        """A damaged file and a wrong one are told of alike; nothing else comes out of looking at one."""
        assert recognises(self.format, MemoryFile(content)) in (True, False)
        with pytest.raises(FormatError):
            open_at(self.format, MemoryFile(content))

    def test_a_file_cut_short_anywhere_is_a_format_error(self, tmp_path: Path) -> None:
        """Unless the cut loses nothing, as that of a last newline."""
        for contents, name, tree in self._small_files(tmp_path):
            for length in range(len(contents[name])):
                cut = contents | {name: contents[name][:length]}
                self._read_damaged(cut, partial(assert_trees_equal, expected=tree))

    def test_a_flipped_bit_anywhere_is_a_format_error_or_reads_without_one(self, tmp_path: Path) -> None:
        """Never another exception, never an allocation that the file's size does not warrant."""
        for contents, name, tree in self._small_files(tmp_path):
            for position in range(len(contents[name])):
                for mask in (1 << position % 8, 0xFF) if position < 1024 else (1 << position % 8,):
                    flipped = bytearray(contents[name])
                    flipped[position] ^= mask
                    self._read_damaged(contents | {name: bytes(flipped)}, partial(self._judge_flipped, expected=tree))

    def test_a_missing_file_of_a_folder_is_a_format_error_or_takes_nothing_away(self, tmp_path: Path) -> None:
        """Whichever of its files it is."""
        for contents, name, tree in self._small_files(tmp_path):
            if name != _BY_ITSELF:
                left = {other: raw for other, raw in contents.items() if other != name}
                self._read_damaged(left, partial(assert_trees_equal, expected=tree))

    def test_any_slice_of_a_tensor_is_numpys_slice_of_the_whole(self, tmp_path: Path) -> None:
        """Ints, steps and ellipses; from disk and from memory."""
        for path, _ in self.samples(tmp_path):
            for place in (place_at(path), in_memory(path)):
                for key, tensor in tensors(open_at(self.format, place).tree).items():
                    self._check_slices(key, tensor)

    @staticmethod
    def _check_slices(key: str, tensor: LazyTensor) -> None:
        whole = tensor.numpy()

        @settings(deadline=None, max_examples=15, suppress_health_check=list(HealthCheck), database=None)
        @given(index=indices(tensor.shape))
        def check(index: Any) -> None:
            part, expected = tensor[index], whole[index]
            assert (part.shape, part.numpy().tobytes()) == (expected.shape, expected.tobytes()), (key, index)

        check()

    def test_opening_reads_headers_only(self, tmp_path: Path) -> None:
        """And a slice of rows reads no more than its rows, where they lie plainly in a file."""
        for path, _ in self.samples(tmp_path):
            place = in_memory(path)
            if isinstance(place, MemoryFile):
                table = tensors(open_at(self.format, place).tree)
                self._check_rows(place, table)

    @staticmethod
    def _check_rows(file: MemoryFile, table: dict[str, LazyTensor]) -> None:
        for tensor in table.values():
            if tensor.extent is not None and tensor.shape and tensor.shape[0] > 1:
                before = file.read_bytes
                row = tensor[1:2]
                row.numpy()
                assert file.read_bytes - before == row.nbytes

    def _small_files(self, folder: Path) -> Iterator[tuple[dict[str, bytes], str, Tree]]:
        """Yield the files of each sample, the name of one of them, and the sample's tree."""
        for path, tree in self.samples(folder):
            contents = _contents(path) if path.is_dir() else {_BY_ITSELF: path.read_bytes()}
            yield from ((contents, name, tree) for name in contents)

    def _judge_flipped(self, found: Tree, expected: Tree) -> None:
        if self.notices_every_flip:
            assert_trees_equal(found, expected)

    def _read_damaged(self, contents: dict[str, bytes], judge: Callable[[Tree], None]) -> None:
        with _placed(contents) as place, _peak_below(_DAMAGE_ALLOWANCE), warnings.catch_warnings():
            warnings.simplefilter("ignore", CheckpointWarning)
            try:
                recognises(self.format, place)
                tree = map_leaves(self.format.open(place, ReadOptions()).tree, _read_now)
            except FormatError:
                return
        judge(tree)


class FormatContract(ReadOnlyFormatContract):
    """The suite of a format that is written too; the attributes say what it need not hold."""

    format: ClassVar[WritableFormat]
    dtypes: ClassVar[Sequence[DType]] = DTYPES
    #: Whether tensors that are one tensor under several names come back as one.
    holds_ties: ClassVar[bool] = True
    #: Whether plain values, and containers in containers, come back.
    holds_plain_values: ClassVar[bool] = True
    #: RefusedErrors that the format may answer a random tree with, instead of holding it.
    may_refuse: ClassVar[tuple[type[RefusedError], ...]] = ()

    def samples(self, folder: Path) -> Iterable[tuple[Path, Tree]]:
        """Write a small tree, since it is read once for each bit of its file."""
        tree = _small_tree() if self.holds_plain_values else {"w": node_at(_small_tree(), ("model", "w"))}
        return [(self.written(self._held(tree), folder), self._held(tree))]

    def refused_trees(self) -> list[tuple[Tree, type[RefusedError]]]:
        """Return trees that the format refuses, each with the error; extend it with the format's own."""
        return [({"x": Unknown("some.module.Class")}, ValueRefusedError)]

    def trees(self) -> st.SearchStrategy[Tree]:
        """Return the random trees to try."""
        return trees(dtypes=self.dtypes)

    def written(self, tree: Tree, folder: Path, name: str = "checkpoint") -> Path:
        """Write the tree to a fresh path in ``folder`` and return the path."""
        folder.mkdir(exist_ok=True)
        path = folder / (name + (self.format.suffixes[0] if self.format.suffixes else ""))
        write(self.format, tree, path)
        return path

    def test_a_state_dict_comes_back_bit_for_bit(self, tmp_path: Path) -> None:
        """Flat names to tensors, ties included."""
        tree = self._held(flat_tree())
        assert_trees_equal(open_at(self.format, self.written(tree, tmp_path)).tree, tree)

    def test_a_training_checkpoint_comes_back_bit_for_bit(self, tmp_path: Path) -> None:
        """Every dtype and every kind of plain value, nested; from disk and from memory."""
        if not self.holds_plain_values:
            pytest.skip("the format holds tensors only")
        tree = self._held(rich_tree(self.dtypes))
        with self._allowing_refusal():
            path = self.written(tree, tmp_path)
            assert_trees_equal(open_at(self.format, path).tree, tree)
            assert_trees_equal(open_at(self.format, in_memory(path)).tree, tree)

    @pytest.mark.parametrize("tree", [{}, {"a": {}}, {"epoch": 1}], ids=["nothing", "empty dict", "no tensor"])
    def test_a_tree_without_tensors_comes_back(self, tree: Tree, tmp_path: Path) -> None:
        """Empty checkpoints are checkpoints."""
        if tree and not self.holds_plain_values:
            pytest.skip("the format holds tensors only")
        with self._allowing_refusal():
            assert_trees_equal(open_at(self.format, self.written(tree, tmp_path)).tree, tree)

    @settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def test_any_tree_comes_back_bit_for_bit_or_is_refused_by_its_plan(self, data: st.DataObject) -> None:
        """Random trees; a refusal must be one that ``may_refuse`` lists, before anything is written."""
        tree = self._held(data.draw(self.trees()))
        with tempfile.TemporaryDirectory() as folder:
            try:
                plan = self.format.plan(tree, WriteOptions())
            except self.may_refuse:
                return
            plan.write(Path(folder) / "checkpoint", silent)
            assert_trees_equal(open_at(self.format, Path(folder) / "checkpoint").tree, tree)

    def test_what_it_cannot_hold_is_refused_by_its_plan(self) -> None:
        """So that a dry run can be believed."""
        for tree, error in self.refused_trees():
            with pytest.raises(error):
                self.format.plan(tree, WriteOptions())

    def test_a_plan_says_at_least_as_many_bytes_as_the_tensors_have(self, tmp_path: Path) -> None:
        """By which a disk without room is told of before anything is written."""
        tree = self._held(flat_tree())
        plan = self.format.plan(tree, WriteOptions())
        plan.write(tmp_path / "checkpoint", silent)
        on_disk = sum(map(len, _contents(tmp_path / "checkpoint").values()))
        assert _distinct_nbytes(tree) <= plan.nbytes <= on_disk

    def test_writing_twice_gives_the_same_bytes(self, tmp_path: Path) -> None:
        """No time, no random number, no address gets into a file."""
        tree = self._held(flat_tree())
        first, second = (_contents(self.written(tree, tmp_path, name)) for name in ("first", "second"))
        assert first == second

    def test_a_plan_can_be_written_twice(self, tmp_path: Path) -> None:
        """It is a value: writing changes nothing of it."""
        plan = self.format.plan(self._held(flat_tree()), WriteOptions())
        for name in ("first", "second"):
            plan.write(tmp_path / name, silent)
        assert _contents(tmp_path / "first") == _contents(tmp_path / "second")

    def test_progress_ends_at_every_byte_moved(self, tmp_path: Path) -> None:
        """And never goes back."""
        events: list[Progress] = []
        tree = self._held(flat_tree())
        write(self.format, tree, tmp_path / "checkpoint", on_progress=events.append)
        done = [event.done_bytes for event in events]
        assert done == sorted(done)
        assert done[-1] == events[-1].total_bytes
        # A format that holds ties may move a tied tensor once.
        assert _distinct_nbytes(tree) <= done[-1] <= sum(tensor.nbytes for tensor in tensors(tree).values())

    def test_a_folder_of_its_own_files_may_be_replaced_and_none_with_others(self, tmp_path: Path) -> None:
        """``owns`` knows every file that is written, and not a stranger's."""
        path = self.written(self._held(flat_tree()), tmp_path)
        if not path.is_dir():
            pytest.skip("for formats that are folders")
        paths = [path, *(sample for sample, _ in self.samples(tmp_path / "samples"))]
        assert all(self.format.owns(name) for path in paths for name in _contents(path))
        assert not self.format.owns("notes.txt")

    def test_reading_moves_no_tensor_bytes(self, tmp_path: Path) -> None:
        """Reading a file allocates far less than its tensors take."""
        big = LazyTensor.from_array(np.zeros((1024, 1024), np.float32))
        path = self.written({"big": big}, tmp_path)
        with _peak_below(big.nbytes // 4):
            tree = open_at(self.format, path).tree
        assert tensors(tree)["big"].nbytes == big.nbytes

    def test_a_file_replaced_after_it_was_read_still_gives_its_own_tensors(self, tmp_path: Path) -> None:
        """A run may save over the checkpoint that another process is reading."""
        tree = self._held(flat_tree())
        path = self.written(tree, tmp_path)
        if path.is_dir():
            pytest.skip("a folder's files are replaced together with it")
        opened = open_at(self.format, path)
        self.written({"z.weight": LazyTensor.from_array(np.zeros(3, np.float32))}, tmp_path, "other").replace(path)
        assert_trees_equal(opened.tree, tree)

    def _held(self, tree: Tree) -> Tree:
        """Return the tree as the format gives it back."""
        return tree if self.holds_ties else untied(tree)

    @contextmanager
    def _allowing_refusal(self) -> Iterator[None]:
        try:
            yield
        except self.may_refuse as refusal:
            pytest.skip(f"refused: {refusal}")


@contextmanager
def _placed(contents: dict[str, bytes]) -> Iterator[File | Folder]:
    """Put a file on the disk, as readers meet it, and the many files of a folder into memory."""
    if _BY_ITSELF not in contents:
        yield MemoryFolder(contents)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged"
        path.write_bytes(contents[_BY_ITSELF])
        yield place_at(path)


def _read_now(_: TreePath, leaf: Tree) -> Tree:
    """Return a tensor with its bytes read and, where its file has a digest of them, checked."""
    return LazyTensor.from_array(leaf.numpy(), alias=leaf.alias) if isinstance(leaf, LazyTensor) else leaf


def _distinct_nbytes(tree: Tree) -> int:
    distinct = {key if tensor.identity is None else tensor.identity: tensor for key, tensor in tensors(tree).items()}
    return sum(tensor.nbytes for tensor in distinct.values())


def _small_tree() -> Tree:
    weight = LazyTensor.from_array(np.array([[1, -2, 3]], np.float32), alias="weight")
    count = LazyTensor.from_array(np.array(7))
    return {"model": {"w": weight, "t": weight, "n": count}, "epoch": 3, "lr": (0.5, "x")}


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
