"""Commands for people who edit and compare in a browser."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from redline.cli.app import app
from redline.data.reading import Reading
from redline.errors import UserError
from redline.options import Json
from redline.reading import SOURCE, ForModel, MaxPromptTokens, with_reading

PANEL = "Corrections"


@app.command(
    rich_help_panel=PANEL,
    epilog="Example: `redline annotate pairs.jsonl --db sqlite:///edits.db --annotators ada,ben`",
)
@with_reading
def annotate(
    reading: Reading,
    pairs: Annotated[
        str | None,
        typer.Argument(help=f"Pairs: {SOURCE}; not needed again once they are in the database"),
    ] = None,
    db: Annotated[
        str, typer.Option(help="sqlite:///FILE or postgresql://USER@HOST/NAME")
    ] = "sqlite:///edits.db",
    drafts: Annotated[
        str | None,
        typer.Option("--import", help="An LLM's edits, as drafts for people to correct", metavar="EDITS"),
    ] = None,
    blind: Annotated[
        tuple[str, str] | None,
        typer.Option(help="Instead: compare two files of responses blindly", metavar="A B"),
    ] = None,
    thumbs: Annotated[
        str | None,
        typer.Option(help="Instead: give each response of a file a thumb up or down", metavar="RESPONSES"),
    ] = None,
    practice: Annotated[
        Path | None,
        typer.Option(help="Items with a known answer, which everybody does first (JSON Lines)"),
    ] = None,
    guideline: Annotated[
        Path | None, typer.Option(help='What "better" means for this data, as Markdown')
    ] = None,
    annotators: Annotated[str, typer.Option(help="Names, with commas; default: your own")] = "",
    agreement: Annotated[
        float | None,
        typer.Option(
            help="Share of items that several people do, from 0 to 1 [default: 0.1]", show_default=False
        ),
    ] = None,
    raters: Annotated[
        int | None,
        typer.Option(help="How many people these are, from 2 to 5 [default: 2]", show_default=False),
    ] = None,
    reasons: Annotated[
        str | None,
        typer.Option(help='Reasons that people may give for a change, with commas: "wrong fact,unsafe"'),
    ] = None,
    max_ratio: Annotated[
        float | None,
        typer.Option(
            help="Largest share of the words that an edit may change [default: 0.5]", show_default=False
        ),
    ] = None,
    lease: Annotated[
        float | None,
        typer.Option(
            help="Minutes after which an item of somebody who went away is given to another [default: 30]",
            show_default=False,
        ),
    ] = None,
    for_model: ForModel = None,
    max_prompt_tokens: MaxPromptTokens = None,
    host: Annotated[str, typer.Option(help="Address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any free one")] = 8000,
    url: Annotated[
        str | None, typer.Option(help="The address people use, where a proxy stands before this server")
    ] = None,
    status: Annotated[
        bool, typer.Option("--status", help="Only say how far the work in --db is, and end")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --status: as JSON")] = False,
) -> None:
    """People edit, compare blindly or give thumbs, in a browser."""
    from redline.annotate import serve
    from redline.annotate.serve import Options, annotate

    if as_json and not status:
        raise UserError("--json: is for --status. Add it.")
    if status:
        serve.status(db, as_json)
        return
    annotate(
        Options(
            db=db,
            pairs=reading.source(pairs) if pairs else None,
            drafts=reading.source(drafts) if drafts else None,
            blind=(reading.source(blind[0]), reading.source(blind[1])) if blind else None,
            thumbs=reading.source(thumbs) if thumbs else None,
            practice=practice,
            for_model=for_model,
            max_prompt_tokens=max_prompt_tokens,
            guideline=guideline,
            annotators=annotators.split(","),
            agreement=agreement,
            raters=raters,
            reasons=None if reasons is None else serve.list_of(reasons),
            max_ratio=max_ratio,
            lease_minutes=lease,
            host=host,
            port=port,
            url=url,
        )
    )


@app.command(
    rich_help_panel=PANEL,
    epilog="Example: `redline export --db sqlite:///edits.db --out edits.jsonl --accepted`",
)
def export(
    db: Annotated[str, typer.Option(help="The database of `redline annotate`")],
    out: Annotated[Path, typer.Option(help="The file to write, JSON Lines", metavar="EDITS")],
    accepted: Annotated[
        bool,
        typer.Option(
            "--accepted",
            help="Only edits that are not refused: none that were already fine or cannot be fixed",
        ),
    ] = False,
    feedback: Annotated[
        bool,
        typer.Option(
            "--feedback",
            help="Thumbs: of edits, those already fine as ups and those that cannot be fixed as downs",
        ),
    ] = False,
    person: Annotated[str | None, typer.Option(help="Only what this person did")] = None,
    history: Annotated[
        bool, typer.Option("--history", help="With everything that was ever done with each item")
    ] = False,
    json: Json = False,
) -> None:
    """What people have made of the pairs: edits, verdicts of a blind comparison, or thumbs."""
    from redline.annotate.serve import export

    if accepted and feedback:
        raise UserError("--accepted and --feedback: choose one of the two.")
    which: Literal["all", "accepted", "feedback"] = "all"
    if accepted:
        which = "accepted"
    if feedback:
        which = "feedback"
    export(db, out, which, person, history, json)
