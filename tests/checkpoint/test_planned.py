"""A plan is written later than it was made: what may not be replaced by then is refused."""

from pathlib import Path

import numpy as np
import pytest

import multiframe_ckpt as mfc


def test_a_folder_of_something_else_that_came_after_the_plan_is_not_replaced(tmp_path: Path) -> None:
    planned = mfc.Checkpoint({"w": mfc.LazyTensor.from_array(np.zeros(3, np.float32))}, {}).plan(
        tmp_path / "c", format="oneflow", overwrite=True
    )
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "thesis.txt").write_text("thesis")
    with pytest.raises(mfc.FormatError, match="thesis"):
        planned.write()
    assert (tmp_path / "c" / "thesis.txt").read_text() == "thesis"


def test_a_file_damaged_between_two_saves_of_what_was_opened_once_is_noticed_by_the_second(tmp_path: Path) -> None:
    source = tmp_path / "a.npz"
    np.savez(source, w=np.asfortranarray(np.arange(200_000, dtype=np.float32).reshape(400, 500)))
    opened = mfc.open(source)
    opened.save(tmp_path / "one.safetensors")
    with source.open("r+b") as file:
        file.seek(source.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(mfc.DamagedError):
        opened.save(tmp_path / "two.safetensors")
