"""How one PPO update grows with the response's length, the batch and the model: a table and a picture.

    python benchmarks/growth.py [--repeats 3]

Random weights, the uppermost third of the layers trained by LoRA, two epochs, a token reward model on the
whole depth. One thing varies at a time around 16 responses of 64 tokens and a model of about 30 million
parameters. Each setting runs in a process of its own, so that its peak memory is its own; the first update of
each is not counted. Results and slopes go to benchmarks/results/growth.json, the picture to
docs/images/growth.svg. A slope is that of a line through the logarithms: 1 is linear growth, 2 quadratic.
"""

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import about

HERE = Path(__file__).parent
MODELS = {
    "10M": (192, 512, 6),
    "30M": (384, 1024, 12),
    "110M": (576, 1536, 30),
}  # hidden, intermediate, layers
START = {"length": 64, "batch": 16, "model": "30M"}
VARIED: dict[str, list[Any]] = {
    "length": [32, 64, 128, 256, 512],
    "batch": [8, 16, 32, 64, 128],
    "model": list(MODELS),
}


def measure(length: int, batch: int, model: str) -> dict[str, float]:
    """One setting in this process: the second update's seconds by phase, and the peak memory."""
    import torch
    from accelerate import Accelerator
    from transformers import LlamaConfig, LlamaForCausalLM

    from redline.data.records import Prompt
    from redline.data.tokenization import load_tokenizer
    from redline.embedded import EMBEDDED
    from redline.engine.settings import Adapt, Model
    from redline.policy.ppo import Ppo
    from redline.policy.settings import Kl, Policy
    from redline.reward.model import new_reward_model, save_reward_model
    from redline.reward.settings import Reward
    from redline.sampling.settings import Sampling

    hidden, intermediate, layers = MODELS[model]
    tokenizer = load_tokenizer(EMBEDDED)
    adapt = Adapt(lora_rank=16, train_layers=layers // 3)
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        config = LlamaConfig(
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_hidden_layers=layers,
            vocab_size=len(tokenizer),
            num_attention_heads=hidden // 64,
            num_key_value_heads=hidden // 192,
            tie_word_embeddings=True,
            dtype=torch.bfloat16,
        )
        LlamaForCausalLM._from_config(config).save_pretrained(f"{folder}/model")
        tokenizer.save_pretrained(f"{folder}/model")
        backbone = Model(name=f"{folder}/model", dtype="bfloat16")
        reward, wrapped = new_reward_model(Reward(adapt=adapt), backbone)
        save_reward_model(reward, wrapped, Path(folder) / "reward", backbone.name)
        recipe = Policy(
            adapt=adapt,
            kl=Kl(target=None),
            reward_scale=1.0,
            batch_size=batch,
            minibatch_size=16,
            epochs=2,
            sampling=Sampling(max_new_tokens=length, min_new_tokens=length),
        )
        prompts = [
            Prompt(id=str(index), prompt="A prompt of some ten tokens, as short ones are:")
            for index in range(batch)
        ]
        trainer = Ppo(
            recipe, backbone, prompts, Path(folder) / "policy", Accelerator(), Path(folder) / "reward", 0
        )
        for step in range(2):
            metrics, _ = trainer.update(step)
    return {name: value for name, value in metrics.items() if name.startswith("seconds")} | {
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    }


def settings() -> list[dict[str, Any]]:
    """Each setting once."""
    found = [START | {name: value} for name, values in VARIED.items() for value in values]
    return [setting for index, setting in enumerate(found) if setting not in found[:index]]


def slope(rows: list[dict[str, Any]], name: str, figure: str) -> float:
    """Least squares through the logarithms."""
    points = [(math.log(row[name]), math.log(row[figure])) for row in rows]
    middle_x, middle_y = (statistics.fmean(column) for column in zip(*points, strict=True))
    return sum((x - middle_x) * (y - middle_y) for x, y in points) / sum(
        (x - middle_x) ** 2 for x, _ in points
    )


def draw(rows: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Seconds (stacked by phase) and memory of each row, a panel for each thing that varies."""
    phases = [("sample", "#4e79a7"), ("score", "#f28e2b"), ("rescore", "#76b7b2"), ("optimise", "#e15759")]
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 320" font-family="sans-serif" '
        'font-size="12"><rect width="960" height="320" fill="white"/>'
    ]
    titles = {"length": "tokens a response", "batch": "responses an update", "model": "parameters"}
    for panel, (name, found) in enumerate(rows.items()):
        left, top, width, height = 50 + panel * 310, 40, 250, 210
        most, held = max(row["seconds"] for row in found), max(row["peak_gb"] for row in found)
        parts.append(
            f'<text x="{left}" y="24" font-weight="bold">by {titles[name]}</text>'
            f'<text x="{left - 8}" y="{top + 4}" text-anchor="end">{most:.0f} s</text>'
            f'<text x="{left - 8}" y="{top + height}" text-anchor="end">0</text>'
            f'<line x1="{left}" y1="{top + height}" x2="{left + width}" y2="{top + height}" stroke="#888"/>'
        )
        dots = []
        for place, row in enumerate(found):
            x, base = left + (place + 0.15) * width / len(found), float(top + height)
            for phase, colour in phases:
                tall = row[f"seconds_{phase}"] / most * height
                base -= tall
                parts.append(
                    f'<rect x="{x:.1f}" y="{base:.1f}" width="{0.7 * width / len(found):.1f}" '
                    f'height="{tall:.1f}" '
                    f'fill="{colour}"><title>{phase}: {row[f"seconds_{phase}"]:.2f} s</title></rect>'
                )
            centre = x + 0.35 * width / len(found)
            parts.append(
                f'<text x="{centre:.1f}" y="{top + height + 16}" text-anchor="middle">{row[name]}</text>'
            )
            dots.append((centre, top + height - row["peak_gb"] / held * height * 0.95))
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in dots)
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="#222" stroke-width="1.5" stroke-dasharray="4 3"/>'
        )
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#222"/>' for x, y in dots]
        parts.append(f'<text x="{left + width}" y="24" text-anchor="end">memory to {held:.1f} GB</text>')
    for place, (phase, colour) in enumerate([*phases, ("peak memory (dashed)", "#222")]):
        parts.append(
            f'<rect x="{50 + place * 110}" y="296" width="12" height="12" fill="{colour}"/>'
            f'<text x="{67 + place * 110}" y="306">{phase}</text>'
        )
    path.write_text("\n".join([*parts, "</svg>\n"]), encoding="utf-8")


def main() -> None:
    cli = argparse.ArgumentParser()
    cli.add_argument("--repeats", type=int, default=3)
    cli.add_argument(
        "--measure",
        nargs=3,
        metavar=("LENGTH", "BATCH", "MODEL"),
        help="(the driver's own) one setting, here",
    )
    arguments = cli.parse_args()
    if arguments.measure:
        length, batch, model = arguments.measure
        print(json.dumps(measure(int(length), int(batch), model)))
        return
    runs: dict[str, list[dict[str, float]]] = {}
    for repeat in range(arguments.repeats):
        for setting in settings():
            command = [sys.executable, __file__, "--measure", *(str(setting[name]) for name in START)]
            printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[
                -1
            ]
            runs.setdefault(json.dumps(setting), []).append(json.loads(printed))
            print(setting, printed, flush=True)
        write(runs, repeat + 1)


def write(runs: dict[str, list[dict[str, float]]], repeats: int) -> None:
    """The medians of the repeats that are done, the slopes and the picture."""
    table = [
        json.loads(setting)
        | {figure: round(statistics.median(run[figure] for run in found), 3) for figure in found[0]}
        for setting, found in runs.items()
    ]
    rows = {
        name: [
            next(row for row in table if all(row[key] == (START | {name: value})[key] for key in START))
            for value in values
        ]
        for name, values in VARIED.items()
    }
    slopes = {
        f"{figure} by {name}": round(slope(rows[name], name, figure), 2)
        for name in ("length", "batch")
        for figure in rows[name][0]
        if figure.startswith("seconds") or figure == "peak_gb"
    }
    result = {
        "what": "one PPO update, medians",
        "repeats": repeats,
        "models": MODELS,
        "rows": rows,
        "slopes": slopes,
        "runs": runs,
        **about("growth.py"),
    }
    (HERE / "results" / "growth.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    draw(rows, HERE.parent / "docs" / "images" / "growth.svg")


if __name__ == "__main__":
    main()
