"""Flags: what the library says of its parameters, said as the options of this command that set them.

The library's messages name a parameter with its value, ``overwrite=True`` or ``format='hdf5'``, as Python code does.
"""

from __future__ import annotations

import re
import shlex
from ast import literal_eval

__all__ = ["COMMANDS", "OPTIONAL_VALUES", "SWITCHES", "VALUES", "as_flags"]

#: Parameter and the value that an option sets → that option.
SWITCHES = {
    ("allow_incomplete", True): "--allow-incomplete",
    ("allow_unknown", True): "--allow-unknown",
    ("digest", False): "--no-digest",
    ("dry_run", True): "--dry-run",
    ("durable", False): "--no-durable",
    ("model_only", True): "--model-only",
    ("overwrite", True): "--overwrite",
    ("verify", False): "--no-verify",
}
#: Parameter → the option that takes its value, or each of its values.
VALUES = {
    "backend": "--backend",
    "dialect": "--dialect",
    "dtype": "--dtype",
    "exclude": "--exclude",
    "format": "--to",
    "include": "--include",
    "layout": "--layout",
    "model_only": "--model-only",
    "optimizer_dtype": "--optimizer-dtype",
    "rename": "--rename",
    "ties": "--ties",
}

#: Those whose option may stand without a value, and has it behind an equals sign.
OPTIONAL_VALUES = {"model_only"}

#: What the library says to call → the command that does it.
COMMANDS = {"mfc.inspect(path)": "multiframe-ckpt inspect PATH"}

_TEXT = r"'(?:[^'\\]|\\.)*'|" + r'"(?:[^"\\]|\\.)*"'
_PARAMETER = re.compile(rf"(?<![\w./-])(\w+)=(True|False|{_TEXT}|\[(?:{_TEXT})(?:, (?:{_TEXT}))*\])")


def as_flags(message: str) -> str:
    """Return a message of the library with options in the place of the parameters that have one."""
    for call, command in COMMANDS.items():
        message = message.replace(call, command)
    return _PARAMETER.sub(_flag, message)


def _flag(parameter: re.Match[str]) -> str:
    name, value = parameter[1], literal_eval(parameter[2])
    if isinstance(value, bool):
        return SWITCHES.get((name, value), parameter[0])
    if name not in VALUES:
        return parameter[0]
    if name in OPTIONAL_VALUES:
        return f"{VALUES[name]}={shlex.quote(value)}"
    values = value if isinstance(value, list) else [value]
    return " ".join(f"{VALUES[name]} {shlex.quote(text)}" for text in values)
