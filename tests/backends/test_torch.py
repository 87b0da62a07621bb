"""The PyTorch adapter keeps the contract, and every odd kind of tensor comes out right or is refused by key."""

from typing import NamedTuple

import ml_dtypes
import numpy as np
import pytest

from multiframe_ckpt.backend import backend_named, backend_of
from multiframe_ckpt.dtypes import DTYPES
from multiframe_ckpt.errors import CheckpointWarning, DtypeRefusedError, MismatchError, ValueRefusedError
from multiframe_ckpt.testing.backends import LikeBackendContract, ModuleContract, same_bits, samples
from multiframe_ckpt.tree import LazyTensor, Strided

torch = pytest.importorskip("torch")
nn = torch.nn

TORCH = backend_named("torch")
HELD = tuple(row.name for row in DTYPES if row.torch and hasattr(torch, row.torch))


def to_array(tensor):
    """The oracle: torch's own bytes, by another way than the adapter's."""
    name = str(tensor.dtype).removeprefix("torch.")
    dtype = next(row.numpy for row in DTYPES if row.torch == name)
    dense = tensor.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
    flat = torch.empty(0, dtype=torch.uint8).set_(dense.untyped_storage())
    return np.array(flat.tolist(), np.uint8)[: dense.numel() * dense.element_size()].view(dtype).reshape(dense.shape)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.l1 = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.l2 = nn.Linear(4, 2)

    def forward(self, x):
        return self.l2(self.norm(self.l1(x)).relu())


class TestTorch(ModuleContract, LikeBackendContract):
    backend = TORCH
    dtypes = HELD

    def tensor(self, array):
        name = next(row.torch for row in DTYPES if row.numpy == array.dtype)
        dtype = getattr(torch, name)
        if not array.size:
            return torch.empty(array.shape, dtype=dtype)
        raw = torch.tensor(list(array.tobytes()), dtype=torch.uint8)
        return raw.view(dtype).reshape(array.shape)

    def array(self, tensor):
        return to_array(tensor)

    def module(self):
        return Net()


def cross(tensor):
    return TORCH.to_tree({"t": tensor})["t"].numpy()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).reshape(2, 3).t(),
        torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
        torch.arange(3.0).expand(4, 3),
        torch.arange(10.0)[3:7],
        torch.arange(10.0)[::3],
        torch.arange(6, dtype=torch.bfloat16).reshape(2, 3).t(),
        torch.arange(3, dtype=torch.bfloat16).expand(2, 3),
        torch.tensor([1 + 2j, 3 - 1j]).conj(),
        torch.tensor([1 + 2j, 3 - 1j]).conj().imag,
        torch.tensor([1 + 2j, 3 - 1j]).real,
        torch.ones(3, requires_grad=True),
        torch.tensor(7.5, dtype=torch.bfloat16),
        torch.empty(0, 3),
        nn.Parameter(torch.ones(2, 2, dtype=torch.float16)),
    ],
    ids=lambda tensor: f"{tensor.dtype}-{tuple(tensor.stride())}",
)
def test_a_tensor_of_any_layout_gives_its_values(tensor):
    assert same_bits(cross(tensor), to_array(tensor))


def test_bits_of_a_nan_survive():
    bits = torch.tensor([0x7FC1, 0x7F81, -1], dtype=torch.int16)
    array = cross(bits.view(torch.bfloat16))
    assert array.dtype == ml_dtypes.bfloat16
    assert array.view(np.int16).tolist() == bits.tolist()
    assert TORCH.from_tree(LazyTensor.from_array(array)).view(torch.int16).tolist() == bits.tolist()


def test_memory_is_shared_with_numpy_both_ways():
    tensor = torch.zeros(3)
    array = cross(tensor)
    tensor[0] = 5
    assert array[0] == 5
    TORCH.from_tree(LazyTensor.from_array(array))[1] = 6
    assert tensor.tolist() == [5, 6, 0]


