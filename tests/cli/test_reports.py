"""A report is one text: what ``print`` shows in Python is what the command line prints."""

from __future__ import annotations

import numpy as np
import pytest

import multiframe_ckpt as mfc

W = np.arange(6, dtype=np.float32).reshape(2, 3)
MANY = {f"layers.{n:05}.weight": np.full((2, 3), n, np.float32) for n in range(20_000)}


@pytest.fixture
def folder(tmp_path):
    tied = mfc.LazyTensor.from_array(W, alias="w")
    groups = [{"params": [0, 1], "lr": 0.5}]
    tree = {"model": {"w": tied, "t": tied}, "optimizer": {"state": {}, "param_groups": groups}, "epoch": 3}
    mfc.Checkpoint(tree).save(tmp_path / "a.pth")
    mfc.Checkpoint(tree | {"epoch": 4, "model": {"w": tied, "x": tied}}).save(tmp_path / "b.pth")
    raw = bytearray((tmp_path / "a.pth").read_bytes())
    raw[raw.index(W.tobytes())] ^= 1
    (tmp_path / "damaged.pth").write_bytes(raw)
    return tmp_path


CALLS = {
    "inspect a.pth": lambda at: mfc.inspect(at / "a.pth"),
    "diff a.pth b.pth": lambda at: mfc.diff(at / "a.pth", at / "b.pth"),
    "diff a.pth a.pth": lambda at: mfc.diff(at / "a.pth", at / "a.pth"),
    "verify a.pth": lambda at: mfc.verify(at / "a.pth"),
    "verify damaged.pth": lambda at: mfc.verify(at / "damaged.pth"),
    "convert a.pth x.npz --dry-run": lambda at: mfc.convert(at / "a.pth", at / "x.npz", dry_run=True),
    "convert a.pth x.npz --model-only --dtype bfloat16 --exclude t": lambda at: mfc.convert(
        at / "a.pth", at / "y.npz", model_only=True, dtype="bfloat16", exclude=["t"]
    ),
}


@pytest.mark.parametrize("line", CALLS)
def test_print_shows_what_the_command_line_prints(line, folder, run):
    shown = run(*(folder / word if word.endswith((".pth", ".npz")) else word for word in line.split()))
    assert shown.stderr == "" and shown.stdout != ""
    assert f"{CALLS[line](folder)}\n" == shown.stdout.replace("x.npz", "y.npz" if "bfloat16" in line else "x.npz")


def test_the_command_line_says_its_options_and_where_the_rest_of_a_list_is(folder, run):
    many = mfc.Checkpoint.from_objects(MANY)
    mfc.Checkpoint(many.tree, {"metadata": {"license": "MIT"}}).save(folder / "many.safetensors", durable=False)
    report = mfc.convert(folder / "many.safetensors", folder / "many.pth", rename=["layers.*=*"])
    shown = run("convert", folder / "many.safetensors", folder / "many.pth", "--rename", "layers.*=*", "--overwrite")
    more = "  ... and 19,990 more"
    assert more in str(report).splitlines() and f"{more}; --json lists them all" in shown.stdout.splitlines()
    assert "metadata dropped (1); format='safetensors' keeps it:" in str(report)
    assert "metadata dropped (1); --to safetensors keeps it:" in shown.stdout


def test_a_report_of_twenty_thousand_tensors_is_one_short_line_where_nobody_prints_it(tmp_path):
    mfc.save(MANY, tmp_path / "many.safetensors", durable=False)
    mfc.save(dict.fromkeys(MANY, W + 1), tmp_path / "other.safetensors", durable=False)
    reports = [
        mfc.inspect(tmp_path / "many.safetensors"),
        mfc.diff(tmp_path / "many.safetensors", tmp_path / "other.safetensors"),
        mfc.verify(tmp_path / "many.safetensors"),
        mfc.convert(tmp_path / "many.safetensors", tmp_path / "x.pth", rename=["layers.*=*"], dry_run=True),
        mfc.open(tmp_path / "many.safetensors").load_into(dict(MANY)),
        mfc.open(tmp_path / "many.safetensors").restore(model=dict(MANY), rng=False),
    ]
    assert all(len(repr(report).splitlines()) == 1 and len(repr(report)) < 400 for report in reports)
    where = tmp_path / "many.safetensors"
    assert repr(reports[0]) == f"<InspectReport: {where}: safetensors, 20,000 tensors, 480.0 kB>"
    assert repr(reports[1]).startswith("<DiffReport: different: 20,000 changed, 0 the same")
    assert repr(reports[2]) == f"<VerifyReport: {where} (safetensors): whole>"
    assert repr(reports[4]) == "<LoadReport: 20000 loaded>"
    assert repr(reports[5]) == "<RestoreReport: restored model>"
    assert repr(reports[0].tensors) == "<20,000 rows>"


def test_every_report_answers_one_question_with_a_bool(folder):
    reports = [name for name in mfc.__all__ if name.endswith(("Report", "Check"))]
    assert len(reports) >= 8 and [name for name in reports if not hasattr(getattr(mfc, name), "ok")] == []
    assert mfc.inspect(mfc.Checkpoint.from_objects({"w": W})).ok
    assert not mfc.inspect(mfc.Checkpoint({"w": W, "odd": mfc.Unknown("a.B")})).ok
