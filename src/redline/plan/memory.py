"""Memory of each training stage, part by part, on one process: what the engine holds, and when.

A part is either held all the time (weights, optimizer) or only in some phases (KV cache while sampling,
activations while optimising). A stage's total is its highest phase, not the sum of all parts.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch

from redline.engine.adapt import train_layers
from redline.engine.models import dtype_of, load_config
from redline.engine.settings import Adapt, Model
from redline.engine.trunk import CACHE_BYTES, Trunk
from redline.engine.views import layers_of
from redline.plan.trace import Batch, Task, build, forward_bytes, logits_bytes, training_bytes
from redline.recipe import Recipe
from redline.reward.model import reward_config
from redline.reward.settings import RewardTerm
from redline.reward.train import CPU_MICROBATCH_TOKENS, MICROBATCH_TOKENS
from redline.sampling.local import AT_ONCE
from redline.sampling.settings import VllmServer
from redline.types import AutoClass, Config, Network

ROOM = 0.95  # share of a device's memory that a plan may fill: fragments and other processes need some
# a CPU process with its imports, a tokenizer, and kernels that have run (benchmarks/plan_memory.py)
LIBRARIES = 0.58e9
# on a CPU: what the C heap keeps between live blocks, as a share of what comes and goes, by the bytes of a
# number; where float32 temporaries come between 16-bit tensors, the gaps fit neither (same benchmark)
HEAP = {2: 0.33, 4: 0.05}
# what CUDA, its libraries' workspaces and NCCL take on a GPU: an assumption, not measured here
CUDA_CONTEXT = 0.6e9
SCORING_TOKENS = 8192  # tokens that a reward model scores at once (RewardModel.rewards)
SFT_ROWS = 8  # most responses of SFT computed at once
TRL_TOKENS, TRL_VOCABULARY = 4096, 32768  # size of the logits' tile in TRL's fused head


@dataclass(frozen=True)
class Machine:
    """Where it is to run: ``gpus`` of ``memory`` bytes each (0: the CPU), all weights on each or ``sharded``
    over them (FSDP2). ``mixed``: launched with ``accelerate launch --mixed_precision bf16``. Speeds are of
    one of them: floating-point operations and bytes of memory a second; ``stepping`` the operations a second
    of sampling's steps, a token of each row (None: ``flops``)."""

    gpus: int
    memory: float
    flops: float
    bandwidth: float
    sharded: bool = False
    mixed: bool = False
    stepping: float | None = None

    @property
    def processes(self) -> int:
        return max(self.gpus, 1)

    @property
    def room(self) -> float:
        """Bytes that a plan may fill."""
        return self.memory * ROOM


@dataclass
class Stage:
    """What a training stage takes on one process. ``parts`` and ``phases`` in bytes; ``seconds`` are of a
    step (PPO: of an update), ``steps`` None where the number of edits is not known."""

    name: str
    parts: dict[str, float]
    phases: dict[str, float]
    step: str = "a step"
    seconds: float = 0.0
    steps: int | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def total(self) -> float:
        """Bytes at the highest phase."""
        return max(self.phases.values())

    @property
    def hours(self) -> float | None:
        return None if self.steps is None else self.steps * self.seconds / 3600


@dataclass(frozen=True)
class Held:
    """Bytes of a model on the meta device: its ``frozen`` and ``trained`` weights, the trained ones'
    ``count`` and the ``largest`` of them; one ``layer``, and what lies ``outside`` the layers."""

    frozen: float
    trained: float
    count: int
    largest: float
    layer: float
    outside: float

    @property
    def all(self) -> float:
        return self.frozen + self.trained


@cache
def held_by(task: Task) -> Held:
    """Count the weights of a task's model; tied ones once."""
    return held(build(task))


def held(model: Network) -> Held:
    """Count a model's weights."""

    def size(parameters: Any) -> float:
        return float(sum(parameter.nbytes for parameter in parameters))

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    layers = layers_of(model.base_model)[1]
    whole, inside = size(model.parameters()), size(layers.parameters())
    return Held(
        frozen=whole - size(trained),
        trained=size(trained),
        count=sum(parameter.numel() for parameter in trained),
        largest=max((float(parameter.nbytes) for parameter in trained), default=0.0),
        layer=max(size(layer.parameters()) for layer in layers),
        outside=whole - inside,
    )


