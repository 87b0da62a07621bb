"""The JSON in which flat formats keep a tree, forged, and JSON checkpoints that lie about their layers."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .case import Hostile

__all__ = ["CASES", "HUGE", "document", "in_hdf5", "in_json", "in_npz", "in_safetensors"]

SEAL = "xxh3:" + "0" * 32
HUGE = {"$int": "0x" + "f" * 5000}  # more digits than Python spells in decimal


def in_safetensors(text: str, place: Path) -> Path:
    header = json.dumps({"__metadata__": {"multiframe_ckpt": text}}).encode()
    place.write_bytes(struct.pack("<Q", len(header)) + header)
    return place


def in_npz(text: str, place: Path) -> Path:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.comment = b"multiframe_ckpt"
    end = bytearray(file.getvalue())
    raw = text.encode("utf-8", "surrogatepass")
    struct.pack_into("<I", end, end.rindex(b"PK\x05\x06") + 16, len(raw))
    place.write_bytes(raw + end)
    return place


def in_hdf5(text: str, place: Path) -> Path:
    with h5py.File(place, "w", track_order=True, libver=("v108", "v108")) as file:
        raw = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
        file.attrs.create("multiframe_ckpt", raw)
    return place


def in_json(text: str, place: Path) -> Path:
    whole = f'{{"format": "multiframe_ckpt", "format_version": 1, "tree": {text}, "layers": []}}'
    place.write_bytes(whole.encode("utf-8", "surrogatepass"))
    return place


def document(tree: Any, **parts: Any) -> str:
    body = {"format_version": 1, "tree": tree, "tensors": [], "seal": SEAL} | parts
    return json.dumps(body, separators=(",", ":"))


TREES = {
    "a key twice, of endless digits": {"$dict": [[HUGE, 1], [HUGE, 2]]},
    "a key that is a list, beside one of endless digits": {"$dict": [[[], 1], [HUGE, 2]]},
    "a tensor named by a number": {"$tensor": 1},
    "a tensor that is not there": {"$tensor": "a"},
    "an int in decimal": {"$int": "12"},
    "an int of a list": {"$int": []},
    "a float that is finite": {"$float": "1.0"},
    "a float of wrong bits": {"$float": "nan:0x1"},
    "a float of endless bits": {"$float": "nan:0x" + "f" * 5000},
    "a complex of one part": {"$complex": [1.0]},
    "a complex of texts": {"$complex": ["1", "2"]},
    "bytes that are no base64": {"$bytes": "*"},
    "text of bytes that are no text": {"$str": "/w=="},
    "an unknown tag": {"$eval": "1"},
    "a dict of triples": {"$dict": [[1, 2, 3]]},
    "a tuple of a text": {"$tuple": "ab"},
}

TEXTS = {
    "endless nesting of lists": '{"format_version":1,"tree":' + "[" * 100_000,
    "endless nesting of dicts": '{"format_version":1,"tree":' + '{"a":' * 100_000,
    "nesting past the limit": document(json.loads("[" * 200 + "]" * 200)),
    "tuples past the limit": document(json.loads('{"$tuple":[' * 200 + "]}" * 200)),
    "a version of the future": document(1, format_version=2),
    "a version that is True": document(1, format_version=True),
    "a version of endless digits": '{"format_version":' + "1" * 4000 + "}",
    "tensors that are no list": document(1, tensors={}),
    "a tensor that is a number": document(1, tensors=[1]),
    "a tensor of unknown parts": document(1, tensors=[{"name": "a", "digest": SEAL, "run": "x"}]),
    "a tensor without a digest": document(1, tensors=[{"name": "a"}]),
    "a tensor that is not in the file": document({"$tensor": "a"}, tensors=[{"name": "a", "digest": SEAL}]),
    "a tensor tied to itself": document(1, tensors=[{"name": "a", "tied_to": "a", "digest": SEAL}]),
    "a key twice": '{"format_version":1,"format_version":1}',
    "a bare NaN": '{"format_version":NaN}',
    "nothing": "",
    "a number": "1",
    "text that is no UTF-8": "\udcff",
}

_CONTAINERS: dict[str, Callable[[str, Path], Path]] = {
    "safetensors": in_safetensors,
    "npz": in_npz,
    "hdf5": in_hdf5,
    "json": in_json,
}
_DEEP = "[" * 200_000 + "]" * 200_000
_ENTRY = '"name": "a", "dtype": "float32", "shape": [2], "digest": null, "values": [1, 2]'


def _layers(text: str, place: Path) -> None:
    """Writes a JSON checkpoint with such layers."""
    _json(f'{{"format": "multiframe_ckpt", "format_version": 1, "layers": {text}}}', place)


def _json(text: str, place: Path) -> None:
    place.write_bytes(text.encode("utf-8", "surrogatepass"))


#: The text of the layers; those that promise what only their values break are seen when they are read.
LAYERS = {
    "that are no list": "{}",
    "that are nested without end": _DEEP,
    "that are nested in a layer without end": f'[{{"name": {_DEEP}}}]',
    "of endless digits": f'[{{"name": {"9" * 900_000}}}]',
    "of an endless shape": f"[{{{_ENTRY.replace('[2]', '[9223372036854775807, 9223372036854775807]')}}}]",
    "of a shape of a million digits": f"[{{{_ENTRY.replace('[2]', '[' + '9' * 900_000 + ']')}}}]",
    "of a negative shape": f"[{{{_ENTRY.replace('[2]', '[-2]')}}}]",
    "of a shape of floats": f"[{{{_ENTRY.replace('[2]', '[2.0]')}}}]",
    "of a shape in a text": f"[{{{_ENTRY.replace('[2]', chr(34) + '2' + chr(34))}}}]",
    "of eighty dimensions": f"[{{{_ENTRY.replace('[2]', str([1] * 80))}}}]",
    "of nobody's dtype": f"[{{{_ENTRY.replace('float32', 'object')}}}]",
    "of one name": f"[{{{_ENTRY}}}, {{{_ENTRY}}}]",
    "with a key twice": f'[{{{_ENTRY}, "name": "b"}}]',
    "without values": '[{"name": "a", "dtype": "float32", "shape": [2]}]',
    "of fewer values than bytes": f"[{{{_ENTRY.replace('[2]', '[200]')}}}]",
    "tied to nothing": '[{"name": "a", "tied_to": "b"}]',
    "tied to themselves": '[{"name": "a", "tied_to": "a"}]',
    "with a digest of another kind": f"[{{{_ENTRY.replace('null', chr(34) + 'md5:0' + chr(34))}}}]",
    "that end too soon": f"[{{{_ENTRY}}}",
}
VALUES = {
    "bare NaN": "[NaN, 1]",
    "bare Infinity": "[Infinity, 1]",
    "endless digits": f"[{'9' * 300_000}, 1]",
    "an endless exponent": "[1e999999999, 1]",
    "numbers past a float32": "[1e300, 1]",
    "texts": '["a", "b"]',
    "endless NaN bits": f'["nan:0x{"f" * 100_000}", 1]',
    "another number of values": "[1, 2, 3]",
    "rows": "[[1, 2]]",
    "dicts": '[{"a": 1}, 2]',
    "true and false": "[true, false]",
    "null": "[null, 1]",
    "nesting without end": _DEEP,
}


CASES: dict[str, Hostile] = {
    **{
        f"a tree of {title}, in {kind}": Hostile(partial(put, json.dumps(tree) if kind == "json" else document(tree)))
        for title, tree in TREES.items()
        for kind, put in _CONTAINERS.items()
    },
    **{
        f"{title}, in {kind}": Hostile(partial(put, text))
        for title, text in TEXTS.items()
        for kind, put in _CONTAINERS.items()
        if kind != "json"
    },
    **{f"JSON layers {title}": Hostile(partial(_layers, text)) for title, text in LAYERS.items()},
    **{
        f"JSON values of {title}": Hostile(partial(_layers, f"[{{{_ENTRY.replace('[1, 2]', text)}}}]"), "values")
        for title, text in VALUES.items()
    },
    "JSON nested without end": Hostile(partial(in_json, _DEEP)),
    "JSON objects nested without end": Hostile(partial(in_json, '{"a":' * 150_000 + "1" + "}" * 150_000)),
    "JSON with an int of 900,000 digits": Hostile(partial(in_json, "9" * 900_000)),
    "JSON with a key twice": Hostile(partial(in_json, '{"a": 1, "a": 2}')),
    "JSON with NaN": Hostile(partial(in_json, "NaN")),
    "JSON with a BOM": Hostile(partial(_json, "\ufeff{}")),
    "JSON that is UTF-16": Hostile(lambda place: place.write_text('{"format": "multiframe_ckpt"}', "utf-16")),
    "JSON with a half of a character": Hostile(partial(in_json, '"\udcff"')),
    "JSON of another program": Hostile(partial(_json, '{"weights": [1, 2, 3]}')),
    "JSON of the future": Hostile(partial(_json, '{"format": "multiframe_ckpt", "format_version": 2, "layers": []}')),
    "JSON with text behind it": Hostile(
        partial(_json, '{"format": "multiframe_ckpt", "format_version": 1, "layers": []} x')
    ),
    "JSON quotes without end": Hostile(partial(_json, '{"format": "multiframe_ckpt", "' + '\\"' * 400_000)),
    "JSON spaces without end": Hostile(partial(_json, '{"format": "multiframe_ckpt"' + " " * 900_000)),
    "JSON commas without end": Hostile(partial(_json, '{"format": "multiframe_ckpt", "layers": [' + "1," * 400_000)),
    "JSON with control characters in its names": Hostile(
        partial(in_json, '{"\\u001b[2J": 1, "a\\u202eb": 2, "\\r\\n": 3, "\\u009b": "\\u001b]0;t\\u0007"}'), "never"
    ),
}
