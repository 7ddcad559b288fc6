"""Commands that compare systems, and that check the judge."""

from pathlib import Path
from typing import Annotated

import typer

from redline.cli.app import app
from redline.data.reading import Reading
from redline.options import ApiKeyEnv, BaseUrl, Concurrency, Json, Template, VerdictForm
from redline.reading import SOURCE, with_reading

PANEL = "Comparisons"


@app.command(
    rich_help_panel=PANEL,
    epilog="Example: `redline compare policy.jsonl reference.jsonl --judge vader --out winrate.json`",
)
@with_reading
def compare(
    systems: Annotated[
        list[str],
        typer.Argument(
            help="Files of responses, or models with --prompts; the last is the reference",
            show_default=False,
        ),
    ],
    judge: Annotated[
        str,
        typer.Option(
            help="vader, length, human:FILE, module:function, file.py:function, a reward model, "
            "or an LLM with --base-url"
        ),
    ],
    reading: Reading,
    out: Annotated[Path, typer.Option(help="The result; verdicts and samples go beside it")] = Path(
        "winrate.json"
    ),
    prompts: Annotated[str | None, typer.Option(help="Prompts for models to answer")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Their longest response", min=1)] = 64,
    temperature: Annotated[float, typer.Option(help="Of their sampling", min=0.01)] = 1.0,
    seed: Annotated[int, typer.Option(help="Of sampling and of the bootstrap", min=0)] = 0,
    cache: Annotated[
        Path | None, typer.Option(help="Verdicts given before; default: verdicts.sqlite beside --out")
    ] = None,
    base_url: BaseUrl = None,
    api_key_env: ApiKeyEnv = None,
    template: Template = None,
    verdict: VerdictForm = "json",
    concurrency: Concurrency = 8,
    json: Json = False,
) -> None:
    """Win rate of A over B; of three systems or more, also paired differences and Bradley-Terry strengths."""
    from redline.judge.command import compare_command
    from redline.judge.judges import load_judge
    from redline.sampling.settings import Sampling

    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature)
    chosen = load_judge(judge, base_url, template, verdict, concurrency, api_key_env)
    compare_command(systems, chosen, out, prompts, sampling, cache, seed, reading, json)


@app.command(
    rich_help_panel=PANEL,
    epilog="Example: `redline judge-check testset-v1.json --judge length`",
)
@with_reading
def judge_check(
    verdicts: Annotated[str, typer.Argument(help=f"Pairs that people judged: {SOURCE}", show_default=False)],
    judge: Annotated[str, typer.Option(help="As in `redline compare`")],
    reading: Reading,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            help="ours=theirs (repeat for more): prompt, a, b, people; e.g. people=annotator1,annotator2"
        ),
    ] = None,
    values: Annotated[
        list[str] | None, typer.Option(help="their code=a, b or tie (repeat for more); e.g. 1=a")
    ] = None,
    by: Annotated[str, typer.Option(help="Also break the agreement down by this column")] = "",
    again: Annotated[int, typer.Option(help="Ask so many pairs a second time", min=0)] = 100,
    out: Annotated[Path | None, typer.Option(help="Also write the figures as JSON")] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Verdicts given before; default: verdicts.sqlite, beside --out")
    ] = None,
    base_url: BaseUrl = None,
    api_key_env: ApiKeyEnv = None,
    template: Template = None,
    verdict: VerdictForm = "json",
    concurrency: Concurrency = 8,
    json: Json = False,
) -> None:
    """Before trusting a judge: its agreement with people and with itself, and what order and length do to
    it."""
    from dataclasses import replace

    from redline.data.settings import assignments
    from redline.judge.command import check_command
    from redline.judge.judges import load_judge

    chosen = load_judge(judge, base_url, template, verdict, concurrency, api_key_env)
    ours, codes = assignments(columns, "--columns"), assignments(values, "--values")
    source = replace(reading, columns=None, values=None).source(verdicts)
    check_command(source, chosen, ours, codes, cache, again, out, by, json)
