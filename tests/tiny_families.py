"""Every decoder of the installed Transformers at a tiny size, taken through reward training and two PPO
updates and held against plain Transformers."""

import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from redline.data.records import Edit, Prompt
from redline.data.tokenization import load_tokenizer
from redline.engine.batching import pad
from redline.engine.models import load_causal_lm
from redline.engine.settings import Adapt, Model, Optimizer
from redline.engine.trunk import LowerStates
from redline.errors import UserError
from redline.label.stage import label_edits
from redline.policy.actor import ActorCritic, rescore
from redline.policy.settings import Policy
from redline.policy.train import train_policy
from redline.reward.model import load_reward_model
from redline.reward.settings import Reward, RewardTerm
from redline.reward.train import train_reward
from redline.sampling.settings import Sampling
from tiny_models import sampled
from tiny_tokenizers import byte_bpe

VOCABULARY = 501
LAYERS = 4
WINDOW = 16  # tokens of a sliding window, shorter than the prompts
SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embed_dim", "embedding_size"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "d_ff", "ffn_hidden_size", "d_inner"), 48),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim", "dim_ff", "dff", "shared_intermediate_size"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 24),
    **dict.fromkeys(("intermediate_size_mlp", "expert_ffn_hidden_size", "ffn_size"), 24),
    **dict.fromkeys(("moe_shared_expert_intermediate_size", "mlp_hidden_size"), 24),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), LAYERS),
    **dict.fromkeys(("encoder_layers", "num_decoder_layers", "num_encoder_layers", "num_blocks"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "decoder_attention_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "num_decoder_attention_heads"), 4),
    **dict.fromkeys(("num_encoder_attention_heads",), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "multi_query_group_num"), 2),
    **dict.fromkeys(("head_dim", "attention_head_dim", "qk_rope_head_dim", "qk_nope_head_dim"), 8),
    **dict.fromkeys(("v_head_dim", "dim_head", "kv_channels", "rotary_dim"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 6),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "num_experts_per_token"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "num_shared_experts"), 1),
    **dict.fromkeys(("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index"), 1),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 256),
    **dict.fromkeys(("max_target_positions", "max_source_positions", "context_length"), 256),
    **dict.fromkeys(("sliding_window", "attention_chunk_size", "window_size", "local_window"), WINDOW),
    **dict.fromkeys(("state_size", "mamba_d_state", "ssm_state_size", "mamba_state_dim"), 8),
    **dict.fromkeys(("linear_num_key_heads",), 2),
    **dict.fromkeys(("linear_num_value_heads",), 4),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("vocab_size", "decoder_vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    "logits_scaling": 4.0,
    "logit_scale": 0.25,
    "hidden_size_per_layer_input": 8,
    "index_topk": WINDOW,
    "index_n_heads": 2,
    "index_head_dim": 16,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
SPECIAL: dict[str, dict[str, Any]] = {  # what a family needs beside the rules above
    "bamba": {**MAMBA, "attn_layer_indices": [1, 3]},
    "cohere_compass_text": {"rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE}},
    "dbrx": {
        "attn_config": {"rope_theta": 10000.0, "kv_n_heads": 2, "clip_qkv": 8.0},
        "ffn_config": {"moe_num_experts": 4, "moe_top_k": 2, "ffn_hidden_size": 48},
    },
    "deepseek_v2": {"num_experts_per_tok": 2, "topk_method": "greedy"},
    "dots1": {
        "n_routed_experts": 6,
        "moe_intermediate_size": 24,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
    },
    "falcon_h1": {**MAMBA, "mamba_d_ssm": 64},
    "gemma3n_text": {"num_kv_shared_layers": 0, "laurel_rank": 8},
    "gemma4_unified_assistant": {"num_kv_shared_layers": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {**MAMBA, "layer_types": ["mamba", "attention"] * 2},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1},
    "ministral": {"head_dim": 8},
    "moshi": {"audio_vocab_size": 64},
    "nemotron": {"num_key_value_heads": 2},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_compress_ratio": 4,
        "indexer_budget": WINDOW,
    },
    "reformer": {"is_decoder": True, "axial_pos_shape": [16, 16], "axial_pos_embds_dim": [16, 16]},
    "zamba": {
        "layers_block_type": ["linear_attention", "linear_attention", "hybrid", "linear_attention"],
        "n_mamba_heads": 2,
        "mamba_dt_rank": 4,
    },
    "zamba2": {**MAMBA, "layers_block_type": ["mamba", "hybrid"] * 2, "mamba_ngroups": 1},
    "zaya": {"num_experts_per_tok": 1},
}
TEXTS = ["the film was", "I liked it and", "why did they do it at all", "this is a good book and the actors"]


def tiny_config(family: str) -> Any:
    """The configuration of a family at a tiny size, by its own defaults and the rules above."""
    from transformers import CONFIG_MAPPING

    return _tiny(CONFIG_MAPPING[family], SPECIAL.get(family, {}))


def _tiny(kind: Any, special: dict[str, Any]) -> Any:
    default = kind()
    values = default.to_dict()
    names = {getattr(kind, "attribute_map", {}).get(name, name): value for name, value in SIZES.items()}
    changes = {
        name: value
        for name, value in names.items()
        if name in values and (values[name] is not None or name.endswith("token_id"))
    }
    for name in changes.keys() & {"num_key_value_heads", "num_kv_heads"}:
        if values[name] == values.get("num_attention_heads"):
            changes[name] = 4  # every head has its own
    for name in getattr(kind, "sub_configs", None) or {}:
        part = getattr(default, name, None)
        if hasattr(part, "to_dict"):
            changes[name] = _tiny(type(part), special.get(name, {})).to_dict()
    for name, value in values.items():
        if "layer_types" in name and isinstance(value, list) and value:
            changes[name] = _few(value)
    parts = changes.keys() & set(getattr(kind, "sub_configs", None) or {})
    return kind(**changes | {name: value for name, value in special.items() if name not in parts})


def _few(kinds: list[str]) -> list[str]:
    """``LAYERS`` of a model's kinds of layers, every kind among them."""
    different = list(dict.fromkeys(kinds))
    return [different[place % len(different)] for place in range(LAYERS)]


def tiny_model(family: str) -> Any:
    """A model of a family with random weights that vary enough for log-probabilities to mean something."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_config(tiny_config(family))
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if isinstance(module, nn.Embedding):
                nn.init.normal_(parameter, std=0.3)
            elif (
                isinstance(module, nn.Linear) or "expert" in type(module).__name__.lower()
            ) and parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.15)
    return model.eval().requires_grad_(False)


def write_family(family: str, folder: Path) -> None:
    """A tiny model of a family as people bring it: a folder with weights and a tokenizer."""
    model = tiny_model(family)
    model.generation_config.eos_token_id = 1
    model.save_pretrained(folder)
    byte_bpe().save_pretrained(folder)


def edits(count: int) -> list[Edit]:
    """Edits of one word, each after a prompt of its own length."""
    return [
        Edit(
            id=str(number),
            prompt=f"{TEXTS[number % 4]} {'very ' * (number % 7)}{number}",
            rejected=" bad and unfair",
            edited=" good and fair",
            editor="test",
        )
        for number in range(count)
    ]


def try_family(family: str, folder: Path) -> dict[str, Any]:
    """One line of the table: how a family's policy and reward model run, how far they are off, or why not."""
    start = time.monotonic()
    result: dict[str, Any] = {"family": family}
    try:
        write_family(family, folder / "model")
    except Exception as error:
        return result | {"policy": "not built", "message": f"{type(error).__name__}: {error}"[:400]}
    model = Model(name=str(folder / "model"), dtype="float32")
    for stage, run in (("reward", _reward), ("policy", _policy)):
        try:
            result |= run(model, folder)
        except UserError as error:
            result |= {
                stage: "refused",
                f"{stage}_message": str(error).replace(str(folder / "model"), family),
            }
        except Exception as error:
            result |= {stage: "error", f"{stage}_message": _where(error)}
    try:
        result["own_generate_off"] = _own(folder / "model")
    except Exception as error:
        result["own_generate_off"] = _where(error)
    return result | {"seconds": round(time.monotonic() - start, 1)}


def _where(error: Exception) -> str:
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    last = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames][-5:]
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]} ({' '.join(last)})"


