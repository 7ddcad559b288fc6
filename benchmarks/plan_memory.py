"""Measured peak memory of PPO beside what `redline plan` says beforehand, in six settings on a CPU.

    python benchmarks/plan_memory.py [--only NAME]

Two models (SmolLM2-135M and a random-weight Llama of 362M parameters with its tokenizer), LoRA on all layers
in bfloat16 or full fine-tuning in float32, responses of 32 or 256 tokens. The (untrained) reward models are
made beforehand; each setting makes two PPO updates in a process of its own, whose peak resident memory is the
measured figure. The plan sees recipe and configuration.

`libraries_gb` is the peak of a process that does the same with a model of two tiny layers, less what the plan
counts for that model: interpreter, libraries, tokenizer, and what PyTorch's kernels touch once they have run.
redline/plan/memory.py has it as LIBRARIES, one constant for all settings. HEAP's two shares were fitted on
the four settings of the smaller model; nothing else is.

Every setting that is done is written to benchmarks/results/plan_memory.json at once, and not measured again
while it stands there: delete the file for a new measurement.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import about

RESULT = Path(__file__).parent / "results" / "plan_memory.json"
LARGER = {
    "hidden_size": 960,
    "intermediate_size": 2560,
    "num_hidden_layers": 32,
    "num_attention_heads": 15,
    "num_key_value_heads": 5,
    "head_dim": 64,
}
SETTINGS = {  # model, LoRA rank, response tokens
    "135M, LoRA, 32 tokens": ("135M", 16, 32),
    "135M, LoRA, 256 tokens": ("135M", 16, 256),
    "135M, full, 32 tokens": ("135M", 0, 32),
    "135M, full, 256 tokens": ("135M", 0, 256),
    "362M, LoRA, 256 tokens": ("362M", 16, 256),
    "362M, full, 32 tokens": ("362M", 0, 32),
}
TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
PROMPT = (
    "Write down what you know about tea, how it is grown, how it is made, and how people in other "
    "countries drink it."
)


def recipe_of(model: str, rank: int, tokens: int) -> Any:
    """The recipe of a setting: 16 responses an update, all of them one micro-batch, unless they are longer
    than 4,096 tokens."""
    from redline.recipe import check_recipe

    adapt = {"lora_rank": rank}
    return check_recipe(
        {
            "name": "plan",
            "model": {"name": model, "dtype": "bfloat16"},
            "data": {"edits": {"path": "none.jsonl"}},
            "reward": {"kind": "sequence", "adapt": {"lora_rank": 16}},
            "policy": {
                "adapt": adapt,
                "optimizer": {"lr": 1e-6},
                "kl": {"target": None},
                "reward_scale": 1.0,
                "batch_size": 16,
                "minibatch_size": 16,
                "epochs": 1,
                "updates": 2,
                "sampling": {"max_new_tokens": tokens, "min_new_tokens": tokens},
            },
        },
        "benchmark",
    )


def make_models(folder: Path) -> None:
    """Beside the embedded model: a larger and a tiny one with random weights, and an (untrained) reward model
    for each."""
    import shutil

    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from redline.data.tokenization import load_tokenizer
    from redline.embedded import EMBEDDED, embedded_model_folder
    from redline.reward.model import new_reward_model, save_reward_model

    embedded = embedded_model_folder()
    shutil.copytree(embedded, folder / "135M")
    torch.manual_seed(0)
    for name, sizes in (("362M", LARGER), ("tiny", TINY)):
        random = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(embedded, **sizes), dtype=torch.bfloat16
        )
        random.save_pretrained(folder / name)
        load_tokenizer(EMBEDDED).save_pretrained(folder / name)
    for name in ("135M", "362M", "tiny"):
        recipe = recipe_of(str(folder / name), 16, 32)
        reward, wrapped = new_reward_model(recipe.reward, recipe.model)
        save_reward_model(reward, wrapped, folder / f"{name}-reward", recipe.model.name)


def measure(model: str, rank: int, tokens: int, reward: str) -> None:
    """Two updates in this process: prints its memory as JSON, in bytes."""
    from accelerate import Accelerator

    from redline.data.records import Prompt
    from redline.data.tokenization import encode_prompt, load_tokenizer
    from redline.policy.train import build_ppo

    recipe = recipe_of(model, rank, tokens)
    prompts = [Prompt(id=str(index), prompt=PROMPT) for index in range(16)]
    size = len(encode_prompt(load_tokenizer(model), PROMPT))
    trainer = build_ppo(recipe.policy, recipe.model, prompts, Accelerator(), Path(reward))
    held = peak()
    metrics = [trainer.update(step)[0] for step in range(2)]
    print(
        json.dumps(
            {
                "peak": peak(),
                "after_loading": held,
                "prompt_tokens": size,
                "seconds_an_update": metrics[-1]["seconds"],
            }
        )
    )


def peak() -> int:
    """Of this process alone: what getrusage says begins with the driver's own memory."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def main() -> None:
    cli = argparse.ArgumentParser()
    cli.add_argument("--only", choices=SETTINGS, help="one setting; prints it and writes nothing")
    cli.add_argument("--models", type=Path, help="keep the models here")
    cli.add_argument("--measure", nargs=4, help="(the driver's own) model, rank, tokens, reward")
    arguments = cli.parse_args()
    if arguments.measure:
        model, rank, tokens, reward = arguments.measure
        measure(model, int(rank), int(tokens), reward)
        return
    with tempfile.TemporaryDirectory() as scratch:
        models = arguments.models or Path(scratch)
        if not (models / "tiny-reward").exists():
            models.mkdir(parents=True, exist_ok=True)
            make_models(models)
        if arguments.only:
            row(models, arguments.only)
            return
        rows = json.loads(RESULT.read_text(encoding="utf-8"))["settings"] if RESULT.exists() else {}
        for name in SETTINGS:
            if name not in rows:
                rows[name] = row(models, name)
                write(rows)
        write(rows, libraries_gb=tiny_peak(models) / 1e9)


