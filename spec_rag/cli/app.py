"""The group of commands: an error is one line on stderr and exit code 2.

A command is a module of this package with a function `register(app)`, listed in `COMMANDS`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from spec_rag import __version__
from spec_rag.cli.console import be_quiet, say
from spec_rag.cli.interrupted import INTERRUPTED, print_interrupted
from spec_rag.errors import SpecRagError

COMMANDS = ("compress", "ask", "index", "serve", "mcp", "calibrate", "evaluate", "plan", "demo")

# typer has its own copy of click, or uses the installed one
UsageError: type[Exception] = typer.BadParameter.__mro__[1]


class Commands(TyperGroup):
    """A group of commands that prints an error as one line."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The commands in order of registration."""
        return list(self.commands)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; errors of the package and OSErrors are printed as one line."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except KeyboardInterrupt as error:
            print_interrupted()
            raise typer.Exit(INTERRUPTED) from error
        except (SpecRagError, OSError) as error:
            say(f"error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from error
        except UsageError as error:
            raise _in_one_line(error) from error

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; usage errors are printed as one line."""
        try:
            return super().parse_args(ctx, args)
        except UsageError as error:
            raise _in_one_line(error) from error


def _in_one_line(error: Any) -> Exception:
    """Print a usage error as one line; return the exception that ends the command."""
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
    rich_markup_mode=None,  # rich tables leave 17 of 80 columns for descriptions
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Compress documents for a question, and answer from the compressed text.",
)


def _show_version(is_set: bool) -> None:
    if is_set:
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
