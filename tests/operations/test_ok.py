"""Every report has its own word for the verdict, and ok beside it: a script asks one question."""

from __future__ import annotations

from pathlib import Path

import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.testing import flat_tree


@pytest.mark.parametrize("dtype", [None, "float64"])
def test_a_conversion_is_ok_where_nothing_is_lost(tmp_path: Path, dtype: str | None) -> None:
    mfc.Checkpoint(flat_tree()).save(tmp_path / "a.pth")
    report = mfc.convert(tmp_path / "a.pth", tmp_path / "b.pth", dtype=dtype)
    assert report.ok is report.exact is (dtype is None)
    compared = mfc.diff(tmp_path / "a.pth", tmp_path / "b.pth")
    assert compared.ok is compared.equal is (dtype is None)


def test_a_checkpoint_is_ok_where_it_is_whole(tmp_path: Path) -> None:
    mfc.Checkpoint(flat_tree()).save(tmp_path / "a", format="oneflow")
    assert mfc.verify(tmp_path / "a").ok
    (tmp_path / "a" / "snapshot_done").unlink()
    report = mfc.verify(tmp_path / "a")
    assert report.ok is report.whole is False


def test_a_resume_is_ok_where_it_is_warm() -> None:
    assert mfc.ResumeCheck().ok
    assert not mfc.ResumeCheck(cold=("optimizer: found none",)).ok
    assert not mfc.ResumeCheck(differing=("model/w",)).ok
