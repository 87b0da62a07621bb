"""inspect, diff and verify, from the command line."""

import json

import numpy as np
import pytest

import multiframe_ckpt as mfc


def test_inspect_says_format_framework_counts_and_sizes(run, model):
    said = run("inspect", "model.pth").stdout.splitlines()
    assert said[0] == "model.pth"
    facts = dict(line.split(maxsplit=1) for line in said[1 : said.index("")])
    assert facts["format"] == "torch"
    assert facts["framework"] == "PyTorch"
    assert (facts["tensors"], facts["parameters"], facts["size"]) == ("2", "15", "60 B")
    assert facts["dtypes"] == "float32 (2)"


def test_inspect_says_what_a_resume_would_lose(run, training):
    said = run("inspect", training).stdout
    assert "\n  resume      3/5: weights, optimizer, progress; loses scheduler, rng\n" in said
    assert (
        "\n  resumable   yes: the run goes on in PyTorch with model, optimizer, progress (epoch 3); not decisive: "
        in said
    )
    assert "\n  parameters  15\n" in said


def test_inspect_tables_every_tensor_with_its_key_last_and_whole(run, tmp_path):
    key = "a.very.long.key." * 20
    mfc.save({key: np.ones((3, 4), np.float32), "scalar": np.array(1, np.float32)}, tmp_path / "model.pth")
    said = run("inspect", "model.pth").stdout
    assert f"  float32  [3, 4]  48 B  {key}\n" in said
    assert "  float32  []       4 B  scalar\n" in said


def test_inspect_says_which_tensors_are_tied(run, tmp_path):
    shared = mfc.LazyTensor.from_array(np.ones(3, np.float32), alias="tied")
    mfc.Checkpoint({"embedding": shared, "head": shared}).save(tmp_path / "tied.pth")
    assert "head (tied to embedding)" in run("inspect", "tied.pth").stdout


def test_inspect_shows_plain_values_and_a_list_of_them_on_one_line(run, training):
    said = run("inspect", training).stdout
    assert "\n  epoch = 3\n" in said
    assert "\n  loss = nan\n" in said
    assert "\n  optimizer_state_dict/param_groups/0/params = [0, 1]\n" in said


def test_inspect_as_json_is_strict_json_with_what_json_lacks_as_strings(run, training):
    def refuse(name):
        raise AssertionError(name)

    summary = json.loads(run("inspect", training, "--json").stdout, parse_constant=refuse)
    values = summary["values"]
    assert (values["loss"], values["best"]) == ("nan", "-inf")
    assert (values["raw"], values["z"]) == (r"b'\x00\xff'", "(1+2j)")
    assert values["long"] == hex(1 << 40_000)
    assert values["epoch"] == 3


def test_the_keys_of_inspect_as_json_are_these(run, model):
    summary = json.loads(run("inspect", "model.pth", "--json").stdout)
    assert set(summary) == {
        *("path", "format", "framework", "tensors", "parameters", "nbytes", "dtypes", "values", "meta", "resume"),
        *("resumable", "resumable_because", "parts", "left_behind", "exact", "exact_because", "unknown", "ok"),
    }
    assert summary["tensors"][0] == {
        "key": "module.l1.weight",
        "dtype": "float32",
        "shape": [3, 4],
        "nbytes": 48,
        "tied_to": None,
    }
    assert summary["framework"] == "torch"


def test_inspect_reads_as_the_format_it_is_told(run, model):
    result = run("inspect", model, "--format", "oneflow")
    assert result.exit_code == 2


def test_inspect_as_json_of_a_lone_surrogate_is_text_that_any_reader_takes(run, hostile):
    run("inspect", hostile, "--json").stdout.encode("utf-8")
    assert r"half\ud800" in json.loads(run("inspect", hostile, "--json").stdout)["values"]


def test_diff_of_equal_checkpoints_of_two_formats_is_0(run, model):
    run("convert", model, "folder")
    result = run("diff", model, "folder")
    assert (result.exit_code, result.stdout) == (0, "same: all 2 tensors and values\n")


