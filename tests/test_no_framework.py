"""Proofs from the outside: files are opened and converted without any framework, and headers without tensor bytes."""

from __future__ import annotations

import io
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

FORMATS = ("torch", "oneflow", "oneflow-pickle", "safetensors", "npz", "hdf5", "json")
FRAMEWORKS = ("torch", "oneflow", "tensorflow", "jax", "safetensors", "google.protobuf")

#: Run first in each process: whoever imports a framework learns that there is none, and so do we.
GUARD = f"""
import sys
class NoFramework:
    def find_spec(self, name, path=None, target=None):
        if name in {FRAMEWORKS!r} or name.split(".")[0] in ("torch", "oneflow"):
            asked.append(name)
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
asked = []
sys.meta_path.insert(0, NoFramework())
"""

TOUR = """
from pathlib import Path
import numpy as np
import multiframe_ckpt as mfc
folder, formats = Path(sys.argv[1]), sys.argv[2:]
weight = mfc.LazyTensor.from_array(np.arange(12, dtype=np.float32).reshape(3, 4), alias="w")
state = {0: {"step": weight, "exp_avg": weight, "exp_avg_sq": weight}}
adam = {"state": state, "param_groups": [{"lr": 0.1, "params": [0]}]}
tree = {"model_state_dict": {"w": weight, "tied": weight}, "optimizer_state_dict": adam, "epoch": 3}
mfc.Checkpoint(tree).save(folder / "start", format=formats[0])
for a in formats:
    mfc.convert(folder / "start", folder / a, format=a)
    for b in formats:
        mfc.convert(folder / a, folder / f"{a}-{b}", format=b)
        assert mfc.diff(mfc.open(folder / a), mfc.open(folder / f"{a}-{b}")).equal
        assert mfc.verify(folder / f"{a}-{b}").whole
        assert mfc.load(folder / f"{a}-{b}", backend="numpy")["model_state_dict"]["w"].shape == (3, 4)
"""


def run(code: str, *args: str) -> str:
    found = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


def test_opening_and_converting_between_all_formats_asks_for_no_framework(tmp_path: Path) -> None:
    seen = "print(asked, [name for name in sys.modules if name.split('.')[0] in ('torch', 'oneflow')])"
    assert run(GUARD + TOUR + seen, str(tmp_path), *FORMATS) == "[] []"


def test_the_command_line_converts_and_inspects_without_any_framework(tmp_path: Path) -> None:
    start = "import numpy as np, multiframe_ckpt as m; "
    start += "m.Checkpoint({'a': m.LazyTensor.from_array(np.ones(3))}).save(sys.argv[1] + '/a.pt')"
    run(GUARD + start, str(tmp_path))
    command = "from multiframe_ckpt.cli import main\ntry:\n    sys.exit(main())\nfinally:\n    assert not asked, asked"
    run(GUARD + command, "convert", str(tmp_path / "a.pt"), str(tmp_path / "b"))
    assert '"a"' in run(GUARD + command, "inspect", str(tmp_path / "b"), "--json")
    run(GUARD + command, "diff", str(tmp_path / "a.pt"), str(tmp_path / "b"))
    run(GUARD + command, "verify", str(tmp_path / "b"))


def test_the_guard_stands_in_the_way_of_a_framework() -> None:
    code = GUARD + "try:\n    import torch\nexcept ImportError as problem:\n    print(asked, type(problem).__name__)"
    assert run(code) == "['torch'] ModuleNotFoundError"


# Headers only. Each file's tensors are holes of half a GiB: reading them would show in the memory that the process
# has touched, and in the pages of the file that are in memory.

SIZE = 1 << 29
MAGIC = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")


