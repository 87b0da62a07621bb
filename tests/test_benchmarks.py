"""The benchmarks run, and tell what they promise; how fast anything is stands in no test."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
NAMES = ("save", "load", "open", "convert", "asynchronous", "verify", "start", "growth")

#: A benchmark of three contenders of which one fails, and, where argv asks for it, one loads something else.
TROUBLED = """
import sys
import numpy
from cases import Case, Contender
from harness import main


def good(place, *, value):
    return lambda: {"w": numpy.full(3, value)}


def bad(place):
    def run():
        raise ValueError("no")
    return run


VALUES = {VALUES}
main(
    "troubled",
    {"good": good, "bad": bad},
    lambda scale: [
        Case("load", "nothing", [
            Contender("one", "limit", "good", {"value": VALUES[0]}),
            Contender("two", "peer", "bad"),
            Contender("three", "ours", "good", {"value": VALUES[1]}),
        ], limit="one")
    ],
)
"""

#: Prints every (benchmark, case, workload, contender, digest) that is measured, and those that the goals ask for.
LIST_PICKS = """
import importlib, json, sys
from goals import GOALS
scale, *names = sys.argv[1:]
measured = [
    (name, case.name, case.workload, each.label, each.digest)
    for name in names for case in importlib.import_module(name).cases(scale) for each in case.contenders
    if case.cache == "warm" and not each.durable
]
asked = [
    (goal.benchmark, pick.case, pick.workload, pick.contender, goal.digest)
    for goal in GOALS for pick in (goal.above, goal.below) if pick
]
print(json.dumps([measured, asked]))
"""

WRITE_TABLE = """
import json, sys
import table
from goals import Goal, Pick
table.GOALS = tuple(
    Goal("save", "at least twice", "save", Pick("peer", "save"), Pick("ours", "save"), True, bound)
    for bound in (2.0, 4.0)
) + (Goal("load", "soon", "load", Pick("ours", "load"), None, False, 5, unit="ms"),)
print(table.table(json.loads(sys.argv[1])))
"""

PAGE_IS_CURRENT = """
import json
import table
documents = {path.stem: json.loads(path.read_text()) for path in table.results_folder("full").glob("*.json")}
page = table.PAGE.read_text()
print(table.with_table(page, table.table(documents)) == page)
"""


def python(folder, *arguments):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(BENCHMARKS), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)


def printed(folder, *arguments):
    done = python(folder, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_tiny(folder, name, only):
    """Gives the text of the JSON that a run at the tiny scale leaves."""
    printed(folder, BENCHMARKS / f"{name}.py", "--scale", "tiny", "--only", only, "--results", "results")
    return (folder / "results" / f"{name}.json").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The folder of a run at the tiny scale, and the text of its JSON."""
    folder = tmp_path_factory.mktemp("benchmarks")
    return folder, run_tiny(folder, "convert", "safetensors → torch")


def test_a_peer_is_told_as_it_is_and_flushed_and_ours_with_and_without_digests(tiny):
    told = {(each["contender"], each["digest"], each["durable"]) for each in json.loads(tiny[1])["outcomes"]}
    assert told == {
        *(("ours", digest, durable) for digest in (False, True) for durable in (False, True)),
        *((name, None, durable) for name in ("cp", "load_file + torch.save") for durable in (False, True)),
    }


def test_each_outcome_has_its_spread_and_its_ratio_to_the_limit_of_the_same_durability(tiny):
    for outcome in json.loads(tiny[1])["outcomes"]:
        spreads = [*outcome["measured"].values(), outcome["times_the_limit"]]
        assert all(spread["min"] <= spread["median"] <= spread["max"] for spread in spreads)
        if outcome["contender"] == "cp":
            assert outcome["times_the_limit"]["values"] == [1.0]


def test_memory_is_told_anonymous_and_mapped_apart(tiny):
    ours = [each["measured"] for each in json.loads(tiny[1])["outcomes"] if each["kind"] == "ours"]
    assert all({"anonymous_bytes", "mapped_bytes", "idle_anonymous_bytes"} < set(measured) for measured in ours)
    assert all(measured["idle_anonymous_bytes"]["median"] > 0 for measured in ours)


