"""OneFlow folders with links, pipes and devices in the place of files, paths that lead outside, and lies in ``meta``."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .case import Hostile, outside
from .opcodes import META, call, name, oneflow_folder, text

__all__ = ["CASES", "snapshot"]


def snapshot(place: Path, *, out: bytes = bytes(8), meta: bytes = META) -> Path:
    """Makes a flat snapshot with one variable ``w``."""
    (place / "w").mkdir(parents=True)
    (place / "w" / "out").write_bytes(out)
    (place / "w" / "meta").write_bytes(meta)
    (place / "snapshot_done").touch()
    return place


LIES = {
    "too few bytes": (META, bytes(7)),
    "too many bytes": (META, bytes(9)),
    "no bytes": (META, b""),
    "a shape past any memory": (
        b"shape { dim: [9223372036854775807, 9223372036854775807] } data_type: kFloat",
        bytes(8),
    ),
    "a shape whose product wraps to the size": (b"shape { dim: [4294967296, 4294967296] } data_type: kFloat", b""),
    "a negative shape": (b"shape { dim: [-1, -2] } data_type: kFloat", bytes(8)),
    "an empty shape of endless size": (b"shape { dim: [0, 9223372036854775807, 8] } data_type: kFloat", b""),
    "a hundred dimensions": (b"shape { dim: [" + b"1, " * 99 + b"1] } data_type: kFloat", bytes(4)),
    "thousands of dimensions": (b"shape {" + b"dim:9999999\n" * 5_000 + b"} data_type: kFloat", bytes(4)),
    "a hundred thousand dimensions": (b"shape {" + b"dim:9999999\n" * 80_000 + b"} data_type: kFloat", bytes(4)),
    "thousands of brackets": (b"shape " + b"{" * 60_000, bytes(8)),
    "a megabyte of brackets": (b"shape " + b"{" * 1_000_000, bytes(8)),
    "comments that could be read two ways": (b"#" * 10_000 + b"\n@", bytes(8)),
    "more comments that could": (b"\n#\n##\n# #" * 10_000 + b"@", bytes(8)),
    "a meta past its limit": (b" " * (1 << 16) + META, bytes(8)),
    "no text": (b"\xff\xfe", bytes(8)),
    "nothing": (b"", bytes(8)),
    "a dtype of nobody": (b"shape { dim: 2 } data_type: kTensorBuffer", bytes(8)),
    "a note of another's kind": (META + b'# multiframe_ckpt {"index": 0, "count": 1, "x": 1}\n', bytes(8)),
    "a note of a digest of nobody's kind": (  # found by fuzzing
        b'shape {\n}\ndata_type: kInt64\n# multiframe_ckpt {"index": 1, "count": 2, "digest":"dh276"}\n',
        bytes(8),
    ),
    "a note of a digest past its length": (
        META + b'# multiframe_ckpt {"index": 0, "count": 1, "digest": "xxh3:0"}\n',
        bytes(8),
    ),
    "a note with a list": (META + b'# multiframe_ckpt {"index": [], "count": 1}\n', bytes(8)),
    "a note of endless nesting": (META + b"# multiframe_ckpt {" + b'"a":[' * 10_000 + b"}\n", bytes(8)),
    "a note of a dtype that is not widened to this": (
        META + b'# multiframe_ckpt {"index": 0, "count": 1, "dtype": "complex128"}\n',
        bytes(8),
    ),
    "a note of an int dtype for floats": (
        META + b'# multiframe_ckpt {"index": 0, "count": 1, "dtype": "int16"}\n',
        bytes(8),
    ),
    "a note of bfloat16 for values that are none": (
        META + b'# multiframe_ckpt {"index": 0, "count": 1, "dtype": "bfloat16"}\n',
        np.array([1.1, np.pi], np.float32).tobytes(),
    ),
    "a note of more variables than there are": (META + b'# multiframe_ckpt {"index": 0, "count": 9}\n', bytes(8)),
}

_SEEN_LATER: dict[str, Any] = {
    "a note of bfloat16 for values that are none": "values",
    "a note of more variables than there are": "strict",
}


# Something else in the place of a file


def _bound(path: Path) -> None:
    """Leaves a socket, by a short name: a socket's path has room for a hundred bytes."""
    folder = os.open(path.parent, os.O_RDONLY)
    here = os.open(".", os.O_RDONLY)
    try:
        os.fchdir(folder)
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.fchdir(here)
        os.close(here)
        os.close(folder)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