def training_task(auto: AutoClass, config: Config, model: Model, weights: Adapt, machine: Machine) -> Task:
    """A model as ``models.for_training`` holds it: full fine-tuning in float32."""
    plain = model_dtype(model, machine)
    dtype = plain if weights.lora_rank else torch.float32
    return Task(auto, config, dtype, weights, machine.mixed, not machine.gpus)


def model_dtype(model: Model, machine: Machine) -> torch.dtype:
    """The recipe's dtype; on GPUs, auto is bfloat16."""
    if model.dtype == "auto" and machine.gpus:
        return torch.bfloat16
    return dtype_of(model)


def weights_and_optimizer(model: Held, machine: Machine) -> dict[str, float]:
    """What training holds all the time, whatever it trains. AdamW keeps two float32 moments of each trained
    weight."""
    share = machine.processes if machine.sharded else 1
    parts = {
        "libraries": CUDA_CONTEXT if machine.gpus else LIBRARIES,
        "weights": model.all / share,
        "gradients": 4.0 * model.count / share,
        "optimizer": 8.0 * model.count / share,
    }
    if machine.sharded:
        # the one in use, the next one, and the root's
        parts["gathered layers"] = 2 * model.layer + model.outside
    elif machine.processes > 1:
        parts["DDP buckets"] = 4.0 * model.count
    return parts


def step_bytes(model: Held, machine: Machine) -> float:
    """What AdamW makes on the way: on a CPU two tensors like the largest weight, on a GPU one like all of
    them."""
    if not machine.gpus:
        return 2 * model.largest
    share = machine.processes if machine.sharded else 1
    return 4.0 * model.count / share


def sft_task(recipe: Recipe, machine: Machine) -> Task:
    """The model in supervised fine-tuning: whole."""
    from transformers import AutoModelForCausalLM

    assert recipe.sft is not None
    weights = Adapt(lora_rank=recipe.sft.lora_rank, gradient_checkpointing=recipe.sft.gradient_checkpointing)
    return training_task(AutoModelForCausalLM, load_config(recipe.model), recipe.model, weights, machine)


def policy_task(recipe: Recipe, machine: Machine) -> Task:
    """The policy in training. Raises UserError for more trained layers than there are."""
    from transformers import AutoModelForCausalLM

    config = load_config(recipe.model)
    train_layers(recipe.policy.adapt, config.num_hidden_layers)
    return training_task(AutoModelForCausalLM, config, recipe.model, recipe.policy.adapt, machine)


