"""Tiny models with random weights and a real tokenizer: what the tests of training run on."""

from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from redline.engine.trunk import Trunk
from redline.sampling.local import InProcess
from redline.sampling.protocol import CurrentPolicy, Request
from redline.sampling.rollouts import sample_rollout
from tiny_tokenizers import byte_bpe

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 501,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
GROUPED = SIZES | {"num_key_value_heads": 2}
CONFIGS = {
    "llama": LlamaConfig(**GROUPED),
    "qwen2": Qwen2Config(**GROUPED),
    "qwen3": Qwen3Config(**GROUPED, head_dim=8),
    "gemma": GemmaConfig(**GROUPED, head_dim=8),
    "gemma2": Gemma2Config(**GROUPED, head_dim=8, sliding_window=4),
    "gemma3": Gemma3TextConfig(
        **GROUPED,
        head_dim=8,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    ),
    "gpt2": GPT2Config(n_embd=32, n_layer=4, n_head=4, vocab_size=501, bos_token_id=0, eos_token_id=1),
    "phi": PhiConfig(**SIZES),
    "phi3": Phi3Config(**GROUPED),
}
NO_PLAIN_STACK = OPTConfig(
    hidden_size=32,
    ffn_dim=48,
    num_hidden_layers=4,
    num_attention_heads=4,
    vocab_size=501,
    word_embed_proj_dim=32,
    pad_token_id=0,
    bos_token_id=0,
    eos_token_id=1,
)


def random_model(config: object, spread: float = 0.15) -> PreTrainedModel:
    """A causal model whose logits vary enough for samples and gradients to mean something."""
    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=spread if "embed" not in name and "wte" not in name else 0.3)
    return model.eval().requires_grad_(False)


def model_folder(folder: Path, config: object = CONFIGS["llama"], template: bool = True) -> str:
    """A saved tiny model with the byte-level tokenizer; returns its folder as a name."""
    model = random_model(config)
    model.generation_config.eos_token_id = 1
    model.save_pretrained(folder)
    byte_bpe(**({} if template else {"template": None})).save_pretrained(folder)
    return str(folder)


def trunk(layers=()):
    """A trunk that keeps the states entering some layers."""
    made = Trunk(max([0, *layers]))
    for layer in layers:
        made.keep(layer)
    return made


def sampled(lm, prompts, sampling, stop, seed, keep=(), texts=None):
    """A rollout by the sampler in this process: one response to each prompt (token ids)."""
    sampler, policy = InProcess(), CurrentPolicy(lm, trunk=trunk(keep))
    sampler.sync(policy)
    return sample_rollout(sampler, policy, prompts, Request(sampling, stop, seed), texts=texts)
