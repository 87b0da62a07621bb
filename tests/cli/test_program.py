"""The frame around the verbs: help, exit statuses, one line for every failure, and what a run imports."""

import json
import os
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.cli import VERBS, program
from multiframe_ckpt.cli import inspect as inspect_verb
from multiframe_ckpt.cli.failure import message_of

ONE_CHECKPOINT = [["inspect", "model.pth"], ["verify", "model.pth"], ["diff", "model.pth", "model.pth"]]
EVERY_VERB = [*ONE_CHECKPOINT, ["convert", "model.pth", "out"], ["formats"], ["backends"]]


def one_line_of(result, status=2):
    assert result.exit_code == status, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.endswith("\n")
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example_and_the_two_options(run, verb):
    said = run(verb, "--help").stdout
    assert f"Example:\n    multiframe-ckpt {verb}" in said
    assert "--json" in said
    assert "--quiet" in said
    assert max(map(len, said.splitlines())) <= 80


def test_the_help_lists_every_verb_in_a_whole_line_and_the_exit_statuses(run):
    result = run("--help")
    assert all(f"\n  {verb} " in result.stdout for verb in VERBS)
    assert "..." not in result.stdout.partition("Commands:")[2]
    assert "0 done or same, 1 different or damaged, 2 not usable" in result.stdout
    assert result.exit_code == 0


def test_without_a_verb_the_help_is_shown(run):
    assert run().stdout == run("--help").stdout


def test_the_version_is_said(run):
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"multiframe-ckpt {version('multiframe-ckpt')}\n")


@pytest.mark.parametrize("verb", EVERY_VERB, ids=lambda verb: verb[0])
def test_every_verb_prints_one_json_document_and_nothing_else(run, model, verb):
    result = run(*verb, "--json", "--quiet")
    assert isinstance(json.loads(result.stdout), dict)
    assert result.stderr == ""


@pytest.mark.parametrize("verb", EVERY_VERB, ids=lambda verb: verb[0])
def test_quiet_prints_nothing(run, model, verb):
    result = run(*verb, "--quiet")
    assert (result.exit_code, result.output) == (0, "")


def test_an_unknown_verb_is_one_line_that_lists_the_verbs(run):
    assert "expected one of convert, inspect, diff" in one_line_of(run("inspekt"))


@pytest.mark.parametrize(
    "arguments", [["inspect"], ["inspect", "a", "b"], ["convert", "a", "b", "--too", "c"], ["--wrong"], ["diff", "a"]]
)
def test_wrong_usage_is_one_line_with_the_right_one(run, arguments):
    assert "usage: multiframe-ckpt" in one_line_of(run(*arguments))


def test_a_missing_file_is_one_line_that_names_it(run):
    assert "nowhere.pth" in one_line_of(run("inspect", "nowhere.pth"))


def test_an_unknown_format_is_one_line_that_lists_the_formats(run, model):
    assert "oneflow-pickle" in one_line_of(run("convert", model, "out", "--to", "onefloww"))


def test_a_file_of_no_format_is_one_line_that_says_what_it_begins_with(run, tmp_path):
    (tmp_path / "notes.txt").write_text("shopping list")
    assert "shopping list" in one_line_of(run("inspect", "notes.txt"))


@pytest.mark.parametrize("verb", ["inspect", "diff"])
def test_damage_is_1(run, cut_short, verb):
    paths = [cut_short] * (2 if verb == "diff" else 1)
    assert "cut.pth" in one_line_of(run(verb, *paths), status=1)


def test_a_failure_with_json_is_a_document_too(run):
    result = run("inspect", "nowhere.pth", "--json")
    assert result.exit_code == 2
    error = json.loads(result.stdout)["error"]
    assert error["kind"] == "FileNotFoundError"
    assert result.stderr == f"error: {error['message']}\n"


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (PermissionError(13, "Permission denied", "model.pth"), "model.pth: found no permission"),
        (OSError(28, "No space left on device", "model.pth"), "no room left on the disk"),
        (OSError(5, "Input/output error", "model.pth"), "model.pth: found Input/output error"),
        (MemoryError(), "too little memory"),
        (RecursionError("too deep"), "found an unexpected RecursionError: too deep"),
        (ValueError("two\nlines"), "ValueError: two lines"),
    ],
)
def test_whatever_goes_wrong_is_one_line(run, model, monkeypatch, problem, words):
    def fail(*_, **__):
        raise problem

    monkeypatch.setattr(inspect_verb, "inspect", fail)
    assert words in one_line_of(run("inspect", model))


