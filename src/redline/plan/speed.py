"""Time of a step from floating-point operations and bytes read: an estimate, good to a factor of two.

Operations of a forward pass: two for each weight of a matrix and token, and four for each pair of query and
key (half of all pairs, causal; all of them where ``redline.engine.attention`` writes them out) and width of a
head (Kaplan et al. 2020, section 2.1). A backward pass takes as much for the gradient of the inputs, and as
much again for that of weights in training.
"""

import time
from dataclasses import replace
from functools import cache
from itertools import chain
from typing import Any

import torch
from transformers import DynamicCache

from redline.engine.attention import pairs, use_short_attention
from redline.engine.packed import packed
from redline.engine.views import cache_argument, layers_of
from redline.plan.memory import Machine, policy_task, reward_cut, reward_task, sft_task, term_task
from redline.plan.trace import Task, build, materialise, shallow
from redline.recipe import Recipe
from redline.sampling.settings import VllmServer
from redline.types import Network

# up to so much memory (GB): the GPU it is taken for, dense bfloat16 TFLOPS, bandwidth in GB/s (vendors' data
# sheets)
GPUS = (
    (24, "L4", 121, 300),
    (40, "A100 40GB", 312, 1555),
    (48, "L40S", 362, 864),
    (80, "A100 80GB", 312, 2039),
    (141, "H200", 989, 4800),
    (192, "B200", 2250, 8000),
)
# share of a GPU's peak that training reaches as a rule (Chowdhery et al. 2022, section 4.1: 46 % for PaLM
# 540B)
REACHED = 0.4
FLOAT32 = 19.5 / 312  # float32 against bfloat16 on an A100 without TF32
MEASURED = 2  # layers that a CPU's speed is measured on
AT_MOST = 5e10  # operations of a pass there, of one row at least: half a second on a slow machine
MOST_ROWS = 64  # with more of them, a step of sampling is bound by its operations


def gpu(memory: float) -> tuple[str, float, float]:
    """Name, bfloat16 operations and bytes a second that a GPU with so many bytes is taken to reach."""
    for most, name, tflops, bandwidth in GPUS:
        if memory <= most * 1.02e9:
            return name, tflops * 1e12 * REACHED, bandwidth * 1e9
    _, name, tflops, bandwidth = GPUS[-1]
    return name, tflops * 1e12 * REACHED, bandwidth * 1e9