def _reward(model: Model, folder: Path) -> dict[str, Any]:
    """Train token rewards; how far they are from plain Transformers' on rows of unequal length."""
    labels = list(label_edits(edits(12), load_tokenizer(model.name)))
    adapt = Adapt(lora_rank=4, train_layers=LAYERS // 2)
    how = Reward(adapt=adapt, epochs=1, batch_size=4, optimizer=Optimizer(lr=0.01, head_lr=0.05))
    train_reward(how, model, labels[:8], labels[8:], folder / "reward")
    reward = load_reward_model(str(folder / "reward"))
    rows = _rows()
    ours = reward.rewards(rows, [len(row) // 2 for row in rows])
    plain = plain_rewards(folder / "reward", rows)
    off = max(
        float((a - b[len(row) // 2 :]).abs().max()) for a, b, row in zip(ours, plain, rows, strict=True)
    )
    return {"reward": "view" if reward.split.cut else "whole", "reward_off": round(off, 5)}


@torch.no_grad()
def plain_rewards(folder: Path, rows: list[torch.Tensor]) -> list[torch.Tensor]:
    """p(positive) - p(negative) of every token ``[T_i]`` by plain Transformers, each row alone."""
    from safetensors import safe_open
    from transformers import AutoModel

    base = AutoModel.from_pretrained(folder)
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = list(file.keys())
        heads = [name for name in names if name.startswith(("score.", "classifier."))]
        weight, *bias = (file.get_tensor(name).float() for name in sorted(heads, reverse=True))
    rewards = []
    for row in rows:
        hidden = base(input_ids=row[None]).last_hidden_state[0].float()
        odds = nn.functional.linear(hidden, weight, *bias).softmax(-1)
        rewards.append(odds[:, -1] - odds[:, 0])
    return rewards


def _rows() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(5, 480, (size,), generator=generator) for size in (3 * WINDOW, 7, WINDOW + 5)]


def _policy(model: Model, folder: Path) -> dict[str, Any]:
    """Two PPO updates; how far the log-probabilities of sampler and view are from plain ones."""
    reward = folder / "reward"
    terms = [RewardTerm(function=f"{__file__}:length")]
    if (reward / "metrics.json").exists():
        terms.append(RewardTerm(model=str(reward)))
    adapt = Adapt(lora_rank=4, train_layers=LAYERS // 2)
    recipe = Policy(
        reward=terms,
        updates=2,
        batch_size=4,
        minibatch_size=4,
        epochs=2,
        adapt=adapt,
        sampling=Sampling(max_new_tokens=8),
        optimizer=Optimizer(lr=0.01, head_lr=0.01),
    )
    prompts = [Prompt(id=edit.id, prompt=str(edit.prompt)) for edit in edits(8)]
    summary = train_policy(recipe, model, prompts, folder / "policy")
    policy = Model(name=str(folder / "policy"), dtype="float32")
    lm = load_causal_lm(policy)
    rows = [row.tolist() for row in _rows()]
    rollout = sampled(lm, rows, Sampling(max_new_tokens=12, temperature=1.0, top_p=1.0), [1], 5)
    plain = plain_logprobs(folder / "policy", rollout.sequences, [len(row) for row in rows])
    actor = ActorCritic(policy, adapt)
    if actor.split.cut:
        entering = actor.split.lower(pad(rollout.sequences))
        rollout.states = LowerStates([actor.split.cut], len(rows))
        for place, (states, ids) in enumerate(zip(entering, rollout.sequences, strict=True)):
            rollout.states.put(actor.split.cut, place, states[: len(ids)])
    again = rescore(actor, rollout, 1.0, 4096).logprobs
    adapter = _adapter_off(model, folder / "policy", rollout.sequences[0])
    return {
        "policy": "view" if actor.split.cut else "whole",
        "sampler_off": _off(rollout.logprobs, plain),
        "view_off": _off(again, plain),
        "adapter_off": adapter,
        "drift": round(summary.metrics["sampler_drift_max"] or 0.0, 5),
    }


def length(prompts: list[str], responses: list[str]) -> list[float]:
    """A reward that differs between responses."""
    return [len(response) / 10 for response in responses]


def _off(ours: list[torch.Tensor], plain: list[torch.Tensor]) -> float:
    return round(max(float((a - b).abs().max()) for a, b in zip(ours, plain, strict=True)), 5)


@torch.no_grad()
def plain_logprobs(folder: Path, rows: list[torch.Tensor], prompts: list[int]) -> list[torch.Tensor]:
    """Log-probabilities of every response token by plain Transformers, each row alone, in one pass."""
    from transformers import AutoModelForCausalLM

    lm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = []
    for row, size in zip(rows, prompts, strict=True):
        logits = lm(input_ids=row[None]).logits[0, size - 1 : -1].float()
        found.append(logits.log_softmax(-1).gather(1, row[size:, None])[:, 0])
    return found


@torch.no_grad()
def _adapter_off(model: Model, policy: Path, row: torch.Tensor) -> float:
    """How far the adapter on the model it was trained on is from the merged policy, in logits."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model.name, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, str(policy / "adapter")).eval()
    merged = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32)
    one, other = (lm(input_ids=row[None]).logits.log_softmax(-1) for lm in (adapted, merged))
    return round(float((one - other).abs().max()), 5)


@torch.no_grad()
def _own(folder: Path) -> float:
    """How far the family's own ``generate``, on prompts padded on the left, is from its own single pass."""
    from transformers import AutoModelForCausalLM

    lm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows = _rows()
    width = max(len(row) for row in rows)
    ids = torch.stack([nn.functional.pad(row, (width - len(row), 0)) for row in rows])
    mask = torch.stack([nn.functional.pad(torch.ones_like(row), (width - len(row), 0)) for row in rows])
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    out = lm.generate(
        ids,
        attention_mask=mask,
        output_logits=True,
        return_dict_in_generate=True,
        eos_token_id=None,
        **options,
    )
    off = 0.0
    for place, row in enumerate(rows):
        response = out.sequences[place, width:]
        whole = torch.cat([row, response])
        logits = lm(input_ids=whole[None]).logits[0, len(row) - 1 : -1].log_softmax(-1)
        own = torch.stack([step[place] for step in out.logits]).log_softmax(-1)
        picked = response[:, None]
        off = max(off, float((logits.gather(1, picked) - own.gather(1, picked)).abs().max()))
    return round(off, 5)
