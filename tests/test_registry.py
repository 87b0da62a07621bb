"""The registry finds what was installed since, and says what to do about code that does not load."""

import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

from multiframe_ckpt import registry
from multiframe_ckpt.errors import UnknownNameError
from multiframe_ckpt.registry import Registry

GROUP = "multiframe_ckpt.test_colours"


@pytest.fixture
def colours():
    return Registry("colour", {"torch": "string:digits", "grey": "string:punctuation"}, GROUP)


def test_a_plugin_installed_while_the_program_runs_is_found_after_a_refresh(colours, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(UnknownNameError, match="expected one of torch, grey"):
        colours.get("red")
    info = tmp_path / "colours-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: colours\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nred = string:hexdigits\n")
    assert colours.names() == ["torch", "grey"]
    colours.refresh()
    assert colours.names() == ["torch", "grey", "red"]
    assert colours.get("red") == "0123456789abcdefABCDEF"


def test_the_remedy_is_what_an_extra_asks_for_where_there_is_one_and_a_plugins_own_elsewhere(colours):
    assert colours.remedy("torch") == "pip install 'torch>=2.0'"
    assert colours.remedy("grey") == "install multiframe-ckpt again: pip install . in its checkout"
    assert colours.remedy("red") == "repair or remove the plugin 'red'"


def test_a_copy_that_was_never_installed_has_no_extras(colours, monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(registry, "requires", absent)
    assert colours.remedy("torch") == "install multiframe-ckpt again: pip install . in its checkout"


def test_no_advice_names_a_package_that_is_on_no_index():
    """Nobody can install what was never published by its name alone: neither code nor pages say so."""
    top = Path(__file__).parents[1]
    files = [
        *top.glob("*.md"),
        *top.glob("docs/**/*.md"),
        *top.glob("multiframe_ckpt/**/*.py"),
        *top.glob("backends/**/*"),
    ]
    texts = {path.name: path.read_text("utf-8") for path in files if path.suffix in (".md", ".py")}
    assert [
        name for name, text in texts.items() if re.search(r"install ['\"]?multiframe[-_]ckpt\b(?! again)", text)
    ] == []
