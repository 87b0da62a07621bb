"""How a place is opened: what may lie there, whose digests are compared, and what may be replaced."""

import io
import os

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.dtypes import dtype_named
from multiframe_ckpt.errors import DamagedError, FormatError, UnknownFormatError
from multiframe_ckpt.formats import ReadOptions, open_path, require_replaceable
from multiframe_ckpt.testing import MemoryFile
from multiframe_ckpt.tree import tensors

ARRAY = np.arange(24, dtype=np.float32).reshape(4, 6)


def flip(path, raw):
    """Flip a bit of a number in the middle of the bytes, which must lie in the file once."""
    content = path.read_bytes()
    assert content.count(raw) == 1
    position = content.index(raw) + len(raw) // 2 + 3  # in the upper half of a float32: bfloat16 holds it still
    path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])


def plain(format):
    def write(path):
        mfc.save({"w": ARRAY}, path, format=format)
        flip(path / "w" / "out" if format == "oneflow" else path, ARRAY.tobytes())
        return ARRAY

    return write


def widened(path):
    """bfloat16, which OneFlow has as float32."""
    array = ARRAY.astype(dtype_named("bfloat16").numpy)
    mfc.save({"w": array}, path, format="oneflow")
    flip(path / "w" / "out", array.astype(np.float32).tobytes())
    return array


def named(path):
    """bfloat16, which npz has as unsigned ints under another name."""
    array = ARRAY.astype(dtype_named("bfloat16").numpy)
    mfc.save({"w": array}, path, format="npz")
    flip(path, array.tobytes())
    return array


def fortran(path):
    """An array of NumPy's in Fortran order, whose CRC is that of the turned bytes."""
    np.savez(path, w=np.asfortranarray(ARRAY))
    path.with_suffix(".npz").rename(path)
    flip(path, ARRAY.tobytes(order="F"))
    return ARRAY


def views(path):
    """Parts of one storage, which has the digest."""
    torch = pytest.importorskip("torch")
    whole = torch.from_numpy(ARRAY.copy())
    mfc.save({"w": whole[1:3], "v": whole[:, 2:]}, path, format="torch")
    flip(path, ARRAY.tobytes())
    return ARRAY[1:3]


DAMAGED = {
    "torch": plain("torch"),
    "oneflow": plain("oneflow"),
    "safetensors": plain("safetensors"),
    "npz": plain("npz"),
    "hdf5": plain("hdf5"),
    "widened": widened,
    "named": named,
    "fortran": fortran,
    "views": views,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_without_digests_damaged_bytes_are_read_as_they_are_and_with_them_they_are_damage(name, tmp_path):
    expected = DAMAGED[name](tmp_path / "checkpoint")
    with pytest.raises(DamagedError, match="digest"):
        mfc.open(tmp_path / "checkpoint").tree["w"].numpy()
    tensor = mfc.open(tmp_path / "checkpoint", verify=False).tree["w"]
    assert not (tensor.is_covered or tensor.is_compared)
    found = tensor.numpy()
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert (found.tobytes() != expected.tobytes()) and (found != expected).sum() == 1
    assert b"".join(bytes(piece) for piece in tensor.pieces(memoryview(bytearray(40)))) == found.tobytes()


def test_without_digests_views_of_one_storage_stay_so(tmp_path):
    views(tmp_path / "checkpoint")
    table = tensors(open_path(tmp_path / "checkpoint", None, ReadOptions(verify=False))[1].tree)
    assert table["w"].alias == table["v"].alias is not None
    assert table["w"].source.storage is table["v"].source.storage


@pytest.mark.parametrize("make", ["pipe", "link to a pipe", "socket"])
def test_what_is_no_file_is_refused_and_waited_for_by_nobody(make, tmp_path, monkeypatch):
    path = tmp_path / "checkpoint"
    if make == "socket":
        import socket

        monkeypatch.chdir(tmp_path)  # a socket's path has room for a hundred bytes
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("checkpoint")
    else:
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "pipe").rename(path) if make == "pipe" else path.symlink_to("pipe")
    with pytest.raises(UnknownFormatError, match="pipe or device"):
        mfc.open(path)


@pytest.mark.parametrize("path", ["absent", "absent/absent", "a\0b", "\ud800", "file/inside"], ids=ascii)
def test_a_path_at_which_nothing_lies_is_not_found(path, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match="check the path"):
        mfc.open(f"{tmp_path}/{path}")


