"""``examples/demo.py`` as `make demo` runs it, in a folder of its own and with one epoch."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("mlxtend")

import multiframe_ckpt as mfc

pytestmark = pytest.mark.slow

DEMO = Path(__file__).resolve().parent.parent / "examples" / "demo.py"
TITLE = "Accuracy on 1,000 held-out digits"


def demo(folder, *arguments):
    command = [sys.executable, str(DEMO), "--epochs", "1", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def right_answers(output):
    """Gives the counts of right answers that the demo printed, by what had them."""
    lines = output.partition(TITLE)[2].splitlines()
    return {line.split("  ")[1]: int(line.split("(")[1].split()[0]) for line in lines if line.endswith("right)")}


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """The demo's folder and what it printed, of one run that others do not disturb."""
    folder = tmp_path_factory.mktemp("demo")
    done = demo(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


@pytest.fixture
def oneflow_that_answers(tmp_path):
    def make(answer, status=0):
        script = tmp_path / "python"
        script.write_text(f"#!/bin/sh\necho '{answer}'\necho 'said on the way' >&2\nexit {status}\n")
        script.chmod(0o755)
        return script

    return make


def test_the_network_learns_and_answers_the_same_after_the_way_through_oneflows_directory(played):
    right = right_answers(played[1])
    assert set(right) >= {"PyTorch, as it was trained", "PyTorch, read back from OneFlow's directory"}
    assert len(set(right.values())) == 1
    assert min(right.values()) > 700  # of 1,000: a network that only guesses has 100
    assert played[1].endswith("equal\n")


def test_the_directory_holds_the_saved_tensors_bit_for_bit(played):
    saved, converted = (mfc.open(played[0] / "outputs" / "demo" / name) for name in ("mnist.pth", "mnist_oneflow"))
    assert converted.meta["format"] == "oneflow"
    assert mfc.diff(saved, converted).equal


def test_the_commands_it_shows_can_be_run_again_as_they_stand(played):
    commands = [line.removeprefix("$ ") for line in played[1].splitlines() if line.startswith("$ ")]
    assert len(commands) >= 2
    for command in commands:
        done = subprocess.run(command, shell=True, cwd=played[0], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_a_second_run_leaves_and_prints_the_same_and_nothing_of_the_first(played, tmp_path):
    (tmp_path / "outputs" / "demo" / "left_over").mkdir(parents=True)
    done = demo(tmp_path)
    assert (done.returncode, done.stdout) == (0, played[1])
    assert contents(tmp_path) == contents(played[0])


def test_without_oneflow_the_demo_says_what_it_left_out(played):
    if any(record.name == "oneflow" and record.available for record in mfc.backends()):
        pytest.skip("OneFlow is here")
    assert "make demo ONEFLOW=1" in played[1]


def test_real_oneflow_answers_the_same(played):
    oneflow = pytest.importorskip("oneflow")
    right = right_answers(played[1])
    assert right[f"OneFlow {oneflow.__version__}, by flow.load"] == right["PyTorch, as it was trained"]


def test_accuracies_that_differ_end_with_status_1(tmp_path, oneflow_that_answers):
    done = demo(tmp_path, "--oneflow-python", oneflow_that_answers('{"oneflow": "0.0", "right": 1}'))
    assert right_answers(done.stdout)["OneFlow 0.0, by flow.load"] == 1
    assert done.returncode == 1
    assert "accuracies that differ" in done.stderr


def test_an_oneflow_that_fails_is_shown_with_what_it_said(tmp_path, oneflow_that_answers):
    done = demo(tmp_path, "--oneflow-python", oneflow_that_answers("", status=3))
    assert done.returncode == 1
    assert "said on the way" in done.stderr
    assert "found exit status 3" in done.stderr
