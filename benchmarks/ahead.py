"""Wall time of PPO updates whose responses a server draws: policy.ahead 1 against 0.

    make vllm
    python benchmarks/ahead.py [--server .venv-vllm/bin/python] [--repeats 3]
    python benchmarks/ahead.py --table    # the table in docs/scale.md again, from the result file

Two servers. "vLLM on the same processors": the real one, which takes them away from the trainer while it
draws. "a server elsewhere": a stand-in that waits as long as the real one took to draw a batch, and computes
nothing; it shows what a server on a machine of its own gives. The embedded model, LoRA of rank 16 on its
uppermost ten layers, 8 responses of up to 16 tokens, two epochs, importance_cap 2. The first update and the
last are not counted: nothing is drawn ahead of the one, or behind the other. Both settings in turn, repeat by
repeat; medians, and of the ratios. Results go to benchmarks/results/ahead.json and into docs/scale.md.
"""

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from common import about, filled, into_page, table
from redline.data.records import Prompt
from redline.embedded import EMBEDDED
from redline.engine.settings import Adapt, Model
from redline.policy.settings import Kl, Policy
from redline.policy.train import train_policy
from redline.reward.settings import RewardTerm
from redline.sampling.settings import Sampling, VllmServer
from vllm_server import own_dtype, server_command, server_python, server_versions, vllm_server

HERE = Path(__file__).parent
SEED = 0
RESULTS = HERE / "results" / "ahead.json"
PAGE = HERE.parent / "docs" / "scale.md"
REAL, ELSEWHERE = "vLLM on the same processors", "a server elsewhere"
UPDATES, BATCH, TOKENS = 5, 8, 16
TEXTS = ["The film was", "I liked the way that", "A book about", "Once upon a time"]
HELPERS = """
import random
import time

from redline.sampling.protocol import Drawn

def vowels(prompts, responses):
    return [float(sum(letter in "aeiou" for letter in response)) for response in responses]

class Elsewhere:
    "Waits, and returns tokens that cost nothing."
    def sync(self, policy):
        self.vocabulary = policy.lm.config.vocab_size
    def sample(self, prompts, n, request):
        return self.later(prompts, n, request)()
    def later(self, prompts, n, request):
        numbers = random.Random(request.seed)
        def response():
            return [numbers.randrange(3, self.vocabulary) for _ in range(request.sampling.max_new_tokens)]
        ids = [response() for _ in prompts for _ in range(n)]
        def draw():
            time.sleep({delay})
            return Drawn(ids)
        return draw
"""


def seconds(sampler: str | VllmServer, ahead: int, helpers: Path, out: Path) -> dict[str, float]:
    """Means of the middle updates of one training: of a whole one, and of what waits for responses."""
    policy = Policy(
        reward=[RewardTerm(function=f"{helpers}:vowels")],
        reward_scale=1.0,
        sampler=sampler,
        ahead=ahead,
        importance_cap=2.0,
        adapt=Adapt(lora_rank=16, train_layers=10),
        kl=Kl(target=None, stop=None),
        sampling=Sampling(max_new_tokens=TOKENS, min_new_tokens=0, temperature=0.7),
        updates=UPDATES,
        batch_size=BATCH,
        minibatch_size=BATCH,
        checkpoint_every=UPDATES,
    )
    prompts = [Prompt(id=text, prompt=text) for text in TEXTS]
    train_policy(policy, Model(name=EMBEDDED), prompts, out, seed=SEED)
    middle = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()][1:-1]
    return {
        name: statistics.mean(line[name] for line in middle) for name in ("seconds", "seconds_sample")
    } | {"load": os.getloadavg()[0]}


def in_turn(
    sampler: str | VllmServer, helpers: Path, repeats: int, out: Path
) -> dict[str, list[dict[str, float]]]:
    """Both settings, one after the other, repeat by repeat."""
    runs: dict[str, list[dict[str, float]]] = {"0": [], "1": []}
    for repeat in range(repeats):
        for ahead, measured in runs.items():
            measured.append(seconds(sampler, int(ahead), helpers, out / f"{repeat}-{ahead}"))
            print(f"ahead {ahead}", measured[-1], flush=True)
    return runs


