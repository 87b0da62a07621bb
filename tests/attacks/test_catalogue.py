"""Every file of the catalogue through every verb, in a process of its own whose time, memory and doings are measured."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from catalogue import BENIGN, HOSTILE, Hostile
from catalogue.folders import snapshot
from catalogue.large import LISTED
from catalogue.safetensors_files import raw_file
from runner import Runner, watched

import multiframe_ckpt as mfc

NAME = "checkpoint_epoch_0001"
#: Verbs that read no tensor, and those that look at folders and pass over what cannot be used.
HEADERS_ONLY = {"inspect", "inspect --json"}
LENIENT = {"inspect --json", "load unknown"}
#: The one verb that asks for all of a file, and does not say what is to become of unknown objects.
WHOLE = "load"
OVERSEERS = {"list", "latest", "best", "resume"}
SMALL = 1 << 20
SECONDS = 2.0
#: How a reader may refuse: as one of ours for a file, or as the system says it.
FILE_ERRORS = {"FormatError", "UnknownFormatError", "DamagedError", "IncompleteError", "UnsafeError"}
SYSTEM_ERRORS = {"OSError", "FileNotFoundError", "IsADirectoryError", "NotADirectoryError", "PermissionError"}
LEAST_MEMORY, TIMES_THE_FILE = 64 << 20, 4


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """Imports what makes files before a test's limits stand: a framework's libraries take gigabytes of addresses."""
    for name in {case.needs for case in BENIGN.values() if case.needs is not None}:
        with suppress(ImportError):
            import_module(name)


@pytest.fixture(scope="module")
def victim() -> Iterator[Runner]:
    runner = Runner()
    yield runner
    runner.stop()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the file is to lie, beside a folder with files that nothing may open."""
    (tmp_path / "inside").mkdir()
    away = snapshot(tmp_path / "outside", out=np.array([3, 4], np.float32).tobytes())
    for name in ("secret", "pickled_data"):
        (away / name).write_bytes(bytes(8))
    (away / "snapshot_done").touch()
    (away / "shard.safetensors").write_bytes(raw_file(b"{}"))
    os.mkfifo(away / "pipe")
    with h5py.File(away / "file.h5", "w") as file:
        file["w"] = file["group/w"] = np.full(6, 7, np.float32)
    return tmp_path / "inside" / NAME


def size_of(path: Path) -> int:
    """Gives the bytes on disk: a hole takes none, and promises none."""
    files = [path, *path.rglob("*")] if path.is_dir() and not path.is_symlink() else [path]
    return sum(min(file.lstat().st_size, 512 * file.lstat().st_blocks) for file in files)


def wrongs(case: Hostile, path: Path, answer: dict[str, Any]) -> Iterator[str]:
    """Gives what was wrong with how a file was met."""
    if "died" in answer:
        yield f"the process died: {answer['died']}"
        return
    size = size_of(path)
    for verb, found in answer["verbs"].items():
        yield from (f"{verb}: {wrong}" for wrong in _wrongs_of(verb, found, case, path, size))
    if not answer["unchanged"]:
        yield "honest files are read otherwise than before"


def _wrongs_of(verb: str, found: dict[str, Any], case: Hostile, path: Path, size: int) -> Iterator[str]:
    if "broken" in found:
        yield found["broken"]
        return
    refused = "refused" in found or found.get("status") != 0
    if size < SMALL and refused and found["seconds"] > SECONDS:
        yield f"took {found['seconds']:.1f} s"
    most = max(LEAST_MEMORY, TIMES_THE_FILE * size * (2 if verb == "diff" else 1), case.room)
    if found["peak"] > most:
        yield f"took {found['peak'] >> 20} MiB for {size:,} bytes"
    if found["touched"]:
        yield f"touched {found['touched']}"
    if "status" in found and "err" in found:
        yield from _wrongs_on_screen(verb, found, path)
    yield from _wrongs_of_outcome(verb, found, case)


