"""Run folders, the arguments of a training script, and the choice between training and testing."""

import json
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt import RunFolder, add_checkpoint_arguments, restore_or_train
from multiframe_ckpt.errors import CheckpointWarning, NotTrainedError, ValueRefusedError
from multiframe_ckpt.runs.survey import compare_seeds, survey


def parsed(*words):
    return add_checkpoint_arguments(ArgumentParser()).parse_args(words)


def test_a_run_is_named_by_method_dataset_backbone_and_seed():
    run = RunFolder.of("outputs", method="intent", dataset="clinc", backbone="bert", seed=3)
    assert run.path == Path("outputs/intent_clinc_bert_seed3")
    assert run.model == Path("outputs/intent_clinc_bert_seed3/models/pytorch_model.bin")
    assert (run.seed, run.seedless) == (3, "intent_clinc_bert")


def test_parts_that_are_not_given_are_not_in_the_name():
    run = RunFolder.of("outputs", method="unet_2")
    assert (run.path.name, run.seed, run.seedless) == ("unet_2", None, "unet_2")


def test_the_name_of_a_published_model_makes_one_folder():
    assert RunFolder.of("o", method="m", backbone="google/bert-base").path == Path("o/m_google--bert-base")


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a b", "a\nb", "a\\b", "a\0b"])
def test_a_part_that_is_no_name_is_refused(name):
    with pytest.raises(ValueRefusedError, match="dataset: found"):
        RunFolder.of("outputs", method="m", dataset=name)


def test_a_chinese_name_is_a_name():
    assert RunFolder.of("o", method="意图", seed=0).path.name == "意图_seed0"


def test_results_are_json_that_any_reader_takes(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.save_results({"acc": np.float32(0.5), "per_class": {"a": 1}, "loss": float("nan")})
    assert json.loads(run.results.read_text("utf-8")) == {"acc": 0.5, "per_class": {"a": 1}, "loss": "nan"}


def test_the_arguments_of_a_script_have_defaults_that_only_test():
    assert vars(parsed()) == {
        **{"train": False, "save_model": False, "save_results": False, "resume": None},
        **{"no_save_optimizer": False, "save_freq": 1, "output_dir": "outputs", "seed": 0},
    }


def test_the_arguments_of_a_script_are_those_of_the_field():
    words = "--train --save_model --save_results --resume --no_save_optimizer --save_freq 5 --output_dir o --seed 7"
    assert vars(parsed(*words.split())) == {
        **{"train": True, "save_model": True, "save_results": True, "resume": "latest"},
        **{"no_save_optimizer": True, "save_freq": 5, "output_dir": "o", "seed": 7},
    }


def test_which_checkpoint_to_resume_from_can_be_said():
    assert parsed("--resume", "best").resume == "best"


@pytest.mark.parametrize("number", ["0", "-1", "x"])
def test_a_save_freq_below_1_is_refused(number, capsys):
    with pytest.raises(SystemExit):
        parsed(f"--save_freq={number}")
    assert f"found '{number}', expected 1 or more" in capsys.readouterr().err


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "models" / "pytorch_model.bin"
    path.parent.mkdir()
    return path


def chosen(path, **options):
    return restore_or_train(path, lambda: "trained", lambda found: f"restored {found.name}", **options)


def test_a_saved_model_is_restored_and_a_missing_one_trained(model):
    assert chosen(model) == "trained"
    model.touch()
    assert chosen(model) == "restored pytorch_model.bin"


def test_with_train_the_model_is_trained_although_one_is_saved(model):
    model.touch()
    assert chosen(model, arguments=parsed("--train")) == "trained"


def test_without_train_the_saved_model_is_tested(model):
    model.touch()
    assert chosen(model, arguments=parsed()) == "restored pytorch_model.bin"


def test_testing_without_a_saved_model_says_which_command_makes_one(model, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["/usr/bin/python3", "intent.py", "--seed", "3", "--name", "two words"])
    with pytest.raises(NotTrainedError) as refusal:
        chosen(model, arguments=parsed("--seed", "3"))
    command = "python3 intent.py --seed 3 --name 'two words' --train --save_model"
    assert str(refusal.value) == f"{model}: found no saved model, expected one; make it with: {command}"
    assert isinstance(refusal.value, FileNotFoundError)


SCRIPT = """
import argparse
import numpy as np
import multiframe_ckpt as mfc

arguments = mfc.add_checkpoint_arguments(argparse.ArgumentParser()).parse_args()
run = mfc.RunFolder.of(arguments.output_dir, method="mean", seed=arguments.seed)

def train():
    weights = {"w": np.full(3, arguments.seed, np.float32)}
    if arguments.save_model:
        mfc.save(weights, run.model, overwrite=True)
    return weights

weights = mfc.restore_or_train(run.model, train, mfc.load, arguments=arguments)
print(weights["w"].tolist())
"""


def test_the_command_that_is_named_trains_and_then_the_test_runs(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)

    def script(*words):
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)

    refused = script(sys.executable, "script.py", "--seed", "4")
    assert refused.returncode == 1
    command = refused.stderr.rpartition("make it with: ")[2].split()
    assert script(sys.executable, *command[1:]).stdout == "[4.0, 4.0, 4.0]\n"
    assert script(sys.executable, "script.py", "--seed", "4").stdout == "[4.0, 4.0, 4.0]\n"


