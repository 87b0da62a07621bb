"""Random documents: the JSON in which flat formats keep a tree is read strictly, whatever stands in it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from catalogue.documents import HUGE, document, in_json, in_npz, in_safetensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import multiframe_ckpt as mfc


def any_trees() -> st.SearchStrategy[Any]:
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
@given(container=st.sampled_from([in_safetensors, in_npz, in_json]), tree=any_trees())
def test_a_random_tree_gives_a_tree_or_a_format_error(container: Callable[[str, Path], Path], tree: Any) -> None:
    text = json.dumps(tree) if container is in_json else document(tree)
    with tempfile.TemporaryDirectory() as folder, suppress(mfc.FormatError):
        mfc.open(container(text, Path(folder) / "x")).tensors()


@pytest.mark.parametrize("kind", ["S2", "U2", "S1"])
def test_an_npz_of_text_past_any_use_is_named_and_never_made(kind: str, tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros(1 << 22, kind))
    node = mfc.open(tmp_path / "x.npz")["a"]
    assert isinstance(node, mfc.Unknown) and node.type_name == "numpy.ndarray"
    with pytest.raises(mfc.UnsafeError, match="allow_unknown"):
        mfc.load(tmp_path / "x.npz")