def test_a_read_only_array_is_copied():
    array = np.zeros(3, np.float32)
    array.flags.writeable = False
    TORCH.from_tree(LazyTensor.from_array(array))[0] = 1
    assert array[0] == 0


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda: torch.eye(2).to_sparse(), "sparse_coo tensor"),
        (lambda: torch.empty(2, device="meta"), "a tensor on the meta device"),
        (lambda: nn.LazyLinear(2).weight, "an uninitialized tensor"),
    ],
    ids=["sparse", "meta", "lazy"],
)
def test_a_tensor_without_dense_memory_is_refused_by_key(make, found):
    with pytest.raises(ValueRefusedError, match=f"^model/w: found .*{found}, expected a dense one"):
        TORCH.to_tree({"model": {"w": make()}})


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_a_quantized_tensor_is_refused_by_key():
    with pytest.raises(ValueRefusedError, match=r"^w: found a quantized tensor"):
        TORCH.to_tree({"w": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)})


@pytest.mark.filterwarnings("ignore:ComplexHalf support")
def test_a_dtype_without_a_row_is_refused_by_key():
    with pytest.raises(DtypeRefusedError, match=r"^w: found torch\.complex32"):
        TORCH.to_tree({"w": torch.zeros(2, dtype=torch.complex32)})


@pytest.mark.skipif(hasattr(torch, "uint16"), reason="this torch has every dtype of the table")
def test_a_dtype_that_this_torch_lacks_is_refused_by_key():
    with pytest.raises(DtypeRefusedError, match=r"^w: found uint16, expected one of torch"):
        TORCH.from_tree({"w": LazyTensor.from_array(np.ones(2, np.uint16))})


def test_views_of_one_storage_share_it_after_the_round_trip():
    whole = torch.arange(6.0)
    tree = TORCH.to_tree({"head": whole[:4], "tail": whole[2:], "apart": torch.arange(6.0)})
    assert tree["head"].alias == tree["tail"].alias != tree["apart"].alias
    assert tree["head"].identity != tree["tail"].identity
    for backend in (TORCH, backend_named("numpy")):
        back = backend.from_tree(tree)
        back["head"][2] = 9
        assert back["tail"][0] == 9
        whole[2] = 2


def test_channels_last_weights_stay_so():
    weight = torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last)
    back = TORCH.from_tree(TORCH.to_tree(weight))
    assert back.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(back, weight)


def test_a_view_that_leaves_its_storage_is_refused_by_torch():
    tree = TORCH.to_tree({"a": torch.arange(6.0)[:4], "b": torch.arange(6.0)[2:]})
    inside = tree["b"].source
    outside = Strided(tree["a"].source.storage, inside.dtype, inside.shape, 5, inside.strides)
    forged = tree["b"].with_(source=outside, alias=tree["a"].alias)
    with pytest.raises(RuntimeError, match="out of bounds"):
        TORCH.from_tree({"a": tree["a"], "b": forged})


def test_tied_parameters_are_tied_in_the_tree_and_filled_from_one_name():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(5, 3)
            self.head = nn.Linear(3, 5, bias=False)
            self.head.weight = self.embed.weight

    tree = TORCH.to_tree(Tied())
    assert tree["embed.weight"].identity == tree["head.weight"].identity
    model = Tied()
    report = TORCH.load_into(model, {"head.weight": LazyTensor.from_array(np.ones((5, 3), np.float32))})
    assert report.complete
    assert model.embed.weight.tolist() == np.ones((5, 3)).tolist()


def test_a_module_is_loaded_in_place_and_keeps_requires_grad():
    model = Net()
    model.l1.weight.requires_grad_(False)
    weight, address = model.l1.weight, model.l1.weight.data_ptr()
    TORCH.load_into(model, TORCH.to_tree(Net()))
    assert model.l1.weight is weight
    assert (weight.data_ptr(), weight.requires_grad, model.l2.weight.requires_grad) == (address, False, True)


