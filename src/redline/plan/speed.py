"""Time of a step from floating-point operations and bytes read: an estimate, good to a factor of two.

Operations of a forward pass: two for each weight of a matrix and token, and four for each pair of query and key (half of all
pairs, causal) and width of a head (Kaplan et al. 2020, section 2.1). A backward pass takes as much for the gradient of the
inputs, and as much again for that of weights in training.
"""

import time
from functools import cache
from typing import Any

import torch

from redline.plan.memory import Machine, reward_task
from redline.plan.trace import Task, build
from redline.recipe import Recipe
from redline.trunk import layers_of

GPUS = (  # up to so much memory (GB): the GPU it is taken for, dense bfloat16 TFLOPS, bandwidth in GB/s (vendors' data sheets)
    (24, "L4", 121, 300), (40, "A100 40GB", 312, 1555), (48, "L40S", 362, 864), (80, "A100 80GB", 312, 2039),
    (141, "H200", 989, 4800), (192, "B200", 2250, 8000),
)
REACHED = 0.4  # share of a GPU's peak that training reaches as a rule (Chowdhery et al. 2022, section 4.1: 46 % for PaLM 540B)
FLOAT32 = 19.5 / 312  # float32 against bfloat16 on an A100 without TF32


def gpu(memory: float) -> tuple[str, float, float]:
    """Name, bfloat16 operations and bytes a second that a GPU with so many bytes is taken to reach."""
    for most, name, tflops, bandwidth in GPUS:
        if memory <= most * 1.02e9:
            return name, tflops * 1e12 * REACHED, bandwidth * 1e9
    _, name, tflops, bandwidth = GPUS[-1]
    return name, tflops * 1e12 * REACHED, bandwidth * 1e9


def this_cpu(dtype: torch.dtype) -> tuple[float, float]:
    """Operations a second of this machine's own matrix products, and bytes a second of a product with one vector, measured."""
    weight = torch.ones(1536, 1536, dtype=dtype)
    many, one = torch.ones(512, 1536, dtype=dtype), torch.ones(1, 4096, dtype=dtype)
    large = torch.ones(8192, 4096, dtype=dtype)
    flops = 2 * 512 * 1536 * 1536 / _best(lambda: torch.nn.functional.linear(many, weight))
    return flops, large.nbytes / _best(lambda: torch.nn.functional.linear(one, large))


def _best(work: Any) -> float:
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


class Work:
    """Operations of passes of a model with ``layers`` layers."""

    def __init__(self, task: Task):
        model: Any = build(task)
        text = task.config.get_text_config()
        layers = layers_of(model.base_model)[1]
        matrices = [parameter for layer in layers for parameter in layer.parameters() if parameter.ndim == 2]
        self.layers, self.trained = task.depth, task.trained
        self.a_layer = 2.0 * sum(matrix.numel() for matrix in matrices) / self.layers
        self.attention = 4.0 * text.num_attention_heads * (getattr(text, "head_dim", None) or
                                                           text.hidden_size // text.num_attention_heads)
        self.head = 2.0 * text.hidden_size * text.vocab_size
        self.backward = 1.0 if task.how.lora_rank else 2.0
        self.bytes = float(sum(parameter.nbytes for parameter in model.parameters()))

    def forward(self, layers: int, tokens: float, length: float) -> float:
        """Of ``tokens`` tokens in sequences of ``length`` through some layers."""
        return layers * tokens * (self.a_layer + self.attention * length / 2)

    def train(self, tokens: float, length: float) -> float:
        """Forward and backward through the trained layers."""
        return self.forward(self.trained, tokens, length) * (1 + self.backward)


@cache
def work_of(task: Task) -> Work:
    """The operations of a task's model."""
    return Work(task)


def slower(machine: Machine, task: Task) -> float:
    """Operations a second at the task's precision."""
    return machine.flops * (FLOAT32 if machine.gpus and task.dtype == torch.float32 and not machine.mixed else 1.0)


def update_seconds(recipe: Recipe, machine: Machine, task: Task, prompt: int) -> float:
    """A PPO update on one process's share of the batch: sampling reads all weights for each token, the rest computes."""
    how, work = recipe.policy, work_of(task)
    response = how.sampling.max_new_tokens
    length = prompt + response
    share = max(1, how.batch_size // machine.processes)
    flops = slower(machine, task)
    tokens, predicted = share * length, share * response
    one = work.forward(work.layers, share, length) + share * work.head
    sampling = work.forward(work.layers, share * prompt, prompt) / flops
    sampling += response * max(one / flops, work.bytes / machine.bandwidth)
    upper = work.forward(work.trained, tokens, length)
    rescoring = 2 * (upper + predicted * work.head)
    scoring = 0.0
    if any(term.function is None for term in how.reward):
        reward = work_of(reward_task(recipe, machine))
        scoring = reward.forward(reward.trained, tokens, length)
    heads = predicted * work.head * (2 if how.adapt.lora_rank or how.adapt.train_layers else 4)
    passes = 2 if how.critic == "own" else 1
    return sampling + (rescoring + scoring + how.epochs * (passes * work.train(tokens, length) + heads)) / flops


def reward_seconds(recipe: Recipe, machine: Machine, task: Task, prompt: int) -> float:
    """A step of reward training, the lower layers' one pass spread over the epochs."""
    work, length = work_of(task), prompt + 2 * recipe.data.max_response_tokens
    tokens = max(1, recipe.reward.batch_size // machine.processes) * length
    lower = work.forward(work.layers - work.trained, tokens, length) / max(recipe.reward.epochs, 1)
    return (lower + work.train(tokens, length)) / slower(machine, task)


def sft_seconds(recipe: Recipe, machine: Machine, task: Task, prompt: int) -> float:
    """A step of SFT."""
    assert recipe.sft is not None
    work, length = work_of(task), prompt + recipe.data.max_response_tokens
    rows = max(1, recipe.sft.batch_size // machine.processes)
    return (work.train(rows * length, length) + rows * length * work.head * 3) / slower(machine, task)
