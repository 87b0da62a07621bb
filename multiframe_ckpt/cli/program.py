"""The frame around the verbs: how one is declared and found, and how a run ends."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from functools import wraps
from importlib import import_module
from typing import Any, NoReturn

import click

from .failure import Status, message_of, status_of
from .output import Output, json_pieces, prepare_streams, print_error, write

__all__ = ["NAME", "OptionalValue", "Program", "Status", "verb"]

NAME = "multiframe-ckpt"
_EPILOG = f"""\b
Example:
  {NAME} convert model.pth model_oneflow --to oneflow

\b
Exit status: 0 done or same, 1 different or damaged, 2 not usable.
'{NAME} VERB --help' says more about a verb."""


def verb(*, example: str) -> Callable[[Callable[..., Status]], click.Command]:
    """Make a command of a function, whose first argument is the Output and whose result is the exit status.

    Its docstring is the help; ``--json`` and ``--quiet`` come with it, and ``example`` stands below the options.
    """

    def declare(function: Callable[..., Status]) -> click.Command:
        @click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
        @click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors, and what --json asks for.")
        @wraps(function)
        def run(*, as_json: bool, quiet: bool, **arguments: Any) -> Status:
            out = Output(as_json=as_json, quiet=quiet)
            with out.one_line_warnings():
                return function(out, **arguments)

        return click.command(cls=_Verb, epilog=f"\b\nExample:\n  {example}", context_settings=_HELP)(run)

    return declare


class OptionalValue(click.Option):
    """An option that is False, True where it stands alone, or the text behind its equals sign.

    Never the argument that follows it, which click would take: that is the path of a file.
    """

    def __init__(self, declarations: Sequence[str], **attributes: Any) -> None:
        super().__init__(
            declarations, **attributes, is_flag=False, flag_value="", default=False, type=click.UNPROCESSED
        )

    def type_cast_value(self, ctx: click.Context, value: Any) -> bool | str:
        """Return True for the option alone, else its text; False where it is not given."""
        return True if value == "" else value or False


class _Verb(click.Command):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give options that stand alone an empty value, so that none takes the next argument for it."""
        alone = {name for parameter in self.params if isinstance(parameter, OptionalValue) for name in parameter.opts}
        end = args.index("--") if "--" in args else len(args)
        return super().parse_args(ctx, [f"{arg}=" if arg in alone else arg for arg in args[:end]] + args[end:])


_HELP = {"help_option_names": ["-h", "--help"]}


class Program(click.Group):
    """The verbs of a table, each loaded when it is used; ends a run with one line and a status, never a traceback."""

    def __init__(self, verbs: Mapping[str, tuple[str, str]]) -> None:
        super().__init__(
            NAME,
            help="Open, convert, compare and verify checkpoints of PyTorch and OneFlow, with neither installed.",
            epilog=_EPILOG,
            context_settings=_HELP,
            invoke_without_command=True,
            callback=_help_without_verb,
            subcommand_metavar="VERB [ARGS]...",
        )
        self._verbs = verbs
        click.version_option(package_name=NAME, message="%(prog)s %(version)s")(self)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the table's order."""
        return list(self._verbs)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in self._verbs.items()])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a verb's command, loading its module; None for an unknown verb."""
        if cmd_name not in self._verbs:
            return None
        module, _, attribute = self._verbs[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(f".{module}", __package__), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb that the first argument names; raise UsageError that lists the verbs."""
        if args[0] not in self._verbs and not args[0].startswith("-"):
            close = get_close_matches(args[0], self._verbs, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise click.UsageError(f"found verb {args[0]!r}, expected one of {', '.join(self._verbs)}{hint}", ctx)
        return super().resolve_command(ctx, args)

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> NoReturn:  # type: ignore[override]
        """Run a command line (this process's, if not given) and exit with its status."""
        arguments = list(sys.argv[1:] if args is None else args)
        prepare_streams()
        try:
            sys.exit(super().main(arguments, NAME, standalone_mode=False))
        except (Exception, KeyboardInterrupt) as problem:
            sys.exit(_failed(problem, as_json="--json" in arguments))


@click.pass_context
def _help_without_verb(context: click.Context) -> None:
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def _failed(problem: BaseException, *, as_json: bool) -> Status:
    status, message = status_of(problem), message_of(problem)
    print_error("error", message)
    if as_json and status is not Status.INTERRUPTED:
        with suppress(OSError):  # standard output itself may be what failed
            write(json_pieces({"error": {"kind": type(problem).__name__, "message": message}}))
    return status
