"""Does a token reward model find what people changed? Two losses, three data sets of human edits, 100 to
1,000 edits to learn from.

    python benchmarks/reward_quality.py [--data ../shared/data] [--seeds 3] [--only cad]

Each training takes a random part of the training edits (the seed's), keeps a tenth of it to choose its
checkpoint by, and is measured once on edits that nothing else uses: CAD dev, the ParaDetox comments that
recipes/paradetox_split.py keeps apart, DeFacto val. The soft loss is TLCR's classification, the other
Bradley-Terry over the summed rewards of the changed tokens. Beside them stands what nothing was trained for:
the log-probabilities of the language model itself, taken for rewards. SmolLM2-135M cut to its lower 20
layers, adapters on the uppermost 6 of these, three epochs: the settings of recipes/experiment-cad.yaml;
nothing was chosen here. The pairwise loss gives no probabilities, so it has no calibration error (ECE).

Every finished training is a line of benchmarks/results/reward_quality.jsonl and is not done again; means over
the seeds go to benchmarks/results/reward_quality.json and the table of docs/results.md, the picture to
docs/images/reward-quality.svg.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from common import about, into_page, new_figure, save_picture, table

HERE = Path(__file__).parent
LINES, RESULT = HERE / "results" / "reward_quality.jsonl", HERE / "results" / "reward_quality.json"
PICTURE = HERE.parent / "docs" / "images" / "reward-quality.svg"
LOSSES = ["soft", "pairwise"]
UNTRAINED = "log-probability"  # what stands in the place of a loss
SIZES = [100, 300, 1000]
RESPONSE, PROMPT = 128, 512  # tokens; longer responses are cropped, edits with longer prompts left out
FIGURES = ["auc", "fault_auc", "pairwise_accuracy", "ece"]
TITLES = {"cad": "CAD: reviews", "paradetox": "ParaDetox: comments", "defacto": "DeFacto: summaries"}
KEYS = {
    "soft": "classification (soft labels)",
    "pairwise": "pairwise over changed tokens",
    UNTRAINED: "none: log-probability under the language model",
}
COLOURS = {"soft": "#4e79a7", "pairwise": "#e15759", UNTRAINED: "#888888"}
MEASURES = {
    "auc": ("-", "added against removed tokens"),
    "fault_auc": ("--", "kept against removed tokens of rejected sides"),
}
SUMMARY = {
    "prompt": "{article}\n\nOne-sentence summary:",
    "rejected": " {candidate}",
    "edited": " {feedback.summary}",
}
REVIEW: dict[str, Any] = {
    "columns": {"id": "batch_id", "side": "Sentiment", "text": "Text"},
    "sides": {"Negative": "rejected", "Positive": "edited"},
    "replace": {"<br />": " "},
}


def sources(data: Path, scratch: Path) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """For each data set its edits to learn from and to measure on."""
    split = HERE.parent / "recipes" / "paradetox_split.py"
    subprocess.run(
        [sys.executable, str(split), str(data / "paradetox"), str(scratch)], check=True, capture_output=True
    )
    return {
        "cad": (
            {"path": str(data / "cad/train_paired.tsv"), **REVIEW},
            {"path": str(data / "cad/dev_paired.tsv"), **REVIEW},
        ),
        "paradetox": ({"path": str(scratch / "edits.jsonl")}, {"path": str(scratch / "report-edits.jsonl")}),
        "defacto": (
            {"path": str(data / "defacto/train.jsonl"), "columns": SUMMARY},
            {"path": str(data / "defacto/val.jsonl"), "columns": SUMMARY},
        ),
    }


def labels(source: dict[str, Any], tokenizer: Any, how: Any = None) -> list[Any]:
    """The usable edits of a source, labelled, in an order that depends on nothing but their ids."""
    from redline.data.check import Rejects
    from redline.data.read import read
    from redline.data.records import Edit
    from redline.data.settings import Source
    from redline.label.stage import label_edits

    edits = read(Source(**source), Edit, Rejects())
    found = label_edits(
        edits, tokenizer, how, max_response_tokens=RESPONSE, max_prompt_tokens=PROMPT, rejects=Rejects()
    )
    return sorted(found, key=lambda record: record.id)


def train(name: str, loss: str, size: int, seed: int, edits: list[Any], test: list[Any]) -> dict[str, Any]:
    """One reward model, and what it makes of the test edits."""
    from redline.engine.settings import Adapt, Model
    from redline.reward.settings import Reward
    from redline.reward.train import train_reward

    part = random.Random(seed).sample(edits, min(size, len(edits)))
    held = max(10, len(part) // 10)
    recipe = Reward(loss=loss, depth=20, adapt=Adapt(train_layers=6), epochs=3, batch_size=8)
    with tempfile.TemporaryDirectory() as folder:
        found = train_reward(
            recipe,
            Model(),
            part[held:],
            part[:held],
            Path(folder),
            test=test,
            max_response=RESPONSE,
            seed=seed,
        )
    assert found.test is not None  # a test set was given
    return {
        "data": name,
        "loss": loss,
        "size": size,
        "edits": len(part),
        "seed": seed,
        "test_edits": len(test),
        "pairs": found.test.pairs,
        **{key: getattr(found.test, key) for key in FIGURES if getattr(found.test, key) is not None},
    }


def untrained(name: str, test: list[Any]) -> dict[str, Any]:
    """What the language model's own log-probabilities make of the test edits, as rewards: nothing is
    learned."""
    from redline.data.tokenization import load_tokenizer
    from redline.embedded import EMBEDDED
    from redline.engine.models import load_causal_lm
    from redline.engine.rollout import Rollout
    from redline.engine.settings import Model
    from redline.engine.whole_pass import response_logprobs
    from redline.reward.examples import examples
    from redline.reward.quality import measure
    from redline.reward.settings import Reward

    lm, tokenizer = load_causal_lm(Model()), load_tokenizer(EMBEDDED)
    edits = examples(test, tokenizer, Reward(), RESPONSE)
    sides = [side for edit in edits for side in edit.sides]
    start = torch.tensor(
        [tokenizer.eos_token_id]
    )  # documents are set apart by it: what a response without prompt follows
    found = response_logprobs(
        lm,
        Rollout(
            [""] * len(sides),
            [torch.cat([start, side.ids[: side.prompt_size]]) for side in sides],
            [side.ids[side.prompt_size :] for side in sides],
            [],
            [],
        ),
        1.0,
    )
    quality = measure(
        list(zip(found[0::2], found[1::2], strict=True)),
        [(edit.better.labels, edit.worse.labels) for edit in edits],
        [not torch.equal(edit.better.ids, edit.worse.ids) for edit in edits],
        "token",
        probabilities=False,
    )
    return {
        "data": name,
        "loss": UNTRAINED,
        "size": 0,
        "edits": 0,
        "seed": 0,
        "test_edits": len(test),
        "pairs": quality.pairs,
        **{key: getattr(quality, key) for key in FIGURES if getattr(quality, key) is not None},
    }


def finished() -> list[dict[str, Any]]:
    return (
        [json.loads(line) for line in LINES.read_text(encoding="utf-8").splitlines()]
        if LINES.exists()
        else []
    )


def missing(names: list[str], seeds: int) -> Iterator[tuple[str, str, int, int]]:
    """What is still to do: data set, loss, edits, seed; small ones first."""
    done = {(one["data"], one["loss"], one["size"], one["seed"]) for one in finished()}
    every = [(name, UNTRAINED, 0, 0) for name in names]
    every += [
        (name, loss, size, seed)
        for seed in range(seeds)
        for size in SIZES
        for name in names
        for loss in LOSSES
    ]
    yield from (one for one in every if one not in done)


def summarise(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each data set, loss and size: mean, least and largest of each figure over the seeds."""
    rows = []
    for name in TITLES:
        for loss in [*LOSSES, UNTRAINED]:
            for size in [0] if loss == UNTRAINED else SIZES:
                runs = [one for one in lines if (one["data"], one["loss"], one["size"]) == (name, loss, size)]
                if runs:
                    rows.append(
                        {
                            "data": name,
                            "loss": loss,
                            "size": size,
                            "edits": runs[0]["edits"],
                            "seeds": len(runs),
                        }
                        | {
                            key: [statistics.mean(found), min(found), max(found)]
                            for key in FIGURES
                            if (found := [one[key] for one in runs if key in one])
                        }
                    )
    return rows


