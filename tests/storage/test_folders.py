"""Folders lead nowhere outside themselves, whatever a name, a link or a race makes of it, and keep no file open."""

import os
import resource
import subprocess
import sys

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.errors import DamagedError, FormatError, MissingFileError, ReplacedError, UnsafeError
from multiframe_ckpt.storage.files import open_file
from multiframe_ckpt.storage.folders import files_below, open_folder
from multiframe_ckpt.testing import MemoryFolder

OUTSIDE = [
    "..",
    "../secret",
    "below/../../secret",
    "below/../file",
    ".",
    "./file",
    "",
    "below/",
    "//file",
    "below//file",
]
NOT_THERE = ["absent", "absent/file", "below/absent", "file/inside", "nul\0", "\ud800", "x" * 300]


@pytest.fixture
def top(tmp_path):
    """A folder with a file and a folder, beside a secret."""
    folder = tmp_path / "checkpoint"
    (folder / "below").mkdir(parents=True)
    (folder / "file").write_bytes(b"file")
    (folder / "below" / "file").write_bytes(b"below")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "file").write_bytes(b"secret")
    return folder


@pytest.fixture(params=["disk", "memory"])
def folder(request, top):
    """The folder of this machine, and the same in memory."""
    return open_folder(top) if request.param == "disk" else MemoryFolder({"file": b"file", "below/file": b"below"})


def test_files_and_folders_below_are_given_by_name(folder):
    assert dict(folder.names()) == {"below": True, "file": False}
    assert folder.file("file").read_at(0, 4) == b"file"
    assert folder.file("below/file").read_at(0, 5) == folder.folder("below").file("file").read_at(0, 5) == b"below"
    assert folder.has("file") and folder.has("below/file") and not folder.has("below")


@pytest.mark.parametrize("name", OUTSIDE, ids=repr)
def test_a_name_that_leads_out_is_refused_and_nothing_lies_there(folder, name):
    assert not folder.has(name)
    for open_it in (folder.file, folder.folder):
        with pytest.raises(UnsafeError):
            open_it(name)


def test_an_absolute_name_is_refused(folder, top):
    for name in (str(top / "file"), str(top.parent / "secret")):
        assert not folder.has(name)
        with pytest.raises(UnsafeError):
            folder.file(name)
        with pytest.raises(UnsafeError):
            folder.folder(str(top.parent))


@pytest.mark.parametrize("name", NOT_THERE, ids=lambda name: ascii(name[:20]))
def test_a_name_under_which_nothing_lies_is_a_missing_file(folder, name):
    assert not folder.has(name)
    with pytest.raises(MissingFileError) as caught:
        folder.file(name)
    assert caught.value.missing == (name,)
    with pytest.raises(FormatError):
        folder.folder(name)


@pytest.mark.parametrize("target", ["../secret", "../secrets/file"])
def test_a_link_to_a_file_that_leads_out_is_refused(top, target):
    (top / "link").symlink_to(target)
    with pytest.raises(UnsafeError):
        open_folder(top).file("link")


def test_a_file_behind_a_linked_folder_that_leads_out_is_refused_before_a_byte_is_read(top):
    (top / "link").symlink_to("../secrets")
    with pytest.raises(UnsafeError):
        open_folder(top).folder("link")
    with pytest.raises(UnsafeError):
        open_folder(top).file("link/file").read_at(0, 1)


def test_a_link_that_stays_inside_is_followed(top):
    (top / "link").symlink_to("below/file")
    (top / "folder").symlink_to("below")
    folder = open_folder(top)
    assert folder.file("link").read_at(0, 5) == folder.folder("folder").file("file").read_at(0, 5) == b"below"
    assert folder.names()["folder"] is False


@pytest.mark.parametrize("target", ["link", "absent"])
def test_a_link_that_leads_nowhere_is_damage(top, target):
    (top / "link").symlink_to(target)
    with pytest.raises(FormatError):
        open_folder(top).file("link")


def test_a_folder_that_becomes_a_link_after_it_was_listed_leads_nowhere(top):
    folder = open_folder(top)
    below, file = folder.folder("below"), folder.file("below/file")
    os.rename(top / "below", top / "moved")
    (top / "below").symlink_to("../secrets")
    assert below.file("file").size == 5  # held open: what was seen
    with pytest.raises((UnsafeError, ReplacedError)):
        file.read_at(0, 5)