def keep(folder, losses, **metrics):
    manager = mfc.CheckpointManager(folder)
    for epoch, loss in enumerate(losses):
        manager.save(epoch, {"w": np.zeros(2, np.float32)}, loss=loss, metrics=metrics)


def test_runs_are_found_at_any_depth_and_named_by_their_folders(tmp_path):
    keep(RunFolder.of(tmp_path / "a", method="m", seed=0).models, [0.1])
    keep(tmp_path / "b" / "c", [0.1], acc=0.5)
    mfc.save({"w": np.zeros(2, np.float32)}, RunFolder.of(tmp_path, method="bare").model)
    runs = {run.name: run for run in survey(tmp_path)}
    assert sorted(runs) == ["a/m_seed0", "b/c", "bare"]
    assert runs["bare"].model.complete
    assert runs["b/c"].metrics == {"loss": 0.1, "acc": 0.5}


def test_the_folder_itself_may_be_the_run(tmp_path):
    keep(tmp_path / "run" / "models", [0.2, 0.1])
    (run,) = survey(tmp_path / "run" / "models")
    assert run.name == "models"
    assert (run.latest, run.best) == (run.checkpoints[-1].path, run.checkpoints[-1].path)


def test_the_results_of_a_test_stand_over_the_metrics_of_training(tmp_path):
    run = RunFolder.of(tmp_path, method="m", seed=0)
    keep(run.models, [0.5], acc=0.1)
    run.save_results({"acc": 0.9})
    assert survey(tmp_path)[0].metrics == {"loss": 0.5, "acc": 0.9}


def test_results_that_are_no_json_are_left_out_with_a_warning(tmp_path):
    keep(tmp_path / "run", [0.5])
    (tmp_path / "run" / "results.json").write_text("{")
    with pytest.warns(CheckpointWarning, match=r"results\.json: found no JSON") as told:
        (run,) = survey(tmp_path)
    assert run.metrics == {"loss": 0.5}
    assert str(told[0].message) == run.problem
    assert told[0].filename == __file__


def test_runs_that_differ_only_in_their_seed_are_compared(tmp_path):
    for seed, acc in ((0, 0.80), (1, 0.84), (2, 0.88)):
        keep(RunFolder.of(tmp_path, method="m", dataset="d", seed=seed).models, [0.5], acc=acc)
    keep(RunFolder.of(tmp_path, method="m", dataset="e", seed=0).models, [0.5], acc=0.1)
    rows = {(row.runs, row.metric): row for row in compare_seeds(survey(tmp_path))}
    assert sorted(rows) == [("m_d", "acc"), ("m_d", "loss")]
    row = rows["m_d", "acc"]
    assert (row.seeds, row.least, row.most) == ((0, 1, 2), 0.80, 0.88)
    assert (row.mean, row.std) == (pytest.approx(0.84), pytest.approx(0.04))  # the sample's: n - 1


def test_a_seed_whose_metric_is_missing_or_nan_does_not_count(tmp_path):
    for seed, metrics in ((0, {"acc": 0.5}), (1, {"acc": float("nan")}), (2, {})):
        keep(RunFolder.of(tmp_path, method="m", seed=seed).models, [0.25], **metrics)
    rows = {row.metric: row for row in compare_seeds(survey(tmp_path))}
    assert (rows["acc"].seeds, rows["acc"].std) == ((0,), None)
    assert (rows["loss"].seeds, rows["loss"].std) == ((0, 1, 2), 0.0)
