"""Strangers: what files and folders plainly are that are no checkpoint of any format here, and what to do with each.

A table, asked when no format recognises a place, and first for the few that look like one of ours. A row is recognised by
how a file begins, by what stands at an offset, by the names of a zip archive's members or of a folder, or by a suffix.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from ..errors import FormatError
from ..storage.zip_reader import ZipReader
from ..tree import File
from .base import Head

__all__ = ["STRANGERS", "Stranger", "impostor_at", "stranger_at"]


class Stranger(NamedTuple):
    """What is known of one kind: its name, the next step, and what tells it; any one of these does."""

    title: str
    remedy: str
    begins: tuple[bytes, ...] = ()
    at: tuple[tuple[int, bytes], ...] = ()
    mentions: tuple[bytes, ...] = ()  # in the first 4 KiB of a file that begins as a pickle does
    members: tuple[str, ...] = ()  # globs, all of which match a member of a zip archive
    names: tuple[str, ...] = ()  # globs, all of which match a name in a folder
    suffixes: tuple[str, ...] = ()
    is_impostor: bool = False  # begins as a format of ours does, and is told by its suffix


_WITH_TORCH = "with torch: "
_UNPACK = "unpack it, and open what was in it"
_ITS_PROGRAM = "with the program that wrote it, save the tensors as a state dict, .safetensors or .npz"
_WITH_DCP = (
    f"{_WITH_TORCH}torch.distributed.checkpoint.format_utils.dcp_to_torch_save(folder, 'x.pth') makes one file of the "
    "folder"
)

#: In the order in which they are asked: the particular before the general.
STRANGERS: tuple[Stranger, ...] = (
    Stranger(
        "a shard of torch.distributed.checkpoint, which is a part of its folder and no file by itself",
        _WITH_DCP,
        suffixes=(".distcp",),
        is_impostor=True,
    ),
    Stranger(
        "a pointer of Git LFS in the place of the file",
        "fetch the file itself: git lfs pull",
        begins=(b"version https://git-lfs.github.com/spec/",),
    ),
    Stranger(
        "a web page",
        "the address gave a page and not the file, such as one that asks to log in: fetch the file itself",
        begins=(b"<!doctype html", b"<!DOCTYPE html", b"<!DOCTYPE HTML", b"<html", b"<HTML", b"\xef\xbb\xbf<!DOCTYPE"),
    ),
    Stranger(
        "a page of XML, such as an object store's answer that there is no such file, or no access to it",
        "read the page, and fetch the file itself",
        begins=(b"<?xml", b"<Error>"),
    ),
    Stranger("a file compressed by gzip", "unpack it: gunzip", begins=(b"\x1f\x8b",)),
    Stranger("a file compressed by xz", "unpack it: unxz", begins=(b"\xfd7zXZ\x00",)),
    Stranger("a file compressed by bzip2", "unpack it: bunzip2", begins=(b"BZh",)),
    Stranger("a file compressed by zstd", "unpack it: unzstd", begins=(b"\x28\xb5\x2f\xfd",)),
    Stranger("a file compressed by lz4", "unpack it: unlz4", begins=(b"\x04\x22\x4d\x18",)),
    Stranger("an archive of 7-Zip", _UNPACK, begins=(b"7z\xbc\xaf\x27\x1c",)),
    Stranger("an archive of RAR", _UNPACK, begins=(b"Rar!\x1a\x07",)),
    Stranger(
        "a tar archive",
        f"{_UNPACK}: tar -xf; one of torch < 0.1.10, {_WITH_TORCH}torch.save(torch.load(path), 'x.pth')",
        at=((257, b"ustar"),),
    ),
    Stranger(
        "a model of llama.cpp (GGUF)",
        "fetch the safetensors file that it was made of, or read its tensors with the package gguf",
        begins=(b"GGUF", b"lmgg", b"tjgg", b"fmgg"),
    ),
    Stranger("a model of TensorFlow Lite", _ITS_PROGRAM, at=((4, b"TFL3"),), suffixes=(".tflite",)),
    Stranger(
        "a graph that TensorFlow saved",
        "with TensorFlow: tf.saved_model.load of the folder that it lies in, and numpy.savez of its variables",
        suffixes=(".pb",),
    ),
    Stranger(
        "a model of ONNX, a graph with its weights as constants",
        "read them with the package onnx (onnx.numpy_helper.to_array of each graph.initializer), and save a dict of them",
        begins=tuple(bytes([0x08, version, 0x12]) for version in range(1, 32)),
        suffixes=(".onnx",),
    ),
    Stranger(
        "one array of NumPy",
        "name it in an archive: numpy.savez('x.npz', name=numpy.load(path))",
        begins=(b"\x93NUMPY",),
    ),
    Stranger(
        "a file of joblib", "with joblib: joblib.load(path), and save its arrays", mentions=(b"joblib.numpy_pickle",)
    ),
    Stranger(
        "a pickle of dill or cloudpickle, which keeps functions and classes as code",
        _ITS_PROGRAM,
        mentions=(b"dill._dill", b"cdill\n", b"cloudpickle.cloudpickle"),
    ),
    Stranger(
        "data compressed by zlib, as joblib and older writers do", _ITS_PROGRAM, begins=(b"x\x9c", b"x\x01", b"x\xda")
    ),
    Stranger("a checkpoint of MXNet", _ITS_PROGRAM, begins=(b"\x12\x01\0\0\0\0\0\0",)),
    Stranger("a file of MATLAB", "with scipy: scipy.io.loadmat(path), and numpy.savez of it", begins=(b"MATLAB 5.0",)),
    Stranger("an engine of TensorRT, built for one device", "fetch the model that it was made of", begins=(b"ftrt",)),
    Stranger("a database of SQLite", _ITS_PROGRAM, begins=(b"SQLite format 3\0",)),
    Stranger("a file of Parquet", _ITS_PROGRAM, begins=(b"PAR1",)),
    Stranger("a document in PDF", "fetch the file itself", begins=(b"%PDF",)),
    Stranger(
        "a log of TensorBoard", "it has no weights: look for a checkpoint beside it", names=("events.out.tfevents.*",)
    ),
    Stranger(
        "a program of TorchScript",
        f"{_WITH_TORCH}torch.save(torch.jit.load(path).state_dict(), 'x.pth')",
        members=("*/constants.pkl", "*/code/*"),
    ),
    Stranger(
        "a program of torch.export",
        f"{_WITH_TORCH}torch.save(torch.export.load(path).state_dict, 'x.pth')",
        members=("*serialized_exported_program.json",),
    ),
    Stranger(
        "a program of torch.export",
        f"{_WITH_TORCH}torch.save(torch.export.load(path).state_dict, 'x.pth')",
        members=("*models/model.json",),
        suffixes=(".pt2",),
    ),
    Stranger(
        "a model of Keras 3, a zip archive with its weights in HDF5",
        "unzip it, and open model.weights.h5",
        members=("model.weights.h5",),
        suffixes=(".keras",),
    ),
    Stranger(
        "an archive of TorchServe", "unzip it, and open the .pth or .pt in it", members=("MAR-INF/MANIFEST.json",)
    ),
    Stranger("a zip archive of a folder", "unzip it, and open the folder, or the checkpoint in it", members=("*",)),
    Stranger("an empty zip archive", "fetch the file again, or save it again", begins=(b"PK\x05\x06",)),
    Stranger("weights of Flax (msgpack)", "with flax: flax.serialization.msgpack_restore", suffixes=(".msgpack",)),
    Stranger(
        "a part of a checkpoint of TensorFlow",
        "open it with TensorFlow by the name of its .index file",
        suffixes=(".index",),
    ),
    Stranger(
        "an index of safetensors files, which holds no tensors",
        "open the .safetensors files that it names, beside it",
        begins=(b'{"metadata"', b'{\n  "metadata"', b'{"weight_map"', b'{\n  "weight_map"'),
    ),
    # Folders
    Stranger("a folder of torch.distributed.checkpoint", _WITH_DCP, names=(".metadata", "*.distcp")),
    Stranger("shards of torch.distributed.checkpoint without their .metadata", _WITH_DCP, names=("*.distcp",)),
    Stranger(
        "a checkpoint of Orbax",
        "with Orbax: restore it, and save its arrays as .safetensors or .npz",
        names=("_CHECKPOINT_METADATA",),
    ),
    Stranger(
        "a checkpoint of Orbax",
        "with Orbax: restore it, and save its arrays as .safetensors or .npz",
        names=("manifest.ocdbt",),
    ),
    Stranger(
        "a model that TensorFlow saved",
        "with TensorFlow: tf.saved_model.load(folder), and numpy.savez of its variables",
        names=("saved_model.pb",),
    ),
    Stranger(
        "a checkpoint of TensorFlow",
        "with TensorFlow: tf.train.load_checkpoint(folder) reads each variable; numpy.savez them",
        names=("*.index", "*.data-*-of-*"),
    ),
    Stranger(
        "a checkpoint of DeepSpeed",
        "open the *_model_states.pt in it, which has the weights; with ZeRO: python zero_to_fp32.py makes one file",
        names=("*_model_states.pt",),
    ),
    Stranger(
        "a folder of Hugging Face with its weights in several files",
        "open each of the .safetensors or .bin files that its index names",
        names=("*.index.json",),
    ),
)

_CHECKPOINT_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".h5", ".hdf5", ".npz", ".pkl")
_PICKLE_STARTS = (b"\x80", b"(", b"]", b"}", b"c")
_MOST_NAMED = 3


def impostor_at(head: Head) -> Stranger | None:
    """Return what a place is although it begins as a format of ours does."""
    return next((row for row in STRANGERS if row.is_impostor and _has_suffix(head, row)), None)


def stranger_at(head: Head) -> Stranger | None:
    """Return what a place that no format recognises plainly is, or None."""
    if head.is_folder:
        row = next((row for row in STRANGERS if row.names and _all_match(row.names, head.names)), None)
        return row or _folder_of_checkpoints(head)
    members = _members(head)
    return next((row for row in STRANGERS if _is_file(head, row, members)), None)


def _is_file(head: Head, row: Stranger, members: Sequence[str]) -> bool:
    start = head.start
    return (
        any(text.startswith(row.begins) for text in (start, start.lstrip()))
        or any(start[offset : offset + len(text)] == text for offset, text in row.at)
        or (start.startswith(_PICKLE_STARTS) and any(text in start for text in row.mentions))
        or bool(row.members and members and _all_match(row.members, members))
        or _has_suffix(head, row)
    )


def _has_suffix(head: Head, row: Stranger) -> bool:
    return bool(row.suffixes) and not head.is_folder and head.place.where.lower().endswith(row.suffixes)


def _all_match(globs: Iterable[str], names: Iterable[str]) -> bool:
    return all(any(fnmatchcase(name, glob) for name in names) for glob in globs)


def _members(head: Head) -> Sequence[str]:
    if head.start[:2] != b"PK" or not isinstance(head.place, File):
        return ()
    try:
        return [*ZipReader(head.place).members]
    except (FormatError, OSError):
        return ()


def _folder_of_checkpoints(head: Head) -> Stranger | None:
    """Return what a folder is that has files in it which may be checkpoints themselves."""
    files = sorted(
        name for name, is_folder in head.names.items() if not is_folder and name.endswith(_CHECKPOINT_SUFFIXES)
    )
    runs = sorted(name for name in head.names if name.startswith("checkpoint_"))
    found = files or runs
    if not found:
        return None
    more = f" and {len(found) - _MOST_NAMED:,} more" if len(found) > _MOST_NAMED else ""
    return Stranger(f"a folder with {', '.join(found[:_MOST_NAMED])}{more} in it", f"open one of them: {found[0]}")
