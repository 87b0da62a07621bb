"""Fuzzes the parsers: ``.envs/fuzz/bin/python fuzz/run.py --minutes 20 [NAME …]``, each in a process of its own.

A reader may give values or raise a MultiframeError or OSError. Anything else, ten seconds or a gigabyte for one input is
a finding: the input lies in ``fuzz/findings/NAME-…``, and ``run.py --again FILE`` reads it once more. What was learned
lies in ``outputs/fuzz``, so that a later run goes on from there.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["multiframe_ckpt"]):
    import multiframe_ckpt as mfc
    from multiframe_ckpt.formats import FORMATS

    tuple(FORMATS.available())  # imports each, so that it is instrumented
from targets import TARGETS, Target

_HERE = Path(__file__).resolve().parent
_FINDINGS = _HERE / "findings"
_LEARNED = _HERE.parent / "outputs" / "fuzz"
_LIMITS = ["-timeout=10", "-rss_limit_mb=1024", "-max_len=20000", "-print_final_stats=1", "-verbosity=1"]


def attempt(target: Target, data: bytes, folder: Path) -> None:
    """Read a checkpoint with the bytes in it; only an error of ours or the system's may stop that."""
    path = _write_checkpoint(target, data, folder)
    for format in target.formats:
        for lenient in (True, False):
            with suppress(mfc.MultiframeError, OSError):
                checkpoint = mfc.open(path, format=format, allow_incomplete=lenient)
                for tensor in checkpoint.tensors().values():
                    tensor.numpy()


def _write_checkpoint(target: Target, data: bytes, folder: Path) -> Path:
    path = folder / "x"
    for name, raw in target.frame(data).items():
        file = path / name if name else path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)  # anew: an earlier one may still be mapped
        file.write_bytes(raw)
    return path


def fuzz(name: str, minutes: float) -> None:
    """Fuzz one parser in this process, which ends with it."""
    target, learned = TARGETS[name], _LEARNED / name
    for kept in (learned, _FINDINGS):
        kept.mkdir(parents=True, exist_ok=True)
    seeds = Path(tempfile.mkdtemp())
    for number, seed in enumerate(target.seeds()):
        (seeds / str(number)).write_bytes(seed)
    limits = [*_LIMITS, f"-max_total_time={int(60 * minutes)}", f"-artifact_prefix={_FINDINGS}/{name}-"]
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    atheris.Setup([sys.argv[0], *limits, str(learned), str(seeds)], lambda data: attempt(target, data, folder))
    try:
        atheris.Fuzz()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def again(finding: Path) -> None:
    """Read a finding once more, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        name = finding.name.partition("-")[0]
        attempt(TARGETS[name], finding.read_bytes(), Path(folder))


def main() -> None:
    """Fuzz the named parsers, or all; the status is that of the first with a finding."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("names", nargs="*", metavar="NAME", help=", ".join(TARGETS))
    options.add_argument("--minutes", type=float, default=1)
    options.add_argument("--again", type=Path, metavar="FILE")
    options.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    arguments = options.parse_args()
    unknown = sorted(set(arguments.names) - set(TARGETS))
    if unknown:
        options.error(f"found {', '.join(unknown)}, expected some of {', '.join(TARGETS)}")
    warnings.simplefilter("ignore", mfc.CheckpointWarning)
    if arguments.again:
        again(arguments.again)
    elif arguments.in_process:
        fuzz(arguments.names[0], arguments.minutes)
    else:
        faulty = [name for name in arguments.names or TARGETS if not _is_clean(name, arguments.minutes)]
        sys.exit(f"{_FINDINGS}: found something with {', '.join(faulty)}" if faulty else 0)


def _is_clean(name: str, minutes: float) -> bool:
    print(f"=== {name}, {minutes:g} minutes", flush=True)
    command = [sys.executable, str(Path(__file__)), "--in-process", "--minutes", str(minutes), name]
    return subprocess.run(command, check=False).returncode == 0


if __name__ == "__main__":
    main()