def _storage(more: bytes) -> bytes:
    kind = b"ctorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuJ" + struct.pack("<i", SIZE // 4)
    return b"(X\x07\x00\x00\x00storage" + kind + more + b"tQ"


def _torch_pickle(more: bytes = b"") -> bytes:
    shape = b"J" + struct.pack("<i", SIZE // 4) + b"\x85K\x01\x85\x89}"
    return (
        b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n(" + _storage(more) + b"K\x00" + shape + b"tRs."
    )


def _with_hole(path: Path, before: bytes, after: bytes = b"") -> Path:
    with path.open("wb") as file:
        file.write(before)
        file.truncate(len(before) + SIZE)
        file.seek(0, io.SEEK_END)
        file.write(after)
    return path


def _zip_with_hole(path: Path, name: str, before: bytes, others: dict[str, bytes]) -> Path:
    """Makes an archive whose last member is ``before`` and a hole, as stored as any."""
    small = io.BytesIO()
    with zipfile.ZipFile(small, "w") as archive:
        for other, raw in others.items():
            archive.writestr(other, raw)
    raw = small.getvalue()
    start = struct.unpack_from("<I", raw, raw.rindex(b"PK\x05\x06") + 16)[0]
    size = len(before) + SIZE
    same = struct.pack("<HHHHHIIIH", 20, 0, 0, 0, 0, 0, size, size, len(name))
    padding = -(start + 30 + len(name) + 4) % 64
    extra = struct.pack("<HH", 0xD935, padding) + bytes(padding)
    member = raw[:start] + b"PK\x03\x04" + same + struct.pack("<H", len(extra)) + name.encode() + extra + before
    directory = raw[start : raw.rindex(b"PK\x05\x06")]
    directory += (
        b"PK\x01\x02" + struct.pack("<H", 20) + same + struct.pack("<HHHHII", 0, 0, 0, 0, 0, start) + name.encode()
    )
    count = len(others) + 1
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, count, count, len(directory), len(member) + SIZE, 0)
    return _with_hole(path, member, directory + end)


def torch_zip(folder: Path) -> Path:
    records = {"x/data.pkl": _torch_pickle(), "x/version": b"3\n"}
    return _zip_with_hole(folder / "x.pt", "x/data/0", b"", records)


def torch_legacy(folder: Path) -> Path:
    head = b"\x80\x02\x8a\x0a" + MAGIC + b".\x80\x02M\xe9\x03." + pickle.dumps({"little_endian": True}, 2)
    keys = b"\x80\x02]X\x01\x00\x00\x000a."
    return _with_hole(folder / "x.pth", head + _torch_pickle(b"N") + keys + struct.pack("<q", SIZE // 4))


def oneflow(folder: Path) -> Path:
    variable = folder / "ckpt" / "w"
    variable.mkdir(parents=True)
    _with_hole(variable / "out", b"")
    (variable / "meta").write_text(f"shape {{\n  dim: {SIZE // 4}\n}}\ndata_type: kFloat\n")
    (folder / "ckpt" / "snapshot_done").touch()
    return folder / "ckpt"


def safetensors(folder: Path) -> Path:
    header = f'{{"w":{{"dtype":"F32","shape":[{SIZE // 4}],"data_offsets":[0,{SIZE}]}}}}'.ljust(120).encode()
    return _with_hole(folder / "x.safetensors", struct.pack("<Q", len(header)) + header)


def npz(folder: Path) -> Path:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({SIZE // 4},), }}".ljust(117) + "\n"
    before = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()
    return _zip_with_hole(folder / "x.npz", "w.npy", before, {})


def hdf5(folder: Path) -> Path:
    import h5py  # import cost: other tests of this module need none

    with h5py.File(folder / "x.h5", "w") as file:
        space = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        space.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        space.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        shape = h5py.h5s.create_simple((SIZE // 4,))
        h5py.h5d.create(file.id, b"w", h5py.h5t.IEEE_F32LE, shape, space)
    return folder / "x.h5"


MAKERS: tuple[Callable[[Path], Path], ...] = (torch_zip, torch_legacy, oneflow, safetensors, npz, hdf5)

ALIGNED = tuple(make for make in MAKERS if make is not torch_legacy)

LOOK = """
import sys
from pathlib import Path
import multiframe_ckpt as mfc
import h5py, numpy

def touched():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])  # KiB; pages of maps count

def bytes_read():
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])

before, read = touched(), bytes_read()
checkpoint = mfc.open(sys.argv[1])
(tensor,) = checkpoint.tensors().values()
assert tensor.nbytes == int(sys.argv[2]), tensor
summary = mfc.inspect(checkpoint)
print(touched() - before, bytes_read() - read)
"""

MIB = 1 << 20


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts as Linux does")
@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_reading_the_headers_of_half_a_gigabyte_moves_none_of_it(make: Callable[[Path], Path], tmp_path: Path) -> None:
    path = make(tmp_path)
    touched, read = map(int, run(LOOK, str(path), str(SIZE)).split())
    assert touched * 1024 < 64 * MIB
    assert read < 4 * MIB


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts as Linux does")
@pytest.mark.parametrize("make", ALIGNED, ids=lambda make: make.__name__)
def test_one_element_of_a_mapped_tensor_moves_a_page_and_not_the_rest(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    path = make(tmp_path)
    one = LOOK.replace("summary =", "assert tensor.numpy()[-1] == 0; summary =")
    touched, read = map(int, run(one, str(path), str(SIZE)).split())
    assert touched * 1024 < 64 * MIB
    assert read < 4 * MIB
