"""The registry finds what was installed since, and says what to do about code that does not load."""

import sys
from importlib import metadata

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


def test_the_remedy_is_an_extra_where_there_is_one_and_a_plugins_own_elsewhere(colours):
    assert colours.remedy("torch") == "pip install 'multiframe-ckpt[torch]'"
    assert colours.remedy("grey") == "pip install 'multiframe-ckpt'"
    assert colours.remedy("red") == "repair or remove the plugin 'red'"


def test_a_copy_that_was_never_installed_has_no_extras(colours, monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(registry, "metadata", absent)
    assert colours.remedy("torch") == "pip install 'multiframe-ckpt'"
