"""Commands about finished models: scores, a server, a further step, an upload."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from redline.cli.app import app
from redline.data.reading import Reading
from redline.options import Json
from redline.reading import SOURCE, with_reading

PANEL = "Models"


@app.command(
    rich_help_panel=PANEL,
    epilog="Example: `redline score edits.jsonl --reward runs/demo/reward --out scores.jsonl`",
)
@with_reading
def score(
    file: Annotated[
        str, typer.Argument(help=f"Edits or responses: {SOURCE}", metavar="FILE", show_default=False)
    ],
    reward: Annotated[str, typer.Option(help="A reward model's folder or name")],
    out: Annotated[Path, typer.Option(help="The scores")],
    reading: Reading,
    json: Json = False,
) -> None:
    """A reward for every token of edits (both sides) or of responses."""
    from redline.reward.score import score_command

    score_command(reading.source(file), reward, out, json)


@app.command(
    rich_help_panel=PANEL,
    epilog="Example: `redline serve-reward runs/demo/reward --port 8100`",
)
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


@app.command(
    rich_help_panel=PANEL,
    epilog="Example: `redline extrapolate runs/demo/policy --strength 1.5 --out runs/demo-further`",
)
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
    json: Json = False,
) -> None:
    """ExPO: a finished policy, further along its way from the original model. Nothing is trained."""
    from redline.direct.command import extrapolate_command

    extrapolate_command(
        policy, out, strength or [], original, reward, prompts, limit, max_new_tokens, kl_limit, seed, json
    )


@app.command(
    rich_help_panel=PANEL, epilog="Example: `redline push runs/demo --to ada/kinder-answers --upload`"
)
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
    json: Json = False,
) -> None:
    """A run's policy and reward model to the Hugging Face Hub, with their cards. A dry run by default."""
    from redline.integrations.hub import push_command

    push_command(run, to, what, upload, public, json)