def test_extra_state_crosses():
    class Counting(nn.Linear):
        seen = 0

        def get_extra_state(self):
            return {"seen": self.seen}

        def set_extra_state(self, state):
            self.seen = state["seen"]

    source, target = Counting(2, 2), Counting(2, 2)
    source.seen = 3
    TORCH.load_into(target, TORCH.to_tree(source))
    assert target.seen == 3


def test_keys_of_the_old_weight_norm_load_as_they_do_in_torch():
    parametrizations = pytest.importorskip("torch.nn.utils.parametrizations")
    if not hasattr(parametrizations, "weight_norm"):
        pytest.skip("this torch has the old weight_norm alone")
    model = parametrizations.weight_norm(nn.Linear(3, 2))
    tree = TORCH.to_tree({"bias": torch.ones(2), "weight_g": torch.full((2, 1), 2.0), "weight_v": torch.ones(2, 3)})
    report = TORCH.load_into(model, tree)
    assert (report.complete, report.loaded) == (True, ("bias", "weight_g", "weight_v"))
    assert model.parametrizations.weight.original0.tolist() == [[2.0], [2.0]]


def test_a_batch_norm_without_its_counter_loads_as_it_does_in_torch():
    tree = TORCH.to_tree(Net())
    del tree["norm.num_batches_tracked"]
    model = Net()
    assert TORCH.load_into(model, tree).complete
    assert same_bits(to_array(model.l1.weight), tree["l1.weight"].numpy())


def test_a_module_of_another_dtype_is_a_mismatch_that_names_the_cast():
    with pytest.raises(MismatchError, match=r"found float32 \(4, 3\), expected float16.*dtype='float16'") as caught:
        TORCH.load_into(Net().half(), TORCH.to_tree(Net()))
    assert len(caught.value.report.mismatched) == 8


def test_a_part_of_a_training_checkpoint_is_pointed_to():
    with pytest.raises(MismatchError, match="load the part under 'model_state_dict' alone"):
        TORCH.load_into(Net(), {"model_state_dict": TORCH.to_tree(Net()), "epoch": 3})


def test_a_module_on_the_meta_device_is_refused():
    with pytest.raises(ValueRefusedError, match=r"^l1\.weight: found a tensor on the meta device"):
        TORCH.load_into(Net().to("meta"), TORCH.to_tree(Net()))


def test_an_expanded_buffer_is_a_mismatch_before_anything_is_touched():
    model = Net()
    tree = TORCH.to_tree(model) | {"mask": LazyTensor.from_array(np.ones((2, 3), np.float32))}
    model.register_buffer("mask", torch.zeros(3).expand(2, 3))
    before = model.l1.weight.clone()
    tree["l1.weight"] = LazyTensor.from_array(np.zeros((4, 3), np.float32))
    with pytest.raises(MismatchError, match=r"mask: found float32 \(2, 3\), expected a place for each element.*clone"):
        TORCH.load_into(model, tree)
    assert torch.equal(model.l1.weight, before)


def trained():
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    return model, optimizer, scheduler


def step(model, optimizer, scheduler):
    torch.manual_seed(0)
    optimizer.zero_grad()
    model(torch.randn(8, 3)).square().sum().backward()
    optimizer.step()
    scheduler.step()