def test_a_pipe_in_a_files_place_is_damage_and_waits_for_nobody(top):
    os.mkfifo(top / "pipe")
    (top / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        assert not open_folder(top).has(name)
        with pytest.raises(DamagedError, match="pipe"):
            open_folder(top).file(name)


def test_a_file_that_becomes_a_pipe_is_told_of_and_waits_for_nobody(top):
    file = open_folder(top).file("file")
    (top / "file").unlink()
    os.mkfifo(top / "file")
    with pytest.raises(ReplacedError):
        file.read_at(0, 1)


@pytest.mark.parametrize("change", ["replaced", "appended to", "cut", "deleted"])
def test_a_file_that_is_another_when_it_is_read_is_told_of(top, change):
    file = open_folder(top).file("file")
    if change == "replaced":
        (top / "fresh").write_bytes(b"FILE")
        (top / "fresh").replace(top / "file")
    elif change == "deleted":
        (top / "file").unlink()
    else:
        os.truncate(top / "file", 9 if change == "appended to" else 2)
    for read in (lambda: file.read_at(0, 4), lambda: file.mapped(0, 4), file.contents, lambda: file.opened()):
        with pytest.raises(ReplacedError):
            read()


def test_a_folder_in_a_files_place_is_damage(folder):
    with pytest.raises(DamagedError):
        folder.file("below")


def test_names_are_those_of_when_they_were_first_asked_for(top):
    folder = open_folder(top)
    folder.names()
    (top / "later").touch()
    assert "later" not in folder.names()
    assert "later" in open_folder(top).names()


@pytest.fixture
def deep(top):
    """A folder below which lie so many in each other that Python's own ways to delete them end in a RecursionError."""
    descriptor = os.open(top / "below", os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("a", dir_fd=descriptor)
        inner = os.open("a", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(os.open("deep", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)
    yield top
    subprocess.run(["rm", "-r", str(top)], check=True)


def test_every_file_below_is_named_however_deep_it_lies(deep):
    assert list(files_below(open_folder(deep))) == [f"below/{'a/' * 1500}deep", "below/file", "file"]


def test_arrays_of_thousands_of_files_hold_few_of_them_open(tmp_path):
    # 400 variables, each small, and at most 100 open files.
    path = tmp_path / "checkpoint"
    mfc.save({f"w{number}": np.full(3, number, np.float32) for number in range(400)}, path, format="oneflow")
    code = (
        "import resource, sys\n"
        "import multiframe_ckpt as mfc\n"
        "tensors = mfc.open(sys.argv[1]).tensors()\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))\n"
        "arrays = [tensor.numpy() for tensor in tensors.values()]\n"
        "print(int(sum(array.sum() for array in arrays)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert done.stdout == f"{3 * sum(range(400))}\n", done.stderr
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 100


# A file by itself


@pytest.mark.parametrize("left", [0, 1, 5000, 99_999])
def test_a_file_cut_short_since_it_was_opened_is_damage_however_it_is_read(tmp_path, left):
    path = tmp_path / "file"
    path.write_bytes(bytes(100_000))
    reads = [
        lambda file: file.read_at(99_000, 1000),
        lambda file: file.read_into(0, memoryview(bytearray(100_000))),
        lambda file: file.mapped(90_000, 10_000),
        lambda file: file.stream().readall(),
    ]
    for read in reads:
        os.truncate(path, 100_000)
        file = open_file(path)
        os.truncate(path, left)
        with pytest.raises(DamagedError, match="cut short"):
            read(file)


def test_a_file_of_which_nothing_is_left_has_no_contents(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10)
    file, longer, empty = open_file(path), open_file(path), tmp_path / "empty"
    os.truncate(path, 20)
    assert bytes(longer.contents()) == b"x" * 10  # what it had when it was opened
    os.truncate(path, 0)
    with pytest.raises(DamagedError, match="cut short"):
        file.contents()
    empty.touch()
    assert open_file(empty).contents() == b""
    assert bytes(open_file(empty).mapped(0, 0)) == b""


def test_a_map_outlives_the_file_it_is_of(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10)
    view = open_file(path).mapped(2, 3)  # the file is closed: nobody holds it
    path.unlink()
    assert bytes(view) == b"xxx"
    assert not [name for name in os.listdir("/proc/self/fd") if _target(name) == str(path)]


def _target(name):
    try:
        return os.readlink(f"/proc/self/fd/{name}")
    except OSError:
        return ""


def test_files_and_folders_are_given_back_when_nobody_holds_them(top):
    def held():
        return sorted(filter(lambda target: target.startswith(str(top)), map(_target, os.listdir("/proc/self/fd"))))

    folder = open_folder(top)
    below, file = folder.folder("below"), open_file(top / "file")
    assert held() == [str(top), str(top / "below"), str(top / "file")]
    inside = below.file("file")
    del folder, file
    assert held() == [str(top), str(top / "below")]  # a file below is found from the top
    assert inside.read_at(0, 5) == b"below"
    del below
    assert held() == [str(top)]
    del inside
    assert held() == []