def test_diff_says_what_was_added_removed_and_changed_and_is_1(run, model, weights):
    other = {"module.l1.weight": weights["module.l1.weight"] + np.float32(0.25), "new": np.ones(1, np.float32)}
    mfc.save(other, model.with_name("other.pth"))
    result = run("diff", "model.pth", "other.pth")
    assert result.exit_code == 1
    assert "only in model.pth (1):\n  module.l1.bias\n" in result.stdout
    assert "only in other.pth (1):\n  new\n" in result.stdout
    assert "12 of 12 values differ, by at most 0.25" in result.stdout
    assert "different: 1 removed, 1 added, 1 changed, 0 the same; largest difference 0.25" in result.stdout


def test_diff_within_the_tolerance_is_0(run, tmp_path):
    mfc.save({"w": np.ones(3, np.float32)}, tmp_path / "a.pth")
    mfc.save({"w": np.full(3, 1.001, np.float32)}, tmp_path / "b.pth")
    assert run("diff", "a.pth", "b.pth").exit_code == 1
    assert run("diff", "a.pth", "b.pth", "--atol", "0.01").exit_code == 0
    assert run("diff", "a.pth", "b.pth", "--rtol", "0.01").exit_code == 0


def test_the_keys_of_diff_as_json_are_these(run, model, training):
    result = run("diff", model, training, "--json")
    report = json.loads(result.stdout)
    assert set(report) == {
        *("a", "b", "added", "removed", "changed", "same", "largest", "near", "dialect"),
        *("equal", "exact", "ok", "rtol", "atol"),
    }
    assert (result.exit_code, report["equal"]) == (1, False)


def test_a_changed_tensor_as_json_has_a_name_for_each_number(run, tmp_path):
    mfc.save({"w": np.array([1, np.nan, np.inf, 2], np.float32), "n": 1}, tmp_path / "a.pth")
    mfc.save({"w": np.array([1.5, 1, 3, 2], np.float32), "n": 2}, tmp_path / "b.pth")
    tensor, value = json.loads(run("diff", "a.pth", "b.pth", "--json").stdout)["changed"]
    assert tensor == {
        **{"key": "w", "a": "float32 (4,)", "b": "float32 (4,)", "differing": 3, "size": 4},
        **{"largest": 0.5, "nans": 1, "infinities": 1},
    }
    assert (value["key"], value["a"], value["b"], value["differing"]) == ("n", "1", "2", None)
    said = run("diff", "a.pth", "b.pth").stdout
    assert "w: float32 (4,), 3 of 4 values differ, by at most 0.5, 1 NaN, 1 infinite\n" in said
    assert "n: 1 -> 2\n" in said


def test_diff_follows_the_rules_that_convert_followed(run, training):
    rules = ["--model-only", "--rename", "module.*=*", "--exclude", "*.bias"]
    assert run("convert", training, "weights.safetensors", *rules).exit_code == 0
    assert run("diff", training, "weights.safetensors").exit_code == 1
    result = run("diff", training, "weights.safetensors", *rules)
    assert (result.exit_code, result.stdout) == (0, "same: all 1 tensors and values\n")


def test_diff_of_dialects_says_so_and_takes_them_as_they_are_when_asked(run, tmp_path):
    group = {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False, "params": [0]}
    state = {0: {"step": np.array(5, np.float32), "exp_avg": np.ones(3), "exp_avg_sq": np.ones(3)}}
    mfc.save({"model": {"w": np.ones(3)}, "optimizer": {"state": state, "param_groups": [group]}}, tmp_path / "run.pth")
    run("convert", "run.pth", "moved")
    said = run("diff", "run.pth", "moved")
    assert (said.exit_code, said.stdout.splitlines()[0]) == (
        0,
        "optimizers and schedulers compared as PyTorch has them; as they are: --dialect as-is",
    )
    assert run("diff", "run.pth", "moved", "--dialect", "as-is").exit_code == 1
    assert "expected one of 'as-is', 'torch'" in run("diff", "run.pth", "moved", "--dialect", "jax").stderr


