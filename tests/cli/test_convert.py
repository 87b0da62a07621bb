"""convert, from the command line: what it writes, what it says, and what it leaves alone."""

import json
import resource
import signal
import zipfile

import numpy as np
import pytest

import multiframe_ckpt as mfc


def document(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_a_torch_file_becomes_a_oneflow_directory_and_comes_back_equal(run, model):
    assert run("convert", model, "folder").exit_code == 0
    assert run("convert", "folder", "back.pth").exit_code == 0
    assert run("diff", model, "back.pth").exit_code == 0


def test_the_report_names_both_files_and_formats_and_says_exact(run, model):
    said = run("convert", "model.pth", "folder").stdout
    assert "converted model.pth (torch) to folder (oneflow)" in said
    assert "2 tensors, 60 B" in said
    assert "\nexact:" in said


def test_renaming_is_reported_and_done(run, model):
    said = run("convert", model, "folder", "--rename", "module.*=*").stdout
    assert "renamed (2):\n  module.l1.weight -> l1.weight\n" in said
    assert list(mfc.open("folder").tensors()) == ["l1.weight", "l1.bias"]


def test_layouts_are_reported_and_done_and_no_loss(run, model):
    rule = "module.l1.weight=turn"
    report = run("convert", model, "turned.pth", "--layout", rule).stdout
    assert "laid out otherwise (1):\n  module.l1.weight = turn\n" in report
    assert "\nexact:" in report
    assert document(run("convert", "turned.pth", "back.pth", "--layout", rule, "--json"))["laid_out"] == {
        "module.l1.weight": "turn"
    }
    assert run("diff", model, "turned.pth").exit_code == 1
    assert run("diff", model, "back.pth").exit_code == 0


def test_a_layout_that_is_none_is_refused_as_the_option_that_was_given(run, model):
    result = run("convert", model, "turned.pth", "--layout", "module.l1.weight=flip")
    assert result.exit_code == 2
    assert "error: --layout module.l1.weight=flip: found no rule, expected KEY=STEPS" in result.stderr


def test_rename_include_and_exclude_may_be_repeated(run, training):
    globs = ["--include", "model*", "--include", "opt*", "--exclude", "*.bias", "--exclude", "opt*"]
    said = document(run("convert", training, "a.pth", *globs, "--json"))
    assert said["tensors"] == 1
    assert said["excluded"] == ["model_state_dict/module.l1.bias", "optimizer_state_dict/state/0/exp_avg"]
    rules = ["--rename", "*/module.l1.weight=*/w", "--rename", "*/module.l1.bias=*/b"]
    said = document(run("convert", training, "b.pth", *rules, "--json"))
    assert list(said["renamed"].values()) == ["model_state_dict/w", "model_state_dict/b"]


def test_casting_is_reported_as_a_loss(run, model):
    said = run("convert", model, "half.pth", "--dtype", "float16").stdout
    assert "cast (2):\n  module.l1.weight to float16\n" in said
    assert "not exact: 2 cast" in said


def test_model_only_says_what_it_left_behind(run, training):
    result = document(run("convert", training, "weights.pth", "--model-only", "--json"))
    assert result["exact"] is False
    assert "optimizer_state_dict/state/0/exp_avg" in result["excluded"]
    assert "epoch" in result["excluded"]
    assert list(mfc.open("weights.pth").tree) == ["module.l1.weight", "module.l1.bias"]


def test_model_only_stands_alone_before_the_paths_or_has_a_key_behind_an_equals_sign(run, tmp_path, weights):
    mfc.save({"g": weights, "d": weights, "g_ema": weights}, tmp_path / "gan.pth")
    said = run("convert", "--model-only", "gan.pth", "w.pth")
    assert said.exit_code == 2
    assert "'g' (2 tensors, 60 B), 'd' (2 tensors, 60 B)" in said.stderr
    assert "choose with --model-only=g" in said.stderr
    assert run("convert", "--model-only=ema", "gan.pth", "w.pth").exit_code == 0
    assert list(mfc.open("w.pth").tree) == ["module.l1.weight", "module.l1.bias"]
    assert run("convert", "gan.pth", "--model-only=nets", "n.pth").stderr.startswith(
        "error: --model-only=nets: found no"
    )


def test_model_only_of_a_bare_state_dict_is_exact(run, model):
    assert document(run("convert", model, "weights.pth", "--model-only", "--json"))["exact"] is True


def test_widened_and_tied_tensors_are_reported_as_no_loss(run, tmp_path):
    tied = np.ones(3, np.float32)
    brain = mfc.LazyTensor.from_array(np.ones(2, mfc.dtypes.dtype_named("bfloat16").numpy))
    shared = mfc.LazyTensor.from_array(tied, alias="tied")
    mfc.Checkpoint({"a": shared, "b": shared, "bf": brain}).save(tmp_path / "tied.pth")
    said = run("convert", "tied.pth", "folder").stdout
    assert "widened (1), as oneflow needs; the way back is exact:\n  bf to float32\n" in said
    assert "tied (1), written under each name, 12 B more; they come back tied:\n  a = b\n" in said
    assert "\nexact:" in said


def test_long_lists_are_cut_and_say_where_all_of_them_are(run, tmp_path):
    mfc.save({f"layer{i}": np.ones(1, np.float32) for i in range(30)}, tmp_path / "many.pth")
    said = run("convert", "many.pth", "half.pth", "--dtype", "float16").stdout
    assert "... and 20 more; --json lists them all" in said


def test_a_dry_run_reports_and_writes_nothing(run, model, listing):
    said = run("convert", "model.pth", "folder", "--dry-run").stdout
    assert "would convert model.pth" in said
    assert "nothing was written" in said
    assert listing() == ["model.pth"]


def test_a_dry_run_refuses_what_the_run_would_refuse(run, model, listing):
    (model.parent / "folder").mkdir()
    assert run("convert", "model.pth", "folder", "--dry-run").exit_code == 2


def test_an_existing_target_is_left_alone_and_the_way_out_named(run, model):
    target = model.with_name("other.pth")
    target.write_bytes(b"precious")
    result = run("convert", model, target)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--overwrite" in result.stderr
    assert target.read_bytes() == b"precious"


def test_an_existing_target_is_replaced_when_asked(run, model):
    model.with_name("other.pth").write_bytes(b"old")
    assert run("convert", model, "other.pth", "--overwrite").exit_code == 0
    assert run("diff", model, "other.pth").exit_code == 0


def test_a_damaged_source_leaves_nothing_behind(run, flipped, listing):
    before = listing()
    result = run("convert", flipped, "folder")
    assert result.exit_code == 1
    assert listing() == before


@pytest.mark.parametrize("target", ["folder", "big.pth"])
def test_a_write_that_fails_half_way_leaves_nothing_behind_and_names_the_target(tmp_path, spawn, listing, target):
    mfc.save({"w": np.ones(100_000, np.float32)}, tmp_path / "model.pth")

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    result = spawn("convert", "model.pth", target, preexec_fn=limit)
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {target}: found ")
    assert result.stderr.count("\n") == 1
    assert listing() == ["model.pth"]


@pytest.fixture
def unknown(tmp_path):
    """A torch file that holds an object of a class nobody has."""
    pickled = b"\x80\x02}X\x08\x00\x00\x00callbackclightning\nCallback\n)\x81}X\x04\x00\x00\x00bestK\x01sbs."
    with zipfile.ZipFile(tmp_path / "unknown.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
    return tmp_path / "unknown.pth"


def test_objects_of_unknown_types_are_refused_with_the_option_that_lets_them_pass(run, unknown):
    result = run("convert", unknown, "out.pth")
    assert result.exit_code == 2
    assert "lightning.Callback" in result.stderr
    assert "--allow-unknown" in result.stderr


def test_objects_that_were_let_pass_are_reported_as_a_loss(run, unknown):
    said = run("convert", unknown, "out.pth", "--allow-unknown").stdout
    assert "of unknown type (1), written as plain dicts:\n  callback: lightning.Callback\n" in said
    assert "not exact: 1 of unknown type" in said


def test_an_unfinished_directory_is_refused_with_the_option_that_looks_anyway(run, model):
    run("convert", model, "folder")
    model.with_name("folder").joinpath("snapshot_done").unlink()
    result = run("convert", "folder", "back.pth")
    assert result.exit_code == 2
    assert "--allow-incomplete" in result.stderr
    assert run("convert", "folder", "back.pth", "--allow-incomplete").exit_code == 0


@pytest.fixture
def adam(tmp_path):
    """A training checkpoint with Adam's state as PyTorch keeps it."""
    moment = np.ones((3, 4), np.float32)
    state = {0: {"step": np.array(5, np.float32), "exp_avg": moment, "exp_avg_sq": moment * 2}}
    group = {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False, "params": [0]}
    optimizer = {"state": state, "param_groups": [group]}
    mfc.save({"model_state_dict": {"w": moment}, "optimizer_state_dict": optimizer, "epoch": 5}, tmp_path / "adam.pth")
    return tmp_path / "adam.pth"


def test_an_optimizer_that_crosses_is_reported(run, adam):
    said = run("convert", adam, "folder").stdout
    assert "translated (1): " in said
    assert "\n  optimizer_state_dict: Adam, from torch to oneflow\n" in said


def test_the_dialect_of_the_optimizer_can_be_asked_for(run, adam):
    report = document(run("convert", adam, "folder", "--backend", "torch", "--json"))
    assert report["translated"] == []


def test_optimizer_state_is_cast_only_when_asked(run, adam):
    report = document(run("convert", adam, "a.pth", "--dtype", "float16", "--json"))
    assert list(report["cast"]) == ["model_state_dict/w"]
    report = document(run("convert", adam, "b.pth", "--optimizer-dtype", "float16", "--json"))
    assert [key.rpartition("/")[2] for key in report["cast"]] == ["exp_avg", "exp_avg_sq"]


@pytest.fixture
def nadam(tmp_path):
    """A run of an optimizer that OneFlow does not have."""
    group = {"lr": 0.1, "momentum_decay": 4e-3, "params": [0]}
    optimizer = {"state": {0: {"exp_avg": np.ones(3, np.float32)}}, "param_groups": [group]}
    mfc.save({"model": {"w": np.ones(3, np.float32)}, "optimizer": optimizer, "epoch": 5}, tmp_path / "nadam.pth")
    return tmp_path / "nadam.pth"


def test_the_two_verdicts_stand_apart_at_the_end(run, nadam, adam, model):
    said = run("convert", nadam, "a").stdout.splitlines()
    assert said[-2].startswith("exact: converting back gives every tensor and value again")
    assert said[-1].startswith(
        "not resumable: the run does not go on in OneFlow: optimizer: found what looks like NAdam"
    )
    said = run("convert", adam, "b").stdout.splitlines()
    assert said[-1] == "resumable: the run goes on in OneFlow with model, optimizer (Adam), progress (epoch 5)"
    assert run("convert", model, "c").stdout.splitlines()[-1].startswith("exact: ")


@pytest.mark.parametrize(
    ("options", "status"), [([], 1), (["--backend", "torch"], 0), (["--dtype", "float64", "--backend", "torch"], 1)]
)
def test_strict_ends_with_1_unless_both_verdicts_hold_and_writes_all_the_same(run, nadam, options, status):
    assert run("convert", nadam, "a", *options).exit_code == 0
    assert run("convert", nadam, "b", *options, "--strict").exit_code == status
    assert mfc.verify("b").whole


def test_strict_asks_nothing_of_a_run_that_is_not_there(run, model):
    assert run("convert", model, "a", "--strict").exit_code == 0
    assert run("convert", model, "b", "--strict", "--exclude", "*bias", "--dry-run").exit_code == 1


def test_the_verdicts_as_json_are_bools_and_sentences_and_every_part_by_name(run, nadam, model):
    report = document(run("convert", nadam, "a", "--json"))
    assert (report["exact"], report["resumable"], report["ok"]) == (True, False, False)
    assert report["resumable_because"].startswith("the run does not go on in OneFlow: ")
    assert [(part["name"], part["goes_on"], part["decides"]) for part in report["parts"]] == [
        ("model", True, True),
        ("optimizer", False, True),
        ("progress", True, True),
    ]
    assert document(run("convert", model, "b", "--json"))["resumable"] is None


def test_ties_are_written_once_on_request(run, tmp_path):
    shared = mfc.LazyTensor.from_array(np.ones(3, np.float32), alias="tied")
    mfc.Checkpoint({"a": shared, "b": shared}).save(tmp_path / "tied.pth")
    said = run("convert", "tied.pth", "once.safetensors", "--ties", "once", "--strict")
    assert said.exit_code == 0
    assert "tied (1), written under the first name alone:\n  a = b\n" in said.stdout
    refused = run("convert", "tied.pth", "folder", "--ties", "once")
    assert refused.exit_code == 2
    assert "leave --ties each, or write --to safetensors" in refused.stderr
