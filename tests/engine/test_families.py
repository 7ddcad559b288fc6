"""Families of models that compute in their own way: they give what Transformers gives, or one line says that
they cannot."""

import pytest
import torch
from transformers import (
    DeepseekV3Config,
    DistilBertConfig,
    DistilBertModel,
    GPTNeoConfig,
    Lfm2Config,
    ModernBertDecoderConfig,
    Qwen3_5TextConfig,
    Qwen3MoeConfig,
    RwkvConfig,
)

from redline.data.records import Edit
from redline.direct.rows import edit_rows
from redline.engine.models import eos_ids
from redline.engine.settings import Adapt, Model
from redline.engine.views import Split
from redline.engine.whole_pass import response_logprobs
from redline.errors import UserError
from redline.label.stage import label_edits
from redline.policy.actor import ActorCritic
from redline.reward.model import new_reward_model
from redline.reward.settings import Reward
from redline.sampling.check import check_sampling
from redline.sampling.settings import Sampling
from tiny_families import try_family, write_family
from tiny_models import CONFIGS, GROUPED, SIZES, model_folder, random_model, sampled
from tiny_tokenizers import byte_bpe

MLA = SIZES | {
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 12,
    "moe_intermediate_size": 24,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
}
SAMPLED = {
    "convolution": Lfm2Config(**GROUPED, layer_types=["conv", "full_attention"] * 2),
    "linear attention": Qwen3_5TextConfig(
        **GROUPED,
        head_dim=8,
        layer_types=["linear_attention", "full_attention"] * 2,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
    ),
    "latent attention": DeepseekV3Config(**MLA),
    "experts": Qwen3MoeConfig(
        **GROUPED, head_dim=8, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=24
    ),
}


@pytest.mark.parametrize("config", SAMPLED.values(), ids=SAMPLED)
def test_sampling_is_one_pass_where_rows_end_at_different_times(config):
    model = random_model(config)
    check_sampling(model)
    rollout = sampled(
        model, [[5, 6, 7], [8], [9, 10]], Sampling(max_new_tokens=12), list(range(1, 60)), seed=1
    )
    assert len(set(rollout.sizes)) > 1
    for stepwise, whole in zip(rollout.logprobs, response_logprobs(model, rollout, 1.0), strict=True):
        torch.testing.assert_close(stepwise, whole, atol=2e-3, rtol=0)


def test_a_model_that_keeps_its_past_in_another_way_is_refused():
    model = random_model(
        RwkvConfig(
            hidden_size=32,
            num_hidden_layers=4,
            vocab_size=501,
            attention_hidden_size=32,
            bos_token_id=0,
            eos_token_id=1,
        )
    )
    with pytest.raises(UserError, match="gives other probabilities a token at a time"):
        check_sampling(model)


def test_a_window_that_the_configuration_does_not_name_forks_no_rows():
    """GPT-Neo's local attention counts places, of which a row with two branches has more than positions."""
    model = random_model(
        GPTNeoConfig(
            hidden_size=32,
            num_layers=4,
            attention_types=[[["global", "local"], 2]],
            num_heads=4,
            vocab_size=501,
            window_size=64,
            max_position_embeddings=512,
            bos_token_id=0,
            eos_token_id=1,
        )
    )
    assert Split(model, 2).can_fork(30)
    assert not Split(model, 2).can_fork(200)


@pytest.mark.parametrize("kind", ["token", "sequence"])
def test_a_reward_by_experts_is_cut_and_does_not_depend_on_its_neighbours(tmp_path, kind):
    config = type(SAMPLED["experts"])(**SAMPLED["experts"].to_dict() | {"pad_token_id": None})
    folder = model_folder(tmp_path, config)
    how = Reward(kind=kind, adapt=Adapt(lora_rank=4, train_layers=2))
    reward, _ = new_reward_model(how, Model(name=folder, dtype="float32"))
    torch.nn.init.normal_(reward.head.weight, generator=torch.Generator().manual_seed(0))
    assert reward.causal
    assert reward.split.cut == 2
    long, short = (
        torch.randint(2, 500, (size,), generator=torch.Generator().manual_seed(size)) for size in (30, 11)
    )
    [alone] = reward.rewards([short], [4])
    torch.testing.assert_close(reward.rewards([long, short], [10, 4])[1], alone, atol=1e-4, rtol=1e-4)