def test_an_interrupt_is_130_and_one_line(model):
    code = """
import os, signal, sys
from multiframe_ckpt.cli import inspect, main
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever runs the tests may ignore it
inspect.inspect = lambda checkpoint: os.kill(os.getpid(), signal.SIGINT)
sys.argv = ["multiframe-ckpt", "inspect", "model.pth"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=model.parent, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.strip() == "error: interrupted; what was not finished was not kept"


def test_a_warning_is_one_line_and_said_once(run, model, monkeypatch):
    def warn(checkpoint):
        for _ in range(2):
            warnings.warn("odd\nthing", mfc.CheckpointWarning, stacklevel=1)
        return mfc.inspect(checkpoint)

    monkeypatch.setattr(inspect_verb, "inspect", warn)
    assert run("inspect", model).stderr == "warning: odd\\nthing\n"
    assert run("inspect", model, "--quiet").stderr == ""


def test_a_message_of_the_system_without_a_number_is_kept():
    assert message_of(OSError("whole message")) == "whole message"


def test_a_process_ends_with_the_status_and_without_a_traceback(spawn, model):
    for arguments, status in [(["inspect", "model.pth"], 0), (["diff", "model.pth", "no"], 2), (["verify"], 2)]:
        result = spawn(*arguments)
        assert result.returncode == status
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize("arguments", [["inspect", "model.pth"], ["diff", "model.pth", "other.pth"]])
def test_a_reader_that_goes_away_changes_no_exit_status(spawn, model, arguments):
    mfc.save({f"layer{i}": np.ones(1, np.float32) for i in range(10_000)}, model.with_name("other.pth"))
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as gone:
        result = spawn(*arguments, stdout=gone)
    assert result.stderr == ""
    assert result.returncode == (1 if "diff" in arguments else 0)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_standard_output_is_one_line(spawn, model):
    with Path("/dev/full").open("w") as full:
        result = spawn("inspect", "model.pth", stdout=full)
    assert result.returncode == 2
    assert result.stderr.startswith("error: standard output: found no room")
    assert result.stderr.count("\n") == 1


def test_closed_streams_are_no_failure(spawn, model):
    assert spawn("inspect", "model.pth", preexec_fn=lambda: (os.close(1), os.close(2))).returncode == 0


def test_an_encoding_that_cannot_hold_a_key_is_no_failure(spawn, tmp_path):
    mfc.save({"größe": np.ones(1, np.float32)}, tmp_path / "model.pth")
    result = spawn("inspect", "model.pth", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert result.returncode == 0
    assert r"gr\xf6\xdfe" in result.stdout


def test_the_verbs_import_no_framework_and_rich_only_for_a_person(model):
    code = """
import sys
from multiframe_ckpt.cli import program
for arguments in (["convert", "model.pth", "out"], ["inspect", "out"], ["diff", "out", "model.pth"], ["verify", "out"],
                  ["formats"]):
    try:
        program.main([*arguments, "--quiet"])
    except SystemExit as end:
        assert end.code == 0, arguments
print([name for name in ("torch", "oneflow", "rich", "h5py") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=model.parent, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_verb_is_loaded_when_it_is_used_and_not_before(tmp_path):
    code = "import sys, multiframe_ckpt.cli; print('multiframe_ckpt.cli.convert' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr


def test_every_verb_of_the_table_is_a_command():
    assert all(program.get_command(None, verb).callback for verb in VERBS)


def test_what_help_says_of_a_verb_is_what_the_verb_says_of_itself():
    said = {name: program.get_command(None, name).get_short_help_str(limit=200) for name in VERBS}
    assert said == {name: summary for name, (_, summary) in VERBS.items()}


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_of_a_verb_is_in_the_docs(verb):
    docs = Path(__file__).resolve().parents[2] / "docs"
    told = "".join((docs / name).read_text() for name in ("cli.md", "choose.md"))
    flags = [option.opts[-1] for option in program.get_command(None, verb).params if option.opts[-1].startswith("--")]
    assert [flag for flag in flags if f"`{flag}" not in told] == []


def test_help_and_the_package_itself_load_neither_numpy_nor_any_verb():
    code = "import sys, multiframe_ckpt.cli as cli\ntry: cli.main()\nexcept SystemExit: print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    assert "'numpy'" not in done.stdout
    assert "multiframe_ckpt.cli.convert" not in done.stdout


def test_every_public_name_is_found_and_no_other():
    assert all(hasattr(mfc, name) for name in mfc.__all__)
    assert set(mfc.__all__) <= set(dir(mfc))
    with pytest.raises(AttributeError, match="no attribute 'sve'"):
        getattr(mfc, "sve")  # noqa: B009
