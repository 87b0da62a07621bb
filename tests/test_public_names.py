"""The public door: every name is reachable as mfc.X, type checkers see the same names, and nothing is loaded unasked.

Run as a script it writes the stub for type checkers anew, from the table of the package.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt import errors

STUB = Path(mfc.__file__).with_suffix(".pyi")
HEAD = '"""The public names, for type checkers: tests/test_public_names.py writes this file from __init__.py."""\n\n'
#: Types that the author of a plugin meets, and a caller never by name.
FOR_AUTHORS = {"File", "Sharing", "Source", "TensorRef"}


def stub() -> str:
    names = sorted((home, name[0].islower(), name) for name, home in mfc._HOME_OF.items())
    lines = [f"from .{home} import {name} as {name}" for home, _, name in names]
    lines.append("from .errors import *  # noqa: F403")
    return HEAD + "\n".join([*sorted(lines, key=lambda line: line.split()[1]), "", "__version__: str", ""])


def test_type_checkers_see_the_names_of_the_table() -> None:
    assert STUB.read_text() == stub(), "write it anew with: python tests/test_public_names.py"


def test_every_error_is_a_public_name() -> None:
    assert set(errors.__all__) <= set(mfc.__all__)
    assert mfc.ReplacedError is errors.ReplacedError


def test_every_public_name_lives_where_the_table_says_and_is_listed_once() -> None:
    assert len(mfc.__all__) == len(set(mfc.__all__))
    assert all(getattr(mfc, name) is not None for name in mfc.__all__)


def test_every_type_that_a_public_function_takes_or_returns_is_a_public_name() -> None:
    public = {getattr(mfc, name) for name in mfc.__all__}
    missing = {
        f"{cls.__name__} of {name}"
        for name in mfc.__all__
        for function in functions_of(getattr(mfc, name))
        for cls in classes_in(function)
        if cls not in public and cls.__name__ not in FOR_AUTHORS
    }
    assert missing == set()


def functions_of(value: object) -> Iterator[FunctionType]:
    """Gives a function, or the constructor and every public method and property of a class of ours."""
    if isinstance(value, FunctionType):
        yield inspect.unwrap(value)
    if not isinstance(value, type) or issubclass(value, BaseException):
        return
    for name, member in (entry for cls in value.__mro__ for entry in vars(cls).items()):
        function = getattr(member, "__func__", getattr(member, "fget", member))
        if isinstance(function, FunctionType) and (name == "__init__" or not name.startswith("_")):
            yield inspect.unwrap(function)


def classes_in(function: FunctionType) -> Iterator[type]:
    """Gives the classes of this package in a function's annotations."""
    names = {**vars(__import__(function.__module__, fromlist=["*"]))}
    for hint in typing.get_type_hints(function, {**vars(typing), **names}).values():
        yield from ours(hint)


def ours(hint: object) -> Iterator[type]:
    for part in typing.get_args(hint):
        yield from ours(part)
    if isinstance(hint, type) and hint.__module__.partition(".")[0] == "multiframe_ckpt":
        yield hint
    if isinstance(hint, list):
        for part in hint:
            yield from ours(part)


def test_a_name_that_is_not_there_is_no_attribute() -> None:
    assert not hasattr(mfc, "sve")
    assert isinstance(mfc, ModuleType)


MISSPELT = {
    "import multiframe_ckpt as mfc\nmfc.sve({}, 'x.pth')": "attr-defined",
    "import multiframe_ckpt as mfc\nmfc.open('x.pth').tensor()": "attr-defined",
    "import multiframe_ckpt as mfc\nmfc.convert('a', 'b', fromat='torch')": "call-arg",
    "from multiframe_ckpt import Chekpoint": "attr-defined",
    "import multiframe_ckpt as mfc\ntry:\n    pass\nexcept mfc.DamageError:\n    pass": "attr-defined",
    "import multiframe_ckpt as mfc\nx: int = mfc.verify('x').hole": "attr-defined",
}
SPELT = """
import multiframe_ckpt as mfc
mfc.save({}, "x.pth")
checkpoint: mfc.Checkpoint = mfc.open("x.pth")
ok: bool = mfc.verify("x.pth").ok
version: str = mfc.__version__
try:
    mfc.convert("a", "b", format="torch")
except mfc.DamagedError:
    pass
"""


def test_a_misspelt_name_fails_where_types_are_checked_strictly(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api")
    files = {f"misspelt_{number}.py": code for number, code in enumerate(MISSPELT)} | {"spelt.py": SPELT}
    for name, code in files.items():
        (tmp_path / name).write_text(f"{code}\n")
    options = ["--strict", "--no-error-summary", "--config-file=", "--cache-dir", str(tmp_path / "cache")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MYPYPATH", str(Path(mfc.__file__).parents[1]))
        out, err, _ = api.run([*options, "--follow-imports=silent", *(str(tmp_path / name) for name in files)])
    assert err == ""
    found = [
        (Path(line.partition(":")[0]).name, line.rpartition("[")[2][:-1])
        for line in out.splitlines()
        if ": error:" in line
    ]
    assert sorted(found) == [(f"misspelt_{number}.py", kind) for number, kind in enumerate(MISSPELT.values())], out


if __name__ == "__main__":
    STUB.write_text(stub())
