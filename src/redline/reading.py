"""The options by which every command that reads says where records come from and how they are called.

@app.command()
@with_reading
def label(edits: str, out: Path, reading: Reading) -> None: ...
"""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from redline.data.reading import Reading

OPTIONS: dict[str, tuple[Any, Any]] = {
    "columns": (
        list[str] | None,
        typer.Option(help="ours=theirs, e.g. rejected=answer_b or edited=result.0.text (repeat for more)"),
    ),
    "values": (
        list[str] | None,
        typer.Option(help="Of the column mapped to `better`: their code=a, b or tie (repeat for more)"),
    ),
    "sides": (
        list[str] | None,
        typer.Option(help="Two rows a record: value of the column mapped to `side`=our field (repeat)"),
    ),
    "replace": (list[str] | None, typer.Option(help="old=new in every text (repeat for more)")),
    "format": (
        str,
        typer.Option(
            help="auto, or whose export it is: hh, alpaca, openai, label_studio, argilla, prodigy, doccano"
        ),
    ),
    "split": (str, typer.Option(help="Of a data set, or of a folder of shards")),
    "config": (str | None, typer.Option(help="Configuration of a Hub data set, or a workbook's sheet")),
    "first_words": (int | None, typer.Option(help="Keep so many words of each prompt", min=1)),
    "limit": (int | None, typer.Option(help="Only the first so many records", min=1)),
    "delimiter": (str | None, typer.Option(help="Between a table's cells: one character, or tab")),
    "quoting": (
        str,
        typer.Option(help="Quotation marks in a table: auto, standard, or none (they are text)"),
    ),
    "encoding": (str | None, typer.Option(help="Of a file that is neither UTF-8 nor marked UTF-16")),
}
PANEL = "Reading"
ForModel = Annotated[
    str | None,
    typer.Option(
        help="The model that will learn from this: leave out first what its chat template refuses",
        rich_help_panel=PANEL,
    ),
]
MaxPromptTokens = Annotated[
    int | None,
    typer.Option(help="With --for-model: leave longer prompts out too", min=1, rich_help_panel=PANEL),
]
SOURCE = "a file (.jsonl .json .csv .tsv .parquet .xlsx), a folder, a pattern or a data set's name"


def with_reading(function: Callable[..., Any]) -> Callable[..., Any]:
    """A command whose parameter ``reading`` is made of the reading options; those that it has itself stay its
    own."""
    signature = inspect.signature(function)
    own = signature.parameters
    defaults = vars(Reading())
    added = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=_annotated(kind, option)
        )
        for name, (kind, option) in OPTIONS.items()
        if name not in own
    ]

    @functools.wraps(function)
    def wrapped(*args: Any, **options: Any) -> Any:
        given = {parameter.name: options.pop(parameter.name) for parameter in added}
        shared = {name: options[name] for name in OPTIONS if name in own and name in options}
        return function(*args, **options, reading=Reading(**(given | shared)))

    kept = [parameter for name, parameter in own.items() if name != "reading"]
    wrapped.__signature__ = signature.replace(parameters=[*kept, *added])  # type: ignore[attr-defined]
    annotations = {name: kind for name, kind in function.__annotations__.items() if name != "reading"}
    wrapped.__annotations__ = annotations | {parameter.name: parameter.annotation for parameter in added}
    return wrapped


def _annotated(kind: Any, option: Any) -> Any:
    option.rich_help_panel = PANEL
    return Annotated[kind, option]