def test_the_result_says_on_what_it_was_measured_and_names_no_path(tiny):
    document = json.loads(tiny[1])
    assert document["machine"]["cores"] >= 1
    assert "torch" in document["environments"]["torch"]
    assert str(tiny[0]) not in tiny[1]
    assert sys.prefix not in tiny[1]
    assert str(BENCHMARKS.parent) not in tiny[1]


def test_the_picture_is_drawn_and_the_inputs_are_removed(tiny):
    assert (tiny[0] / "results" / "convert.png").read_bytes().startswith(b"\x89PNG")
    assert list((tiny[0] / "outputs" / "benchmarks").iterdir()) == []


def test_growth_is_drawn_with_its_exponents(tmp_path):
    fits = json.loads(run_tiny(tmp_path, "growth", "open and list, tensors"))["fits"]
    assert {(fit["case"], fit["over"], len(fit["sizes"])) for fit in fits} == {("open and list", "tensors", 3)}


def test_a_contender_that_fails_is_told_and_the_others_go_on(tmp_path):
    script = tmp_path / "troubled.py"
    script.write_text(TROUBLED.replace("{VALUES}", "(1, 1)"))
    printed(tmp_path, script, "--scale", "tiny", "--results", "results")
    found = json.loads((tmp_path / "results" / "troubled.json").read_text())["outcomes"]
    assert [outcome.get("failed") for outcome in found] == [None, "ValueError", None]


def test_contenders_that_load_different_tensors_end_the_benchmark(tmp_path):
    script = tmp_path / "troubled.py"
    script.write_text(TROUBLED.replace("{VALUES}", "(1, 2)"))
    done = python(tmp_path, script, "--scale", "tiny", "--results", "results")
    assert done.returncode == 1
    assert "found tensors that differ" in done.stderr
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("scale", ["full", "quick"])
def test_what_a_goal_compares_is_measured(scale, tmp_path):
    measured, asked = json.loads(printed(tmp_path, "-c", LIST_PICKS, scale, *NAMES))
    measured = {tuple(each) for each in measured}
    assert len(asked) > 100
    assert [(*names, digest) for *names, digest in asked if not {(*names, None), (*names, digest)} & measured] == []


def outcome(contender, case, **facts):
    names = {"contender": contender, "case": case, "workload": "W1", "cache": "warm", "digest": None, "durable": False}
    return names | facts


def test_a_goal_is_reached_or_not_by_the_median_of_the_ratios_within_a_turn(tmp_path):
    seconds = {"ours": [1.0, 10.0, 1.0], "peer": [3.0, 30.0, 30.0]}
    outcomes = [outcome(name, "save", measured={"seconds": {"values": value}}) for name, value in seconds.items()]
    machine = {"cpu": "x", "cores": 2, "memory_gb": 1, "file_system": "ext4"}
    failed = [outcome("ours", "load", failed="TypeError")]
    documents = {
        name: {"machine": machine, "scale": "full", "outcomes": found}
        for name, found in (("save", outcomes), ("load", failed))
    }
    lines = printed(tmp_path, "-c", WRITE_TABLE, json.dumps(documents)).splitlines()
    assert "| save | off | at least twice | 3.00 × (3.00–30.0) | yes | – |" in lines
    assert "| save | off | at least twice | 3.00 × (3.00–30.0) | **no** | – |" in lines
    assert "| load | off | soon | ours failed: TypeError | not measured | – |" in lines


def test_the_page_says_what_the_results_say(tmp_path):
    assert printed(tmp_path, "-c", PAGE_IS_CURRENT) == "True\n"


def test_beside_real_oneflow_the_peers_are_its_own_save_and_load(tmp_path):
    pytest.importorskip("oneflow")
    for name, label in (("save", "flow.save"), ("load", "flow.load")):
        outcomes = json.loads(run_tiny(tmp_path, name, f"{name}, W3"))["outcomes"]
        assert [each for each in outcomes if each["contender"] == label and "measured" in each]