def test_a_folder_with_something_of_the_users_own_is_not_to_be_replaced_however_deep_it_lies(tmp_path):
    path = tmp_path / "checkpoint"
    mfc.save({"model": {"w": ARRAY}, "epoch": 1}, path, format="oneflow")
    require_replaceable(path)
    (path / "model" / "w" / "notes").write_text("mine")
    with pytest.raises(FormatError, match="notes"):
        require_replaceable(path)
    (path / "model" / "w" / "notes").unlink()
    (path / "model" / "link").symlink_to(tmp_path)
    with pytest.raises(FormatError, match="link"):
        require_replaceable(path)


def test_two_openings_of_one_content_in_memory_are_one_file():
    content = b"x" * 10
    assert MemoryFile(content).identity == MemoryFile(content).identity


MISNAMED = [
    ("x.pth", "safetensors", "torch", "x.safetensors"),
    ("x.safetensors", "torch", "safetensors", "x.pt"),
    ("X.PTH", "oneflow", "torch", "X"),
    ("a.b.ckpt", "hdf5", "torch", "a.b.h5"),
    ("x.h5", "json", "hdf5", "x.json"),
    ("x.npz", "oneflow-pickle", "npz", "x"),
]


@pytest.mark.parametrize(("name", "format", "taken_for", "better"), MISNAMED)
def test_a_name_that_is_another_formats_is_warned_of_and_the_name_that_is_advised_is_not(
    tmp_path, name, format, taken_for, better, recwarn
):
    weights = {"w": np.ones(3, np.float32)}
    with pytest.warns(mfc.CheckpointWarning) as caught:
        mfc.save(weights, tmp_path / name, format=format)
    assert [str(warning.message) for warning in caught] == [
        f"{tmp_path / name}: found format={format!r} for a name whose suffix is that of {taken_for}, expected one that "
        f"its readers will not take for it; choose {better}"
    ]
    assert mfc.open(tmp_path / name).meta["format"] == format
    mfc.save(weights, tmp_path / better, format=format)
    with pytest.warns(mfc.CheckpointWarning, match=f"choose {better}"):
        mfc.convert(tmp_path / better, tmp_path / name, format=format, overwrite=True)
    assert len(recwarn) == 0


@pytest.mark.parametrize("name", ["x", "x.weights", "x.tar", "lr_0.001"])
def test_a_name_that_is_no_formats_is_written_in_any_without_a_word(tmp_path, name):
    for format in ("torch", "safetensors", "oneflow", "json"):
        mfc.save({"w": np.ones(3, np.float32)}, tmp_path / name, format=format, overwrite=format != "torch")


TARGETS = {
    "x.pth.tar": "torch",
    "model_best.PTH.TAR": "torch",
    "lr_0.001": "oneflow",
    "epoch=3-val_loss=0.12": "oneflow",
    "v1.2": "oneflow",
}


@pytest.mark.parametrize(("name", "format"), TARGETS.items(), ids=TARGETS)
def test_a_name_that_people_give_is_a_target(name, format, tmp_path):
    mfc.save({"w": np.ones(2)}, tmp_path / name)
    assert mfc.open(tmp_path / name).meta["format"] == format


def test_a_home_directory_is_spelled_out(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    mfc.save({"w": np.ones(2)}, "~/x.pth")
    assert (tmp_path / "x.pth").is_file()
    mfc.convert("~/x.pth", "~/y.safetensors")
    assert list(mfc.open("~/y.safetensors").tensors()) == ["w"]
    assert mfc.verify("~/y.safetensors").whole
    assert mfc.load("~/x.pth", backend="numpy")["w"].tolist() == [1, 1]


@pytest.mark.parametrize("ask", [mfc.open, mfc.load, mfc.verify, mfc.inspect, lambda file: mfc.save({}, file)])
def test_an_open_file_is_no_path_and_the_error_says_what_is(ask, tmp_path):
    (tmp_path / "x.pth").write_bytes(b"")
    with (
        (tmp_path / "x.pth").open("rb") as file,
        pytest.raises(TypeError, match=r"BufferedReader.*give its path, .*x\.pth"),
    ):
        ask(file)
    with pytest.raises(TypeError, match=r"a BytesIO where a path stands.*write it to a file"):
        ask(io.BytesIO(b"x"))
