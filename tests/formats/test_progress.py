"""Who waits is told from the start how much there is, and during a tensor that takes long how far it is."""

from __future__ import annotations

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.formats import FORMATS, WritableFormat
from multiframe_ckpt.terminal import progress

WRITABLE = [name for name in FORMATS.names() if issubclass(FORMATS.get(name), WritableFormat)]


@pytest.mark.parametrize("name", WRITABLE)
def test_the_first_report_says_how_much_there_is(name, tmp_path):
    events: list[mfc.Progress] = []
    weights = {"w": np.ones((300, 1000), np.float32), "b": np.ones(3, np.float16)}
    mfc.save(weights, tmp_path / "x", format=name, on_progress=events.append)
    total = sum(array.nbytes for array in weights.values())
    assert (events[0].done_bytes, events[0].total_bytes, events[0].finished) == (0, total, False)
    assert {event.total_bytes for event in events} == {total}
    assert sorted(event.key for event in events if event.finished) == ["b", "w"]
    assert events[-1].done_bytes == total


def test_an_empty_checkpoint_reports_that_there_is_nothing(tmp_path):
    for name in WRITABLE:
        events: list[mfc.Progress] = []
        mfc.save({}, tmp_path / name, format=name, on_progress=events.append)
        assert all((event.done_bytes, event.total_bytes, event.finished) == (0, 0, False) for event in events), name


@pytest.mark.parametrize("dtype", ["float32", "complex64", "int8", "bool"])
def test_json_reports_within_a_large_layer(dtype, tmp_path):
    events: list[mfc.Progress] = []
    array = np.ones((40, 10_000), dtype)
    mfc.save({"a": array, "b": array.copy()}, tmp_path / "x.json", on_progress=events.append)
    done = [event.done_bytes for event in events]
    assert done == sorted(done) and done[-1] == 2 * array.nbytes
    within = [event for event in events if not event.finished and event.done_bytes % array.nbytes > 0]
    assert len(within) > 20 and {event.key for event in within} == {"a", "b"}


def test_a_line_of_layers_counts_those_that_are_done(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(progress, "is_watched", lambda: True)
    array = np.ones((40, 10_000), np.float32)
    with progress.layer_line("saving", 2) as listener:
        mfc.save({"a": array, "b": array.copy()}, tmp_path / "x.json", on_progress=listener)
    shown = capsys.readouterr().err
    assert "layer 1/2  50% a" in shown and "layer 2/2 100% b" in shown and "layer 3/2" not in shown
