"""Printing: nothing raw, nothing cut in a pipe, folded in a terminal, progress only where a person watches."""

import os
import pty
import re
import select
import subprocess
import sys

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.cli.output import json_pieces


def in_terminal(folder, *arguments, stdout=True, stderr=True):
    """Gives what a terminal of 80 columns gets from a run, and the exit status."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    command = [sys.executable, "-m", "multiframe_ckpt", *arguments]
    streams = {"stdout": theirs if stdout else subprocess.DEVNULL, "stderr": theirs if stderr else subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=folder, env=environment, **streams) as process:
        os.close(theirs)
        said = b"".join(iter(lambda: _read(ours), b""))
    os.close(ours)
    return said.decode().replace("\r\n", "\n"), process.returncode


def _read(descriptor):
    select.select([descriptor], [], [])
    try:
        return os.read(descriptor, 65536)
    except OSError:  # how Linux says that the other side closed a terminal
        return b""


@pytest.mark.parametrize("verb", [["inspect"], ["verify"], ["diff", "model.pth"], ["convert", "--to", "safetensors"]])
def test_no_control_character_of_a_file_is_printed(run, model, hostile, verb):
    arguments = [*verb, hostile, "out.x"] if verb[0] == "convert" else [*verb, hostile]
    result = run(*arguments)
    assert re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", result.output) == []


def test_an_escaped_key_stays_recognisable(run, hostile):
    assert r"\x1b[31mred\x1b]0;title\x07" in run("inspect", hostile).stdout


def test_an_error_about_a_hostile_name_is_one_harmless_line(run, tmp_path):
    result = run("inspect", "\x1b[31m\nnowhere")
    assert result.stderr.startswith(r"error: \x1b[31m\nnowhere: ")
    assert result.stderr.count("\n") == 1


def test_a_terminal_gets_no_raw_character_of_a_file_either(tmp_path, hostile):
    said, status = in_terminal(tmp_path, "inspect", "hostile.pth", stderr=False)
    assert status == 0
    assert "\x1b" not in said


def test_a_long_key_folds_under_itself_in_a_terminal_and_stays_whole(tmp_path):
    key = "encoder.layer.attention.output.weight." * 4
    mfc.save({key: np.ones((3, 4), np.float32)}, tmp_path / "model.pth")
    said, _ = in_terminal(tmp_path, "inspect", "model.pth", stderr=False)
    folded = said[said.index("encoder") :]
    assert max(map(len, said.splitlines())) <= 80
    assert "".join(folded.split()) == key


def test_a_wide_key_folds_by_its_width(tmp_path):
    key = "重み" * 60
    mfc.save({key: np.ones((3, 4), np.float32)}, tmp_path / "model.pth")
    said, _ = in_terminal(tmp_path, "inspect", "model.pth", stderr=False)
    pieces = said[said.index("重") :].split()
    assert "".join(pieces) == key
    assert max(map(len, pieces)) * 2 <= 80 - 25


def test_a_long_value_takes_one_line_in_a_terminal_and_is_whole_in_a_pipe(run, tmp_path):
    mfc.save({"text": "x" * 500, "w": np.ones(1, np.float32)}, tmp_path / "model.pth")
    said, _ = in_terminal(tmp_path, "inspect", "model.pth", stderr=False)
    assert max(map(len, said.splitlines())) <= 80
    assert "x" * 500 in run("inspect", "model.pth").stdout


def test_progress_is_shown_to_a_person_who_watches(tmp_path, model):
    said, status = in_terminal(tmp_path, "convert", "model.pth", "out", stdout=False)
    assert status == 0
    assert "converting" in said


def test_progress_is_not_shown_to_a_person_who_asked_for_quiet(tmp_path, model):
    assert in_terminal(tmp_path, "convert", "model.pth", "out", "--quiet") == ("", 0)


def test_progress_is_not_shown_where_nobody_watches(spawn, model):
    assert spawn("convert", "model.pth", "out", env={**os.environ, "FORCE_COLOR": "1"}).stderr == ""


def test_nothing_is_coloured_in_a_pipe(spawn, model):
    assert "\x1b" not in spawn("inspect", "model.pth", env={**os.environ, "FORCE_COLOR": "1"}).stdout


def test_json_has_no_word_that_strict_readers_refuse():
    assert "".join(json_pieces({"a": [float("inf"), {1: (True, None)}]})).split() == [
        *("{", '"a":', "[", '"inf",', "{", '"1":', "[", "true,", "null", "]", "}", "]", "}")
    ]
