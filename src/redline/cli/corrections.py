"""Commands about edits: how they come about, what they are like, what labels they give."""

from pathlib import Path
from typing import Annotated

import typer

from redline.cli.app import app
from redline.console import print_json
from redline.data.reading import Reading
from redline.options import ApiKeyEnv, BaseUrl, Concurrency, Json
from redline.reading import SOURCE, ForModel, MaxPromptTokens, with_reading

PANEL = "Corrections"


@app.command(
    rich_help_panel=PANEL,
    epilog="Example: `redline sample runs/demo/policy --prompts prompts.jsonl --out answers.jsonl --n 4 "
    "--worst-by runs/demo/reward`",
)
@with_reading
def sample(
    model: Annotated[
        str,
        typer.Argument(
            help="A policy's folder, a model's folder or name, or its name at --base-url", show_default=False
        ),
    ],
    prompts: Annotated[str, typer.Option(help=f"Prompts: {SOURCE}")],
    out: Annotated[Path, typer.Option(help="The answers: what `edit`, `annotate` and `compare` read")],
    reading: Reading,
    n: Annotated[int, typer.Option("--n", "-n", help="Answers to each prompt", min=1)] = 1,
    worst_by: Annotated[
        str | None, typer.Option(help="Keep the worst of them, by this reward model", metavar="REWARD")
    ] = None,
    temperature: Annotated[float, typer.Option(help="Of sampling", min=0.01)] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(help="The longest answer", min=1)] = 128,
    top_p: Annotated[
        float, typer.Option(help="From the smallest set of tokens with this probability", min=0.01, max=1.0)
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Of sampling", min=0)] = 0,
    base_url: BaseUrl = None,
    concurrency: Concurrency = 8,
    sampler: Annotated[
        str | None,
        typer.Option(
            help="Who draws, as policy.sampler in a recipe: 'file.py:name', or "
            "'{kind: vllm, url: http://127.0.0.1:8000, adapter_dir: DIR}'; default: this process"
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Answers of a model to prompts, for people or an LLM to correct; continues where it stopped."""
    from redline.recipe import sampler_of
    from redline.sampling.command import sample_command
    from redline.sampling.settings import Sampling

    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p)
    sample_command(
        model,
        reading.source(prompts),
        out,
        sampling,
        n=n,
        worst_by=worst_by,
        seed=seed,
        base_url=base_url,
        concurrency=concurrency,
        sampler=None if sampler is None else sampler_of(sampler),
        as_json=json,
    )


@app.command(
    rich_help_panel=PANEL,
    epilog="Example: `redline edit pairs.jsonl --out edits.jsonl --base-url http://localhost:8000/v1 "
    "--model qwen`",
)
@with_reading
def edit(
    pairs: Annotated[str, typer.Argument(help=f"Pairs: {SOURCE}", show_default=False)],
    out: Annotated[
        Path, typer.Option(help="Edits; refused ones go to EDITS.rejects.jsonl beside it", metavar="EDITS")
    ],
    reading: Reading,
    model: Annotated[
        str,
        typer.Option(
            help="The editor: its name at the endpoint; without --base-url a folder, a Hugging Face name, or "
            "smollm2-135m, the embedded model"
        ),
    ],
    base_url: BaseUrl = None,
    api_key_env: ApiKeyEnv = None,
    template: Annotated[
        str | None,
        typer.Option(
            help="plain, reasoned, short or a template file; default: reasoned, short for the embedded model"
        ),
    ] = None,
    guideline: Annotated[str, typer.Option(help='What "better" means for this data: a text, or @FILE')] = "",
    max_ratio: Annotated[
        float, typer.Option(help="Largest share of the words that an edit may change")
    ] = 0.5,
    skip_gate: Annotated[
        list[str] | None,
        typer.Option(
            help="Leave a gate out (repeat for more): empty, unchanged, after, remark, format, ratio"
        ),
    ] = None,
    attempts: Annotated[
        int, typer.Option(help="Answers a pair gets: a refused one is asked again, with the reason")
    ] = 3,
    concurrency: Concurrency = 8,
    rate: Annotated[float | None, typer.Option(help="Most requests a minute")] = None,
    retries: Annotated[int, typer.Option(help="Requests made again after a fault of the endpoint")] = 6,
    timeout: Annotated[float, typer.Option(help="Seconds that a request may take")] = 120,
    temperature: Annotated[
        float | None, typer.Option(help="Of the editor; default: the endpoint's own")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Longest answer; default: the endpoint's own limit")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Ask, in both orders, whether the edit is better")
    ] = False,
    verify_model: Annotated[
        str | None, typer.Option(help="Whom to ask, at the same endpoint; default: the editor")
    ] = None,
    price_in: Annotated[float, typer.Option(help="Price of a million tokens asked")] = 0.0,
    price_out: Annotated[float, typer.Option(help="Price of a million tokens answered")] = 0.0,
    for_model: ForModel = None,
    max_prompt_tokens: MaxPromptTokens = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show three prompts and the tokens it would take")
    ] = False,
    json: Json = False,
) -> None:
    """An LLM edits each worse response as little as possible; continues where it stopped."""
    from redline.edit.command import edit as run_edit

    settings = {
        "model": model,
        "base_url": base_url,
        "api_key_env": api_key_env,
        **({"template": template} if template is not None else {}),
        "guideline": guideline,
        "max_ratio": max_ratio,
        "skip_gates": skip_gate or [],
        "attempts": attempts,
        "concurrency": concurrency,
        "rate": rate,
        "retries": retries,
        "timeout": timeout,
        "temperature": temperature,
        "max_tokens": max_tokens,
        "verify": verify,
        "verify_model": verify_model,
        "price_in": price_in,
        "price_out": price_out,
    }
    run_edit(reading.source(pairs), out, settings, dry_run, for_model, max_prompt_tokens, json)


@app.command(
    rich_help_panel=PANEL,
    name="import-log",
    epilog="Example: `redline import-log log.csv --out edits.jsonl --columns draft=suggestion --columns "
    "sent=final_text --columns user=agent --columns time=sent_at`",
)
@with_reading
def import_log(
    log: Annotated[str, typer.Argument(help=f"A product's log: {SOURCE}", show_default=False)],
    out: Annotated[
        Path, typer.Option(help="The edits; what is dropped goes to EDITS.rejects.jsonl beside it")
    ],
    reading: Reading,
    max_ratio: Annotated[
        float, typer.Option(help="Largest share of the words that a correction changes", min=0, max=1)
    ] = 0.5,
    chat: Annotated[
        bool, typer.Option("--chat", help="Prompts become a user's message, for models with a chat template")
    ] = False,
    json: Json = False,
) -> None:
    """Users' corrections out of a log of drafts and sent texts: rewrites, signatures and the unchanged
    dropped and counted, versions of one draft joined."""
    from redline.data import product_log

    result = product_log.import_log(reading.source(log), out, max_ratio, chat)
    if json:
        print_json({"out": str(out)} | result.as_json())
    else:
        typer.echo("\n".join(result.lines()))


@app.command(
    rich_help_panel=PANEL,
    epilog="Example: `redline edits edits.jsonl --picture edits.svg`",
)
@with_reading
def edits(
    edits: Annotated[str, typer.Argument(help=f"Edits: {SOURCE}", show_default=False)],
    reading: Reading,
    picture: Annotated[Path | None, typer.Option(help="Also draw them, as SVG", metavar="FILE.svg")] = None,
    json: Json = False,
) -> None:
    """How minimal edits are: ratios, words kept and changed, by editor, outliers, duplicates."""
    from redline.edit.command import statistics_of

    statistics_of(reading.source(edits), picture, json)


@app.command(
    rich_help_panel=PANEL,
    epilog="Example: `redline label edits.jsonl --out labels.jsonl --tokenizer smollm2-135m`",
)
@with_reading
def label(
    edits: Annotated[str, typer.Argument(help=f"Edits: {SOURCE}", show_default=False)],
    out: Annotated[Path, typer.Option(help="The labels")],
    tokenizer: Annotated[str, typer.Option(help="A model's name or folder, or `whitespace`")],
    reading: Reading,
    unit: Annotated[
        str, typer.Option(help="Align `token`s, or `word`s whose labels are carried to tokens")
    ] = "token",
    whole: Annotated[
        str, typer.Option(help="A label covers whole `character`s and numbers, or whole `word`s")
    ] = "character",
    fill: Annotated[int, typer.Option(help="Between two changes, so many kept words count as changed")] = 0,
    invisible: Annotated[
        str, typer.Option(help="Differences that nobody sees: `keep`, or `normalise` both sides first")
    ] = "keep",
    max_response_tokens: Annotated[int | None, typer.Option(help="Crop longer responses", min=1)] = None,
    chat_template: Annotated[
        str | None, typer.Option(help="A file in place of the tokenizer's own template", metavar="FILE")
    ] = None,
    keep_unchanged: Annotated[bool, typer.Option(help="Also label edits that change nothing")] = False,
    json: Json = False,
) -> None:
    """Edits to token labels: -1 on what an edit removed, +1 on what it put in."""
    from redline.label.stage import label_command

    settings = {"unit": unit, "whole": whole, "fill": fill, "invisible": invisible}
    source = reading.source(edits)
    label_command(source, out, tokenizer, settings, max_response_tokens, keep_unchanged, chat_template, json)


@app.command(
    rich_help_panel=PANEL,
    epilog="Example: `redline show edits.jsonl --limit 3`",
)
@with_reading
def show(
    file: Annotated[str, typer.Argument(help=f"Anything that Redline writes: {SOURCE}", show_default=False)],
    reading: Reading,
    limit: Annotated[int, typer.Option(help="Print so many records", min=1)] = 10,
) -> None:
    """Edits, labels, scores, pairs, responses, verdicts, left-out records in the terminal, in colour."""
    from redline.data.show import show_file

    show_file(reading.source(file), limit)
