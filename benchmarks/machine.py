"""Where the benchmarks run: the machine without its name, the Pythons, and the versions in each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

#: What must import in the Python of an environment; ``torch`` is the one that runs the benchmark.
_IMPORTS = {"oneflow": "import oneflow, torch", "peers": "import orbax.checkpoint, tensorstore"}

#: Asks an interpreter for its version and those of the packages that matter here.
_VERSIONS = """
import json, platform, importlib.metadata as metadata
names = ("multiframe-ckpt", "numpy", "torch", "oneflow", "safetensors", "h5py", "isal", "xxhash", "orbax-checkpoint", "tensorstore")
found = {dist.metadata["Name"].lower(): dist.version for dist in metadata.distributions() if dist.metadata["Name"]}
print(json.dumps({"python": platform.python_version()} | {name: found[name] for name in names if name in found}))
"""  # noqa: E501


@cache
def python_of(environment: str) -> str | None:
    """Return the Python of an environment, or None where its imports fail; ``ONEFLOW_PYTHON`` names another."""
    if environment == "torch":
        return sys.executable
    named = os.environ.get(f"{environment.upper()}_PYTHON")
    python = named or str(ROOT / ".envs" / environment / "bin" / "python")
    command = [python, "-c", _IMPORTS[environment]]
    if Path(python).exists() and subprocess.run(command, capture_output=True, check=False).returncode == 0:
        return python
    print(
        f"no Python that can {_IMPORTS[environment]}: its contenders are left out; make env-{environment} sets one up"
    )
    return None


def describe_machine() -> dict[str, Any]:
    """Return what a reader needs to place the numbers, and nothing that names the machine."""
    model = next((line for line in _lines("/proc/cpuinfo") if line.startswith("model name")), ": unknown")
    mounts = [line.split()[1:3] for line in _lines("/proc/mounts")]
    ours = [(point, kind) for point, kind in mounts if Path.cwd().is_relative_to(point)]
    return {
        "cpu": model.partition(":")[2].strip(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "system": os.uname().sysname,
        "load_average": round(os.getloadavg()[2], 1),  # of the last 15 minutes; about 1 where nothing else ran
        "file_system": max(ours, key=lambda mount: len(mount[0]), default=("", "unknown"))[1],
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def versions(environment: str) -> dict[str, str]:
    """Return the versions in an environment that is here."""
    python = python_of(environment)
    assert python is not None
    done = subprocess.run([python, "-c", _VERSIONS], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))