def this_cpu(task: Task, rows: int) -> tuple[float, float, float]:
    """What this machine reaches, measured on layers of the model itself: operations a second of training
    passes, and of sampling's steps with a token of each of ``rows`` rows; and bytes a second of a product
    with one vector.

    (Large matrix products alone run several times as fast as a small model's layers, which spend most of
    their time around them.)
    """
    work, config = work_of(task), task.config.get_text_config()
    shallow_task = shallow(
        replace(
            task,
            weights=task.weights.model_copy(update={"train_layers": None, "gradient_checkpointing": False}),
        ),
        MEASURED,
    )
    model = build(shallow_task)
    materialise(model)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(0.01 if tensor.is_floating_point() else 0)
    use_short_attention(model)
    base, length = model.base_model, 64
    count = int(min(8, max(1, AT_MOST / (work.forward(MEASURED, length, length) * (1 + work.backward)))))
    rows, begun = min(rows, MOST_ROWS), max(1, count * length // min(rows, MOST_ROWS))
    states = torch.full((count, length, config.hidden_size), 0.01, dtype=task.dtype).requires_grad_(True)

    def training() -> None:
        base(inputs_embeds=states, use_cache=False).last_hidden_state.float().sum().backward()

    cache, token = (
        DynamicCache(config=model.config),
        torch.full((rows, 1, config.hidden_size), 0.01, dtype=task.dtype),
    )
    cached = cache_argument(base, cache)

    def step() -> None:
        base(inputs_embeds=token, use_cache=True, **cached)

    flops = work.forward(MEASURED, count * length, length) * (1 + work.backward) / _best(training)
    with torch.no_grad(), packed(model, rows):
        base(inputs_embeds=token.expand(rows, begun, -1), use_cache=True, **cached)
        stepping = work.forward(MEASURED, rows, begun) / _best(step)
    one, large = torch.ones(1, 4096, dtype=task.dtype), torch.ones(8192, 4096, dtype=task.dtype)
    return flops, stepping, large.nbytes / _best(lambda: torch.nn.functional.linear(one, large))


def _best(run: Any) -> float:
    """Seconds of the fastest of some runs."""
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


class Work:
    """Operations of passes of a model with ``layers`` layers."""

    def __init__(self, task: Task):
        model: Network = build(task)
        text = task.config.get_text_config()
        layers = layers_of(model.base_model)[1]
        experts_at_work = getattr(text, "num_experts_per_tok", None) or 1
        matrices = 0
        for parameter in chain.from_iterable(layer.parameters() for layer in layers):
            if parameter.ndim == 2:
                matrices += parameter.numel()
            elif parameter.ndim == 3:  # one matrix an expert
                matrices += experts_at_work * parameter[0].numel()
        self.layers, self.trained, self.on_cpu = task.depth, task.trained, task.on_cpu
        self.a_layer = 2.0 * matrices / self.layers
        self.attention = (
            4.0
            * text.num_attention_heads
            * (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
        )
        self.head = 2.0 * text.hidden_size * text.vocab_size
        self.backward = 1.0 if task.weights.lora_rank else 2.0
        self.again = float(
            task.weights.gradient_checkpointing
        )  # forward passes that the backward pass repeats
        self.bytes = float(sum(parameter.nbytes for parameter in model.parameters()))

    def forward(self, layers: int, tokens: float, length: float) -> float:
        """Of ``tokens`` tokens in sequences of ``length`` through some layers."""
        seen = pairs(length) if self.on_cpu else 0.5  # the share of a sequence that a token attends to
        return layers * tokens * (self.a_layer + self.attention * length * seen)

    def train(self, tokens: float, length: float) -> float:
        """Forward and backward through the trained layers."""
        return self.forward(self.trained, tokens, length) * (1 + self.again + self.backward)


@cache
def work_of(task: Task) -> Work:
    """The operations of a task's model."""
    return Work(task)


def slower(machine: Machine, task: Task) -> float:
    """Operations a second at the task's precision."""
    if machine.gpus and task.dtype == torch.float32 and not machine.mixed:
        return machine.flops * FLOAT32
    return machine.flops


def update_seconds(recipe: Recipe, machine: Machine, prompt: int) -> float:
    """A PPO update on one process's share of the batch: sampling reads all weights for each token, the rest
    computes. What a server samples is not counted, but for the states below the trained layers."""
    policy, task = recipe.policy, policy_task(recipe, machine)
    work, flops = work_of(task), slower(machine, task)
    response = policy.sampling.max_new_tokens
    length = prompt + response
    share = max(1, policy.batch_size // machine.processes)
    tokens, predicted = share * length, share * response
    a_step = work.forward(work.layers, share, length) + share * work.head
    if isinstance(policy.sampler, VllmServer):
        sampling = work.forward(work.layers - work.trained, tokens, length) / flops
    else:
        sampling = work.forward(work.layers, share * prompt, prompt) / flops
        sampling += response * max(a_step / (machine.stepping or flops), work.bytes / machine.bandwidth)
    upper, logits = work.forward(work.trained, tokens, length), predicted * work.head
    passes = 2 if policy.critic == "own" else 1
    of_reference = upper + logits
    of_policy = passes * upper + logits
    rescoring = of_reference + of_policy
    trains_head = not (policy.adapt.lora_rank or policy.adapt.train_layers)
    heads = logits * (4 if trains_head else 2)
    learning = policy.epochs * (passes * work.train(tokens, length) + heads)
    return sampling + (rescoring + scoring(recipe, machine, task, tokens, length) + learning) / flops


def scoring(recipe: Recipe, machine: Machine, policy: Task, tokens: int, length: int) -> float:
    """Operations of the reward models: one that shares the policy's backbone begins where sampling kept its
    states."""
    operations = 0.0
    for term in recipe.policy.reward:
        if term.function is not None:
            continue
        work = work_of(term_task(term, recipe, machine))
        shared = reward_cut(recipe, policy) if term.model is None else 0
        operations += work.forward(work.layers - shared, tokens, length)
    return operations


def reward_seconds(recipe: Recipe, machine: Machine, prompt: int) -> float:
    """A step of reward training, the lower layers' one pass spread over the epochs."""
    task = reward_task(recipe, machine)
    work, length = work_of(task), prompt + 2 * recipe.data.max_response_tokens
    tokens = max(1, recipe.reward.batch_size // machine.processes) * length
    lower = work.forward(work.layers - work.trained, tokens, length) / max(recipe.reward.epochs, 1)
    return (lower + work.train(tokens, length)) / slower(machine, task)


def sft_seconds(recipe: Recipe, machine: Machine, prompt: int) -> float:
    """A step of SFT."""
    assert recipe.sft is not None
    task = sft_task(recipe, machine)
    work, length = work_of(task), prompt + recipe.data.max_response_tokens
    rows = max(1, recipe.sft.batch_size // machine.processes)
    return (work.train(rows * length, length) + rows * length * work.head * 3) / slower(machine, task)
