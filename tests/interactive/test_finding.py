"""Which models are found below a folder, what their headers say, and which of them a name means."""

import os

import numpy as np
import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt.errors import AnswerError
from multiframe_ckpt.interactive import find_models, finding, listing, pick

WEIGHTS = {"l1.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "l1.bias": np.zeros(2, np.float32)}
EPOCH_1 = "checkpoint_epoch_0001.pth"


def test_models_of_every_format_are_found_newest_first_and_nothing_else(tmp_path):
    names = ["a.pth", "b.safetensors", "c.h5", "d.npz", "e.json", "folder/of"]
    for age, name in enumerate(names):
        mfc.save(WEIGHTS, tmp_path / name)
        for below in [tmp_path / name, *(tmp_path / name).rglob("*")]:
            os.utime(below, ns=(10**18 - age * 10**9,) * 2)
    (tmp_path / "notes.txt").write_text("no model")
    (tmp_path / "config.json").write_text('{"layers": 2}')
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    assert [model.name for model in find_models(tmp_path)] == names


def test_a_pointer_is_shown_beside_its_checkpoint_and_not_listed_twice(runs):
    found = {model.name: model.pointers for model in find_models(runs)}
    assert found == {
        f"run/{EPOCH_1}": ("run/latest_checkpoint.pth",),
        "run/checkpoint_epoch_0000.pth": ("run/best_model.pth",),
        "other/weights.safetensors": (),
    }
    assert any(line.endswith(f"run/{EPOCH_1} <- latest_checkpoint.pth") for line in listing(find_models(runs)))


def test_a_pointer_that_is_a_hard_link_is_not_listed_twice_either(runs):
    (runs / "run" / "best_model.pth").unlink()
    os.link(runs / "run" / EPOCH_1, runs / "run" / "best_model.pth")
    pointers = {model.name: model.pointers for model in find_models(runs)}
    assert pointers[f"run/{EPOCH_1}"] == ("run/best_model.pth", "run/latest_checkpoint.pth")


def test_what_the_header_says_is_listed(runs):
    model = find_models(runs)[0]
    assert (model.epoch, model.metrics, model.parameters) == (1, {"loss": 2.0, "accuracy": 0.5}, 8)
    assert model.nbytes == (runs / "run" / EPOCH_1).stat().st_size
    now = model.modified_ns / 1e9 + 3 * 3600
    cells = list(listing(find_models(runs), now=now))[1].split()
    assert cells[:8] == ["1", "1", "loss", "2,", "accuracy", "0.5", "8", str(round(model.nbytes / 1000, 1))]
    assert cells[9:11] == ["3", "hours"]


def test_steps_have_a_column_where_a_model_was_saved_after_one(tmp_path, runs):
    assert "step" not in next(iter(listing(find_models(runs))))
    mfc.CheckpointManager(tmp_path / "steps").save(2, WEIGHTS, step=1200, loss=0.5)
    head, row = listing(find_models(tmp_path / "steps"))
    assert head.split() == ["epoch", "step", "metric", "parameters", "size", "age", "name"]
    assert row.split()[:5] == ["1", "2", "1200", "loss", "0.5"]


def test_tied_parameters_are_counted_once_and_optimizer_state_not_at_all(tmp_path):
    torch = pytest.importorskip("torch")
    weight = torch.zeros(3, 2)
    mfc.save({"model_state_dict": {"a": weight, "b": weight}, "optimizer": {"m": torch.zeros(50)}}, tmp_path / "x.pth")
    assert find_models(tmp_path)[0].parameters == 6


def test_links_to_folders_are_not_followed_so_that_a_circle_ends(runs):
    (runs / "circle").symlink_to(runs)
    assert len(find_models(runs)) == 3


def test_a_link_to_a_model_elsewhere_is_a_model(runs, tmp_path):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "mine.pth").symlink_to(runs / "run" / EPOCH_1)
    assert [model.name for model in find_models(tmp_path / "links")] == ["mine.pth"]


def test_a_model_that_its_run_deletes_while_we_look_is_passed_over(runs, monkeypatch):
    def deleting(path, *arguments, **options):
        (runs / "run" / EPOCH_1).unlink(missing_ok=True)
        return signature_of(path, *arguments, **options)

    signature_of = finding.signature_of
    monkeypatch.setattr(finding, "signature_of", deleting)
    assert [model.epoch for model in find_models(runs)] == [0, None]


def test_a_checkpoint_folder_gives_itself(tmp_path):
    mfc.save(WEIGHTS, tmp_path / "of")
    assert [(model.name, model.path) for model in find_models(tmp_path / "of")] == [("of", tmp_path / "of")]


def test_a_damaged_model_is_listed_last_with_the_reason(runs):
    whole = (runs / "run" / EPOCH_1).read_bytes()
    (runs / "run" / "cut.pth").write_bytes(whole[:400])
    model = find_models(runs)[-1]
    assert model.name == "run/cut.pth"
    assert "cut short or damaged" in model.problem
    assert "not usable" in list(listing([model]))[1]


@pytest.mark.parametrize(
    ("which", "name"),
    [
        (f"run/{EPOCH_1}", f"run/{EPOCH_1}"),
        (EPOCH_1, f"run/{EPOCH_1}"),
        ("checkpoint_epoch_0001", f"run/{EPOCH_1}"),
        ("run/best_model.pth", "run/checkpoint_epoch_0000.pth"),
        ("weights", "other/weights.safetensors"),
        ("1", f"run/{EPOCH_1}"),
        ("3", "other/weights.safetensors"),
        ("latest", f"run/{EPOCH_1}"),
        ("best", "run/checkpoint_epoch_0000.pth"),
    ],
)
def test_a_model_is_named_by_path_name_number_or_pointer(runs, which, name):
    assert pick(find_models(runs), which).name == name


def test_a_model_is_named_by_its_path_from_here(runs):
    assert pick(find_models(runs), str(runs / "run" / EPOCH_1)).name == f"run/{EPOCH_1}"


def test_a_name_comes_before_a_number(tmp_path):
    for name in ("1", "2", "3"):
        mfc.save(WEIGHTS, tmp_path / name)
    assert [pick(find_models(tmp_path), name).name for name in "123"] == ["1", "2", "3"]


@pytest.mark.parametrize("which", ["0", "4", "9" * 5000, "-1", "", "nothing", "²"])
def test_what_names_no_model_is_refused(runs, which):
    with pytest.raises(AnswerError, match="expected a number from 1 to 3, a name in the list, latest or best"):
        pick(find_models(runs), which)


def test_what_may_mean_several_models_is_refused_with_their_names(runs):
    mfc.save(WEIGHTS, runs / "another" / EPOCH_1)
    with pytest.raises(AnswerError, match=f"another/{EPOCH_1}.*say which"):
        pick(find_models(runs), EPOCH_1)


def test_without_pointers_the_latest_is_the_newest_and_there_is_no_best(tmp_path):
    mfc.save(WEIGHTS, tmp_path / "a.pth")
    assert pick(find_models(tmp_path), "latest").name == "a.pth"
    with pytest.raises(AnswerError, match="found no best_model"):
        pick(find_models(tmp_path), "best")
