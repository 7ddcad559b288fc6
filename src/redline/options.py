"""Options and arguments that several commands have, and what every command has: -q, -v and -h.

A command names them as the types of its parameters: ``def plan(recipe: RecipeFile, json: Json = False)``.
"""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from redline.console import speak

C = TypeVar("C", bound=Callable[..., Any])

RecipeFile = Annotated[Path, typer.Argument(help="YAML recipe", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="key=value pairs over the recipe, e.g. policy.updates=20")
]
RunFolder = Annotated[Path | None, typer.Option(help="The run's folder; default: runs/ and its name")]
BaseUrl = Annotated[
    str | None, typer.Option(help="An OpenAI-compatible endpoint, such as http://localhost:8000/v1")
]
ApiKeyEnv = Annotated[
    str | None,
    typer.Option(
        help="The environment variable with its key; default: OPENAI_API_KEY. Over plain http to another "
        "machine a key is sent only if this names it"
    ),
]
Concurrency = Annotated[int, typer.Option(help="Requests under way at once", min=1)]
Template = Annotated[
    str | None, typer.Option(help="What an LLM judge is asked: a file with {prompt}, {a} and {b}")
]
VerdictForm = Annotated[
    str, typer.Option(help="An LLM judge's answer: json, or token (log-probabilities of A and B)")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, in place of a table")]


Quiet = Annotated[
    bool, typer.Option("-q", "--quiet", help="Only results, warnings and mistakes", show_default=False)
]
Verbose = Annotated[
    bool,
    typer.Option(
        "-v", "--verbose", help="Also what libraries say, and where a mistake was found", show_default=False
    ),
]


class App(typer.Typer):
    """The commands of `redline`: each also takes -q and -v."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[C], C]:
        """As Typer's own."""
        register = super().command(name, **options)

        def add(function: C) -> C:
            register(_with_verbosity(function))
            return function

        return add


def _with_verbosity(function: Callable[..., Any]) -> Callable[..., Any]:
    """A command with the options -q and -v, obeyed before it begins."""

    @functools.wraps(function)
    def wrapped(*args: Any, quiet: bool, verbose: bool, **options: Any) -> Any:
        speak(quiet, verbose)
        return function(*args, **options)

    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in (("quiet", Quiet), ("verbose", Verbose))
    ]
    signature = inspect.signature(function)
    wrapped.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), *more]
    )
    wrapped.__annotations__ = {**function.__annotations__, "quiet": Quiet, "verbose": Verbose}
    return wrapped