def sft_stage(recipe: Recipe, machine: Machine, prompt: int) -> Stage:
    """TRL's trainer: whole model, adapters on all linear layers of all layers, a tile of logits at a time."""
    assert recipe.sft is not None
    task = sft_task(recipe, machine)
    share = max(1, recipe.sft.batch_size // machine.processes)
    rows = next(size for size in range(min(SFT_ROWS, share), 0, -1) if share % size == 0)
    length = prompt + recipe.data.max_response_tokens
    model = held_by(task)
    parts = weights_and_optimizer(model, machine)
    fixed = sum(parts.values())
    batch = Batch(rows, length, recipe.data.max_response_tokens)
    one_chunk = logits_bytes(task, batch)
    parts["activations"] = training_bytes(task, batch, masked=True) - one_chunk
    vocabulary = min(TRL_VOCABULARY, int(task.config.get_text_config().vocab_size))
    parts["logits"] = min(rows * length, TRL_TOKENS) * vocabulary * (task.dtype.itemsize + 8.0)
    phases = {
        "train": fixed + parts["activations"] + parts["logits"],
        "step": fixed + step_bytes(model, machine),
    }
    return with_heap(Stage("sft", parts, phases), fixed, task)


def reward_task(recipe: Recipe, machine: Machine) -> Task:
    """The reward model in training: a classifier with as many layers as ``reward.depth`` says."""
    model = recipe.reward.model or recipe.model
    auto, config = reward_config(recipe.reward, model)
    train_layers(recipe.reward.adapt, config.num_hidden_layers)
    return training_task(auto, config, model, recipe.reward.adapt, machine)


def reward_stage(recipe: Recipe, machine: Machine, prompt: int, edits: int | None) -> Stage:
    """Both sides of an edit in a row that forks after the prompt; lower states kept in the host's memory."""
    task = reward_task(recipe, machine)
    response = recipe.data.max_response_tokens
    length = prompt + 2 * response
    batch_size = recipe.reward.batch_size
    share = max(1, min(batch_size, edits or batch_size) // machine.processes)
    budget = MICROBATCH_TOKENS if machine.gpus else CPU_MICROBATCH_TOKENS
    rows = min(share, max(1, budget // length))
    model = held_by(task)
    parts = weights_and_optimizer(model, machine)
    fixed = sum(parts.values())
    cut = task.trained < task.depth
    width = task.config.get_text_config().hidden_size * task.dtype.itemsize
    if cut and not machine.gpus:
        parts["lower states"] = min(float(CACHE_BYTES), (edits or 10**9) * length * width)
        fixed += parts["lower states"]
    parts["activations"] = training_bytes(task, Batch(rows, length, 2 * response), masked=True)
    scored = forward_bytes(task, Batch(max(1, budget // length), length, 2 * response))
    phases = {
        "train": fixed + parts["activations"],
        "validate": fixed - parts["gradients"] + scored,
        "step": fixed + step_bytes(model, machine),
    }
    return with_heap(Stage("reward", parts, phases), fixed, task)


def policy_stage(recipe: Recipe, machine: Machine, prompt: int) -> Stage:
    """PPO: sampling, scoring, and the epochs over a batch in micro-batches."""
    policy, task = recipe.policy, policy_task(recipe, machine)
    config = task.config
    single = held_by(task)
    # a critic of its own has trained weights like the policy's, over the same frozen ones
    actors = 2 if policy.critic == "own" else 1
    both = replace(single, trained=actors * single.trained, count=actors * single.count)
    parts = weights_and_optimizer(both, machine)
    notes: list[str] = []
    parts["reference copy"] = reference_bytes(policy.adapt, single, machine)
    parts["reward model"] = float(sum(reward_weights(recipe, machine, single, notes)))
    fixed = sum(parts.values())
    if machine.sharded:
        # every process gathers the policy to sample and to score, in place of a layer at a time
        parts["gathered policy"] = max(0.0, both.all - parts["gathered layers"])

    response = policy.sampling.max_new_tokens
    length = prompt + response
    share = max(1, policy.batch_size // machine.processes)
    width = config.get_text_config().hidden_size * task.dtype.itemsize
    states = len(trunk_of(recipe, task).layers) * share * length * width
    parts["lower states"] = float(states)
    together = min(share, max(1, AT_ONCE // length))  # rows that are sampled at once
    served = isinstance(policy.sampler, VllmServer)
    if served:
        notes.append("a server draws the responses: its memory and its time are not counted")
    parts["KV cache"] = 0.0 if served else kv_bytes(config, task.dtype, together, length)
    minibatch = max(1, policy.minibatch_size // machine.processes)
    rows = min(minibatch, max(1, policy.microbatch_tokens // length))
    batch = Batch(rows, length, response)
    parts["logits"] = logits_bytes(task, batch)
    parts["activations"] = actors * (training_bytes(task, batch) - parts["logits"])
    # logits, scaled, softmax, its sums
    drawing = together * config.get_text_config().vocab_size * (task.dtype.itemsize + 16.0)
    prefill = forward_bytes(task, Batch(together, prompt, 1))
    scored = forward_bytes(task, Batch(min(share, max(1, SCORING_TOKENS // length)), length, 1))
    resting = fixed - parts["gradients"] + parts.get("gathered policy", 0.0)
    phases = {
        "score": resting + states + scored,
        "optimise": fixed + states + parts["activations"] + parts["logits"],
        "step": fixed + states + step_bytes(both, machine),
    }
    if not served:
        cached = parts["KV cache"] * (1 + 1 / config.num_hidden_layers)
        phases["sample"] = resting + cached + max(2 * states, states + prefill, drawing)
    stage = Stage("policy", parts, phases, step="an update", steps=policy.updates, notes=notes)
    return with_heap(stage, fixed, task)


def reference_bytes(adapt: Adapt, policy: Held, machine: Machine) -> float:
    """A copy of the policy as it was: of its trained weights, or of all, once they are sharded. With adapters
    there is none."""
    if adapt.lora_rank:
        return 0.0
    return policy.all if machine.sharded else policy.trained


def with_heap(stage: Stage, fixed: float, task: Task) -> Stage:
    """On a CPU what comes and goes leaves gaps: more of them, the more of it there is. ``fixed`` bytes
    stay."""
    if task.on_cpu:
        share = HEAP[task.dtype.itemsize]
        stage.parts["heap"] = share * max(0.0, stage.total - fixed)
        for name, size in stage.phases.items():
            stage.phases[name] = size + share * max(0.0, size - fixed)
    return stage


def kv_bytes(config: Config, dtype: torch.dtype, rows: int, length: int) -> float:
    """Keys and values of every layer: with grouped queries only of the groups' heads, in a local layer only
    of its window."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    kinds = getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers
    window = getattr(text, "sliding_window", None) or length
    tokens = 0
    for kind in kinds:
        tokens += min(length, window) if kind == "sliding_attention" else length
    return float(2 * rows * tokens * heads * size * dtype.itemsize)


def trunk_of(recipe: Recipe, task: Task) -> Trunk:
    """The policy's trunk, which also keeps the states for a reward model that shares its backbone."""
    trunk = Trunk(task.depth - task.trained)
    trunk.keep(reward_cut(recipe, task))
    return trunk


def reward_cut(recipe: Recipe, task: Task) -> int:
    """The layer that scoring begins at where the reward model trained here shares the policy's backbone, else
    0."""
    if not _shares(recipe):
        return 0
    depth = recipe.reward.depth or task.depth
    return min(depth - (recipe.reward.adapt.train_layers or depth), task.depth - task.trained)


def term_task(term: RewardTerm, recipe: Recipe, machine: Machine) -> Task:
    """The reward model of a term: the one trained here, or another by name, which is taken to hold weights of
    its own."""
    if term.model is None:
        return reward_task(recipe, machine)
    from transformers import AutoModelForTokenClassification

    model = Model(name=term.model)
    return Task(AutoModelForTokenClassification, load_config(model), model_dtype(model, machine), Adapt())


def reward_weights(recipe: Recipe, machine: Machine, policy: Held, notes: list[str]) -> Iterator[float]:
    """Bytes of the reward models that PPO loads beside the policy. One trained here with LoRA on the policy's
    backbone brings only its adapters, and copies of those weights that the policy trains."""
    for term in recipe.policy.reward:
        if term.function is not None:
            continue
        task = term_task(term, recipe, machine)
        model = held_by(task)
        if term.model is not None:
            notes.append(
                f"the reward model {term.model} is counted as one with weights of its own, in the policy's "
                "dtype"
            )
            yield model.frozen
        elif _shares(recipe):
            yield model.trained + copied(recipe, machine, policy, model, task)
        elif recipe.reward.adapt.lora_rank:
            yield model.frozen
        else:
            yield model.all


def copied(recipe: Recipe, machine: Machine, policy: Held, reward: Held, task: Task) -> float:
    """Bytes of the backbone that a reward model has for itself: all of them, once they are sharded, else the
    weights that the policy trains, as they were. Where the policy is trained whole, they are in float32."""
    if recipe.policy.adapt.lora_rank:
        return reward.frozen if machine.sharded else 0.0
    if machine.sharded or recipe.policy.adapt.train_layers is None:
        return 4 * reward.frozen / task.dtype.itemsize
    cut = int(load_config(recipe.model).num_hidden_layers) - recipe.policy.adapt.train_layers
    return policy.layer * max(0, task.depth - cut)


def _shares(recipe: Recipe) -> bool:
    return recipe.trains_reward and recipe.reward.model is None and recipe.reward.adapt.lora_rank > 0
