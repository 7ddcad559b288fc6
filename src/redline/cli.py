"""The commands, a few lines each over the stage they run. Nothing heavy is imported before its command needs
it."""

import os
import signal
import sys
import traceback
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from redline import __version__
from redline.console import is_verbose, print_json, speak
from redline.data.reading import Reading
from redline.errors import CheckFailed, UserError
from redline.options import (
    ApiKeyEnv,
    App,
    BaseUrl,
    Concurrency,
    Json,
    Overrides,
    RecipeFile,
    RunFolder,
    Template,
    VerdictForm,
)
from redline.reading import SOURCE, ForModel, MaxPromptTokens, with_reading

app = App(
    name="redline",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Align language models from minimal edits: token labels, token-level rewards, fine-grained PPO, "
    "win rates.",
)


class Stage(StrEnum):
    sft = "sft"
    reward = "reward"
    policy = "policy"


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"redline {__version__}")
        raise typer.Exit


@app.command(epilog="Example: `redline run recipes/quickstart.yaml --out runs/demo policy.updates=20`")
def run(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: RunFolder = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="STAGE",
            help="Do this stage and those after it again; what was there is kept in previous/. Edits that an "
            "LLM made are asked for again only by --from edit",
        ),
    ] = None,
    reuse: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RUN", help="Another run's folder: take over what it did alike (repeat for more)"
        ),
    ] = None,
) -> None:
    """Every stage of a recipe, in order; continues where it stopped. What a changed key concerns is done
    again, and nothing else."""
    from redline.run.run import run_recipe

    run_recipe(recipe, overrides or [], out, start=start, reuse=reuse or [])


