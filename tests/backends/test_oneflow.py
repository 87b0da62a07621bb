"""The OneFlow adapter keeps the contract, and carries state dicts to and from torch in memory."""

import ml_dtypes
import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.backend import backend_named, backend_of
from multiframe_ckpt.dtypes import DTYPES
from multiframe_ckpt.errors import DtypeRefusedError, MismatchError, UnavailableError, ValueRefusedError
from multiframe_ckpt.testing.backends import LikeBackendContract, ModuleContract, same_bits, samples
from multiframe_ckpt.tree import LazyTensor

try:
    ONEFLOW = backend_named("oneflow")
except UnavailableError as problem:
    pytest.skip(str(problem), allow_module_level=True)

import oneflow as flow

nn = flow.nn
HELD = ("bool", "uint8", "int8", "int32", "int64", "float16", "float32", "float64", "bfloat16")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.l1 = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.l2 = nn.Linear(4, 2)

    def forward(self, x):
        return self.l2(self.norm(self.l1(x)).relu())


class TestOneflow(ModuleContract, LikeBackendContract):
    backend = ONEFLOW
    dtypes = HELD

    def tensor(self, array):
        if array.dtype == ml_dtypes.bfloat16:
            return flow.tensor(array.astype(np.float32), dtype=flow.bfloat16)
        return flow.tensor(array)

    def array(self, tensor):
        array = tensor.numpy()
        return array.astype(ml_dtypes.bfloat16) if tensor.dtype == flow.bfloat16 else array

    def module(self):
        return Net()


def test_memory_is_shared_with_numpy_both_ways():
    tensor = flow.zeros(3)
    array = ONEFLOW.to_tree(tensor).numpy()
    ONEFLOW.from_tree(LazyTensor.from_array(array))[1] = 6
    assert tensor.numpy().tolist() == [0, 6, 0]


def test_a_transposed_view_is_not_taken_for_its_base():
    base = flow.tensor(np.arange(4, dtype=np.float32).reshape(2, 2))
    tree = ONEFLOW.to_tree({"base": base, "view": base.t()})
    assert tree["base"].identity != tree["view"].identity
    assert tree["view"].numpy().tolist() == [[0, 2], [1, 3]]


def test_what_is_saved_is_the_tensor_as_it_is_then(tmp_path):
    model = Net()
    checkpoint = mfc.Checkpoint.from_objects(model)
    with flow.no_grad():
        model.l1.weight.fill_(3)
    model.l2.weight.data = flow.full((2, 4), 5.0)  # other memory than was there when the checkpoint was made
    checkpoint.save(tmp_path / "model.pt")
    saved = mfc.open(tmp_path / "model.pt").tensors()
    assert saved["l1.weight"].numpy().tolist() == [[3] * 3] * 4
    assert saved["l2.weight"].numpy().tolist() == [[5] * 4] * 2


def test_every_finite_bfloat16_crosses_exactly():
    bits = np.arange(1 << 16, dtype=np.uint16)
    every = bits[bits & 0x7F80 != 0x7F80].view(ml_dtypes.bfloat16)
    live = ONEFLOW.from_tree(LazyTensor.from_array(every))
    assert live.dtype == flow.bfloat16
    assert same_bits(ONEFLOW.to_tree(live).numpy(), every)


@pytest.mark.parametrize("dtype", [row.name for row in DTYPES if row.name not in HELD])
def test_a_dtype_that_oneflow_lacks_is_refused_by_key(dtype):
    with pytest.raises(DtypeRefusedError, match=f"^w: found {dtype}, expected one of OneFlow .* dtype='"):
        ONEFLOW.from_tree({"w": LazyTensor.from_array(samples(dtype))})


def test_a_global_tensor_is_refused_by_key():
    tensor = flow.ones(2).to_global(placement=flow.placement("cpu", [0]), sbp=flow.sbp.broadcast)
    with pytest.raises(ValueRefusedError, match=r"^w: found a global tensor"):
        ONEFLOW.to_tree({"w": tensor})


def test_tied_parameters_are_tied_in_the_tree_and_filled_from_one_name():
    class Tied(nn.Module):
        def __init__(self, dtype=flow.float32):
            super().__init__()
            self.one = nn.Parameter(flow.zeros(2, 2, dtype=dtype))
            self.two = self.one

    for dtype in (flow.float32, flow.bfloat16):
        tree = ONEFLOW.to_tree(Tied(dtype))
        assert tree["one"].identity == tree["two"].identity
    model = Tied()
    assert ONEFLOW.load_into(model, {"two": LazyTensor.from_array(np.ones((2, 2), np.float32))}).complete
    assert model.one.numpy().sum() == 4


def test_new_values_are_as_the_old_ones():
    like = {"w": nn.Parameter(flow.zeros(2)), "fixed": flow.zeros(2), "half": flow.zeros(2, dtype=flow.bfloat16)}
    source = {"w": flow.ones(2), "fixed": flow.ones(2), "half": flow.ones(2, dtype=flow.bfloat16)}
    new, report = ONEFLOW.loaded_like(like, ONEFLOW.to_tree(source))
    assert report.ok
    assert (type(new["w"]), new["w"].requires_grad, new["fixed"].requires_grad) == (nn.Parameter, True, False)
    assert all(value.dtype == source[name].dtype and value.numpy().tolist() == [1, 1] for name, value in new.items())
    assert all(value.numpy().tolist() == [0, 0] for value in like.values())


def test_a_shape_is_a_plain_tuple_without_a_warning():
    assert ONEFLOW.to_tree({"size": flow.ones(2, 3).shape}) == {"size": (2, 3)}


