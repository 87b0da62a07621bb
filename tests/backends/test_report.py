"""The report of a load reads well, and suggests the rename rule that would make it fit."""

import pytest

from multiframe_ckpt.backend.report import LoadReport, Mismatch, suggested
from multiframe_ckpt.tree.rules import parse_rename, renamed

KEYS = ["l1.weight", "l1.bias", "l2.weight", "l2.bias"]


@pytest.mark.parametrize(
    ("there", "wanted", "rules"),
    [
        ([f"module.{key}" for key in KEYS], KEYS, ["module.*=*"]),
        ([f"_orig_mod.module.{key}" for key in KEYS], KEYS, ["_orig_mod.module.*=*"]),
        (KEYS, [f"module.{key}" for key in KEYS], ["*=module.*"]),
        ([f"net._orig_mod.{key}" for key in KEYS], [f"net.{key}" for key in KEYS], ["net._orig_mod.*=net.*"]),
        (
            [f"model/module.{key}" for key in KEYS],
            [f"model/{key}" for key in KEYS],
            ["model/module.*=model/*"],
        ),
        (
            [f"a._orig_mod.{key}" for key in KEYS] + [f"b._orig_mod.{key}" for key in KEYS],
            [f"a.{key}" for key in KEYS] + [f"b.{key}" for key in KEYS],
            ["a._orig_mod.*=a.*", "b._orig_mod.*=b.*"],
        ),
        (["l1.wieght", "l2.bias"], ["l1.weight", "l2.bias"], ["l1.wieght=l1.weight"]),
    ],
    ids=lambda value: value[0],
)
def test_the_suggested_rules_make_the_keys_fit(there, wanted, rules):
    missing = [key for key in wanted if key not in there]
    unexpected = [key for key in there if key not in wanted]
    found = list(suggested(missing, unexpected, set(there) & set(wanted)))
    assert found == [f"rename=['{rule}']" for rule in rules]
    changed = renamed(there, [parse_rename(rule) for rule in rules])
    assert sorted(changed.get(key, key) for key in there) == sorted(wanted)


def test_a_part_of_the_checkpoint_is_pointed_to_rather_than_renamed():
    assert list(suggested(KEYS, [f"state/{key}" for key in KEYS], [])) == ["load the part under 'state' alone"]


def test_a_rule_that_would_rename_what_fits_is_not_suggested():
    missing = [f"head.{key}" for key in KEYS]
    assert not any("'*=" in text for text in suggested(missing, KEYS, ["embed.weight"]))


def test_keys_without_likeness_get_no_suggestion():
    assert list(suggested(["alpha"], ["z.q"], [])) == []


def test_a_report_reads_as_one_line_and_shows_a_few_of_many_keys():
    report = LoadReport(("a",), tuple("bcdefg"), (), (Mismatch("h", "float32 (2,)", "float32 (3,)"),))
    assert str(report) == (
        "1 loaded, 6 missing (b, c, d, e, f, …), 1 mismatched (h: found float32 (2,), expected float32 (3,))"
    )
    assert not report.complete
    assert not report.ok
    assert LoadReport(("a",)).complete
    assert LoadReport(("a",)).ok
