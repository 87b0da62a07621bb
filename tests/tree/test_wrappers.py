"""Names of parameters without what only wraps their module, and which names of two sides are one."""

from __future__ import annotations

from itertools import product

import pytest

from multiframe_ckpt.tree.wrappers import bare_name, matching_names

OUTER = ["module.", "_orig_mod.", "model."]


@pytest.mark.parametrize("prefix", ["".join(parts) for count in range(4) for parts in product(OUTER, repeat=count)])
def test_wrappers_around_a_model_are_no_part_of_a_name_in_any_nesting(prefix: str) -> None:
    assert bare_name(f"{prefix}l1.weight") == "l1.weight"
    assert bare_name(f"{prefix}encoder._orig_mod.module.l1.weight") == "encoder.l1.weight"
    assert bare_name(f"{prefix}decoder.model.weight") == "decoder.model.weight"


def test_a_parameter_may_be_called_as_a_wrapper() -> None:
    assert [bare_name(name) for name in ("model", "module", "l.module", "module.model")] == [
        "model",
        "module",
        "l.module",
        "model",
    ]


def test_names_of_two_sides_match_where_they_differ_by_wrappers() -> None:
    assert matching_names(["module.a.w", "module.b.w"], ["a.w", "_orig_mod.b.w"]) == {
        "module.a.w": "a.w",
        "module.b.w": "_orig_mod.b.w",
    }


def test_names_that_both_sides_have_stay_and_those_that_could_be_either_match_nothing() -> None:
    assert matching_names(["model.a", "a", "module.b"], ["model.a", "b"]) == {"module.b": "b"}
    assert matching_names(["model.a", "module.a"], ["a"]) == {}
    assert matching_names(["module.a"], ["model.a", "_orig_mod.a"]) == {}
