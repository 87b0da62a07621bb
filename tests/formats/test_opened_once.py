"""A place is looked at once: openings of files and folders are counted, and so are the plans of a save."""

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt import CheckpointManager
from multiframe_ckpt.formats import FORMATS, WritableFormat

NAMES = [kind.name for kind in FORMATS.available() if issubclass(kind, WritableFormat)]
FOLDERS = ["oneflow", "oneflow-pickle"]
FLAT = {f"layer{number}.weight": np.full((2, 3), number, np.float32) for number in range(5)}
NESTED = {
    "model": FLAT,
    "optimizer": {"state": {0: {"m": np.zeros(3, np.float32), "v": np.ones(3, np.float32)}, 1: {"m": np.ones(2)}}},
    "epoch": 3,
}

# Opens argv[1] once to import all that it needs, then again with every opening written down: a path or a name in a folder
# that is open, as "open" has it for os.open with and without dir_fd, io.open and what is built on them.
AUDITED = """
import json, os, sys
import multiframe_ckpt as mfc

path, events, watching = sys.argv[1], [], False
sys.addaudithook(lambda name, values: events.append([name, str(values[0])]) if watching else None)
mfc.open(path)
watching = True
folder = os.open(os.path.dirname(path), os.O_RDONLY)
os.close(os.open(os.path.basename(path), os.O_RDONLY, dir_fd=folder))
checkpoint = mfc.open(path)
watching = False
print(json.dumps([event for event in events if event[0] in ("open", "os.scandir", "os.listdir")]))
"""
# The same for a tracer of system calls, to which opening what is not there says where to begin and to end.
TRACED = """
import sys
from contextlib import suppress
import multiframe_ckpt as mfc

mfc.open(sys.argv[1])
with suppress(FileNotFoundError):
    open("/begin")
checkpoint = mfc.open(sys.argv[1])
with suppress(FileNotFoundError):
    open("/end")
"""


def saved(folder, tree, format):
    path = folder / "checkpoint"
    mfc.save(tree, path, format=format)
    return path


def audited(path):
    """Return the names of what opening a checkpoint opens, and how many folders it lists."""
    done = subprocess.run([sys.executable, "-c", AUDITED, str(path)], capture_output=True, text=True, check=True)
    events = json.loads(done.stdout)
    assert events[:2] == [["open", str(path.parent)], ["open", path.name]]  # the hook sees names in open folders
    opened = [name for event, name in events[2:] if event == "open"]
    return Counter(opened), len(events) - 2 - len(opened)


def traced(path, tmp_path):
    """Return the paths of what opening a checkpoint opens, by the system's own account."""
    log = tmp_path / "trace"
    command = ["strace", "-f", "-y", "-s", "4096", "-e", "trace=open,openat,openat2", "-o", str(log)]
    done = subprocess.run(
        [*command, sys.executable, "-c", TRACED, str(path)], capture_output=True, text=True, check=False
    )
    if not log.exists() or "/end" not in log.read_text():
        pytest.skip(f"strace cannot trace here: {done.stderr[-200:]}")
    calls = re.findall(r'open(?:at)?\((?:AT_FDCWD(?:<[^>]*>)?|\d+<([^>]*)>), "([^"]*)"', log.read_text())
    paths = [str(Path(folder, name)) if folder else name for folder, name in calls]
    return Counter(paths[paths.index("/begin") + 1 : paths.index("/end")])


@pytest.mark.parametrize("tree", [FLAT, NESTED], ids=["flat", "nested"])
@pytest.mark.parametrize("format", [name for name in NAMES if name not in FOLDERS])
def test_a_file_is_opened_once(format, tree, tmp_path):
    path = saved(tmp_path, tree, format)
    assert audited(path) == ({str(path): 1}, 0)


@pytest.mark.parametrize("tree", [FLAT, NESTED], ids=["flat", "nested"])
@pytest.mark.parametrize("format", FOLDERS)
def test_a_folder_is_listed_once_and_its_files_are_opened_once_and_no_values(format, tree, tmp_path):
    path = saved(tmp_path, tree, format)
    opened, listings = audited(path)
    files = [file for file in path.rglob("*") if file.is_file()]
    small = Counter(file.name for file in files if file.name in ("meta", "pickled_data"))
    assert {name: opened[name] for name in small} == small
    assert opened["out"] == opened["snapshot_done"] == 0
    assert (opened[str(path)], listings) == (1, 1)


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("format", NAMES)
def test_the_system_counts_the_same_openings_as_the_hook_and_each_file_once(format, tmp_path):
    path = saved(tmp_path, NESTED, format)
    opened, _ = audited(path)
    calls = traced(path, tmp_path)
    assert Counter(Path(name).name for name in calls.elements()) == Counter(Path(n).name for n in opened.elements())
    assert all(count == 1 for name, count in calls.items() if Path(name).is_file())
    snapshots = {variable.parent.parent for variable in path.rglob("meta")} if path.is_dir() else set()
    for name, count in calls.items():
        # From the checkpoint's own folder to each snapshot, a component at a time, so that no link is followed.
        below = [snapshot for snapshot in snapshots if snapshot == Path(name) or Path(name) in snapshot.parents]
        assert count <= max(1, len(below))


@pytest.fixture
def plans(monkeypatch):
    """The names of the formats whose ``plan`` was called, in order."""
    called = []
    for kind in FORMATS.available():
        if issubclass(kind, WritableFormat):
            monkeypatch.setattr(kind, "plan", counting(kind, called))
    return called


def counting(kind, called):
    plan = kind.plan

    def counted(self, tree, options):
        called.append(self.name)
        return plan(self, tree, options)

    return counted


@pytest.mark.parametrize("format", NAMES)
def test_a_save_is_planned_once(format, tmp_path, plans):
    mfc.save(FLAT, tmp_path / "first", format=format)
    mfc.save(NESTED, tmp_path / "first", format=format, overwrite=True)
    assert plans == [format, format]


@pytest.mark.parametrize("format", NAMES)
def test_a_conversion_is_planned_once_a_dry_one_too(format, tmp_path, plans):
    mfc.save(FLAT, tmp_path / "source", format="torch")
    plans.clear()
    mfc.convert(tmp_path / "source", tmp_path / "target", format=format, dry_run=True)
    mfc.convert(tmp_path / "source", tmp_path / "target", format=format)
    assert plans == [format, format]


@pytest.mark.parametrize("async_save", [False, True])
@pytest.mark.parametrize("format", NAMES)
def test_a_managers_save_is_planned_once(format, async_save, tmp_path, plans):
    with CheckpointManager(tmp_path / "run", format=format, async_save=async_save, max_to_keep=2) as manager:
        for epoch in range(3):
            manager.save(epoch, FLAT, loss=1.0 / (epoch + 1))
    assert plans == [format] * 3


@pytest.mark.parametrize("format", NAMES)
def test_a_gated_save_is_planned_once(format, tmp_path, plans):
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with CheckpointManager(tmp_path / "run", format=format, async_save="gated", max_to_keep=2) as manager:
        for epoch in range(3):
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
            manager.save(epoch, model, optimizer)
    assert plans == [format] * 3