def test_diff_of_values_that_python_will_not_spell_is_shown(run, training, tmp_path):
    mfc.save({"long": 1 << 50_000, "w": np.ones(1, np.float32)}, tmp_path / "other.pth")
    result = run("diff", training, "other.pth")
    assert result.exit_code == 1, result.stderr


def test_verify_of_a_whole_checkpoint_is_0(run, model):
    run("convert", model, "folder")
    result = run("verify", "folder")
    assert result.exit_code == 0
    assert "folder (oneflow): whole\n2 of 2 tensors match their digest\n" in result.stdout


def test_verify_finds_a_flipped_bit_names_the_tensor_and_is_1(run, flipped):
    result = run("verify", flipped)
    assert result.exit_code == 1
    assert "damaged\n  module.l1.weight: " in result.stdout


def test_verify_of_a_file_cut_short_is_1(run, cut_short):
    report = run("verify", cut_short, "--json")
    assert report.exit_code == 1
    assert json.loads(report.stdout)["whole"] is False


def test_verify_of_a_save_that_never_finished_is_1(run, model):
    run("convert", model, "folder")
    model.with_name("folder").joinpath("snapshot_done").unlink()
    assert run("verify", "folder").exit_code == 1


def test_verify_of_what_is_no_checkpoint_is_2(run, tmp_path):
    (tmp_path / "notes.txt").write_text("shopping list")
    result = run("verify", "notes.txt")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "notes.txt" in result.stderr


def test_the_keys_of_verify_as_json_are_these(run, model):
    report = json.loads(run("verify", model, "--json").stdout)
    assert set(report) == {
        *(
            "path",
            "format",
            "tensors",
            "checked",
            "unchecked",
            "damaged",
            "missing",
            "extra",
            "problems",
            "whole",
            "ok",
        ),
        *("exact", "exact_because", "resumable", "resumable_because"),
    }


def test_verify_says_what_is_missing_extra_and_without_a_digest(run, tmp_path):
    mfc.save({"a": np.ones(3, np.float32), "b": np.ones(4, np.float32)}, tmp_path / "x.json", digest=False)
    document = json.loads((tmp_path / "x.json").read_text()) | {"note": "of a person"}
    (tmp_path / "x.json").write_text(json.dumps(document))
    assert run("verify", "x.json").stdout == (
        "x.json (json): no digests in this file; structure and sizes are right\n"
        "extra, named by nothing and left alone (1):\n  note\n"
    )
    assert json.loads(run("verify", "x.json", "--json").stdout)["unchecked"] == ["a", "b"]
    del document["layers"][1]
    (tmp_path / "x.json").write_text(json.dumps(document))
    result = run("verify", "x.json")
    assert result.exit_code == 1
    assert "missing (1):\n  b\n" in result.stdout


@pytest.mark.parametrize("verb", [["inspect"], ["verify"]])
def test_a_checkpoint_that_is_one_tensor_is_shown(run, tmp_path, verb):
    mfc.save(np.ones(3, np.float32), tmp_path / "one.pth")
    assert run(*verb, "one.pth").exit_code == 0


@pytest.mark.parametrize("tolerance", [{"rtol": 1e-3}, {"atol": 1e-3}, {"rtol": 1e-3, "atol": 1e-3}], ids=str)
@pytest.mark.parametrize(
    ("own", "other", "equal"),
    [
        ([1.0, np.nan], [1.0001, np.nan], True),
        ([1.0, np.inf], [1.0001, np.inf], True),
        ([1.0, -np.inf], [1.0001, np.inf], False),
        ([1.0, 2.0], [1.0001, np.inf], False),
        ([1.0, np.inf], [1.0001, 2.0], False),
        ([1.0, np.nan], [1.0001, 2.0], False),
        ([1e308], [-1e308], False),
    ],
)
def test_within_tolerances_a_nan_equals_a_nan_and_an_infinity_itself_alone(
    own: list[float], other: list[float], equal: bool, tolerance: dict[str, float]
) -> None:
    a, b = (mfc.Checkpoint.from_objects({"w": np.array(values)}) for values in (own, other))
    assert mfc.diff(a, b, **tolerance).equal is equal