def test_a_whole_training_state_crosses_and_training_goes_on_the_same():
    names = ("model", "optimizer", "scheduler")
    live, fresh = (dict(zip(names, trained(), strict=True)) for _ in range(2))
    step(*live.values())
    tree = TORCH.to_tree({**live, "epoch": 1})
    assert set(tree["optimizer"]["state"]) == set(range(6))
    target = {**fresh, "epoch": 0}
    assert TORCH.load_into(target, tree).complete
    assert target["epoch"] == 1
    for _ in range(3):
        step(*live.values())
        step(*fresh.values())
    for one, other in zip(live["model"].parameters(), fresh["model"].parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_loaded_optimizer_shares_no_memory_with_its_source():
    live, fresh = trained(), trained()
    step(*live)
    tree = TORCH.to_tree(live[1])
    before = tree["state"][0]["exp_avg"].numpy().copy()
    TORCH.load_into(fresh[1], tree)
    step(*fresh)
    assert same_bits(tree["state"][0]["exp_avg"].numpy(), before)


def test_an_optimizer_of_another_model_is_a_mismatch():
    model, optimizer, _ = trained()
    other = torch.optim.Adam(nn.Linear(2, 2).parameters())
    with pytest.raises(MismatchError, match=r"parameter groups of sizes \[6\], expected \[2\]"):
        TORCH.load_into({"model": model, "optimizer": other}, TORCH.to_tree({"model": model, "optimizer": optimizer}))


def test_moments_of_another_dtype_are_a_mismatch_and_never_cast():
    live = trained()
    step(*live)
    half = trained()
    half[0].half()
    with pytest.raises(MismatchError, match=r"^Adam: .*state/0/exp_avg: found float32 \(4, 3\), expected float16"):
        TORCH.load_into(half[1], TORCH.to_tree(live[1]))


@pytest.mark.filterwarnings("ignore")  # torch's own, of schedulers that step before their optimizer
@pytest.mark.parametrize(
    "make",
    [
        lambda schedulers, optimizer: schedulers.MultiStepLR(optimizer, [2, 5]),
        lambda schedulers, optimizer: schedulers.OneCycleLR(optimizer, 0.1, total_steps=20),
        lambda schedulers, optimizer: schedulers.ReduceLROnPlateau(optimizer, patience=1),
        lambda schedulers, optimizer: schedulers.SequentialLR(
            optimizer, [schedulers.ConstantLR(optimizer), schedulers.MultiStepLR(optimizer, [2, 5])], [3]
        ),
    ],
    ids=["milestones", "functions", "plateau", "nested"],
)
def test_a_scheduler_goes_on_where_it_was(make):
    def at_the_start():
        optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1, momentum=0.9)
        return {"optimizer": optimizer, "scheduler": make(torch.optim.lr_scheduler, optimizer)}

    def advance(scheduler):
        plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
        scheduler.step(1.0) if plateau else scheduler.step()

    live, fresh = at_the_start(), at_the_start()
    for _ in range(4):
        advance(live["scheduler"])
    TORCH.load_into(fresh, TORCH.to_tree(live))
    for _ in range(4):
        advance(live["scheduler"])
        advance(fresh["scheduler"])
        assert live["optimizer"].param_groups[0]["lr"] == fresh["optimizer"].param_groups[0]["lr"]
    kinds = [{name: type(value) for name, value in one["scheduler"].state_dict().items()} for one in (live, fresh)]
    assert kinds[0] == kinds[1]


def test_scalars_beside_the_moments_keep_their_own_dtype():
    def at_the_start():
        model = nn.Linear(3, 2).bfloat16()
        return model, torch.optim.NAdam(model.parameters())

    (model, optimizer), (fresh, other) = at_the_start(), at_the_start()
    model(torch.ones(4, 3, dtype=torch.bfloat16)).sum().backward()
    optimizer.step()
    tree = TORCH.to_tree(optimizer)
    assert tree["state"][0]["mu_product"].dtype.name == "float32"
    TORCH.load_into(other, tree)
    assert torch.equal(other.state[fresh.weight]["mu_product"], optimizer.state[model.weight]["mu_product"])


@pytest.mark.parametrize(
    ("index", "state"),
    [
        (1, {"state": {"step": 1}, "param_groups": [{"_options": {}, "params": list(range(6))}]}),
        (2, {"last_step": 3, "base_lrs": [0.1]}),
    ],
    ids=["optimizer", "scheduler"],
)
def test_another_frameworks_training_state_is_a_mismatch(index, state):
    with pytest.raises(MismatchError, match="it is another framework's; translate it first"):
        TORCH.load_into(trained()[index], state)


def test_an_object_found_by_torch_alone_is_owned_by_it():
    _, optimizer, scheduler = trained()
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    for obj in (optimizer, scheduler, plateau, Net(), nn.Parameter(torch.ones(1))):
        assert TORCH.owns(obj)
        assert backend_of({"deep": [obj]}) is TORCH


