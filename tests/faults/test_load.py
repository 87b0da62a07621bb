"""Much at once: a thousand saves beside a reader, a hundred thousand tensors, names of every script, files of 20 GB."""

from __future__ import annotations

import gc
import os
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import multiframe_ckpt as mfc
from multiframe_ckpt import CheckpointManager
from multiframe_ckpt.errors import RefusedError

FORMATS = ["torch", "oneflow", "oneflow-pickle", "safetensors", "hdf5", "npz", "json"]
SAVES = int(os.environ.get("MULTIFRAME_SAVES", "100"))  # 1000 have been run; docs/durability.md
LINUX = pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="needs /proc")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident() -> int:
    """Gives the bytes of memory that the process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# Saves beside a reader


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize("format", ["torch", "oneflow"])
def test_saves_beside_a_reader_of_the_latest_never_fail_and_leave_memory_and_open_files_as_they_were(
    format: str, tmp_path: Path
) -> None:
    seen: list[int] = []
    problems: list[BaseException] = []
    over = threading.Event()

    reading = threading.Lock()

    def look(reader: CheckpointManager) -> None:
        record = reader.latest()
        if record is None:
            return
        try:
            found = mfc.load(record.path, backend="numpy")
        except FileNotFoundError:  # deleted since latest() was asked: only where newer ones are there
            assert reader.latest().epoch > record.epoch + 1
            return
        assert {found["epoch"]} == set(found["model_state_dict"]["w"].tolist())
        seen.append(found["epoch"])

    def read() -> None:
        reader = CheckpointManager(tmp_path, format=format)
        try:
            while not over.is_set():
                with reading:
                    look(reader)
        except BaseException as problem:
            problems.append(problem)

    thread = threading.Thread(target=read)
    at: dict[int, tuple[int, int]] = {}
    with CheckpointManager(tmp_path, format=format, max_to_keep=3, async_save=True, rng=False) as manager:
        thread.start()
        for epoch in range(SAVES):
            manager.save(epoch, {"w": np.full(2000, epoch, np.float32)}, loss=abs(SAVES / 2 - epoch))
            if epoch in (SAVES // 4, SAVES - 1):
                manager.wait()
                with reading:
                    gc.collect()
                    at[epoch] = open_files(), resident()
    over.set()
    thread.join()
    assert problems == []
    assert seen == sorted(seen)
    assert len(set(seen)) > 10
    (files_then, memory_then), (files_now, memory_now) = at.values()
    assert files_now == files_then
    assert memory_now - memory_then < 16 << 20
    assert [record.epoch for record in manager.checkpoints()][-3:] == [SAVES - 3, SAVES - 2, SAVES - 1]
    assert len(os.listdir(tmp_path)) == 6  # three, the best, two pointers


# Many tensors


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_a_checkpoint_may_have_very_many_tensors(format: str, tmp_path: Path) -> None:
    count = int(os.environ.get("MULTIFRAME_TENSORS", "1000"))  # 100000 have been run
    tensors = {f"layers.{index}.weight": np.array([index, index + 1], np.float32) for index in range(count)}
    mfc.Checkpoint.from_objects(tensors, backend="numpy").save(tmp_path / "model", format=format)
    found = mfc.open(tmp_path / "model").tensors()
    assert list(found) == list(tensors)
    for index in (0, 1, count // 2, count - 1):
        assert found[f"layers.{index}.weight"].numpy().tolist() == [index, index + 1]
    assert mfc.inspect(tmp_path / "model").parameters == 2 * count


@pytest.mark.slow
@pytest.mark.parametrize("digest", [True, False])
def test_tensors_of_a_torch_file_may_be_very_many_and_tiny(digest: bool, tmp_path: Path) -> None:
    """The memory that a pickle may ask for grows with its file, which says little of such tensors."""
    shapes = [(), (1,), (0,), (2, 1), (1, 1, 1, 1)]
    tensors = {f"{at}": np.zeros(shapes[at % len(shapes)], np.uint8) for at in range(60_000)}
    mfc.save(tensors, tmp_path / "model.pt", backend="numpy", digest=digest, durable=False)
    found = mfc.open(tmp_path / "model.pt").tensors()
    assert {key: tensor.shape for key, tensor in found.items()} == {key: array.shape for key, array in tensors.items()}


# Names


SCRIPTS = {
    "combining": "e\u0301\u0323.a\u030a",
    "composed beside decomposed": "\u00e9",
    "decomposed beside composed": "e\u0301",
    "right to left": "שלום.مرحبا",
    "marks of direction": "a\u200fb\u202ec\u2066",
    "emoji": "👩‍👩‍👧.🇨🇳.👍🏽",
    "han": "模型.权重",
    "rare han": "𠀀𪚥",
    "hangul": "모델.가중치",
    "jamo": "\u1100\u1161",
    "devanagari": "मॉडल.भार",
    "thai": "น้ำหนัก",
    "tibetan": "བོད་ཡིག",
    "cyrillic": "модель.вес",
    "greek": "βάρος",
    "ethiopic": "ክብደት",
    "mathematical": "𝔴𝓮𝒾𝗀𝚑𝔱",
    "private": "\ue000\U0010fffd",
    "zero width": "a\u200bb\u200dc\ufeff",
    "spaces": "a b\u00a0c\u3000d",
    "full width": "ｗｅｉｇｈｔ．／",
    "case": "Weight",
    "other case": "wEIGHT",
}


@pytest.mark.parametrize("format", FORMATS)
def test_names_of_every_script_come_back_as_they_were(format: str, tmp_path: Path) -> None:
    tensors = {name: np.full(2, at, np.float32) for at, name in enumerate(SCRIPTS.values())}
    mfc.Checkpoint.from_objects(tensors, backend="numpy").save(tmp_path / "model", format=format)
    found = mfc.load(tmp_path / "model", backend="numpy")
    assert list(found) == list(tensors)
    assert {name: array[0] for name, array in found.items()} == {name: array[0] for name, array in tensors.items()}
    assert mfc.verify(tmp_path / "model").whole


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=st.lists(names, min_size=1, max_size=6, unique=True))
def test_any_names_come_back_or_are_refused_by_name(format: str, keys: list[str], tmp_path: Path) -> None:
    tensors = {key: np.full(2, at, np.float32) for at, key in enumerate(keys)}
    checkpoint = mfc.Checkpoint.from_objects(tensors, backend="numpy")
    try:
        checkpoint.save(tmp_path / "model", format=format, overwrite=True, durable=False)
    except RefusedError as problem:
        assert any(repr(key)[1:-1] in str(problem) or key in str(problem) for key in keys)
        return
    found = mfc.load(tmp_path / "model", backend="numpy")
    assert {key: array[0] for key, array in found.items()} == {key: array[0] for key, array in tensors.items()}


# Large files


def _safetensors(path: Path, size: int) -> Path:
    header = f'{{"w":{{"dtype":"F32","shape":[{size // 4}],"data_offsets":[0,{size}]}}}}'.encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(path, 8 + len(header) + size)
    return path


def _oneflow(path: Path, size: int) -> Path:
    (path / "w").mkdir(parents=True)
    (path / "w" / "meta").write_text(f"shape {{\n  dim: {size // 4}\n}}\ndata_type: kFloat\n")
    (path / "w" / "out").touch()
    os.truncate(path / "w" / "out", size)
    (path / "snapshot_done").touch()
    return path


def _torch(path: Path, size: int) -> Path:
    """Writes what torch.save writes; the values are skipped, so that the disk need not hold them."""
    count = b"\x8a\x08" + (size // 4).to_bytes(8, "little")
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + count + b"tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00" + count + b"\x85K\x01\x85\x89"
    pickled = b"\x80\x02}X\x01\x00\x00\x00w" + tensor + b"ccollections\nOrderedDict\n)RtRs."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        with archive.open(zipfile.ZipInfo("archive/data/0"), "w", force_zip64=True) as member:
            archive.fp.seek(size, os.SEEK_CUR)
            member._file_size = size
        archive.writestr("archive/version", "3\n")
    return path


MAKERS = {"torch": _torch, "safetensors": _safetensors, "oneflow": _oneflow}


@LINUX
@pytest.mark.parametrize("format", MAKERS)
def test_a_file_of_20_gigabytes_is_listed_from_its_headers(format: str, tmp_path: Path) -> None:
    size = 20 << 30
    path = MAKERS[format](tmp_path / "model", size)
    mfc.inspect(path)  # what is imported on first use is imported
    before, memory = bytes_read(), resident()
    summary = mfc.inspect(path)
    assert (summary.nbytes, summary.tensors[0].shape) == (size, (size // 4,))
    assert bytes_read() - before < 1 << 20
    assert resident() - memory < 16 << 20
    assert mfc.open(path).tensors()["w"].nbytes == size


def bytes_read() -> int:
    """Gives how many bytes the process has asked the system for."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("rchar"))
