"""What does importing the library cost, and starting the command, against importing NumPy, which both need?

An import is timed inside a fresh interpreter, a command from its start to its end.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from cases import Case, Contender
from harness import main
from processes import Job, Place

_TIMED = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def importing(_: Place, *, module: str) -> Callable[[], dict[str, float]]:
    """Is an import in a fresh interpreter."""
    command = [sys.executable, "-c", _TIMED.format(module)]

    def run() -> dict[str, float]:
        return {"seconds": float(subprocess.run(command, capture_output=True, check=True).stdout)}

    return run


def command(_: Place, *, arguments: list[str]) -> Callable[[], None]:
    """Is a whole process."""

    def run() -> None:
        subprocess.run(arguments, stdout=subprocess.DEVNULL, check=True)

    return run


JOBS: dict[str, Job] = {"import": importing, "command": command}


def cases(_: str) -> Iterator[Case]:
    """Yield the import and the command."""
    modules = {
        "numpy": "limit",
        "multiframe_ckpt": "ours",
        "safetensors.numpy": "peer",
        "h5py": "peer",
        "torch": "peer",
    }
    imports = [Contender(f"import {module}", kind, "import", {"module": module}) for module, kind in modules.items()]
    yield Case("import", "nothing", imports, limit="import numpy", rounds=10)
    ours = str(Path(sys.executable).with_name("multiframe-ckpt"))
    commands = {
        'python -c "import numpy"': ("limit", [sys.executable, "-c", "import numpy"]),
        "multiframe-ckpt --help": ("ours", [ours, "--help"]),
    }
    yield Case(
        "command",
        "nothing",
        [Contender(label, kind, "command", {"arguments": line}) for label, (kind, line) in commands.items()],
        limit='python -c "import numpy"',
        rounds=10,
    )


if __name__ == "__main__":
    main("start", JOBS, cases)