def test_new_values_are_laid_out_as_the_old_ones():
    like = {
        "last": torch.zeros(1, 2, 3, 4).to(memory_format=torch.channels_last),
        "weight": nn.Parameter(torch.zeros(2), requires_grad=False),
        "leaf": torch.zeros(2, requires_grad=True),
        "expanded": torch.zeros(3).expand(2, 3),
        "half": torch.zeros(2, dtype=torch.bfloat16),
        "seen": np.zeros(2, np.int64),
    }
    source = {
        "last": torch.arange(24.0).reshape(1, 2, 3, 4),
        "weight": torch.ones(2),
        "leaf": torch.ones(2),
        "expanded": torch.arange(6.0).reshape(2, 3),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "seen": torch.arange(2),
    }
    new, report = TORCH.loaded_like(like, TORCH.to_tree(source))
    assert report.ok
    assert all(torch.equal(torch.as_tensor(new[name]), value) for name, value in source.items())
    assert new["last"].is_contiguous(memory_format=torch.channels_last)
    assert (type(new["weight"]), new["weight"].requires_grad) == (nn.Parameter, False)
    assert (new["leaf"].requires_grad, new["leaf"].is_leaf) == (True, True)
    assert isinstance(new["seen"], np.ndarray)
    assert not any(map(torch.count_nonzero, (torch.as_tensor(value) for value in like.values())))


def test_a_template_of_another_shape_or_dtype_lends_its_device_alone():
    back = TORCH.from_tree({"w": LazyTensor.from_array(np.ones((2, 3)))}, like={"w": torch.zeros(5)})
    assert (back["w"].dtype, tuple(back["w"].shape), back["w"].sum()) == (torch.float64, (2, 3), 6)


def test_a_state_dict_comes_anew_in_its_own_type():
    like, source = Net().state_dict(), Net()
    new, report = TORCH.loaded_like(like, TORCH.to_tree(source))
    assert (type(new), new._metadata, list(new)) == (type(like), like._metadata, list(like))
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in new.items())
    assert set(report.loaded) == set(like)


def test_an_optimizers_state_takes_named_tuples_from_the_optimizer():
    class State(NamedTuple):
        count: int
        mean: torch.Tensor

    class Odd(torch.optim.SGD):
        state_of_mine = State(0, torch.zeros(2))

        def state_dict(self):
            return {**super().state_dict(), "mine": self.state_of_mine}

        def load_state_dict(self, state):
            self.state_of_mine = state.pop("mine")

    source, target = (Odd([nn.Parameter(torch.ones(2))], lr=0.1) for _ in range(2))
    source.state_of_mine = State(3, torch.ones(2))
    with pytest.warns(CheckpointWarning, match=r"^optimizer/mine \(.*State\)"):
        tree = TORCH.to_tree({"optimizer": source})
    TORCH.load_into({"optimizer": target}, tree)
    assert (type(target.state_of_mine), target.state_of_mine.count) == (State, 3)
    assert target.state_of_mine.mean.tolist() == [1, 1]
    assert target.state_of_mine.mean is not source.state_of_mine.mean


def test_a_version_string_is_kept_as_text():
    tree = TORCH.to_tree({"torch": torch.__version__, "size": torch.ones(2, 3).shape})
    assert (type(tree["torch"]), tree["torch"]) == (str, str(torch.__version__))
    assert tree["size"] == (2, 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_tensors_pass_through_the_host_and_back():
    for dtype in HELD:
        array = samples(dtype)
        live = TORCH.from_tree({"a": LazyTensor.from_array(array)}, device="cuda")
        assert live["a"].is_cuda
        assert same_bits(TORCH.to_tree(live)["a"].numpy(), array)
    new, _ = TORCH.loaded_like(live, {"a": LazyTensor.from_array(samples(HELD[-1]))})
    assert new["a"].is_cuda
    module = Net().cuda()
    assert TORCH.load_into(module, TORCH.to_tree(Net())).complete
    assert module.l1.weight.is_cuda
