"""The copy in memory: what it keeps of the original, what it costs, and what may wait."""

from threading import Barrier, get_ident

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.dtypes import dtype_named
from multiframe_ckpt.runs import snapshot as module
from multiframe_ckpt.runs.memory import Memory
from multiframe_ckpt.runs.snapshot import make_copies, snapshot
from multiframe_ckpt.tree import InMemory, LazyTensor, Source, join_key


def copied(tree, memory=None):
    """Gives the tree over copies that are made."""
    laid_out = snapshot(tree, memory or Memory())
    make_copies((*laid_out.now, *laid_out.later))
    return laid_out.tree


def tensor(*values):
    return LazyTensor.from_array(np.array(values, np.float32))


def test_the_copy_keeps_tied_tensors_tied():
    shared = np.arange(3, dtype=np.float32)
    tree = mfc.Checkpoint.from_objects({"a": shared, "b": shared, "c": shared.copy()}).tree
    copies = copied(tree)
    assert copies["a"] is copies["b"]
    shared[:] = 9
    assert copies["b"].numpy().tolist() == [0, 1, 2]
    assert copies["a"].identity != copies["c"].identity


def test_the_copy_is_written_to_the_very_bytes_of_the_original(tmp_path):
    torch = pytest.importorskip("torch")
    base = torch.arange(24, dtype=torch.bfloat16)
    state = {
        **{"head": base[:6], "tail": base[12:].view(3, 4).t(), "base": base},  # three views of one storage
        **{"tied": base, "alone": torch.ones(4, 4)[:, 1], "scalar": torch.tensor(1.5), "empty": torch.zeros(0, 3)},
        "conjugated": torch.tensor([1 + 2j]).conj(),
    }
    checkpoint = mfc.Checkpoint.from_objects(state)
    tree = copied(checkpoint.tree)
    with torch.no_grad():
        checkpoint.save(tmp_path / "original.pt")
        base.zero_()
    mfc.Checkpoint(tree, checkpoint.meta).save(tmp_path / "copied.pt")
    assert (tmp_path / "copied.pt").read_bytes() == (tmp_path / "original.pt").read_bytes()


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_tensor_of_many_pieces_is_copied_whole(monkeypatch, order):
    monkeypatch.setattr(module, "_PIECE", 24)
    array = np.asarray(np.arange(35, dtype=np.int64).reshape(5, 7), order=order)
    assert (copied({"w": LazyTensor.from_array(array)})["w"].numpy() == array).all()


def test_two_threads_copy_at_a_time(monkeypatch):
    meeting, seen = Barrier(2), []

    def meet(target, source):
        seen.append(get_ident())
        meeting.wait(60)  # breaks, and raises here, unless another thread is copying too

    monkeypatch.setattr(module.np, "copyto", meet)
    monkeypatch.setattr(module, "_PIECE", 4)  # more than one is worth a second thread
    copied({"a": tensor(1), "b": tensor(2)})
    assert len(set(seen)) == 2


def test_an_error_while_a_tensor_is_read_is_the_callers():
    def broken():
        raise OSError(5, "the GPU is gone")

    tree = {"w": LazyTensor.from_function(dtype_named("float32"), (1,), broken)}
    with pytest.raises(OSError, match="the GPU is gone"):
        make_copies(snapshot(tree, Memory()).now)


def test_a_tensor_that_can_be_read_into_memory_is_read_there_and_not_first_elsewhere():
    class Device(Source):
        def array(self):
            raise AssertionError("made memory of its own")

        def into(self, out):
            out[:] = [[1, 2], [3, 4]]

    tree = {"w": LazyTensor(dtype_named("bfloat16"), (2, 2), Device())}
    assert copied(tree)["w"].numpy().astype(int).tolist() == [[1, 2], [3, 4]]


def test_a_framework_is_waited_for_once_and_not_by_the_threads_that_copy():
    class Behind(Source):
        waits = 0

        def array(self):
            raise AssertionError("waited while others copied")

        def ready(self):
            self.waits += 1
            return InMemory(np.array([1, 2], np.float32))

    source = Behind()
    tree = {"w": LazyTensor(dtype_named("float32"), (2,), source)}
    assert copied(tree)["w"].numpy().tolist() == [1, 2]
    assert source.waits == 1


def test_the_next_snapshot_takes_the_same_memory():
    memory = Memory()
    first = copied({"w": tensor(1, 2)}, memory)["w"].numpy()
    second = copied({"w": tensor(3, 4)}, memory)["w"].numpy()
    assert np.shares_memory(first, second)


def test_memory_grows_with_the_tree_and_is_given_back_when_it_is_far_too_large():
    memory, seen = Memory(), []
    for size in (100, 10_000, 9_000, 100):
        copied({"w": LazyTensor.from_array(np.zeros(size, np.uint8))}, memory)
        seen.append(memory.nbytes)
    assert seen == [128, 10_048, 10_048, 128]


def test_memory_that_is_freed_holds_nothing():
    memory = Memory()
    memory.take([100])
    memory.free()
    assert memory.nbytes == 0


def parameters():
    torch = pytest.importorskip("torch")
    return torch.ones(4), torch.zeros(4)


def laid_out(state, later):
    tree = mfc.Checkpoint.from_objects(state).tree
    aliases = {leaf.alias for leaf in mfc.Checkpoint.from_objects({"later": later}).tree["later"]}
    return snapshot(tree, Memory(), later=aliases)


def test_only_what_may_wait_waits():
    weight, buffer = parameters()
    found = laid_out({"weight": weight, "buffer": buffer}, later=[weight])
    assert [join_key(copy.path) for copy in found.now] == ["buffer"]
    assert [join_key(copy.path) for copy in found.later] == ["weight"]


def test_a_tied_weight_waits_and_is_copied_once():
    weight, _ = parameters()
    found = laid_out({"weight": weight, "tied": weight}, later=[weight])
    assert [join_key(copy.path) for copy in found.later] == ["weight"]


def test_a_storage_in_which_there_is_something_else_does_not_wait():
    flat, _ = parameters()
    found = laid_out({"weight": flat[:2], "buffer": flat[2:]}, later=[flat[:2]])
    assert found.later == ()


def test_what_comes_from_a_damaged_file_is_not_copied_unseen(tmp_path):
    path = tmp_path / "weights.safetensors"
    mfc.save({"w": np.full(8, 3, np.uint8)}, path)
    path.write_bytes(path.read_bytes().replace(bytes([3] * 8), bytes([3] * 7 + [4])))
    with pytest.raises(mfc.DamagedError):
        copied(mfc.open(path).tree)