@app.command(epilog="Example: `redline check my-recipe.yaml`")
def check(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: RunFolder = None,
    ask: Annotated[bool, typer.Option("--ask", help="Also send one short request to each endpoint")] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Also take a few records through every training: load, sample at full length, score, "
            "one step, save, load again",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """All that can be known of a run before it begins, in seconds; `redline run` checks the same first.
    An experiment's recipe too: every arm is checked.

    With --dry-run also what only running shows, in minutes.

    Status 1 where something is to be mended.
    """
    from redline.experiment.check import check_experiment, is_experiment
    from redline.run.command import check_command

    if is_experiment(recipe):
        check_experiment(recipe, overrides or [], out, ask, dry_run, json)
    else:
        check_command(recipe, overrides or [], out, ask, json, dry_run)


@app.command(
    epilog="Example: `redline train reward recipes/quickstart.yaml --out runs/demo reward.kind=sequence`"
)
def train(
    stage: Annotated[Stage, typer.Argument(show_default=False)],
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: RunFolder = None,
) -> None:
    """One training stage of a recipe (data and labels are made if need be): sft, reward or policy."""
    from redline.run.run import run_recipe

    run_recipe(recipe, overrides or [], out, only=stage.value)


@app.command(epilog="Example: `redline extrapolate runs/demo/policy --strength 1.5 --out runs/demo-further`")
def extrapolate(
    policy: Annotated[Path, typer.Argument(metavar="POLICY_DIR", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the new policy", show_default=False)],
    strength: Annotated[
        list[float] | None,
        typer.Option(
            help="0 is the original model, 1 the policy, 1.5 half as far again (repeat: a search among them)"
        ),
    ] = None,
    original: Annotated[
        str | None, typer.Option(help="The model that the policy was trained from; an adapter knows it")
    ] = None,
    reward: Annotated[
        str | None, typer.Option(help="For a search: a reward model's folder, or file.py:function")
    ] = None,
    prompts: Annotated[str | None, typer.Option(help="For a search: a file of prompts")] = None,
    limit: Annotated[int, typer.Option(min=2, help="Prompts of the search")] = 64,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest response of the search")] = 64,
    kl_limit: Annotated[float, typer.Option(min=0.0, help="Most nats a response from the original")] = 6.0,
    seed: Annotated[int, typer.Option(help="Of the search's samples")] = 0,
) -> None:
    """ExPO: a finished policy, further along its way from the original model. Nothing is trained."""
    from redline.direct.command import extrapolate_command

    found = extrapolate_command(
        policy, out, strength or [], original, reward, prompts, limit, max_new_tokens, kl_limit, seed
    )
    typer.echo(f"{out}: strength {found:g}")


@app.command(
    epilog="Example: `redline plan recipes/alpacafarm-7b.yaml --gpus 8 --gpu-memory 80GB --price-per-hour "
    "2.5`"
)
def plan(
    recipe: RecipeFile,
    overrides: Overrides = None,
    gpus: Annotated[int | None, typer.Option(help="How many; default: this machine's CPU")] = None,
    gpu_memory: Annotated[str | None, typer.Option(help="Of each GPU; default: 80GB")] = None,
    price_per_hour: Annotated[float | None, typer.Option(help="Of one GPU, or of this machine")] = None,
    prompt_tokens: Annotated[
        int | None, typer.Option(help="Longest prompt; default: data.max_prompt_tokens")
    ] = None,
    edits: Annotated[
        int | None, typer.Option(help="How many there are; default: counted, where they are a file")
    ] = None,
    tflops: Annotated[
        float | None,
        typer.Option(
            help="Operations that one GPU reaches, in 10^12 a second; default: by its "
            "memory, measured on a CPU"
        ),
    ] = None,
    bandwidth: Annotated[
        float | None, typer.Option(help="Of its memory, in GB a second; default: likewise")
    ] = None,
    bf16: Annotated[
        bool, typer.Option("--bf16", help="Launched with accelerate launch --mixed_precision bf16")
    ] = False,
    json: Json = False,
) -> None:
    """Memory, time and cost of each training stage, before it is run, from the model's configuration
    alone."""
    from redline.plan.command import plan_command

    plan_command(
        recipe,
        overrides or [],
        gpus,
        gpu_memory,
        tflops,
        bandwidth,
        bf16,
        price_per_hour,
        prompt_tokens,
        edits,
        json,
    )


@app.command(epilog="Example: `redline experiment recipes/experiment-cad.yaml --arms token,sequence-edited`")
def experiment(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Its folder; default: runs/ and its name")] = None,
    arms: Annotated[str, typer.Option(help="Run only these, with commas; default: all")] = "",
    parallel: Annotated[int, typer.Option(help="Runs at once", min=1)] = 1,
    report: Annotated[bool, typer.Option("--report", help="Run nothing: sum up what is finished")] = False,
    json: Json = False,
) -> None:
    """Arms by seeds on equal terms: runs what is missing, then puts the arms side by side."""
    from redline.experiment.command import run_experiment
    from redline.report.experiment import write_experiment

    failed, folder = run_experiment(
        recipe, overrides or [], out, [arm for arm in arms.split(",") if arm], parallel, report, json
    )
    typer.echo(write_experiment(folder), err=json)
    if failed:
        raise UserError(failed)


@app.command(epilog="Example: `redline score edits.jsonl --reward runs/demo/reward --out scores.jsonl`")
def score(
    file: Annotated[Path, typer.Argument(metavar="EDITS_OR_RESPONSES", show_default=False)],
    reward: Annotated[str, typer.Option(help="A reward model's folder or name")],
    out: Annotated[Path, typer.Option(help="The scores")],
) -> None:
    """A reward for every token."""
    from redline.reward.score import score_file

    score_file(file, reward, out)


@app.command(epilog="Example: `redline serve-reward runs/demo/reward --port 8100`")
def serve_reward(
    reward: Annotated[str, typer.Argument(help="A reward model's folder or name", show_default=False)],
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0: on all addresses")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any that is free", min=0, max=65535)] = 8100,
    batch: Annotated[int, typer.Option(help="Texts that are scored at once", min=1)] = 32,
    waiting: Annotated[int, typer.Option(help="Texts that may wait; more are refused", min=1)] = 1024,
) -> None:
    """Token rewards over HTTP, for OpenRLHF, verl, slime or your own trainer. Clients need its token:
    REDLINE_REWARD_TOKEN, or one that is made up and printed."""
    from redline.integrations.serve_command import serve_reward as run_server

    run_server(reward, host, port, batch, waiting)


@app.command(epilog="Example: `redline push runs/demo --to ada/kinder-answers --upload`")
def push(
    run: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run's folder, or a model's")],
    to: Annotated[
        str,
        typer.Option(metavar="OWNER/MODEL", help="Its name on the Hub; the reward model's ends in -reward"),
    ],
    what: Annotated[Literal["policy", "reward", "both"], typer.Option(help="What to upload")] = "both",
    upload: Annotated[
        bool, typer.Option("--upload", help="Do it; without this, show what it would be")
    ] = False,
    public: Annotated[bool, typer.Option("--public", help="For everybody to see; default: private")] = False,
) -> None:
    """A run's policy and reward model to the Hugging Face Hub, with their cards. A dry run by default."""
    from redline.integrations.hub import push_command

    push_command(run, to, what, upload, public)


@app.command(epilog="Example: `redline report runs/demo`")
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN_DIR", show_default=False)], json: Json = False
) -> None:
    """One self-contained page about a run, or about an experiment."""
    from redline.report.experiment import figures_of, write_page

    page = write_page(run)
    if json:
        print_json(figures_of(run))
    typer.echo(page, err=json)