def summary(runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians of both settings, and the median ratio of the repeats' pairs."""
    table: dict[str, Any] = {}
    for ahead, measured in runs.items():
        for name in ("seconds", "seconds_sample"):
            table[f"ahead {ahead}: {name}"] = round(statistics.median(run[name] for run in measured), 2)
    ratios = [slow["seconds"] / fast["seconds"] for slow, fast in zip(runs["0"], runs["1"], strict=True)]
    return table | {
        "times as fast": round(statistics.median(ratios), 2),
        "of each pair": [round(ratio, 2) for ratio in ratios],
    }


def written(content: dict[str, Any]) -> str:
    """What docs/scale.md says of a result file's content."""
    delay = content[ELSEWHERE]["it waits, seconds"]
    loads = [
        run["load"] for runs in content["runs"].values() for measured in runs.values() for run in measured
    ]
    text = (
        f"What it saves ([`benchmarks/ahead.py`](../benchmarks/ahead.py): {BATCH} responses of {TOKENS} "
        f"tokens of the embedded model, {content['repeats']} runs of each in turn). The real server shares "
        "two cores with the trainer: what it draws ahead takes time from learning. Other work ran on them "
        f"too (a load of {min(loads):.0f} to {max(loads):.0f}), so single pairs differ much. The server "
        f"elsewhere is a stand-in that waits {delay:g} s a batch, as long as the real one took, and computes "
        "nothing: that is what a machine of its own gives. An update then takes the longer of drawing and "
        "learning, in place of their sum."
    )
    rows = []
    for name in (REAL, ELSEWHERE):
        figures = content[name]
        seconds = [f"{figures[f'ahead {ahead}: seconds']:.1f}" for ahead in (0, 1)]
        pairs = ", ".join(f"{ratio:.2f}" for ratio in figures["of each pair"])
        rows.append([name, *seconds, f"{figures['times as fast']:.2f} ({pairs})"])
    head = ["server", "`ahead: 0`, s an update", "`ahead: 1`", "times as fast, median (each pair)"]
    return filled(text) + "\n" + table(head, rows)


def main() -> None:
    cli = argparse.ArgumentParser()
    cli.add_argument("--server", type=Path, default=server_python())
    cli.add_argument("--repeats", type=int, default=3)
    cli.add_argument("--table", action="store_true", help="only write the table again")
    arguments = cli.parse_args()
    if arguments.table:
        into_page("ahead.py", "ahead", written(json.loads(RESULTS.read_text())), PAGE)
        return
    result: dict[str, Any] = {"what": "an update, seconds", "repeats": arguments.repeats, "seed": SEED}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        helpers = folder / "helpers.py"
        helpers.write_text(HELPERS.format(delay=0), encoding="utf-8")
        with vllm_server(arguments.server, folder / "server.log") as server:
            section = VllmServer(kind="vllm", url=server.url, adapter_dir=str(folder / "adapters"))
            runs = in_turn(section, helpers, arguments.repeats, folder / "real")
        delay = round(statistics.median(run["seconds_sample"] for run in runs["0"]), 1)
        helpers = folder / "elsewhere.py"
        helpers.write_text(HELPERS.format(delay=delay), encoding="utf-8")
        elsewhere = in_turn(f"{helpers}:Elsewhere", helpers, arguments.repeats, folder / "elsewhere")
    result |= {
        REAL: summary(runs),
        ELSEWHERE: summary(elsewhere) | {"it waits, seconds": delay},
        "runs": {REAL: runs, ELSEWHERE: elsewhere},
        "server": {"versions": server_versions(arguments.server), "command": server_command(own_dtype())},
        **about("ahead.py"),
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    into_page("ahead.py", "ahead", written(result), PAGE)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
