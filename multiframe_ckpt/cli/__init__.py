"""The command ``multiframe-ckpt``: verbs, thin over the public API.

To add a verb: a module here with a command made by :func:`program.verb`, and one line in VERBS.
"""

from __future__ import annotations

from typing import NoReturn

from .program import Program

__all__ = ["VERBS", "main", "program"]

#: Verb → module of this package and its command, loaded when the verb is used, and what ``--help`` says of it, in order.
VERBS = {
    "convert": ("convert:convert_command", "Write SRC to DST in another format."),
    "inspect": ("inspect:inspect_command", "Say what PATH holds; reads headers only."),
    "diff": ("inspect:diff_command", "Compare checkpoints A and B key by key."),
    "verify": ("inspect:verify_command", "Read every byte of PATH and compare it with its digests."),
    "list": ("list:list_command", "List the training runs below DIR, and compare their seeds."),
    "clean": ("clean:clean_command", "Remove what saves that were killed left below DIR."),
    "choose": ("choose:choose_command", "Choose a saved model, load it, save it in other forms."),
    "formats": ("listing:formats_command", "List the formats, and the suffixes that name them."),
    "backends": ("listing:backends_command", "List the backends, and why one is not here."),
}

program = Program(VERBS)


def main() -> NoReturn:
    """Run the command line of this process and end it with the exit status."""
    program.main()
