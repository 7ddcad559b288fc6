"""REDLINE_PLAIN=1: every fast path is off, and the same policy comes out."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file

from redline.data.records import Prompt
from redline.engine.adapters import FusedLinear, fused
from redline.engine.logprobs import token_logprobs
from redline.engine.models import load_causal_lm
from redline.engine.packed import packed
from redline.engine.settings import Adapt, Model, Optimizer
from redline.engine.views import Split
from redline.policy.actor import ActorCritic
from redline.policy.settings import Kl, Policy
from redline.policy.train import train_policy
from redline.reward.model import load_reward_model, new_reward_model, save_reward_model
from redline.reward.settings import Reward, RewardTerm
from redline.sampling.settings import Sampling
from tiny_models import CONFIGS, model_folder, random_model
from tiny_trainings import TEXTS


@pytest.fixture
def plain(monkeypatch):
    monkeypatch.setenv("REDLINE_PLAIN", "1")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    return Model(name=model_folder(tmp_path_factory.mktemp("model")), dtype="float32")


@pytest.fixture(scope="module")
def reward(tmp_path_factory, model) -> Path:
    """A token reward model on the same backbone, with a head that says something."""
    folder = tmp_path_factory.mktemp("reward")
    made, wrapped = new_reward_model(Reward(adapt=Adapt(lora_rank=4, train_layers=2)), model)
    torch.manual_seed(5)
    torch.nn.init.normal_(made.head.weight)
    save_reward_model(made, wrapped, folder, model.name)
    return folder


def test_each_fast_path_is_off(plain, model, reward):
    lm = load_causal_lm(model)
    assert lm.config._attn_implementation == "sdpa", "attention is PyTorch's"
    actor = ActorCritic(model, Adapt(lora_rank=4, train_layers=2))
    assert not any(isinstance(module, FusedLinear) for module in actor.modules()), "adapters are PEFT's"
    assert fused(LoraConfig(r=2))._custom_modules is None
    assert actor.split.cut == 0
    assert actor.trunk.layers == set(), "no states are kept: passes are whole"
    assert not Split(lm, 2).can_fork(20), "the sides of an edit are read apart"
    assert not load_reward_model(str(reward), actor.lm, actor.trunk).shares
    rounded = random_model(CONFIGS["llama"]).to(torch.bfloat16)
    with packed(rounded, 4):
        assert not any("forward" in module.__dict__ for module in rounded.modules())


@pytest.mark.parametrize("trained_head", [False, True])
@pytest.mark.parametrize("cap", [None, 4.0])
def test_log_probabilities_are_those_of_whole_logits(monkeypatch, trained_head, cap):
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 50, bias=False).requires_grad_(trained_head)
    states, targets, results = torch.randn(9, 16), torch.randint(0, 50, (9,)), []
    for switch in ("0", "1"):
        monkeypatch.setenv("REDLINE_PLAIN", switch)
        hidden = states.clone().requires_grad_(True)
        logprobs, entropies = token_logprobs(hidden, head, targets, 0.7, cap, entropy=True)
        head.weight.grad = None
        (logprobs * torch.arange(9)).sum().backward()
        results.append([logprobs.detach(), entropies, hidden.grad, head.weight.grad])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5) if fast is not None else None


@pytest.mark.parametrize("adapt", [Adapt(lora_rank=4, train_layers=2), Adapt(lora_rank=0, train_layers=2)])
def test_the_same_policy_comes_out(tmp_path, monkeypatch, model, reward, adapt):
    how = Policy(
        reward=[RewardTerm(model=str(reward))],
        updates=2,
        batch_size=8,
        minibatch_size=4,
        adapt=adapt,
        sampling=Sampling(max_new_tokens=10, temperature=0.9, top_p=0.95),
        kl=Kl(target=None, coefficient=0.05),
        optimizer=Optimizer(lr=0.003, warmup=0, eps=1e-3),
    )
    prompts = [Prompt(id=text, prompt=text) for text in TEXTS]
    for name, switch in (("fast", "0"), ("plain", "1")):
        monkeypatch.setenv("REDLINE_PLAIN", switch)
        train_policy(how, model, prompts, tmp_path / name)
    fast, slow = (
        [json.loads(line) for line in (tmp_path / f"{name}/log.jsonl").read_text().splitlines()]
        for name in ("fast", "plain")
    )
    measured = ("seconds", "gb", "drift", "error")
    for one, other in zip(fast, slow, strict=True):
        for name, value in one.items():
            if not any(word in name for word in measured):
                assert value == pytest.approx(other[name], rel=2e-3, abs=2e-4), name
    weights = load_file(tmp_path / "fast/model.safetensors")
    for name, tensor in load_file(tmp_path / "plain/model.safetensors").items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=1e-4)
