"""Trainings that tests/test_distributed.py runs in one process and in several: python distributed_driver.py
JOBS.json"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from redline.direct.settings import DirectBco, DirectDpo, DirectSft, DirectSpin, Sft
from redline.engine.settings import Adapt, Model, Optimizer
from redline.policy.settings import Kl, Policy
from redline.reward.settings import Reward, RewardTerm
from redline.sampling.settings import Sampling

PROMPTS = [
    "the film was",
    "I liked",
    "this is a",
    "why did they",
    "not good",
    "very much",
    "a book",
    "the actors were",
]


def policy(
    model: Model, data: Path, out: Path, adapt: dict[str, Any], reward: str | None = None, **settings: Any
) -> None:
    from redline.data.records import Prompt
    from redline.policy.train import train_policy

    terms = [RewardTerm(function=f"{__file__}:vowels"), *([RewardTerm(model=reward)] if reward else [])]
    recipe = Policy(
        **{
            "reward": terms,
            "updates": 3,
            "batch_size": 8,
            "minibatch_size": 4,
            "checkpoint_every": 1,
            "sampling": Sampling(max_new_tokens=8),
            "kl": Kl(target=3, coefficient=0.02),
            "microbatch_tokens": 32,
            "optimizer": Optimizer(lr=0.003, head_lr=0.003, warmup=0),
            "adapt": Adapt(**adapt),
            **settings,
        }
    )
    train_policy(recipe, model, [Prompt(id=text, prompt=text) for text in PROMPTS], out)


def reward(model: Model, data: Path, out: Path, adapt: dict[str, Any], **settings: Any) -> None:
    from redline.data.files import read_jsonl
    from redline.data.records import Labels
    from redline.reward.train import train_reward

    recipe = Reward(
        **{
            "adapt": Adapt(**adapt),
            "epochs": 2,
            "batch_size": 7,
            "eval_every": 0.5,
            "optimizer": Optimizer(lr=0.003, head_lr=0.003),
            **settings,
        }
    )
    labels = list(read_jsonl(data / "labels.jsonl", Labels))
    train_reward(recipe, model, labels[:16], labels[16:], out)


def sft(model: Model, data: Path, out: Path, adapt: dict[str, Any], **settings: Any) -> None:
    from redline.data.files import read_jsonl
    from redline.data.records import Edit
    from redline.direct.sft import train_sft

    recipe = Sft(**{"epochs": 2, "batch_size": 8, "lora_rank": adapt["lora_rank"], "lr": 0.003, **settings})
    train_sft(recipe, model, list(read_jsonl(data / "edits.jsonl", Edit))[:24], out)


def direct(model: Model, data: Path, out: Path, adapt: dict[str, Any], **settings: Any) -> None:
    """SFT on labels, watched by a judge of lengths; then methods whose steps need all processes' rows."""
    from redline.data.files import read_jsonl
    from redline.data.records import Labels, Prompt
    from redline.direct.stage import Given, train_direct
    from redline.policy.watch import Gold

    def longer(ours: list[Any], theirs: list[Any]) -> list[float | None]:
        return [float(len(a.response) > len(b.response)) for a, b in zip(ours, theirs, strict=True)]

    gold = Gold("length", longer, [Prompt(id=text, prompt=text) for text in PROMPTS])
    policy = Policy(adapt=Adapt(**adapt), sampling=Sampling(max_new_tokens=8))
    labels = list(read_jsonl(data / "labels.jsonl", Labels))[:16]
    given = Given(labels, prompts=gold.prompts)
    for recipe in (
        DirectSft(method="sft", batch_size=8, lr=0.003),
        DirectDpo(method="dpo", batch_size=6, lr=0.003),
        DirectBco(method="bco", batch_size=6, epochs=2, lr=0.003),
        DirectSpin(method="spin", batch_size=6, rounds=2, lr=0.003),
    ):
        if recipe.method == "spin" and not policy.adapt.lora_rank:
            continue  # its anchor is an adapter
        watch = gold if recipe.method == "sft" else None
        train_direct(recipe, policy, model, given, out / recipe.method, gold=watch)


