"""``redline plan``: the estimate as a table or as JSON, and what to change when it does not fit."""

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from redline.data.settings import Source
from redline.direct.settings import Sft
from redline.engine.models import load_config
from redline.engine.settings import Adapt, Model
from redline.errors import UserError
from redline.plan import speed
from redline.plan.memory import Machine, Stage, policy_stage, policy_task, reward_stage, sft_stage
from redline.recipe import Recipe
from redline.types import Json, JsonObject

UNITS = {
    "kb": 1e3,
    "mb": 1e6,
    "gb": 1e9,
    "tb": 1e12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
    "": 1e9,
}


def memory_of(text: str) -> float:
    """Bytes from ``80GB``, ``80 GiB`` or ``80`` (GB). Raises UserError for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if match is None or match[2].lower() not in UNITS or not float(match[1]):
        raise UserError(
            f"--gpu-memory {text}: write it as a number and a unit, for example 80GB, 24GiB or 81920MiB."
        )
    return float(match[1]) * UNITS[match[2].lower()]


def machine_of(
    recipe: Recipe,
    gpus: int | None,
    gpu_memory: str | None,
    tflops: float | None,
    bandwidth: float | None,
    mixed: bool,
) -> tuple[Machine, str]:
    """The machine that the options describe, and where its speed comes from. Without ``gpus``, this CPU and
    its memory.

    Raises UserError for fewer than one GPU or a memory that cannot be read.
    """
    if gpus is None and gpu_memory is not None:
        raise UserError(
            f"--gpu-memory {gpu_memory}: plans GPUs, and --gpus is not given. Add --gpus 1, or leave it out "
            "to plan for this machine's CPU."
        )
    if gpus is not None and gpus < 1:
        raise UserError(f"--gpus {gpus}: give at least 1, or leave it out to plan for this machine's CPU.")
    for name, value in (("--tflops", tflops), ("--bandwidth", bandwidth)):
        if value is not None and not value > 0:
            raise UserError(f"{name} {value}: must be more than 0.")
    if gpus is None:
        memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        with traceable("policy", recipe.model):
            flops, stepping, speed_of = speed.this_cpu(
                policy_task(recipe, Machine(0, memory, 1, 1)), recipe.policy.batch_size
            )
        known = "layers of this model on this CPU, just measured"
    else:
        memory, stepping = memory_of(gpu_memory or "80GB"), None
        card, flops, speed_of = speed.gpu(memory)
        known = f"{speed.REACHED:.0%} of the peak of the {card}, which the GPU is taken for by its memory"
    if tflops:
        flops, stepping, known = tflops * 1e12, None, "--tflops"
    if bandwidth:
        speed_of = bandwidth * 1e9
    return Machine(gpus or 0, memory, flops, speed_of, mixed=mixed, stepping=stepping), known


def plan_recipe(
    recipe: Recipe,
    machine: Machine | None = None,
    prompt_tokens: int | None = None,
    edits: int | None = None,
) -> list[Stage]:
    """The training stages of a recipe on a machine (default: this CPU), each with its memory, seconds and
    steps.

    ``prompt_tokens`` is the longest prompt of a batch (default: the recipe's limit), ``edits`` how many there
    are (default: counted, where they are a file). Responses are taken to be as
    long as the recipe lets them be.
    """
    machine = machine or machine_of(recipe, None, None, None, None, False)[0]
    edits = count_edits(recipe) if edits is None else edits
    return [
        stage_of(name, recipe, machine, prompt_tokens or recipe.data.max_prompt_tokens, edits)
        for name in names_of(recipe)
    ]


def names_of(recipe: Recipe) -> list[str]:
    """The stages of a recipe that can be planned. Raises UserError where there is none."""
    names = []
    if recipe.sft is not None:
        names.append("sft")
    if recipe.trains_reward:
        names.append("reward")
    if recipe.direct is None:
        names.append("policy")
    if not names:
        raise UserError(
            f"{recipe.name}: nothing to plan: SFT, reward models and PPO are planned, `direct` policies "
            "are not."
        )
    return names


def stage_of(name: str, recipe: Recipe, machine: Machine, prompt: int, edits: int | None) -> Stage:
    """One stage. Raises UserError for a batch that cannot be divided, and for architectures that cannot be
    traced."""
    for key in ("batch_size", "minibatch_size"):
        if name == "policy" and getattr(recipe.policy, key) % machine.processes:
            raise UserError(
                f"policy.{key} is {getattr(recipe.policy, key)}: it must be a multiple of the "
                f"{machine.processes} GPUs."
            )
    train = edits
    if edits is not None and not recipe.data.validation:
        train = round(edits * (1 - recipe.data.validation_share))
    model = (recipe.reward.model if name == "reward" else None) or recipe.model
    with traceable(name, model):
        if name == "policy":
            stage = policy_stage(recipe, machine, prompt)
            stage.seconds = speed.update_seconds(recipe, machine, prompt)
        elif name == "reward":
            stage = reward_stage(recipe, machine, prompt, train)
            stage.seconds = speed.reward_seconds(recipe, machine, prompt)
        else:
            stage = sft_stage(recipe, machine, prompt)
            stage.seconds = speed.sft_seconds(recipe, machine, prompt)
    if model.load_in_4bit:
        stage.notes.append(
            f"model.load_in_4bit: the {name} stage's frozen weights are counted whole, not in 4 bits"
        )
    section = {"sft": recipe.sft, "reward": recipe.reward}.get(name)
    if section is not None and train is not None:
        stage.steps = math.ceil(train * section.epochs / min(section.batch_size, max(train, 1)))
    return stage


@contextmanager
def traceable(name: str, model: Model) -> Iterator[None]:
    """What PyTorch says of a stage's model that cannot be run without its weights, as one line."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{name}: {model.name} cannot be planned: its architecture does not run without weights "
            f"({reason}). Measure one step instead."
        ) from error


