"""Every way to save, killed and failing at each of its calls: the old or the new is there, and the next save cleans up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SNIPPETS = Path(__file__).parent / "snippets"
OVER = [f"{name} over" for name in ("torch", "oneflow", "oneflow-pickle", "safetensors", "npz", "hdf5", "json")]
CASES = [*OVER, "oneflow nested over", "manager torch async"]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
@pytest.mark.parametrize("mode", ["kill", "ENOSPC"])
@pytest.mark.parametrize("case", CASES)
def test_a_save_that_ends_at_any_call_leaves_the_old_or_the_new_and_no_litter_after_the_next(
    case: str, mode: str, tmp_path: Path
) -> None:
    command = [sys.executable, str(SNIPPETS / "each_call.py"), case, str(tmp_path), mode]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    calls, old, new = map(int, done.stdout.split())
    assert old > 5  # or the calls were not seen
    assert new > 0
    assert old + new == calls + 1
