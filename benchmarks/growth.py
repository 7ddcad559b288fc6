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

from common import about, new_figure, save_picture

HERE = Path(__file__).parent
PICTURE = HERE.parent / "docs" / "images" / "growth.svg"
MODELS = {
    "10M": (192, 512, 6),
    "30M": (384, 1024, 12),
    "110M": (576, 1536, 30),
}  # hidden, intermediate, layers
PHASES = {"sample": "#4e79a7", "score": "#f28e2b", "rescore": "#76b7b2", "optimise": "#e15759"}
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
    from redline.policy.settings import Kl, Policy
    from redline.policy.train import build_ppo
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
        trainer = build_ppo(recipe, backbone, prompts, Accelerator(), Path(folder) / "reward")
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
    titles = {"length": "tokens a response", "batch": "responses an update", "model": "parameters"}
    figure, axes = new_figure(len(rows))
    for (name, settings_of), axis in zip(rows.items(), axes, strict=True):
        labels = [str(row[name]) for row in settings_of]
        below = [0.0] * len(settings_of)
        for phase, colour in PHASES.items():
            seconds = [row[f"seconds_{phase}"] for row in settings_of]
            axis.bar(labels, seconds, bottom=below, color=colour, label=phase)
            below = [low + more for low, more in zip(below, seconds, strict=True)]
        axis.set_title(f"by {titles[name]}")
        axis.set_ylabel("seconds an update")
        memory = axis.twinx()
        memory.plot(
            labels, [row["peak_gb"] for row in settings_of], "o--", color="#222222", label="peak memory"
        )
        memory.set_ylim(bottom=0)
        memory.set_ylabel("GB")
        memory.grid(False)
        memory.spines.right.set_visible(True)
    handles, names = axes[0].get_legend_handles_labels()
    dashed, dashed_name = memory.get_legend_handles_labels()
    figure.legend(handles + dashed, names + dashed_name, loc="outside lower center", ncols=5)
    save_picture(figure, path)


def main() -> None:
    cli = argparse.ArgumentParser()
    cli.add_argument("--repeats", type=int, default=3)
    cli.add_argument("--draw", action="store_true", help="draw the kept result again, measure nothing")
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
    if arguments.draw:
        kept = json.loads((HERE / "results" / "growth.json").read_text(encoding="utf-8"))
        draw(kept["rows"], PICTURE)
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
    draw(rows, PICTURE)


if __name__ == "__main__":
    main()