def written(rows: list[dict[str, Any]]) -> str:
    """The rows as a table: means, and where there are several seeds the least and largest."""
    names = {"auc": "AUC", "fault_auc": "fault AUC", "pairwise_accuracy": "pairwise accuracy", "ece": "ECE"}

    def cell(row: dict[str, Any], key: str) -> str:
        mean, low, high = row.get(key, (None, None, None))
        return (
            "–"
            if mean is None
            else f"{mean:.3f}" + (f" ({low:.3f} to {high:.3f})" if row["seeds"] > 1 else "")
        )

    lines = [
        [
            TITLES[row["data"]],
            KEYS[row["loss"]],
            f"{row['edits']:,}",
            str(row["seeds"]),
            *(cell(row, key) for key in names),
        ]
        for row in rows
    ]
    return table(["edits of", "loss", "edits learned from", "seeds", *names.values()], lines)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Token AUC (solid) and fault AUC (dashed) against edits, a panel for each data set: lines through the
    means, bars from the least to the largest seed."""
    figure, axes = new_figure(len(TITLES), height=3.6)
    for (name, title), axis in zip(TITLES.items(), axes, strict=True):
        of_data = [row for row in rows if row["data"] == name]
        for loss, colour in COLOURS.items():
            draw_loss(axis, [row for row in of_data if row["loss"] == loss], loss, colour)
        axis.axhline(0.5, color="#888888", linewidth=0.8)
        axis.set_title(title)
        axis.set_ylim(0.4, 1)
        axis.set_xlabel("edits learned from")
    axes[0].set_ylabel("AUC on held-out edits (0.5 is chance)")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2)
    save_picture(figure, path)


def draw_loss(axis: Any, rows: list[dict[str, Any]], loss: str, colour: str) -> None:
    for key, (style, meaning) in MEASURES.items():
        label = f"{KEYS[loss]}: {meaning}"
        if loss == UNTRAINED:
            axis.axhline(rows[0][key][0], color=colour, linestyle=style, label=label)
            continue
        sizes = [row["edits"] for row in rows]
        means, least, most = zip(*(row[key] for row in rows), strict=True)
        axis.plot(sizes, means, color=colour, linestyle=style, marker="o", markersize=3, label=label)
        axis.vlines(sizes, least, most, color=colour, linewidth=4, alpha=0.4)


def main() -> None:
    cli = argparse.ArgumentParser()
    cli.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    cli.add_argument("--seeds", type=int, default=3)
    cli.add_argument("--only", choices=TITLES, help="one data set")
    arguments = cli.parse_args()
    from redline.data.tokenization import load_tokenizer
    from redline.embedded import EMBEDDED

    with tempfile.TemporaryDirectory() as scratch:
        tokenizer, found = load_tokenizer(EMBEDDED), sources(arguments.data, Path(scratch))
        sets: dict[str, tuple[list[Any], list[Any]]] = {}
        for name, loss, size, seed in missing(
            [arguments.only] if arguments.only else list(TITLES), arguments.seeds
        ):
            if name not in sets:
                edits, test = (labels(source, tokenizer) for source in found[name])
                sets[name] = edits, test
            line = (
                untrained(name, sets[name][1])
                if loss == UNTRAINED
                else train(name, loss, size, seed, *sets[name])
            )
            print(json.dumps(line), flush=True)
            with LINES.open("a", encoding="utf-8") as out:
                out.write(json.dumps(line) + "\n")
            write()
    write()


def write() -> None:
    rows = summarise(finished())
    RESULT.write_text(
        json.dumps(
            {
                "what": "token reward models on held-out human edits: mean, least, largest over the seeds",
                "rows": rows,
                **about("reward_quality.py"),
            },
            indent=2,
        )
        + "\n",
        encoding="utf-8",
    )
    draw(rows, PICTURE)
    into_page("reward_quality.py", "reward-quality", written(rows))


if __name__ == "__main__":
    main()
