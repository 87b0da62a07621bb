"""The table of backends: what is here, why one is not, and whose an object is, with no framework imported for it."""

import subprocess
import sys
from functools import cache

import numpy as np
import pytest

import multiframe_ckpt.backend.table
from multiframe_ckpt.backend import BACKENDS, BackendRecord, backend_named, backend_of, backends, default_backend
from multiframe_ckpt.errors import UnavailableError, UnknownNameError, ValueRefusedError
from multiframe_ckpt_numpy import NumpyBackend


@pytest.fixture
def afresh(monkeypatch):
    """No backend is made yet, and none that the test makes is kept: gives ``backend_named`` without its memory."""
    fresh = cache(backend_named.__wrapped__)
    monkeypatch.setattr(multiframe_ckpt.backend.table, "backend_named", fresh)
    return fresh


@pytest.fixture
def broken_oneflow(tmp_path, monkeypatch, afresh):
    """OneFlow's placeholder wheel, as it lies on Python 3.11 and newer."""
    (tmp_path / "oneflow").mkdir()
    (tmp_path / "oneflow" / "__init__.py").write_text("raise RuntimeError('not the real one\\nsecond line')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "oneflow"]:
        monkeypatch.delitem(sys.modules, name)


def test_the_built_in_backends_come_first():
    assert BACKENDS.names()[:3] == ["numpy", "torch", "oneflow"]


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(UnknownNameError, match=r"'torhc', expected one of numpy, torch, oneflow.*did you mean 'torch'"):
        backend_named("torhc")


def test_a_broken_framework_is_unavailable_with_the_reason_and_the_way_out(broken_oneflow, afresh):
    with pytest.raises(UnavailableError) as caught:
        afresh("oneflow")
    message = str(caught.value)
    assert message.startswith("oneflow: found RuntimeError: not the real one, expected a working OneFlow; pip install ")
    assert "'oneflow>=0.8'" in message and "'numpy<2'" in message
    assert ("under Python 3.10" in message) == (sys.version_info >= (3, 11))


def test_an_absent_framework_is_unavailable_with_the_way_out(monkeypatch, afresh):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UnavailableError, match=r"^torch: found ModuleNotFoundError: .*; pip install 'torch>=2.0'$"):
        afresh("torch")


def test_the_list_of_backends_says_why_one_is_not_there(broken_oneflow):
    records = {record.name: record for record in backends()}
    assert records["numpy"] == BackendRecord("numpy", available=True, version=np.__version__)
    assert not records["oneflow"].available
    assert "not the real one" in records["oneflow"].reason


def test_an_object_of_no_framework_goes_to_numpy():
    for obj in (1, None, {}, {"a": [np.ones(2), np.float32(1)]}, object()):
        assert backend_of(obj) is backend_named("numpy")


def test_recognising_an_object_imports_no_framework():
    code = (
        "import sys\n"
        "import numpy as np\n"
        "from multiframe_ckpt.backend import backend_of\n"
        "backend_of({'w': np.ones(2)}).to_tree({'w': np.ones(2)})\n"
        "print(sorted({'torch', 'oneflow', 'multiframe_ckpt_torch', 'multiframe_ckpt_oneflow'} & set(sys.modules)))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_an_adapter_can_be_imported_without_its_framework():
    code = (
        "import sys\n"
        "import multiframe_ckpt_torch, multiframe_ckpt_oneflow\n"
        "print(sorted({'torch', 'oneflow'} & set(sys.modules)))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_framework_that_broke_half_way_is_warned_about_and_left_out(monkeypatch, afresh):
    monkeypatch.setitem(sys.modules, "torch", type(sys)("torch"))  # a module that has nothing of torch's
    with pytest.warns(UserWarning, match=r"backend left out: torch: found AttributeError"):
        assert backend_of({"a": 1}).name == "numpy"


def test_a_cycle_is_refused_before_anything_overflows():
    cycle: dict[str, object] = {}
    cycle["self"] = cycle
    with pytest.raises(ValueRefusedError, match="nest deeper"):
        backend_of(cycle)


@pytest.fixture
def alone(monkeypatch):
    """As in a program that has imported no framework."""
    for name in BACKENDS.names():
        if name != "numpy":
            monkeypatch.delitem(sys.modules, name, raising=False)


def test_the_default_is_numpy_unless_the_environment_names_another(monkeypatch, alone):
    monkeypatch.delenv("MULTIFRAME_CKPT_BACKEND", raising=False)
    assert default_backend().name == default_backend("torch").name == "numpy"
    monkeypatch.setenv("MULTIFRAME_CKPT_BACKEND", "")
    assert default_backend().name == "numpy"
    monkeypatch.setenv("MULTIFRAME_CKPT_BACKEND", "jaxx")
    with pytest.raises(UnknownNameError, match=r"^MULTIFRAME_CKPT_BACKEND: found backend 'jaxx'"):
        default_backend()


def test_the_default_may_be_a_framework(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setenv("MULTIFRAME_CKPT_BACKEND", "torch")
    assert default_backend("oneflow").name == "torch"


def test_of_several_frameworks_that_are_imported_the_files_own_is_the_default(monkeypatch, alone):
    monkeypatch.delenv("MULTIFRAME_CKPT_BACKEND", raising=False)
    imported = ["torch", "oneflow"]
    monkeypatch.setattr(
        "multiframe_ckpt.backend.table._imported_backends", lambda: [NamedBackend(name) for name in imported]
    )
    assert [default_backend(own).name for own in ("torch", "oneflow", None, "jax")] == [*imported, "numpy", "numpy"]
    imported.remove("oneflow")
    assert [default_backend(own).name for own in ("torch", "oneflow", None, "jax")] == ["torch"] * 4


class NamedBackend(NumpyBackend):
    def __init__(self, name: str) -> None:
        self.name = name
