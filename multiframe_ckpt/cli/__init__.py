"""The command ``multiframe-ckpt``: verbs, thin over the public API.

To add a verb: a module here with a command made by :func:`program.verb`, and one line in VERBS.
"""

from __future__ import annotations

from typing import NoReturn

from .program import Program

__all__ = ["VERBS", "main", "program"]

#: Verb → module of this package and its command, loaded when the verb is used. In the order of ``--help``.
VERBS = {
    "convert": "convert:convert_command",
    "inspect": "look:inspect_command",
    "diff": "look:diff_command",
    "verify": "look:verify_command",
    "list": "runs:list_command",
    "manage": "manage:manage_command",
    "formats": "listing:formats_command",
    "backends": "listing:backends_command",
}

program = Program(VERBS)


def main() -> NoReturn:
    """Runs the command line of this process and ends it with the exit status."""
    program.main()
