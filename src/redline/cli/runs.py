"""Commands about a whole run: its recipe, its stages, its page."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from redline.cli.app import app
from redline.console import print_json
from redline.data.reading import Reading
from redline.errors import UserError
from redline.options import Json, Overrides, RecipeFile, RunFolder
from redline.reading import SOURCE, with_reading

PANEL = "Runs"


class Stage(StrEnum):
    sft = "sft"
    reward = "reward"
    policy = "policy"


@app.command(
    rich_help_panel=PANEL,
    epilog="Example: `redline init edits.csv --out recipe.yaml`",
)
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


@app.command(
    rich_help_panel=PANEL,
    epilog="Example: `redline check my-recipe.yaml`",
)
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
    rich_help_panel=PANEL,
    epilog="Example: `redline plan recipes/alpacafarm-7b.yaml --gpus 8 --gpu-memory 80GB --price-per-hour "
    "2.5`",
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
    from redline.embedded import resolve
    from redline.recipe import load_recipe

    model = load_recipe(recipe, overrides or []).model
    resolve(model.name, model.revision)  # a misspelt name need not wait for the import of PyTorch
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


@app.command(
    rich_help_panel=PANEL,
    epilog="Example: `redline run recipes/quickstart.yaml --out runs/demo policy.updates=20`",
)
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
    json: Json = False,
) -> None:
    """Every stage of a recipe, in order; continues where it stopped. What a changed key concerns is done
    again, and nothing else."""
    from redline.run.command import run_command

    run_command(recipe, overrides or [], out, start=start, reuse=reuse or [], as_json=json)


@app.command(
    rich_help_panel=PANEL,
    epilog="Example: `redline train reward recipes/quickstart.yaml --out runs/demo reward.kind=sequence`",
)
def train(
    stage: Annotated[Stage, typer.Argument(show_default=False)],
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: RunFolder = None,
    json: Json = False,
) -> None:
    """One training stage of a recipe (data and labels are made if need be): sft, reward or policy."""
    from redline.run.command import run_command

    run_command(recipe, overrides or [], out, only=stage.value, as_json=json)


@app.command(
    rich_help_panel=PANEL,
    epilog="Example: `redline rounds rounds.yaml --out runs/rounds`",
)
def rounds(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe of rounds", show_default=False)],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Their folder; default: runs/ and its name")] = None,
    json: Json = False,
) -> None:
    """Round after round: sample the last policy, correct its answers, train on all edits so far; continues
    where it stopped."""
    from redline.run.rounds import rounds_command

    rounds_command(recipe, overrides or [], out, json)


@app.command(
    rich_help_panel=PANEL,
    epilog="Example: `redline experiment recipes/experiment-cad.yaml --arms token,sequence-edited`",
)
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


@app.command(
    rich_help_panel=PANEL,
    epilog="Example: `redline report runs/demo`",
)
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
    rich_help_panel=PANEL,
    epilog="Example: `redline schema --out redline.schema.json`",
)
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
