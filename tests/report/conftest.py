"""A finished run's folder, made up: every file that the report reads, with texts that try to break out of
it."""

import json
import math
import random
import re
from pathlib import Path
from typing import Any

import pytest

HOSTILE = (
    '<script>document.title="broken in"</script><img src="http://example.invalid/x.png" '
    'onerror="document.title=1">'
    '</p></style><b style="color:red">" onmouseover="x \0 \x1b[31m \u202e שלום عربى \ud800'
)
WORDS = [
    "the",
    "room",
    "was",
    "cold",
    "and",
    "soup",
    "tasted",
    "of",
    "nothing",
    "but",
    "our",
    "host",
    "smiled",
    "with",
    "warm",
    "bread",
    "butter",
]
RECIPE = """name: made-up
seed: 3
model: {name: smollm2-135m}
data:
  edits: {path: edits.jsonl}
  test: {path: heldout.jsonl}
  eval_prompts: {path: eval.jsonl}
reward: {depth: 20, adapt: {train_layers: 10}, epochs: 2}
policy: {updates: 12, batch_size: 6, kl: {target: 6}}
"""
PREFERENCES = [1.0] * 30 + [0.5] * 4 + [0.0] * 6  # of the comparison's 40 prompts
Json = dict[str, Any]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a finished run."""
    return make_run(tmp_path / "made-up")


def make_run(folder: Path) -> Path:
    """Write a finished run into ``folder``."""
    draw = random.Random(1)
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(RECIPE)
    write(
        folder / "state.json",
        {
            name: {"settings": {}, "seconds": seconds}
            for name, seconds in (
                ("data", 0.1),
                ("label", 3.2),
                ("reward", 184.0),
                ("policy", 301.5),
                ("compare", 40.2),
            )
        },
    )
    for name, count in (("edits", 40), ("test", 8), ("eval_prompts", 40)):
        lines(folder / f"data/{name}.jsonl", [edit(draw, f"{name}{index}") for index in range(count)])
    lines(
        folder / "data/edits.rejects.jsonl",
        [
            {"reason": "rejected and edited are equal", "file": "edits.jsonl", "line": line, "record": {}}
            for line in (3, 9)
        ],
    )
    for name, count in (("train", 36), ("validation", 4), ("test", 8)):
        lines(folder / f"labels/{name}.jsonl", [labels(draw, f"{name}{index}") for index in range(count)])
    write_reward(folder, draw)
    write_policy(folder, draw)
    write_comparison(folder, draw)
    return folder


def write_reward(folder: Path, draw: random.Random) -> None:
    best = {
        "pairwise_accuracy": 0.95,
        "reward_std": 4.2,
        "selection": 0.9,
        "auc": 0.9716,
        "fault_auc": 0.8334,
        "ece": 0.1261,
        "f1": {"negative": 0.36, "neutral": 0.89, "positive": 0.58},
        "reliability": [
            {"probability": 0.05 + 0.1 * step, "observed": min(1.0, 0.11 * step), "count": 20 + step}
            for step in range(10)
        ],
    }
    write(
        folder / "reward/metrics.json",
        {
            "validation": best,
            "test": best,
            "best_step": 33,
            "steps": 44,
            "seconds": 180.0,
            "kind": "token",
            "loss": "soft",
            "train": 36,
            "validation_edits": 4,
            "test_edits": 8,
        },
    )
    lines(
        folder / "reward/log.jsonl",
        [
            {"step": step, "loss": 0.7 - step / 300, "auc": 0.9 + step / 600, "pairwise_accuracy": 0.95}
            for step in range(11, 45, 11)
        ],
    )
    scored = []
    for index in range(8):
        for side, sign in (("edited", 1), ("rejected", -1)):
            text = sentence(draw)
            offsets = spans(text)
            marks = [sign if draw.random() < 0.2 else 0 for _ in offsets]
            rewards = [
                round(0.6 * mark * draw.choice((1, 1, 1, -1)) + draw.uniform(-0.3, 0.3), 4) for mark in marks
            ]
            scored.append(
                {
                    "id": f"test{index}",
                    "set": "test",
                    "side": side,
                    "text": text,
                    "offsets": offsets,
                    "rewards": rewards,
                    "labels": marks,
                }
            )
    lines(folder / "reward/scores.jsonl", scored)


def write_policy(folder: Path, draw: random.Random) -> None:
    lines(
        folder / "policy/log.jsonl",
        [
            {
                "update": step,
                "reward": 0.1 * step + draw.uniform(-0.2, 0.2),
                "raw_reward": 0.2 * step,
                "kl": 6 * (1 - math.exp(-step / 4)),
                "kl_coefficient": 0.05 + 0.002 * step,
                "entropy": 2.4 - 0.03 * step,
                "length": 30.5,
                "ended": 0.12,
                "sampler_drift": 0.001,
                "explained_variance": math.nan if step == 1 else 0.05 * step,
                "peak_gb": 1.9,
                "clip_fraction": 0.1,
                "value_clip_fraction": 0.02,
                "learning_rate": 5e-4,
                "seconds_sample": 2.0,
                "seconds_optimise": 3.1,
                "seconds": 5.1,
            }
            for step in range(1, 13)
        ],
    )
    samples = []
    for update in (1, 10, 12):
        for index in range(6):
            text = HOSTILE.replace("\ud800", "") if index == 0 else sentence(draw)
            offsets = [*spans(text), [len(text), len(text)]]
            columns = {
                name: [round(draw.gauss(0.05 * update if name == "rewards" else 0, 0.6), 4) for _ in offsets]
                for name in ("rewards", "values", "kl", "advantages")
            }
            samples.append(
                {
                    "update": update,
                    "id": f"{update}-{index}",
                    "prompt": f"An opening, number {index},",
                    "text": text,
                    "offsets": offsets,
                    "ended": True,
                    **columns,
                }
            )
    lines(folder / "policy/samples.jsonl", samples)


def write_comparison(folder: Path, draw: random.Random) -> None:
    lines(
        folder / "compare/verdicts.jsonl",
        [
            {
                "id": f"eval{index}",
                "systems": ["policy", "reference"],
                "prompt": f"Opening {index}: {HOSTILE if index % 5 == 0 else ''}",
                "a": HOSTILE if index % 7 == 0 else sentence(draw),
                "b": sentence(draw),
                "preference": preference,
                "shown_first": preference,
                "shown_second": None,
                "identical": False,
            }
            for index, preference in enumerate(PREFERENCES)
        ],
    )
    for name in ("policy", "reference"):
        texts = [(f"eval{index}", sentence(draw)) for index in range(30)]  # ten of them were not scored
        scores = [
            {
                "id": row,
                "text": text,
                "offsets": spans(text),
                "rewards": [round(draw.gauss(0, 0.4), 4) for _ in spans(text)],
            }
            for row, text in texts
        ]
        lines(folder / f"compare/{name}.scores.jsonl", scores)
    write(
        folder / "winrate.json",
        {
            "win_rate": 0.8,
            "ci95": [0.6875, 0.9],
            "n": 40,
            "judge": "vader",
            "wins": 30,
            "ties": 4,
            "losses": 6,
            "standard_error": 0.06,
            "sign_test_p": 0.00003,
            "length_controlled_win_rate": 0.79,
            "text": {
                "a": {"mean_words": 24.0, "distinct_bigrams": 0.91, "repetition_rate": 0.01},
                "b": {"mean_words": 23.5, "distinct_bigrams": 0.93, "repetition_rate": 0.012},
            },
            "position_bias": None,
            "identical": 0,
            "failures": {"pairs": 0, "reasons": {}},
            "seed": 3,
            "redline": "0.1.0",
            "kl": 5.73,
            "kl_error": 0.31,
            "perplexity_a": 11.27,
            "perplexity_b": 12.09,
        },
    )


def edit(draw: random.Random, name: str) -> Json:
    rejected = sentence(draw)
    return {
        "id": name,
        "prompt": f"Opening {name}",
        "rejected": rejected,
        "edited": rejected.replace(" cold", " warm") + " Lovely.",
        "editor": "llm",
    }


def labels(draw: random.Random, name: str) -> Json:
    tokens = sentence(draw).split()
    return {
        "id": name,
        "prompt": f"Opening {name} {HOSTILE if name == 'test1' else ''}",
        "rejected_tokens": tokens,
        "rejected_labels": [-1, -1] + [0] * (len(tokens) - 2),
        "edited_tokens": tokens,
        "edited_labels": [0] * (len(tokens) - 1) + [1],
        "tokenizer": "whitespace",
    }


def sentence(draw: random.Random) -> str:
    return " " + " ".join(draw.choices(WORDS, k=20)) + ".\n\nThe end"


def spans(text: str) -> list[list[int]]:
    return [[match.start(), match.end()] for match in re.finditer(r" ?\w+|\s+|[^\w\s]", text)]


def write(path: Path, value: Json) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def lines(path: Path, values: list[Json]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
