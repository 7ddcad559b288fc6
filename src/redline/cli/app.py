"""The command line itself: its name, its help, and what it does with mistakes. The commands are beside it."""

import os
import signal
import sys
import traceback
from typing import Annotated

import typer

from redline import __version__
from redline.console import is_verbose, speak
from redline.errors import CheckFailed, UserError
from redline.options import App

app = App(
    name="redline",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Align language models from minimal edits: token labels, token-level rewards, fine-grained PPO, "
    "win rates.",
)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"redline {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point. Status 1: a check failed; 2: a mistake of the user's, which is one line on stderr; 130:
    Ctrl-C; 143: SIGTERM."""
    speak()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app()
    except CheckFailed as error:
        _print_lines(error)
        sys.exit(1)
    except UserError as error:
        if is_verbose():
            traceback.print_exc()
        _print_lines(error)
        sys.exit(2)
    except RuntimeError as error:
        from redline.engine.processes import lost_another, memory_is_full

        if full := memory_is_full(error):
            print(f"redline: {full}", file=sys.stderr)
            sys.exit(1)
        if not lost_another(error):
            raise
        print(
            "redline: another process of this run has ended, so this one ends too. The same command, with "
            "as many processes or another number, continues from the last checkpoint.",
            file=sys.stderr,
        )
        sys.exit(1)
    except SystemExit as end:
        if end.code in (130, 143):  # what Typer makes of Ctrl-C, and SIGTERM
            print("redline: stopped. The same command continues where it left off.", file=sys.stderr)
        raise


def _print_lines(error: Exception) -> None:
    for line in str(error).split("\n"):
        print(f"redline: {line}", file=sys.stderr)
