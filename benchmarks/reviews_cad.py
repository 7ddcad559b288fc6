"""The README's figures on real human edits: token rewards and ordinary sequence-reward PPO at one budget and
KL target.

    REDLINE_DATA=path/to/data python benchmarks/reviews_cad.py

Runs recipes/reviews-cad.yaml twice, as it is and with reward.kind=sequence (about twenty minutes each on two
cores; a stopped run goes on), and writes benchmarks/results/reviews_cad.json from the runs' own files.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path

from common import about

HERE = Path(__file__).parent
ARMS = {"token": [], "sequence": ["reward.kind=sequence"]}


def main() -> None:
    arms = {}
    for name, changes in ARMS.items():
        out = HERE.parent / "runs" / f"reviews-cad-{name}"
        recipe = HERE.parent / "recipes" / "reviews-cad.yaml"
        subprocess.run(
            [sys.executable, "-m", "redline.cli", "run", str(recipe), *changes, "--out", str(out)], check=True
        )
        arms[name] = figures(out)
        print(name, json.dumps(arms[name]))
    result = {
        "what": "recipes/reviews-cad.yaml, SmolLM2-135M, judged by VADER on openings of CAD dev; one seed, 0",
        "arms": arms,
        **about("reviews_cad.py"),
    }
    (HERE / "results" / "reviews_cad.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def figures(run: Path) -> dict[str, object]:
    winrate = json.loads((run / "winrate.json").read_text())
    state = json.loads((run / "state.json").read_text())
    log = [json.loads(line) for line in (run / "policy/log.jsonl").read_text().splitlines()]
    kept = (
        "win_rate",
        "ci95",
        "n",
        "wins",
        "ties",
        "losses",
        "kl",
        "kl_error",
        "perplexity_a",
        "perplexity_b",
        "length_controlled_win_rate",
    )
    return {
        **{key: winrate[key] for key in kept},
        "distinct_bigrams": {side: winrate["text"][side]["distinct_bigrams"] for side in ("a", "b")},
        "reward_model_on_test_edits": on_test(run),
        "seconds": {stage: done["seconds"] for stage, done in state.items()},
        "seconds_an_update": round(statistics.median(line["seconds"] for line in log), 2),
        "peak_gb": max(line["peak_gb"] for line in log),
    }


def on_test(run: Path) -> dict[str, float]:
    """The saved reward model, loaded as anyone would, on the test edits."""
    from redline.data.files import read_jsonl
    from redline.data.records import Labels
    from redline.recipe import load_recipe
    from redline.reward.examples import examples
    from redline.reward.model import load_reward_model
    from redline.reward.quality import measure

    recipe = load_recipe(run / "recipe.yaml")
    model = load_reward_model(str(run / "reward"))
    edits = examples(
        read_jsonl(run / "labels/test.jsonl", Labels),
        model.tokenizer,
        recipe.reward,
        recipe.data.max_response_tokens,
    )
    sides = [side for edit in edits for side in edit.sides]
    rewards = model.rewards([side.ids for side in sides], [side.prompt_size for side in sides])
    differ = [not edit.better.ids.equal(edit.worse.ids) for edit in edits]
    labels = [(edit.better.labels, edit.worse.labels) for edit in edits]
    found = measure(
        list(zip(rewards[::2], rewards[1::2], strict=True)), labels, differ, model.kind, probabilities=True
    )
    return {
        key: value
        for key, value in found.as_json().items()
        if isinstance(value, int | float) and key != "selection"
    }


if __name__ == "__main__":
    main()
