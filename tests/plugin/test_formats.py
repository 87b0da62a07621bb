"""Formats of strangers: one that is only read, and one of folders, are used as the library's own are."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FORMATS = Path(__file__).parent / "formats"
ENTRY_POINTS = """\
[multiframe_ckpt.formats]
gguf = gguf_format:GgufFormat
npydir = npydir_format:NpyFolderFormat
"""


@pytest.fixture
def site(tmp_path):
    """A folder of installed packages with the plugins in it."""
    for source in FORMATS.glob("*.py"):
        shutil.copy(source, tmp_path)
    info = tmp_path / "formats-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: formats\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return tmp_path


def run(site, *arguments, status=0):
    """Run a fresh interpreter there; entry points are read once a process."""
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-W", "error", *arguments]
    done = subprocess.run(command, env=environment, cwd=site, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done


def python(site, code):
    return run(site, "-c", f"import numpy as np\nimport multiframe_ckpt as mfc\n{code}").stdout.splitlines()


def gguf(path):
    """Write a small file of llama.cpp's with the suite's own writer."""
    array = "np.float32([[1, 2], [3, 4]])"
    code = f"import numpy as np, suite_of_formats as suite; raw = suite.gguf({{'blk.0.weight': (0, {array})}})"
    return f"{code}; open({str(path)!r}, 'wb').write(raw)"


@pytest.mark.parametrize(("name", "most"), [("gguf_format", 60), ("npydir_format", 40)])
def test_the_plugin_is_short(name, most):
    assert len((FORMATS / f"{name}.py").read_text().splitlines()) <= most


def test_the_plugins_hold_the_shipped_contracts(site):
    done = run(site, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", str(site / "suite_of_formats.py"))
    assert " passed" in done.stdout
    reasons = {line.rpartition(": ")[2] for line in done.stdout.splitlines() if line.startswith("SKIPPED")}
    assert reasons == {"a folder's files are replaced together with it"}


def test_a_format_that_is_only_read_is_opened_inspected_sliced_and_converted(site):
    run(site, "-c", gguf("model.gguf"))
    shutil.copy(site / "model.gguf", site / "renamed")
    run(site, "-m", "multiframe_ckpt", "convert", "renamed", "model.safetensors")
    assert python(
        site,
        "checkpoint = mfc.open('renamed')\n"
        "print(checkpoint.meta['format'], checkpoint.meta['metadata'], checkpoint.tree['blk.0.weight'][1].numpy())\n"
        "print(mfc.diff('renamed', 'model.safetensors').equal, mfc.verify('renamed').whole)\n",
    ) == ["gguf {'general.architecture': 'llama'} [3. 4.]", "True True"]


@pytest.mark.parametrize("named", ["format='gguf'", "format=None"])
def test_a_format_that_is_only_read_is_refused_for_writing_before_anything_is_written(site, named):
    said = python(
        site,
        f"try: mfc.save({{'w': np.ones(2)}}, 'new.gguf', {named})\n"
        "except mfc.UnknownFormatError as problem: print(problem)\n"
        "try: mfc.CheckpointManager('run', format='gguf')\n"
        "except mfc.UnknownFormatError as problem: print(problem)\n",
    )
    assert len(said) == 2 and all("only read" in line and "npydir" in line for line in said)
    assert not (site / "new.gguf").exists() and not (site / "run").exists()


def test_the_list_of_formats_says_which_are_only_read(site):
    listed = run(site, "-m", "multiframe_ckpt", "formats").stdout.splitlines()
    use = {line.split()[0]: "only read" if "only read" in line else "read and written" for line in listed[1:]}
    assert {name for name, said in use.items() if said == "only read"} == {"gguf", "pickle"}
    assert use["npydir"] == "read and written"
    told = json.loads(run(site, "-m", "multiframe_ckpt", "formats", "--json").stdout)
    assert [row["name"] for row in told["formats"] if not row["writable"]] == ["pickle", "gguf"]


def test_a_strangers_folder_is_overwritten_unless_something_else_lies_in_it(site):
    said = python(
        site,
        "from pathlib import Path\n"
        "mfc.save({'w': np.ones(2, 'f4'), 'v': np.ones(3)}, 'model', format='npydir')\n"
        "try: mfc.save({'w': np.zeros(2, 'f4')}, 'model', format='npydir')\n"
        "except mfc.TargetExistsError: print('exists')\n"
        "mfc.save({'w': np.zeros(2, 'f4')}, 'model', format='npydir', overwrite=True)\n"
        "print(*sorted(path.name for path in Path('model').iterdir()), mfc.open('model').tree['w'].numpy())\n"
        "Path('model/notes.txt').write_text('mine')\n"
        "try: mfc.save({'w': np.ones(2, 'f4')}, 'model', format='torch', overwrite=True)\n"
        "except mfc.FormatError as problem: print(problem)\n"
        "print(Path('model/notes.txt').read_text(), mfc.open('model').tree['w'].numpy())\n",
    )
    assert said[:2] == ["exists", "0.npy index.json [0. 0.]"]
    assert said[2].startswith("model: found model/notes.txt, expected nothing but a checkpoint")
    assert said[3] == "mine [0. 0.]"


def test_a_managers_checkpoints_in_a_strangers_folders_are_pruned(site):
    said = python(
        site,
        "from pathlib import Path\n"
        "with mfc.CheckpointManager('run', format='npydir', max_to_keep=1) as manager:\n"
        "    for epoch in range(4):\n"
        "        manager.save(epoch, {'w': np.full(2, epoch, 'f4')}, loss=1 / (epoch + 1))\n"
        "    print(*sorted(path.name for path in Path('run').iterdir()))\n",
    )
    assert said == ["best_model checkpoint_epoch_0003 latest_checkpoint"]


def test_a_suffix_of_several_words_is_kept_by_managers_and_asked_for_by_paths(site):
    (site / "dotted_format.py").write_text(
        "from npydir_format import NpyFolderFormat\n"
        "class DottedFormat(NpyFolderFormat):\n"
        "    name, suffixes = 'dotted', ('.npy-folder.v2',)\n"
    )
    with (site / "formats-1.0.dist-info" / "entry_points.txt").open("a") as file:
        file.write("dotted = dotted_format:DottedFormat\n")
    said = python(
        site,
        "from pathlib import Path\n"
        "with mfc.CheckpointManager('run', format='dotted', max_to_keep=1) as manager:\n"
        "    for epoch in range(3):\n"
        "        manager.save(epoch, {'w': np.full(2, epoch, 'f4')}, loss=1 / (epoch + 1))\n"
        "print(*sorted(path.name for path in Path('run').iterdir()))\n"
        "mfc.save({'w': np.ones(2, 'f4')}, 'new.npy-folder.v2')\n"
        "print(*sorted(path.name for path in Path('new.npy-folder.v2').iterdir()))\n",
    )
    names = (f"{stem}.npy-folder.v2" for stem in ("best_model", "checkpoint_epoch_0002", "latest_checkpoint"))
    assert said == [" ".join(names), "0.npy index.json"]


def test_a_plugin_that_fails_to_look_at_a_file_is_a_warning_and_the_rest_works(site):
    (site / "broken_format.py").write_text(
        "from multiframe_ckpt import contracts\n"
        "class BrokenFormat(contracts.Format):\n"
        "    name = 'broken'\n"
        "    def recognises(self, head): return head.start.decode('ascii')[0] == 'x'\n"
        "    def open(self, place, options): raise NotImplementedError\n"
    )
    with (site / "formats-1.0.dist-info" / "entry_points.txt").open("a") as file:
        file.write("broken = broken_format:BrokenFormat\n")
    run(site, "-c", gguf("model.gguf"))  # 'broken' is asked before
    code = (
        "import warnings\n"
        "open('unknown', 'wb').write(bytes([255]))\n"
        "with warnings.catch_warnings(record=True) as said:\n"
        "    warnings.simplefilter('always')\n"
        "    print(mfc.open('model.gguf').meta['format'])\n"
        "    try: mfc.open('unknown')\n"
        "    except mfc.UnknownFormatError: print('unknown')\n"
        "print(*said[-1:], sep='')\n"
    )
    format, unknown, warning = python(site, code)
    assert (format, unknown) == ("gguf", "unknown")
    assert "format 'broken': found UnicodeDecodeError" in warning and "repair or remove the plugin 'broken'" in warning


def test_a_hostile_index_leads_nowhere(site):
    code = (
        "import json\n"
        "from pathlib import Path\n"
        "Path('secret').write_bytes(b'secret')\n"
        "for name in ('../secret', str(Path('secret').resolve()), 'absent.npy', 'index.json/x', 'a\\0b', '.', '', 7):\n"
        "    mfc.save({'w': np.ones(2, 'f4')}, 'model', format='npydir', overwrite=True)\n"
        "    manifest, (_, *rest) = json.loads(Path('model/index.json').read_text())\n"
        "    Path('model/index.json').write_text(json.dumps([manifest, [name, *rest]]))\n"
        "    try: print(mfc.open('model').tree['w'].numpy())\n"
        "    except mfc.FormatError as problem: print(type(problem).__name__)\n"
    )
    unsafe, missing = "UnsafeError", "MissingFileError"
    assert python(site, code) == [unsafe, unsafe, missing, missing, missing, unsafe, unsafe, "DamagedError"]


def test_the_index_is_written_last_so_that_a_folder_without_it_is_no_checkpoint(site):
    said = python(
        site,
        "from pathlib import Path\n"
        "mfc.save({'w': np.ones(2, 'f4')}, 'model', format='npydir')\n"
        "Path('model/index.json').unlink()\n"
        "try: mfc.open('model')\n"
        "except mfc.FormatError as problem: print(type(problem).__name__)\n"
        "try: mfc.open('model', format='npydir')\n"
        "except mfc.FormatError as problem: print(type(problem).__name__, problem.missing)\n",
    )
    assert said == ["UnknownFormatError", "MissingFileError ('index.json',)"]


def test_arrays_that_the_plugin_wrote_are_numpys_own_files(site):
    python(site, "mfc.save({'w': np.arange(6, dtype='f4').reshape(2, 3)}, 'model', format='npydir')")
    assert np.load(site / "model" / "0.npy").tolist() == [[0, 1, 2], [3, 4, 5]]