@app.command(
    epilog="Example: `redline edit pairs.jsonl --out edits.jsonl --base-url http://localhost:8000/v1 "
    "--model qwen`"
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
    run_edit(reading.source(pairs), out, settings, dry_run, for_model, max_prompt_tokens)


@app.command(epilog="Example: `redline edits edits.jsonl --picture edits.svg`")
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
    epilog="Example: `redline sample runs/demo/policy --prompts prompts.jsonl --out answers.jsonl --n 4 "
    "--worst-by runs/demo/reward`"
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
) -> None:
    """Answers of a model to prompts, for people or an LLM to correct; continues where it stopped."""
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
    )


@app.command(
    epilog="Example: `redline compare policy.jsonl reference.jsonl --judge vader --out winrate.json`"
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


@app.command(epilog="Example: `redline judge-check testset-v1.json --judge length`")
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


@app.command(epilog="Example: `redline annotate pairs.jsonl --db sqlite:///edits.db --annotators ada,ben`")
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


@app.command(epilog="Example: `redline export --db sqlite:///edits.db --out edits.jsonl --accepted`")
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
    export(db, out, which, person, history)


@app.command(epilog="Example: `redline label edits.jsonl --out labels.jsonl --tokenizer smollm2-135m`")
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
) -> None:
    """Edits to token labels: -1 on what an edit removed, +1 on what it put in."""
    from redline.label.stage import label_command

    settings = {"unit": unit, "whole": whole, "fill": fill, "invisible": invisible}
    source = reading.source(edits)
    label_command(source, out, tokenizer, settings, max_response_tokens, keep_unchanged, chat_template)


@app.command(
    "import-log",
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
) -> None:
    """Users' corrections out of a log of drafts and sent texts: rewrites, signatures and the unchanged
    dropped and counted, versions of one draft joined."""
    from redline.data import product_log

    for line in product_log.import_log(reading.source(log), out, max_ratio, chat).lines():
        typer.echo(line)


@app.command(epilog="Example: `redline rounds rounds.yaml --out runs/rounds`")
def rounds(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe of rounds", show_default=False)],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Their folder; default: runs/ and its name")] = None,
) -> None:
    """Round after round: sample the last policy, correct its answers, train on all edits so far; continues
    where it stopped."""
    from redline.run.rounds import rounds_command

    rounds_command(recipe, overrides or [], out)


@app.command(epilog="Example: `redline schema --out redline.schema.json`")
def schema(
    out: Annotated[Path | None, typer.Option(help="A file; default: stdout")] = None,
) -> None:
    """The JSON schema of recipes, for editors that complete and check YAML."""
    from redline.recipe import schema_text
    from redline.run.init import write_text

    if out is None:
        typer.echo(schema_text())
    else:
        write_text(out, schema_text() + "\n")


@app.command(epilog="Example: `redline init edits.csv --out recipe.yaml`")
@with_reading
def init(
    file: Annotated[str, typer.Argument(help=f"Edits or pairs: {SOURCE}", show_default=False)],
    reading: Reading,
    out: Annotated[Path, typer.Option(help="The recipe to write")] = Path("recipe.yaml"),
    model: Annotated[
        str, typer.Option(help="The model to align: a Hugging Face name, a folder, or the embedded one")
    ] = "smollm2-135m",
) -> None:
    """A commented recipe for a file of yours: columns guessed and shown, ten records checked."""
    from redline.run.init import init_command

    init_command(reading.source(file), out, model)


@app.command(epilog="Example: `redline show edits.jsonl --limit 3`")
@with_reading
def show(
    file: Annotated[str, typer.Argument(help=f"Anything that Redline writes: {SOURCE}", show_default=False)],
    reading: Reading,
    limit: Annotated[int, typer.Option(help="Print so many records", min=1)] = 10,
) -> None:
    """Edits, labels, scores, pairs, responses, verdicts, left-out records in the terminal, in colour."""
    from redline.data.show import show_file

    show_file(reading.source(file), limit)


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


if __name__ == "__main__":
    main()