def counted(model: Model, data: Path, out: Path, adapt: dict[str, Any], **settings: Any) -> None:
    """A reward model, and a policy that a judge of lengths watches; each process writes how much of the work
    that is shared out was its own: rows through the frozen layers, held-out edits, answers to held-out
    prompts."""
    from unittest.mock import patch

    from redline.data.files import read_jsonl, write_json
    from redline.data.records import Labels, Prompt
    from redline.engine import trunk
    from redline.engine.processes import this_process
    from redline.policy import watch
    from redline.policy.train import train_policy
    from redline.reward import train

    counts = {"frozen rows": 0, "held-out edits": 0, "answers": 0}
    computed, rewards = trunk.StateCache._computed, train.RewardTrainer._rewards
    sample = watch.sample_rollout

    def count_rows(cache: Any, rows: list[Any]) -> Any:
        counts["frozen rows"] += len(rows)
        return computed(cache, rows)

    def count_rewards(trainer: Any, edits: list[Any]) -> Any:
        counts["held-out edits"] += len(edits)
        return rewards(trainer, edits)

    def count_answers(sampler: Any, policy: Any, prompt_ids: list[Any], *rest: Any, **more: Any) -> Any:
        counts["answers"] += len(prompt_ids)
        return sample(sampler, policy, prompt_ids, *rest, **more)

    def longer(ours: list[Any], theirs: list[Any]) -> list[float | None]:
        return [float(len(a.response) > len(b.response)) for a, b in zip(ours, theirs, strict=True)]

    labels = list(read_jsonl(data / "labels.jsonl", Labels))
    prompts = [Prompt(id=text, prompt=text) for text in PROMPTS]
    recipe = Policy(
        reward=[RewardTerm(function=f"{__file__}:vowels")],
        updates=2,
        batch_size=4,
        minibatch_size=4,
        adapt=Adapt(**adapt),
        sampling=Sampling(max_new_tokens=8),
        optimizer=Optimizer(lr=0.003, head_lr=0.003, warmup=0),
    )
    with (
        patch.object(trunk, "ROWS_AT_ONCE", 4),
        patch.object(train, "CPU_MICROBATCH_TOKENS", 64),
        patch.object(trunk.StateCache, "_computed", count_rows),
        patch.object(train.RewardTrainer, "_rewards", count_rewards),
        patch.object(watch, "sample_rollout", count_answers),
    ):
        how = Reward(adapt=Adapt(**adapt), epochs=1, batch_size=4)
        train.train_reward(how, model, labels[:16], labels[16:], out / "reward")
        train_policy(
            recipe, model, prompts, out / "policy", gold=watch.Gold("length", longer, prompts[:5], 1)
        )
    write_json(out / f"counts-{this_process().process_index}.json", counts)


def sharded(model: Model, data: Path, out: Path, adapt: dict[str, Any], **settings: Any) -> None:
    """Writes the names of the modules that FSDP2 shards each by itself."""
    import torch
    from torch.distributed.fsdp import FSDPModule

    from redline.data.files import write_json
    from redline.engine.processes import new_accelerator, this_process
    from redline.engine.sharding import prepare
    from redline.policy.actor import ActorCritic

    actor = ActorCritic(model, Adapt(**adapt), critic="own")
    trained = [parameter for parameter in actor.parameters() if parameter.requires_grad]
    prepare(new_accelerator([], out), actor, torch.optim.AdamW(trained))
    if this_process().is_main_process:
        write_json(
            out / "sharded.json",
            [type(module).__name__ for module in actor.modules() if isinstance(module, FSDPModule)],
        )


def vowels(prompts: list[str], responses: list[str]) -> list[list[tuple[int, int, float]]]:
    """A reward for each a and e. $KILL "RANK CALL" kills the process of that index at that call."""
    vowels.calls = getattr(vowels, "calls", 0) + 1
    if os.environ.get("KILL") == f"{os.environ.get('RANK')} {vowels.calls}":
        os.kill(os.getpid(), signal.SIGKILL)
    return [
        [(place, place + 1, 1.0) for place, letter in enumerate(text) if letter in "ae"] for text in responses
    ]


def run(todo: list[dict[str, Any]]) -> None:
    for job in todo:
        settings = {"adapt": {"lora_rank": 4, "train_layers": 2}} | job.get("settings", {})
        model = Model(name=job["model"], dtype=job.get("dtype", "float32"))
        jobs = {"policy": policy, "reward": reward, "sft": sft, "direct": direct}
        jobs |= {"sharded": sharded, "counted": counted}
        jobs[job["kind"]](model, Path(job["data"]), Path(job["out"]), **settings)


def shard_on_the_cpu() -> None:
    """Accelerate shards models on accelerators only: make it take the CPU processes for such."""
    from accelerate import DistributedType, PartialState

    from redline.engine.processes import this_process

    this_process()
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


if __name__ == "__main__":
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        shard_on_the_cpu()
    run(json.loads(Path(sys.argv[1]).read_text()))
