"""Builds the environments that everything is tested in: ``python3 environments/build.py bare torch oneflow fuzz``.

Each is ``.envs/<name>``: a virtual environment with the project installed editable and every version held by
``constraints/<name>.txt``. A stamp, written once its imports have been seen to work, remembers what it was built from,
so that a second run installs nothing and an interrupted one goes on.

OneFlow has wheels for Python 3.10 and none for any newer; ``find_python310`` says where one is looked for.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
ENVS = ROOT / ".envs"
OLDEST = (3, 10)


class Environment(NamedTuple):
    """What goes into one environment, and what must import there before it counts as built."""

    extras: str
    imports: str
    needs_python310: bool = False


ENVIRONMENTS = {
    "bare": Environment("test", "numpy, h5py, pytest"),
    "torch": Environment("torch,dev,bench,examples", "torch, mlxtend, pytest"),
    "peers": Environment("bench-peers", "orbax.checkpoint, tensorstore"),  # measured by `make bench` where it is there
    "oneflow": Environment("torch,oneflow,test,examples", "oneflow, torch, pytest", needs_python310=True),
    "fuzz": Environment("test,fuzz", "atheris, h5py"),
}

NO_PYTHON310 = """
************************************************************************
  No working Python 3.10 was found, and OneFlow runs on no newer Python.
  Looked at: {tried}
  Install Python 3.10, or say where it is:   make test PYTHON310=/path/to/python3.10
  or go without OneFlow, which then stays untested:   make test SKIP_ONEFLOW=1
************************************************************************
"""


def main(names: list[str]) -> None:
    """Build the named environments, after making sure that each has its interpreter."""
    unknown = [name for name in names if name not in ENVIRONMENTS]
    if unknown or not names:
        sys.exit(f"found environments {names}, expected some of {', '.join(ENVIRONMENTS)}")
    if sys.version_info < OLDEST:
        sys.exit(f"found Python {sys.version.split()[0]}, expected 3.10 or newer: make test PYTHON=/path/to/python3")
    pythons = {name: find_python310() if ENVIRONMENTS[name].needs_python310 else sys.executable for name in names}
    for name, python in pythons.items():
        build(name, python)


def find_python310() -> str:
    """Return a Python 3.10 that really runs; exit where there is none."""
    tried = []
    for candidate in python310_candidates():
        tried.append(candidate)
        if version_of(candidate).startswith("3.10."):
            return candidate
    sys.exit(NO_PYTHON310.format(tried=", ".join(tried) or "nothing that exists"))


def python310_candidates() -> Iterator[str]:
    """Yield PYTHON310 alone where it is set, else every place a Python 3.10 may be."""
    asked = os.environ.get("PYTHON310")
    if asked:
        yield asked
        return
    if sys.version_info[:2] == (3, 10):
        yield sys.executable
    for folder in os.get_exec_path():  # every one: the first may hold a version manager's shim that refuses to run
        if Path(folder, "python3.10").exists():
            yield str(Path(folder, "python3.10"))
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from map(str, sorted(pyenv.glob("versions/3.10.*/bin/python"), reverse=True))
    if which("uv"):
        found = subprocess.run(["uv", "python", "find", "3.10"], capture_output=True, text=True, check=False)
        yield from found.stdout.split("\n")[:1] if found.returncode == 0 else []


def version_of(python: str) -> str:
    """Return the version an interpreter reports, or nothing where it does not run or cannot make environments."""
    code = "import ensurepip, platform, venv; print(platform.python_version())"
    try:
        found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""


def build(name: str, python: str) -> None:
    """Make ``.envs/<name>`` what pyproject.toml and its constraints say, unless it is already."""
    folder, stamp = ENVS / name, ENVS / name / "stamp"
    version = version_of(python)
    if not version:
        sys.exit(f"{python}: found no venv or ensurepip, expected both; on Debian: apt install python3-venv")
    wanted = f"{version}\n{fingerprint(name)}\n"
    found = stamp.read_text() if stamp.exists() else ""
    if found == wanted:
        print(f"{folder.relative_to(ROOT)}: up to date (Python {version})", flush=True)
        return
    print(
        f"{folder.relative_to(ROOT)}: installing (Python {version}); this can take minutes the first time", flush=True
    )
    if not found.startswith(f"{version}\n"):
        run(python, "-m", "venv", "--clear", str(folder))
    stamp.unlink(missing_ok=True)
    install(name, folder)
    stamp.write_text(wanted)


def fingerprint(name: str) -> str:
    """Return a digest of everything that decides what is installed."""
    files = [ROOT / "pyproject.toml", ROOT / "constraints" / f"{name}.txt"]
    parts = [repr(ENVIRONMENTS[name]).encode(), os.fsencode(ROOT), *(file.read_bytes() for file in files)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def install(name: str, folder: Path) -> None:
    """Install the project and what it needs, and sees that what it needs imports."""
    environment, python = ENVIRONMENTS[name], str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--progress-bar", "off"]
    run(*pip, "--constraint", str(ROOT / "constraints" / f"{name}.txt"), "--editable", f"{ROOT}[{environment.extras}]")
    # The project is found and not imported: whether it works is what the tests say.
    found = "assert importlib.util.find_spec('multiframe_ckpt')"
    run(python, "-c", f"import importlib.util, {environment.imports}; {found}")


def run(*command: str) -> None:
    """Run a command, and end with its status where it fails."""
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    if status != 0:
        sys.exit(f"failed with status {status}: {' '.join(command)}")


if __name__ == "__main__":
    main(sys.argv[1:])