def write(rows: dict[str, Any], **more: float) -> None:
    """The settings measured so far."""
    result = {
        "what": "peak resident memory of two PPO updates on a CPU, measured and planned",
        **more,
        "settings": rows,
        "largest_error": max(abs(found["error"]) for found in rows.values()),
        **about("plan_memory.py"),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def row(models: Path, name: str) -> dict[str, Any]:
    """Measure a setting in a process of its own and plan it here; prints and returns both, in GB."""
    found, stage = both(models, *SETTINGS[name])
    result = {
        "measured_gb": found["peak"] / 1e9,
        "planned_gb": stage.total / 1e9,
        "error": stage.total / found["peak"] - 1,
        "parts_gb": {part: round(size / 1e9, 4) for part, size in stage.parts.items()},
        "phases_gb": {phase: round(size / 1e9, 4) for phase, size in stage.phases.items()},
        "after_loading_gb": found["after_loading"] / 1e9,
        "seconds_an_update": found["seconds_an_update"],
        "planned_seconds_an_update": stage.seconds,
    }
    print(name, json.dumps(result), flush=True)
    return result


def tiny_peak(models: Path) -> float:
    """What a process takes that is not the model's, in bytes; prints it."""
    found, stage = both(models, "tiny", 16, 32)
    libraries = found["peak"] - (stage.total - stage.parts["libraries"])
    print(
        f"libraries {libraries / 1e9:.3f} GB; the plan has {stage.parts['libraries'] / 1e9:.3f} GB",
        flush=True,
    )
    return float(libraries)


def both(models: Path, size: str, rank: int, tokens: int) -> tuple[dict[str, Any], Any]:
    """What a process of its own measures, and the plan's policy stage."""
    from redline.plan.command import plan_recipe

    model = str(models / size)
    command = [
        sys.executable,
        __file__,
        "--measure",
        model,
        str(rank),
        str(tokens),
        str(models / f"{size}-reward"),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"TOKENIZERS_PARALLELISM": "false"}
    )
    if done.returncode:
        sys.exit(done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    return found, plan_recipe(recipe_of(model, rank, tokens), prompt_tokens=found["prompt_tokens"])[-1]


if __name__ == "__main__":
    main()
