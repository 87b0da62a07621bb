"""Flags: library errors name parameters, and the command line says the options that set them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import multiframe_ckpt
from multiframe_ckpt.cli import program
from multiframe_ckpt.cli.failure import message_of
from multiframe_ckpt.cli.flags import SWITCHES, VALUES, as_flags
from multiframe_ckpt.errors import FormatError

PACKAGE = Path(multiframe_ckpt.__file__).parent
#: Rooms that are about flags: the command line, and what scripts parse.
ABOUT_FLAGS = {"cli", "interactive", "script.py"}
#: Parameters that errors name and no option of the command line sets: of managers, of loading, of other libraries.
WITHOUT_OPTION = {"async_save", "copy", "device", "rng", "strict", "x"}  # x: whichever is formatted in


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("replace it: overwrite=True", "replace it: --overwrite"),
        ("such as format='hdf5' or format='npz'", "such as --to hdf5 or --to npz"),
        ("rename=['module.*=*']: found no", "--rename 'module.*=*': found no"),
        ("exclude=['a', 'b c']", "--exclude a --exclude 'b c'"),
        ('include=["it\'s"]', "--include 'it'\"'\"'s'"),
        ("dtype='float32'; optimizer_dtype='float32'", "--dtype float32; --optimizer-dtype float32"),
        ("model_only=True: found a list", "--model-only: found a list"),
        ("choose with model_only='a b'", "choose with --model-only='a b'"),
        ("with verify=False, not verify=True", "with --no-verify, not verify=True"),
        ("use device='cpu' or strict=False", "use device='cpu' or strict=False"),
        ("runs/overwrite=True/x: found", "runs/overwrite=True/x: found"),
        ("format=torch; dtype=; ['overwrite']", "format=torch; dtype=; ['overwrite']"),
    ],
)
def test_parameters_with_an_option_are_said_as_it_and_all_else_stays(message: str, said: str) -> None:
    assert as_flags(message) == said
    assert message_of(FormatError(message)) == said


def test_every_option_of_convert_and_diff_that_sets_a_parameter_is_in_the_table() -> None:
    commands = [program.get_command(None, name) for name in ("convert", "diff")]  # type: ignore[arg-type]
    parameters = [parameter for command in commands if command is not None for parameter in command.params]
    options = {(option.name, option.opts[-1]) for option in parameters if option.opts[0].startswith("-")}
    table = {(name, flag) for (name, _), flag in SWITCHES.items()} | set(VALUES.items())
    of_the_verbs = {("as_json", "--json"), ("quiet", "--quiet"), ("strict", "--strict")}
    assert options - of_the_verbs - {("rtol", "--rtol"), ("atol", "--atol")} == table


def texts() -> Iterator[tuple[str, str]]:
    """Gives every text of the library that is no docstring, and where it stands; what is formatted in reads ``x``."""
    adapters = PACKAGE.parent.glob("backends/multiframe_ckpt_*/**/*.py")
    for path in (*PACKAGE.rglob("*.py"), *adapters):
        if ABOUT_FLAGS & set(path.relative_to(PACKAGE.parent).parts):
            continue
        tree = ast.parse(path.read_text())
        inside = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        prose = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                yield f"{path}:{node.lineno}", "".join(part.value if is_text(part) else "x" for part in node.values)
            elif is_text(node) and node not in inside and node not in prose:
                yield f"{path}:{node.lineno}", node.value


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_no_text_of_the_library_names_a_flag() -> None:
    assert [place for place, text in texts() if re.search(r"(?<![\w-])--[a-z]", text)] == []


def test_every_parameter_that_the_library_names_with_a_value_has_an_option_or_is_known_to_have_none() -> None:
    named = {name for _, text in texts() for name in re.findall(r"\b([a-z_]+)=(?:True|False|\[?'|\[?x)", text)}
    assert named - {name for name, _ in SWITCHES} - set(VALUES) <= WITHOUT_OPTION
