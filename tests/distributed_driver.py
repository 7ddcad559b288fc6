"""Trainings that tests/test_distributed.py runs in one process and in several: python distributed_driver.py JOBS.json"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from redline.recipe import Adapt, Kl, Model, Optimizer, Policy, Reward, RewardTerm, Sampling, Sft

PROMPTS = ["the film was", "I liked", "this is a", "why did they", "not good", "very much", "a book", "the actors were"]


def policy(model: Model, data: Path, out: Path, adapt: dict[str, Any], reward: str | None = None, **settings: Any) -> None:
    from redline.data.records import Prompt
    from redline.policy.ppo import train_policy

    terms = [RewardTerm(function=f"{__file__}:vowels"), *([RewardTerm(model=reward)] if reward else [])]
    recipe = Policy(**{"reward": terms, "updates": 3, "batch_size": 8, "minibatch_size": 4, "checkpoint_every": 1,
                       "sampling": Sampling(max_new_tokens=8), "kl": Kl(target=3, coefficient=0.02), "microbatch_tokens": 32,
                       "optimizer": Optimizer(lr=0.003, head_lr=0.003, warmup=0), "adapt": Adapt(**adapt), **settings})
    train_policy(recipe, model, [Prompt(id=text, prompt=text) for text in PROMPTS], out)


def reward(model: Model, data: Path, out: Path, adapt: dict[str, Any], **settings: Any) -> None:
    from redline.data.files import read_jsonl
    from redline.data.records import Labels
    from redline.reward.train import train_reward

    recipe = Reward(**{"adapt": Adapt(**adapt), "epochs": 2, "batch_size": 7, "eval_every": 0.5,
                       "optimizer": Optimizer(lr=0.003, head_lr=0.003), **settings})
    labels = list(read_jsonl(data / "labels.jsonl", Labels))
    train_reward(recipe, model, labels[:16], labels[16:], out)


def sft(model: Model, data: Path, out: Path, adapt: dict[str, Any], **settings: Any) -> None:
    from redline.data.files import read_jsonl
    from redline.data.records import Edit
    from redline.policy.sft import train_sft

    recipe = Sft(**{"epochs": 2, "batch_size": 8, "lora_rank": adapt["lora_rank"], "lr": 0.003, **settings})
    train_sft(recipe, model, list(read_jsonl(data / "edits.jsonl", Edit))[:24], out)


def vowels(prompts: list[str], responses: list[str]) -> list[list[tuple[int, int, float]]]:
    """A reward for each a and e. $KILL "RANK CALL" kills the process of that index at that call."""
    vowels.calls = getattr(vowels, "calls", 0) + 1
    if os.environ.get("KILL") == f"{os.environ.get('RANK')} {vowels.calls}":
        os.kill(os.getpid(), signal.SIGKILL)
    return [[(place, place + 1, 1.0) for place, letter in enumerate(text) if letter in "ae"] for text in responses]


def run(jobs: list[dict[str, Any]]) -> None:
    for job in jobs:
        settings = {"adapt": {"lora_rank": 4, "train_layers": 2}} | job.get("settings", {})
        model = Model(name=job["model"], dtype=job.get("dtype", "float32"))
        {"policy": policy, "reward": reward, "sft": sft}[job["kind"]](model, Path(job["data"]), Path(job["out"]), **settings)


def shard_on_the_cpu() -> None:
    """Accelerate shards models on accelerators only: make it take the CPU processes for such."""
    from accelerate import DistributedType, PartialState

    from redline.processes import this_process

    this_process()
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


if __name__ == "__main__":
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        shard_on_the_cpu()
    run(json.loads(Path(sys.argv[1]).read_text()))
