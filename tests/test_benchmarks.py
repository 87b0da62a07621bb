"""The benchmarks run, and tell what they promise; how fast anything is stands in no test."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

pytestmark = pytest.mark.slow

CONVERT = Path(__file__).resolve().parent.parent / "benchmarks" / "convert.py"
MEASURES = {"process_seconds", "inside_seconds", "peak_bytes"}


def run_quickly(folder, only):
    """Gives the text of the JSON that a quick run leaves."""
    command = [sys.executable, str(CONVERT), "--quick", "--only", only, "--results", "results"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return (folder / "results" / "convert.json").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The folder of a quick run, and the text of its JSON."""
    folder = tmp_path_factory.mktemp("benchmarks")
    return folder, run_quickly(folder, "safetensors")


def test_each_case_is_measured_for_ours_and_for_its_peers_as_ratios_to_ours(quick):
    outcomes = json.loads(quick[1])["outcomes"]
    assert {outcome["case"] for outcome in outcomes} == {
        "torch → safetensors",
        "safetensors → torch",
        "open safetensors",
    }
    for outcome in outcomes:
        assert set(outcome["measured"]) == set(outcome["ratio_to_ours"]) == MEASURES
        assert all(spread["low"] <= spread["median"] <= spread["high"] for spread in outcome["measured"].values())
        if outcome["series"] == "ours":
            assert all(spread["values"] == [1.0] for spread in outcome["ratio_to_ours"].values())


def test_the_result_says_on_what_it_was_measured_and_names_no_path(quick):
    document = json.loads(quick[1])
    assert document["machine"]["cores"] >= 1
    assert "torch" in document["environments"][0]
    assert str(quick[0]) not in quick[1]
    assert sys.prefix not in quick[1]


def test_the_picture_is_drawn_and_the_inputs_are_removed(quick):
    assert (quick[0] / "results" / "convert.png").read_bytes().startswith(b"\x89PNG")
    assert list((quick[0] / "outputs" / "benchmarks").iterdir()) == []


def test_beside_real_oneflow_the_peers_are_its_own_save_and_load(tmp_path):
    pytest.importorskip("oneflow")
    outcomes = json.loads(run_quickly(tmp_path, "oneflow"))["outcomes"]
    assert {"torch.load, flow.save", "flow.load, torch.save", "flow.load"} <= {
        outcome["contender"] for outcome in outcomes
    }
