"""Several processes at one path: readers get the old checkpoint or the new one, and the dead hold nobody up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt import CheckpointManager
from multiframe_ckpt.errors import ReplacedError
from multiframe_ckpt.storage.atomic import STAGE_SUFFIX

FILES = ["torch", "safetensors", "hdf5", "npz", "json"]
FOLDERS = ["oneflow", "oneflow-pickle"]


def tree(value: int) -> dict[str, object]:
    """Gives a nested checkpoint of which every part says which save it is of."""
    weights = {key: np.full(300, value, np.float32) for key in "abc"}
    return {"model": weights, "moments": {key: array + 0 for key, array in weights.items()}, "epoch": value}


def save(path: Path, value: int, format: str) -> None:
    mfc.save(tree(value), path, format=format, backend="numpy", overwrite=True)


def value_of(found: dict) -> int:
    """Gives the save that all is of; fails for a mixture."""
    arrays = [*found["model"].values(), *found["moments"].values()]
    (value,) = {int(value) for array in arrays for value in array.tolist()}
    assert (len(arrays), found["epoch"]) == (6, value)
    return value


@contextmanager
def processes(script: str, *arguments: tuple[object, ...]) -> Iterator[list[subprocess.Popen]]:
    """Gives a process for each tuple of arguments; all must have ended well."""
    started = [
        subprocess.Popen([sys.executable, "-c", script, *map(str, given)], stderr=subprocess.PIPE, text=True)
        for given in arguments
    ]
    try:
        yield started
        problems = [process.communicate()[1] for process in started]
        assert [process.returncode for process in started] == [0] * len(started), problems
    finally:
        for process in started:
            process.kill()
            process.wait()


# One path

SAVER = """
import sys
import numpy as np
import multiframe_ckpt as mfc
path, format, first = sys.argv[1], sys.argv[2], int(sys.argv[3])
for value in range(first, first + 15):
    weights = {key: np.full(300, value, np.float32) for key in "abc"}
    tree = {"model": weights, "moments": {key: array + 0 for key, array in weights.items()}, "epoch": value}
    mfc.save(tree, path, format=format, backend="numpy", overwrite=True)
"""


@pytest.mark.parametrize("format", [*FILES, *FOLDERS])
def test_loading_while_two_processes_save_gives_one_of_the_saves_whole_and_never_fails(
    format: str, tmp_path: Path
) -> None:
    path = tmp_path / "model"
    save(path, 1, format)
    read = set()
    with processes(SAVER, (path, format, 100), (path, format, 200)) as savers:
        while any(saver.poll() is None for saver in savers):
            read.add(value_of(mfc.load(path, backend="numpy")))
    assert value_of(mfc.load(path, backend="numpy")) in (114, 214)
    assert read <= {1, *range(100, 115), *range(200, 215)}
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("format", FILES)
def test_an_open_file_that_is_replaced_or_deleted_keeps_reading_the_old_bytes(format: str, tmp_path: Path) -> None:
    path = tmp_path / "model"
    save(path, 1, format)
    opened = mfc.open(path)
    first, *others = opened.tensors().values()
    assert first.numpy()[0] == 1
    for value in (2, 3):
        save(path, value, format)
        assert {tensor.numpy()[5] for tensor in others} == {1}
    path.unlink()
    assert {tensor.numpy()[7] for tensor in opened.tensors().values()} == {1}


@pytest.mark.parametrize("format", FOLDERS)
def test_an_open_folder_that_is_replaced_says_so_and_gives_nothing_of_the_new(format: str, tmp_path: Path) -> None:
    path = tmp_path / "model"
    save(path, 1, format)
    first, *others = mfc.open(path).tensors().values()
    assert first.numpy()[0] == 1
    save(path, 2, format)
    for tensor in others:
        with pytest.raises(ReplacedError, match=r"model.*(replaced|gone) since it was opened.*open it again"):
            tensor.numpy()
    assert value_of(mfc.load(path, backend="numpy")) == 2


def test_a_path_that_is_replaced_again_and_again_is_an_error_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "model", 1, "torch")
    real = mfc.Checkpoint.open

    def replaced(path: Path, **options: object) -> mfc.Checkpoint:
        real(path)
        raise ReplacedError(f"{path}: found it replaced")

    monkeypatch.setattr(mfc.Checkpoint, "open", replaced)
    with pytest.raises(ReplacedError, match="again and again"):
        mfc.load(tmp_path / "model", backend="numpy")


# Files that are cut short in place, which no save of ours does


@pytest.mark.parametrize("way", ["to", "numpy"])
@pytest.mark.parametrize("format", [*FILES, *FOLDERS])
def test_an_open_file_that_was_cut_short_is_an_error_and_no_signal(format: str, way: str, tmp_path: Path) -> None:
    path = tmp_path / "model"
    weights = {key: np.full(100_000, 1, np.float32) for key in "ab"}
    mfc.save(weights, path, format=format, backend="numpy")
    opened = mfc.open(path)
    files = [file for file in (path, *path.rglob("*")) if file.is_file()]
    largest = max(files, key=lambda file: file.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    with pytest.raises(mfc.DamagedError, match=r"cut short|replaced since|found values that are not"):
        if way == "to":
            opened.to_backend("numpy")
        for tensor in opened.tensors().values():
            tensor.numpy()


# A run

RUN = """
import sys
import numpy as np
from multiframe_ckpt import CheckpointManager
with CheckpointManager(sys.argv[1], format=sys.argv[2], max_to_keep=1, keep_best=1, async_save=True, rng=False) as manager:
    for epoch in range(40):
        manager.save(epoch, {key: np.full(300, epoch, np.float32) for key in "abc"}, loss=epoch % 7)
"""


@pytest.mark.parametrize("format", ["torch", "oneflow"])
def test_resuming_beside_a_run_that_saves_and_deletes_gives_one_epoch_whole_and_never_an_older_one(
    format: str, tmp_path: Path
) -> None:
    last = 0
    with processes(RUN, (tmp_path, format)) as (run,):
        while run.poll() is None:
            model = {key: np.full(300, -1, np.float32) for key in "abc"}
            next_epoch = CheckpointManager(tmp_path, format=format).resume(model=model).epoch
            assert next_epoch >= last
            last = next_epoch
            if next_epoch:
                assert {value for array in model.values() for value in array.tolist()} == {next_epoch - 1.0}
    assert CheckpointManager(tmp_path).resume(model={key: np.zeros(300, np.float32) for key in "abc"}).epoch == 40


# The dead

HOLDER = """
import sys
from pathlib import Path
from multiframe_ckpt.storage.atomic import stage_for
with stage_for(Path(sys.argv[1])) as stage:
    (stage / "half").write_text("half")
    print(stage, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("format", ["torch", "oneflow"])
def test_the_lock_of_a_process_that_was_killed_holds_nobody_up_and_one_that_lives_keeps_its_temporary(
    format: str, tmp_path: Path
) -> None:
    path = tmp_path / "model"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        stage = Path(process.stdout.readline().strip())
        save(path, 1, format)
        assert (stage / "half").exists()
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (stage / "half").exists()
    save(path, 2, format)
    assert value_of(mfc.load(path, backend="numpy")) == 2
    assert not list(tmp_path.glob(f"*{STAGE_SUFFIX}"))
