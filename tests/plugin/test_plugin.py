"""A stranger's backend and format are found by entry point, hold the contract, and can break nothing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOY = Path(__file__).parent / "toy"
ENTRY_POINTS = """\
[multiframe_ckpt.backends]
toyframe = toy_adapter:ToyBackend
frozenframe = frozen_adapter:FrozenBackend

[multiframe_ckpt.formats]
toy = toy_format:ToyFormat
"""


def install(site, entry_points, name="toy_plugin"):
    """Makes ``site`` a folder of installed packages, as pip would leave it."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)


@pytest.fixture
def site(tmp_path):
    for source in TOY.glob("*.py"):
        shutil.copy(source, tmp_path)
    return tmp_path


def python(site, *arguments):
    """Runs a fresh interpreter in which what lies in ``site`` is installed; entry points are read once a process."""
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, *arguments], env=environment, cwd=site, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_a_plugin_holds_the_shipped_contract(site):
    install(site, ENTRY_POINTS)
    options = ["-q", "-rs", "-W", "error", "-p", "no:cacheprovider"]
    done = python(site, "-m", "pytest", *options, str(site / "suite_of_toy.py"))
    assert " passed" in done.stdout
    reasons = {line.rpartition(": ")[2] for line in done.stdout.splitlines() if line.startswith("SKIPPED")}
    assert reasons == {"the format holds tensors only", "for formats that are folders"}  # and no backend's


def test_a_plugin_backend_is_listed_and_found_by_its_objects(site):
    install(site, ENTRY_POINTS)
    code = (
        "import sys\n"
        "from multiframe_ckpt.backend import backend_of, backends\n"
        "assert backend_of({'epoch': 1}).name == 'numpy' and 'toy_adapter' not in sys.modules\n"
        "import toyframe\n"
        "assert backend_of({'w': [toyframe.Tensor([1.0], (1,))]}).name == 'toyframe'\n"
        "print(*[(one.name, one.version) for one in backends() if one.name == 'toyframe'])\n"
    )
    assert python(site, "-W", "error", "-c", code).stdout == "('toyframe', '4.2')\n"


def test_a_run_of_values_and_named_tuples_goes_on_where_it_was(site):
    install(site, ENTRY_POINTS)
    code = (
        "import frozenframe, numpy as np, warnings\n"
        "import multiframe_ckpt as mfc\n"
        "def after(run, count):\n"
        "    for _ in range(count): run = frozenframe.step(*run)\n"
        "    return run\n"
        "params = {'w': frozenframe.Array(np.ones(3, np.float32))}\n"
        "run = after((params, frozenframe.start(params)), 3)\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    mfc.save({'params': run[0], 'state': run[1]}, 'run.pt')\n"
        "print(*(str(warning.message).partition(':')[0] for warning in caught))\n"
        "fresh = {'params': params, 'state': frozenframe.start(params)}\n"
        "new, report = mfc.open('run.pt').loaded_like(fresh)\n"
        "print(report, [type(part).__name__ for part in new['state']], fresh['params'] is params)\n"
        "gone_on, straight = after(tuple(new.values()), 2), after(run, 2)\n"
        "assert np.asarray(gone_on[0]['w']).tolist() == np.asarray(straight[0]['w']).tolist() != [1, 1, 1]\n"
        "try: mfc.open('run.pt').load_into(fresh)\n"
        "except ValueError as problem: print(problem)\n"
    )
    named, report, refusal = python(site, "-W", "error", "-c", code).stdout.splitlines()
    assert named == "state/0 (frozenframe.Average), state/1 (frozenframe.Empty)"
    assert report == "4 loaded ['Average', 'Empty'] True"
    assert refusal == (
        "params/w: found a frozenframe.Array, a value that cannot be filled in place, expected what can; "
        "use loaded_like(), which returns new values"
    )


def test_a_plugin_format_is_found_by_name_suffix_and_content(site):
    install(site, ENTRY_POINTS)
    code = (
        "from pathlib import Path\n"
        "import numpy as np\n"
        "import multiframe_ckpt as mfc\n"
        "from multiframe_ckpt.formats import format_at, format_named\n"
        "path = Path('model.toy')\n"
        "mfc.save({'w': np.float32([1, 2])}, path)\n"
        "path = path.rename('model')\n"
        "print(format_named('toy').name, format_at(path).name, mfc.open(path).tree['w'].numpy())\n"
    )
    assert python(site, "-W", "error", "-c", code).stdout == "toy toy [1. 2.]\n"


def test_a_broken_plugin_is_a_warning_and_the_rest_works(site):
    install(site, ENTRY_POINTS.replace("toy_adapter", "no_such_module").replace("toy_format", "no_such_module"))
    code = (
        "import toyframe\n"
        "from pathlib import Path\n"
        "from multiframe_ckpt.backend import backend_of, backends\n"
        "from multiframe_ckpt.formats import format_for\n"
        "print(backend_of({'w': 1}).name)\n"
        "print(*[(one.available, one.reason) for one in backends() if one.name == 'toyframe'])\n"
        "list(map(print, {'safetensors': format_for(Path('model.safetensors')).name}))\n"
        "try: format_for(Path('model.toy'))\n"
        "except ValueError as problem: print(type(problem).__name__)\n"
    )
    done = python(site, "-c", code)
    numpy, record, safetensors, unknown = done.stdout.splitlines()
    assert (numpy, safetensors, unknown) == ("numpy", "safetensors", "UnknownFormatError")
    assert "No module named 'no_such_module'" in record
    assert "repair or remove the plugin" in record
    assert "backend left out: toyframe: found ModuleNotFoundError" in done.stderr
    assert "format plugin 'toy' does not load" in done.stderr


def test_a_plugin_cannot_take_a_built_in_name(site):
    install(
        site,
        "[multiframe_ckpt.backends]\nnumpy = toy_adapter:ToyBackend\n"
        "[multiframe_ckpt.formats]\nsafetensors = toy_format:ToyFormat\n",
        name="thief",
    )
    code = (
        "from multiframe_ckpt.backend import BACKENDS, backend_named\n"
        "from multiframe_ckpt.formats import FORMATS, format_named\n"
        "BACKENDS.names(), FORMATS.names()\n"
        "print(type(backend_named('numpy')).__name__, type(format_named('safetensors')).__name__)\n"
    )
    done = python(site, "-c", code)
    assert done.stdout == "NumpyBackend SafetensorsFormat\n"
    assert "asks for the built-in name 'numpy' and is ignored; give it another name" in done.stderr
    assert "asks for the built-in name 'safetensors' and is ignored" in done.stderr