def changes(
    name: str, recipe: Recipe, machine: Machine, prompt: int
) -> Iterator[tuple[str, Recipe, Machine]]:
    """What makes a stage smaller, what costs least first; each on top of those before it."""
    plain = recipe.model_dump(exclude_unset=True)

    def changed(key: str, value: Json) -> Recipe:
        *parents, last = key.split(".")
        here = plain
        for parent in parents:
            here = here.setdefault(parent, {})
        here[last] = value
        return Recipe.model_validate(plain)

    depth = int(load_config(recipe.model).num_hidden_layers)
    if name == "policy":
        tokens, least = recipe.policy.microbatch_tokens, prompt + recipe.policy.sampling.max_new_tokens
        while tokens > least:
            tokens = max(tokens // 4, least)
            recipe = changed("policy.microbatch_tokens", tokens)
            yield f"policy.microbatch_tokens={tokens}", recipe, machine
    if name == "sft" and recipe.sft and recipe.sft.batch_size > machine.processes:
        recipe = changed("sft.batch_size", machine.processes)
        yield f"sft.batch_size={machine.processes}", recipe, machine
    if machine.gpus > 1 and not machine.sharded:
        machine = replace(machine, sharded=True)
        yield "FSDP2 instead of DDP (accelerate launch --use_fsdp --fsdp_version 2)", recipe, machine
    section = name if name == "sft" else f"{name}.adapt"
    if not _weights_of(recipe, name).lora_rank:
        recipe = changed(f"{section}.lora_rank", 16)
        yield f"{section}.lora_rank=16 (LoRA; raise the learning rate about tenfold)", recipe, machine
    if not _weights_of(recipe, name).gradient_checkpointing:
        recipe = changed(f"{section}.gradient_checkpointing", True)
        yield f"{section}.gradient_checkpointing=true (trained layers are computed twice)", recipe, machine
    if name != "sft" and getattr(recipe, name).adapt.train_layers is None:
        recipe = changed(f"{section}.train_layers", max(1, depth // 3))
        yield f"{section}.train_layers={max(1, depth // 3)} (the upper third)", recipe, machine
    if name == "policy" and recipe.policy.batch_size > machine.processes:
        size = max(machine.processes, recipe.policy.batch_size // 4 // machine.processes * machine.processes)
        changed("policy.minibatch_size", min(size, recipe.policy.minibatch_size))
        recipe = changed("policy.batch_size", size)
        yield f"policy.batch_size={size}", recipe, machine


def _weights_of(recipe: Recipe, name: str) -> Adapt | Sft:
    """The section that says which weights a stage trains."""
    if name == "sft":
        assert recipe.sft is not None
        return recipe.sft
    adapt: Adapt = getattr(recipe, name).adapt
    return adapt


def advice(
    stage: Stage, recipe: Recipe, machine: Machine, prompt: int, edits: int | None
) -> list[JsonObject]:
    """Changes in turn until the stage fits: what, bytes then (with those before), and whether that is enough.
    Changes that spare nothing are left out; the list is empty where the stage fits already."""
    room, last = machine.room, stage.total
    helpful: list[JsonObject] = []
    if last <= room:
        return []
    for what, smaller, where in changes(stage.name, recipe, machine, prompt):
        total = stage_of(stage.name, smaller, where, prompt, edits).total
        if total < 0.99 * last:
            helpful.append({"change": what, "bytes": total, "fits": total <= room})
            last = total
        if total <= room:
            break
    return helpful


def count_edits(recipe: Recipe) -> int | None:
    """How many edits the recipe's data holds, where it is a file on this machine; None elsewhere."""
    from redline.data.check import Rejects
    from redline.data.read import read
    from redline.data.records import Edit, Pair

    source: Source | None = recipe.data.edits or recipe.data.pairs
    if source is None or not all(Path(path).expanduser().exists() for path in source.paths):
        return None
    kind: Any = Edit if recipe.data.edits else Pair
    return sum(1 for _ in read(source, kind, Rejects()))


def plan_command(
    path: Path,
    overrides: list[str],
    gpus: int | None,
    gpu_memory: str | None,
    tflops: float | None,
    bandwidth: float | None,
    mixed: bool,
    price: float | None,
    prompt_tokens: int | None,
    edits: int | None,
    as_json: bool,
) -> None:
    """Print the plan of a recipe, all weights on each GPU (DDP) and, where there are several, also sharded
    (FSDP2)."""
    import json

    from redline.recipe import load_recipe

    recipe = load_recipe(path, overrides)
    if prompt_tokens is not None and prompt_tokens < 1:
        raise UserError(f"--prompt-tokens {prompt_tokens}: must be at least 1.")
    machine, known = machine_of(recipe, gpus, gpu_memory, tflops, bandwidth, mixed)
    edits = count_edits(recipe) if edits is None else edits
    prompt = prompt_tokens or recipe.data.max_prompt_tokens
    if machine.gpus > 1:
        ways = {"DDP": machine, "FSDP2": replace(machine, sharded=True)}
    else:
        ways = {"one GPU" if machine.gpus else "CPU": machine}
    plans = {way: plan_recipe(recipe, where, prompt, edits) for way, where in ways.items()}
    last = list(ways)[-1]
    help_for = {stage.name: advice(stage, recipe, ways[last], prompt, edits) for stage in plans[last]}
    facts = {
        "recipe": str(path),
        "model": recipe.model.name,
        "gpus": machine.gpus,
        "memory": machine.memory,
        "tflops": machine.flops / 1e12,
        "bandwidth_gb_s": machine.bandwidth / 1e9,
        "speed_is": known,
        "prompt_tokens": prompt,
        "edits": edits,
        "price_per_hour": price,
    }
    if as_json:
        by_way = {}
        for way, stages in plans.items():
            by_way[way] = [_plain(stage, machine, price) for stage in stages]
        print(json.dumps(facts | {"plans": by_way, "changes": help_for}, indent=2))
        return
    from redline.plan.show import show

    show(facts, plans, help_for, machine, price)


def _plain(stage: Stage, machine: Machine, price: float | None) -> JsonObject:
    hours, cost = stage.hours, None
    if price is not None and hours is not None:
        cost = hours * price * machine.processes
    return asdict(stage) | {
        "total": stage.total,
        "fits": stage.total <= machine.room,
        "hours": hours,
        "cost": cost,
    }
