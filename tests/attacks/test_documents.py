"""Hostile documents: the JSON in which flat layouts keep a tree is read strictly, whatever stands in it."""

from __future__ import annotations

import io
import json
import struct
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import multiframe_ckpt as mfc

SEAL = "xxh3:" + "0" * 32
HUGE = {"$int": "0x" + "f" * 5000}  # more digits than Python spells in decimal


def in_safetensors(text: str, folder: Path) -> Path:
    header = json.dumps({"__metadata__": {"multiframe_ckpt": text}}).encode()
    (folder / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return folder / "x.safetensors"


def in_npz(text: str, folder: Path) -> Path:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.comment = b"multiframe_ckpt"
    end = bytearray(file.getvalue())
    raw = text.encode("utf-8", "surrogatepass")
    struct.pack_into("<I", end, end.rindex(b"PK\x05\x06") + 16, len(raw))
    (folder / "x.npz").write_bytes(raw + end)
    return folder / "x.npz"


def in_json(text: str, folder: Path) -> Path:
    (folder / "x.json").write_text(
        f'{{"format": "multiframe_ckpt", "format_version": 1, "tree": {text}, "layers": []}}'
    )
    return folder / "x.json"


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


@pytest.mark.parametrize("container", [in_safetensors, in_npz, in_json])
@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_a_forged_skeleton_is_refused(container: Callable[[str, Path], Path], tree: Any, tmp_path: Path) -> None:
    text = json.dumps(tree) if container is in_json else document(tree)
    with pytest.raises(mfc.FormatError):
        mfc.open(container(text, tmp_path))


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


@pytest.mark.parametrize("container", [in_safetensors, in_npz])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_forged_document_is_refused(container: Callable[[str, Path], Path], text: str, tmp_path: Path) -> None:
    with pytest.raises(mfc.FormatError):
        mfc.open(container(text, tmp_path))


def skeletons() -> st.SearchStrategy[Any]:
    tags = st.sampled_from(["$int", "$float", "$complex", "$str", "$bytes", "$tuple", "$dict", "$tensor", "$", "a"])
    leaves = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=4),
        st.sampled_from([HUGE, "0x1f", "NaN", "AA=="]),
    )
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(tags, inner, max_size=2), max_leaves=10
    )


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(container=st.sampled_from([in_safetensors, in_npz, in_json]), tree=skeletons())
def test_a_random_skeleton_gives_a_tree_or_a_format_error(container: Callable[[str, Path], Path], tree: Any) -> None:
    text = json.dumps(tree) if container is in_json else document(tree)
    with tempfile.TemporaryDirectory() as folder, suppress(mfc.FormatError):
        mfc.open(container(text, Path(folder))).tensors()


@pytest.mark.parametrize("kind", ["S2", "U2", "S1"])
def test_an_npz_of_text_past_any_use_is_refused_before_it_is_made(kind: str, tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros(1 << 22, kind))
    with pytest.raises(mfc.FormatError, match="text"):
        mfc.open(tmp_path / "x.npz")
