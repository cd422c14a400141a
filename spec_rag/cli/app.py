"""The commands of `spec-rag`, and what they have in common: an error is one line on stderr and exit code 2, Ctrl-C 130.

A command is a module of this package with `register(app)`, named in `COMMANDS`; it must import quickly.
"""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from spec_rag import __version__
from spec_rag.cli.console import be_quiet, say
from spec_rag.cli.interrupted import INTERRUPTED, tell_interrupted
from spec_rag.errors import SpecRagError

COMMANDS = ("compress", "ask", "index", "serve", "mcp", "calibrate", "evaluate", "plan", "demo")

UsageError: type[Exception] = typer.BadParameter.__mro__[
    1
]  # typer brings a click of its own, or uses the installed one


class Commands(TyperGroup):
    """A group of commands that prints an error as one line."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The commands in the order in which they were registered."""
        return list(self.commands)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a package error or an OSError becomes one line and exit code 2."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except KeyboardInterrupt as error:
            tell_interrupted()
            raise typer.Exit(INTERRUPTED) from error
        except (SpecRagError, OSError) as error:
            say(f"error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from error
        except UsageError as error:
            raise _in_one_line(error) from error

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; a usage error is one line."""
        try:
            return super().parse_args(ctx, args)
        except UsageError as error:
            raise _in_one_line(error) from error


def _in_one_line(error: Any) -> Exception:
    """Print a usage error as one line and return the exception that ends the command; a help page is left as it is."""
    if type(error).__name__ == "NoArgsIsHelpError":
        return cast(Exception, error)
    command = error.ctx.command_path if error.ctx is not None else "spec-rag"
    text = " ".join(error.format_message().split())
    say(f"error: {text.rstrip('.')}. See {command} --help.", err=True)
    return typer.Exit(2)


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,  # tables leave 17 of 80 columns to what an option does
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Keep of long documents what matters for a question, and answer from that.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        say(f"spec-rag {__version__}")
        raise typer.Exit


@app.callback()
def _prepare(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    be_quiet()


for _name in COMMANDS:
    import_module(f"spec_rag.cli.{_name}").register(app)