def test_a_head_that_is_not_linear_is_refused(tmp_path):
    folder = model_folder(tmp_path, ModernBertDecoderConfig(**SIZES))
    with pytest.raises(UserError, match="does more to its last states than a linear head"):
        new_reward_model(
            Reward(kind="sequence", adapt=Adapt(lora_rank=4)), Model(name=folder, dtype="float32")
        )


def test_new_layers_before_the_head_are_trained_too(tmp_path):
    config = DistilBertConfig(
        dim=32, hidden_dim=48, n_layers=2, n_heads=4, vocab_size=501, max_position_embeddings=64
    )
    DistilBertModel(config).save_pretrained(tmp_path)
    byte_bpe().save_pretrained(tmp_path)
    reward, _ = new_reward_model(
        Reward(kind="sequence", adapt=Adapt(lora_rank=4)), Model(name=str(tmp_path), dtype="bfloat16")
    )
    trained = {
        name: parameter.dtype
        for name, parameter in reward.model.named_parameters()
        if parameter.requires_grad and "lora_" not in name
    }
    assert set(trained) == {
        "pre_classifier.weight",
        "pre_classifier.bias",
        "classifier.weight",
        "classifier.bias",
    }
    assert set(trained.values()) == {torch.float32}
    assert reward.rewards([torch.arange(5, 12)], [2])[0].isfinite().all()


def test_dropout_stays_off_while_a_policy_is_trained(tmp_path):
    actor = ActorCritic(Model(name=model_folder(tmp_path, CONFIGS["gpt2"])), Adapt(lora_rank=4), critic="own")
    assert actor.lm.config.resid_pdrop > 0
    actor.train()
    assert not any(module.training for part in (actor.lm, actor.critic) for module in part.modules())


def test_what_closes_a_turn_ends_a_response(tmp_path):
    """As with base models that have a chat template: end-of-text is the tokenizer's, the template closes
    turns with another."""
    lm, tokenizer = random_model(CONFIGS["llama"]), byte_bpe()
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end != tokenizer.eos_token_id
    assert eos_ids(lm, tokenizer, ["text", [{"role": "user", "content": "a"}]]) == sorted(
        {end, tokenizer.eos_token_id}
    )
    assert eos_ids(lm, tokenizer, ["text"]) == [tokenizer.eos_token_id]
    for prompt, last in (
        ([{"role": "user", "content": "the film"}], end),
        ("the film was", tokenizer.eos_token_id),
    ):
        edit = Edit(id="1", prompt=prompt, rejected=" bad", edited=" good", editor="test")
        [record] = label_edits([edit], tokenizer)
        [rows] = edit_rows([record], tokenizer, 100)
        assert [rows.edited[-1], rows.rejected[-1]] == [last, last]


@pytest.mark.parametrize(
    ("family", "policy", "reward"),
    [
        ("bailing_hybrid", "view", "view"),  # its checkpoints name the embedding in another way
        ("cohere2", "view", "view"),  # scales its logits, parallel blocks, windows
        ("deepseek_v3", "view", "view"),  # latent attention, shared experts
        ("falcon_h1", "view", "view"),  # buffers that are made when weights are loaded
        ("gemma3_text", "view", "view"),  # windows of local attention
        ("gpt_oss", "view", "view"),  # sinks, experts with biases
        ("granitemoehybrid", "view", "view"),  # state space layers, attention and experts
        ("llama4_text", "view", "view"),  # a backbone by another name, chunked attention
        ("longcat_flash", "whole", "whole"),  # two attentions a layer
        ("deepseek_v32", "refused", None),  # keys chosen by an index
    ],
)
def test_a_family_is_right_or_refused_in_one_line(family, policy, reward, tmp_path):
    result = try_family(family, tmp_path)
    assert result["policy"] == policy, result
    if reward is not None:
        assert result["reward"] == reward, result
        offs = {name: result[name] for name in ("reward_off", "sampler_off", "view_off", "adapter_off")}
        assert max(offs.values()) <= 0.02, offs
    else:
        assert "\n" not in result["policy_message"]


def test_a_reward_model_that_takes_padding_for_text_is_refused(tmp_path):
    """CPM-Ant reads both ways, and its padding on the right as part of the row, whatever the mask says."""
    write_family("cpmant", tmp_path)
    with pytest.raises(UserError, match="otherwise where others or padding follow"):
        new_reward_model(Reward(adapt=Adapt(lora_rank=4)), Model(name=str(tmp_path), dtype="float32"))
