"""Which answers are worth correcting next: by a token reward model's uncertainty, by its lowest rewards, or
any.

    REDLINE_DATA=../shared/data python benchmarks/next_answers.py [--first 40] [--next 40] [--seeds 1]

writes benchmarks/results/next_answers.json; finished trainings are kept in
benchmarks/results/next_answers.jsonl and not done again.

A reward model learns from the first edits of CAD. It scores the rejected reviews of all others, as if nobody
had corrected them yet, and so many more are chosen: those with the lowest mean reward, those with the most
uncertainty (the mean over tokens of 1 - |reward|: rewards lie between -1 and 1, and 0 says nothing), or drawn
at random. Their edits are uncovered, a new model learns from all, and its AUC and fault AUC on the held-out
edits say what the choice was worth. Settings as in reward_quality.py, soft labels.
"""

import argparse
import json
import os
import random
import statistics
import tempfile
from pathlib import Path
from typing import Any

from common import about

HERE = Path(__file__).parent
LINES, RESULT = HERE / "results" / "next_answers.jsonl", HERE / "results" / "next_answers.json"
CHOICES = ["first alone", "random", "lowest", "uncertain"]
POOL = 400  # answers that are scored, so that a pass takes minutes


def finished() -> list[dict[str, Any]]:
    return [json.loads(line) for line in LINES.read_text().splitlines()] if LINES.exists() else []


def train(records: list[Any], test: list[Any], seed: int) -> tuple[Any, Any]:
    """A reward model on these edits, a tenth of them held out, and its figures on the test edits."""
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    from redline.engine.settings import Adapt, Model
    from redline.reward.examples import examples
    from redline.reward.model import new_reward_model
    from redline.reward.settings import Reward
    from redline.reward.train import RewardTrainer
    from reward_quality import RESPONSE

    set_seed(seed)
    recipe = Reward(loss="soft", depth=20, adapt=Adapt(train_layers=6), epochs=3, batch_size=8)
    reward, _ = new_reward_model(recipe, Model())
    held = max(5, len(records) // 10)
    sets = [
        examples(some, reward.tokenizer, recipe, RESPONSE) for some in (records[held:], records[:held], test)
    ]
    with tempfile.TemporaryDirectory() as folder:
        trainer = RewardTrainer(recipe, reward, Accelerator(), Path(folder), seed)
        trainer.lay_out([example for some in sets for example in some])
        trainer.train(sets[0], sets[1])
        return reward, trainer.evaluate(sets[2])


def chosen(reward: Any, pool: list[Any], count: int, seed: int) -> dict[str, list[Any]]:
    """The pool's edits that each way would have corrected next."""
    lowest: dict[str, float] = {}
    uncertain: dict[str, float] = {}
    for place in range(0, len(pool), 16):
        some = pool[place : place + 16]
        texts = [reward.tokenizer.convert_tokens_to_string(list(record.rejected_tokens)) for record in some]
        scored = reward.score([record.prompt for record in some], texts)
        for record, (_, _, rewards) in zip(some, scored, strict=True):
            lowest[record.id] = float(rewards.mean())
            uncertain[record.id] = float((1 - rewards.abs()).mean())
    return {
        "random": random.Random(seed + 1).sample(pool, count),
        "lowest": sorted(pool, key=lambda record: lowest[record.id])[:count],
        "uncertain": sorted(pool, key=lambda record: -uncertain[record.id])[:count],
    }


def main() -> None:
    cli = argparse.ArgumentParser()
    cli.add_argument("--first", type=int, default=40)
    cli.add_argument("--next", type=int, default=40)
    cli.add_argument("--seeds", type=int, default=1)
    arguments = cli.parse_args()
    from redline.data.tokenization import load_tokenizer
    from redline.embedded import EMBEDDED
    from reward_quality import labels, sources

    data = Path(os.environ.get("REDLINE_DATA", HERE.parent.parent / "shared" / "data"))
    tokenizer = load_tokenizer(EMBEDDED)
    with tempfile.TemporaryDirectory() as scratch:
        edits, test = (labels(source, tokenizer) for source in sources(data, Path(scratch))["cad"])
    sizes = {"first": arguments.first, "next": arguments.next}
    for seed in range(arguments.seeds):
        order = random.Random(seed).sample(edits, arguments.first + POOL)
        first, pool = order[: arguments.first], order[arguments.first :]
        done = {
            line["choice"] for line in finished() if line["seed"] == seed and sizes.items() <= line.items()
        }
        if set(CHOICES) <= done:
            continue
        reward, figures = train(first, test, seed)
        picked = chosen(reward, pool, arguments.next, seed)
        for choice in CHOICES:
            if choice in done:
                continue
            if choice != "first alone":
                _, figures = train([*first, *picked[choice]], test, seed)
            changed = [
                statistics.mean(map(abs, record.rejected_labels)) for record in picked.get(choice, first)
            ]
            line = {
                "choice": choice,
                "seed": seed,
                **sizes,
                "auc": figures.auc,
                "fault_auc": figures.fault_auc,
            }
            line["bad_share"] = statistics.mean(changed)
            print(json.dumps(line), flush=True)
            with LINES.open("a", encoding="utf-8") as out:
                out.write(json.dumps(line) + "\n")
    rows = []
    for choice in CHOICES:
        runs = [line for line in finished() if line["choice"] == choice and sizes.items() <= line.items()]
        if runs:
            figures = {
                key: statistics.mean(run[key] for run in runs) for key in ("auc", "fault_auc", "bad_share")
            }
            rows.append({"choice": choice, "seeds": len(runs), **sizes, **figures})
    RESULT.write_text(
        json.dumps({"rows": rows, **about("next_answers.py")}, indent=2) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