def _wrongs_of_outcome(verb: str, found: dict[str, Any], case: Hostile) -> Iterator[str]:
    refused = "refused" in found or found.get("status") != 0
    if found.get("refused", "FormatError") not in FILE_ERRORS | SYSTEM_ERRORS:
        yield f"was refused with {found['refused']}: {found['message']}"
    let_pass = {"headers": set(), "strict": LENIENT, "values": HEADERS_ONLY, "whole": {verb} - {WHOLE}}
    if not refused and verb not in OVERSEERS and case.refused != "never" and verb not in let_pass[case.refused]:
        yield "was not refused"


def _wrongs_on_screen(verb: str, found: dict[str, Any], path: Path) -> Iterator[str]:
    shown = found["out"] + found["err"]
    if not all(char.isprintable() or char == "\n" for char in shown):
        yield f"showed control characters: {shown!r:.300}"
    if "bug of multiframe-ckpt" in shown or "Traceback" in shown:
        yield f"failed: {found['err']}"
    if found["status"] == 0:
        return
    complaints = [line for line in found["err"].splitlines() if not line.startswith("warning: ")]
    if verb == "verify" and found["status"] == 1 and not complaints:
        complaints = found["out"].splitlines()[:1]
    if found["status"] not in (1, 2) or len(complaints) != 1 or NAME not in complaints[0]:
        yield f"ended with status {found['status']} and said {found['err']!r:.300}"


@pytest.mark.parametrize("title", HOSTILE)
def test_a_hostile_file_is_refused_by_every_verb_and_nothing_of_it_happens(
    title: str, place: Path, victim: Runner, counts: Counter[str]
) -> None:
    case = HOSTILE[title]
    case.make(place)
    with watched(place.parent.parent / "outside") as sentry:
        answer = victim.attack(place)
        opened = sentry.opened()
    found = list(wrongs(case, place, answer))
    assert not found, "\n".join(found)
    assert not opened
    counts["hostile"] += 1
    counts["verbs"] += len(answer["verbs"])


@pytest.mark.parametrize("title", LISTED)
def test_a_file_of_endless_size_or_number_is_listed_at_once(title: str, place: Path, victim: Runner) -> None:
    LISTED[title].make(place)
    is_hole = title.endswith("of a terabyte")  # which nothing has to read, but what makes other elements of those there
    more = ["verify", "diff"] if is_hole and "bfloat16" not in title else ["verify"] if is_hole else []
    answer = victim.attack(place, only=["inspect", "list", *more])
    found = list(wrongs(LISTED[title], place, answer))
    assert not found, "\n".join(found)
    assert all(verb["status"] == 0 and verb["seconds"] < 10 for verb in answer["verbs"].values())


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")  # torch 2.0, of its own storages
@pytest.mark.parametrize("title", BENIGN)
def test_an_honest_file_is_read_by_every_verb_and_holds_what_was_put_into_it(
    title: str, place: Path, victim: Runner, counts: Counter[str]
) -> None:
    case = BENIGN[title]
    if case.needs is not None:
        pytest.importorskip(case.needs)
    expected = case.make(place)
    answer = victim.attack(place)
    found = list(wrongs(Hostile(case.make, "never"), place, answer))
    assert not found, "\n".join(found)
    passed_over = {"resume", WHOLE} if case.has_unknown else {"resume"}
    refused = {verb: said for verb, said in answer["verbs"].items() if said.get("status") != 0}
    assert {verb: said for verb, said in refused.items() if verb not in passed_over} == {}
    assert (WHOLE in refused) == case.has_unknown
    tensors = mfc.open(place).tensors()
    for key, array in expected.items():
        assert tensors[key].dtype.numpy == array.dtype, key
        np.testing.assert_array_equal(tensors[key].numpy(), array, key, strict=True)
    counts["benign"] += 1


def test_the_promises_say_how_many_files_they_were_tested_with() -> None:
    promises = (Path(__file__).parents[2] / "SECURITY.md").read_text("utf-8")
    assert f"{len(HOSTILE) + len(LISTED)} hostile files" in promises
    assert f"{len(BENIGN)} files that look odd" in promises