def test_a_module_of_another_dtype_is_a_mismatch_that_names_the_cast():
    with pytest.raises(MismatchError, match=r"found float32 \(4, 3\), expected float64.*dtype='float64'"):
        ONEFLOW.load_into(Net().to(flow.float64), ONEFLOW.to_tree(Net()))


def test_modules_optimizers_and_schedulers_are_owned():
    optimizer = flow.optim.SGD(Net().parameters(), lr=0.1)
    step = flow.optim.lr_scheduler.StepLR(optimizer, 1)
    plateau = flow.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    for obj in (optimizer, step, plateau, Net(), nn.Parameter(flow.ones(1))):
        assert ONEFLOW.owns(obj)
        assert backend_of([obj]) is ONEFLOW


def trained():
    model = Net()
    optimizer = flow.optim.Adam(model.parameters(), lr=0.1)
    return model, optimizer, flow.optim.lr_scheduler.StepLR(optimizer, 1)


def step(model, optimizer, scheduler):
    x = flow.tensor(np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32))
    optimizer.zero_grad()
    model(x).square().sum().backward()
    optimizer.step()
    scheduler.step()


def test_a_whole_training_state_crosses_and_training_goes_on_the_same():
    names = ("model", "optimizer", "scheduler")
    live, fresh = (dict(zip(names, trained(), strict=True)) for _ in range(2))
    step(*live.values())
    tree = ONEFLOW.to_tree(live)
    assert tree["optimizer"]["state"]["step"] == 1
    assert set(tree["optimizer"]["state"]) == {"step", *range(6)}
    assert ONEFLOW.load_into(fresh, tree).complete
    before = tree["optimizer"]["state"][0]["exp_avg"].numpy().copy()
    for _ in range(3):
        step(*fresh.values())
    assert same_bits(tree["optimizer"]["state"][0]["exp_avg"].numpy(), before)
    for _ in range(3):
        step(*live.values())
    for one, other in zip(live["model"].parameters(), fresh["model"].parameters(), strict=True):
        assert np.array_equal(one.numpy(), other.numpy())


def test_an_optimizer_state_of_torch_is_a_mismatch():
    state = {"state": {}, "param_groups": [{"lr": 0.1, "params": list(range(6))}]}
    with pytest.raises(MismatchError, match="it is another framework's; translate it first"):
        ONEFLOW.load_into(trained()[1], state)


def test_moments_of_another_dtype_are_a_mismatch():
    live, double = trained(), trained()
    double[0].to(flow.float64)
    step(*live)
    with pytest.raises(MismatchError, match=r"state/0/exp_avg: found float32 \(4, 3\), expected float64"):
        ONEFLOW.load_into(double[1], ONEFLOW.to_tree(live[1]))


@pytest.mark.skipif(flow.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_a_gpu_that_is_not_there_is_an_error_and_not_the_end_of_the_process():
    with pytest.raises(UnavailableError, match=r"device 'cuda:0': found no GPU.*device='cpu'"):
        ONEFLOW.from_tree({"a": LazyTensor.from_array(samples("float32"))}, device="cuda:0")


@pytest.mark.skipif(not flow.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_tensors_pass_through_the_host_and_back():
    array = samples("float32")
    live = ONEFLOW.from_tree({"a": LazyTensor.from_array(array)}, device="cuda")
    assert live["a"].is_cuda
    assert same_bits(ONEFLOW.to_tree(live)["a"].numpy(), array)


class TestBesideTorch:
    """One process, both frameworks."""

    @pytest.fixture
    def torch_net(self):
        torch = pytest.importorskip("torch")
        linear, norm = torch.nn.Linear, torch.nn.BatchNorm1d

        class TorchNet(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.l1, self.norm, self.l2 = linear(3, 4), norm(4), linear(4, 2)

            def forward(self, x):
                return self.l2(self.norm(self.l1(x)).relu())

        net = TorchNet()
        net(torch.randn(8, 3))  # so that the running statistics are not the initial ones
        return net.eval()

    def test_the_same_network_gives_the_same_outputs_and_comes_back(self, torch_net):
        torch = pytest.importorskip("torch")
        torch_backend = backend_of(torch_net)
        tree = torch_backend.to_tree(torch_net)
        net = Net().eval()
        assert ONEFLOW.load_into(net, tree).complete
        x = np.random.default_rng(0).standard_normal((16, 3)).astype(np.float32)
        there = net(flow.tensor(x)).numpy()
        assert np.allclose(there, torch_net(torch.tensor(x)).detach().numpy(), rtol=1e-5, atol=1e-6)

        fresh = type(torch_net).__new__(type(torch_net))
        fresh.__init__()
        assert torch_backend.load_into(fresh, ONEFLOW.to_tree(net)).complete
        for key, tensor in fresh.state_dict().items():
            assert same_bits(tensor.numpy(), tree[key].numpy())

    def test_a_state_dict_becomes_the_other_frameworks(self, torch_net):
        state = ONEFLOW.from_tree(backend_of(torch_net).to_tree(torch_net.state_dict()))
        assert backend_of(state) is ONEFLOW
        Net().load_state_dict(state)

    def test_a_mix_of_the_two_is_refused_by_name(self, torch_net):
        with pytest.raises(ValueRefusedError, match=r"two frameworks, torch at 'a' and oneflow at 'b/0', expected one"):
            backend_of({"a": torch_net, "b": [flow.ones(1)]})
        with pytest.raises(ValueRefusedError, match=r"^b: found torch\.Tensor, expected a tensor of one framework"):
            ONEFLOW.to_tree({"a": flow.ones(1), "b": torch_net.l1.bias.detach()})