#: Each makes something at a path where a reader expects a file, given what lies outside under the same name.
STAND_INS: dict[str, Callable[[Path, Path], object]] = {
    "an absolute link": lambda path, target: path.symlink_to(target),
    "a relative link": lambda path, target: path.symlink_to(os.path.relpath(target, path.parent)),
    "a link to a link": lambda path, target: _chain(path, target),
    "a link to itself": lambda path, target: path.symlink_to(path.name),
    "a link to nothing": lambda path, target: path.symlink_to("nothing"),
    "a link to a device": lambda path, target: path.symlink_to("/dev/zero"),
    "a link to a process's memory": lambda path, target: path.symlink_to("/proc/self/mem"),
    "a pipe": lambda path, target: os.mkfifo(path),
    "a socket": lambda path, target: _bound(path),
    "a folder": lambda path, target: path.mkdir(),
    "a hole of a terabyte": lambda path, target: _sparse(path),
}


def _chain(path: Path, target: Path) -> None:
    (path.parent / "between").symlink_to(target)
    path.symlink_to("between")


def _in_place_of(part: str, stand_in: Callable[[Path, Path], object], place: Path) -> None:
    if part == "pickled_data":
        oneflow_folder(b"}", place)
    else:
        snapshot(place)
    (place / part).unlink()
    stand_in(place / part, outside(place) / part)


def _linked(name: str, target: str, place: Path) -> None:
    """A variable that is a link."""
    snapshot(place)
    (place / name).symlink_to(target.format(outside=outside(place)))


def _pointing(target: str, place: Path) -> None:
    """A pickle whose tensor lies elsewhere."""
    folder = text(target.format(outside=outside(place)))
    oneflow_folder(name("oneflow", "Tensor") + b")\x81}" + text("path") + folder + b"sb", place)
    (place / "link").symlink_to(outside(place))


def _named(variable: str, place: Path) -> None:
    snapshot(place)
    (place / "w").rename(place / variable)


def _bare(files: dict[str, bytes], place: Path) -> None:
    for path, raw in files.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(raw)


#: A variable whose ``out`` is none is none to OneFlow either, which passes it over; a marker may be anything.
_PASSED_OVER = {"w/out", "snapshot_done"}
_LED_OUT = {"an absolute link", "a relative link", "a link to a link", "a hole of a terabyte"}
_TARGETS = (
    *(
        "../../outside",
        "../../outside/w",
        "{outside}",
        "{outside}/w",
        "..",
        ".",
        "",
        "tensor_1/../../../outside/w",
        "\0",
        "out",
    ),
    *("link/w", "tensor_1/", "x" * 5000, "tensor_1\\..\\..\\..\\outside", "/dev/zero", "//dev/zero", "\ud800", "~/w"),
)

CASES: dict[str, Hostile] = {
    **{
        f"{title} in the place of {part}": Hostile(
            partial(_in_place_of, part, stand_in),
            "never"
            if part in _PASSED_OVER
            else "strict"
            if part == "pickled_data" and title not in _LED_OUT
            else "headers",
        )
        for title, stand_in in STAND_INS.items()
        for part in ("w/out", "w/meta", "pickled_data", "snapshot_done")
        if (part, title) != ("snapshot_done", "a hole of a terabyte")
    },
    **{
        f"a pickle that points to {target[:40]!r}": Hostile(
            partial(_pointing, target), "never" if target == "tensor_1/" else "headers"
        )
        for target in _TARGETS
    },
    **{
        f"a variable with {title}": Hostile(partial(snapshot, meta=meta, out=out), _SEEN_LATER.get(title, "headers"))
        for title, (meta, out) in LIES.items()
    },
    "a variable that is a link outside": Hostile(partial(_linked, "v", "{outside}/w")),
    "a variable that is a relative link outside": Hostile(partial(_linked, "v", "../../outside/w")),
    "a variable that is a link to all above": Hostile(partial(_linked, "v", "../../.."), "never"),
    "a variable that is a link to itself": Hostile(partial(_linked, "v", "v"), "never"),
    "a variable named in control characters": Hostile(partial(_named, "\x1b[2J\x1b]0;t\x07\n\u202e\x9b"), "never"),
    "a folder with nothing but a marker in it": Hostile(partial(_bare, {"snapshot_done": b""}), "never"),
    "a save that never finished": Hostile(partial(_bare, {"w/out": bytes(8), "w/meta": META}), "strict"),
    "a variable without its meta": Hostile(partial(_bare, {"w/out": bytes(8), "snapshot_done": b""})),
    "an empty pickle": Hostile(partial(_bare, {"pickled_data": b"", "snapshot_done": b""})),
    "a pickle of another program": Hostile(partial(_bare, {"pickled_data": b"\x80\x02}.", "snapshot_done": b""})),
    "a tensor whose state is a call": Hostile(
        partial(oneflow_folder, name("oneflow", "Tensor") + b")\x81" + call("os", "system", text("true")) + b"b")
    ),
    "a tensor without its state": Hostile(partial(oneflow_folder, name("oneflow", "Tensor") + b")\x81")),
}
