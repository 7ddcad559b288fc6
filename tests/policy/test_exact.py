"""The engine is exact: it equals a plain loop in float64, whatever the padding, the packing and the order of
rows."""

from dataclasses import replace

import engine_rig
import pytest
import torch
from accelerate import Accelerator
from engine_rig import ADAPTS, Rig, Twin, assert_equal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference_loop import Sampled, score_at_the_end

from redline.data.records import Prompt
from redline.engine.batching import minibatches
from redline.engine.batching import pad as plain_pad
from redline.engine.settings import Adapt, Model, Optimizer
from redline.policy.advantages import gae, token_kl
from redline.policy.loss import OldTokens, ppo_loss
from redline.policy.settings import Kl
from redline.policy.train import build_ppo
from redline.reward.settings import RewardTerm
from redline.sampling.settings import Sampling
from tiny_models import CONFIGS, model_folder, random_model, sampled

PROPERTY = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
EOS = 1
COUNT = "def f(prompts, responses):\n    return [float(text.count('a')) for text in responses]\n"


@pytest.fixture(scope="module", params=ADAPTS)
def rig(request, model, tmp_path_factory) -> Rig:
    return Rig(
        model,
        engine_rig.recipe(ADAPTS[request.param], clip=0.1, value_clip=0.05),
    )


@st.composite
def batches(draw) -> list[Sampled]:
    """Prompts and responses of all lengths, some with an end and some cut off, with dense rewards."""
    rows = draw(
        st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9), st.booleans()), min_size=1, max_size=5)
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    batch = []
    for prompt_size, size, ended in [
        *rows,
        (2, 3, True),
    ]:  # the last one, so that there is something to learn from
        response = torch.randint(2, 500, (size,), generator=generator)
        ended = ended and size > 0
        if ended:
            response[-1] = EOS
        batch.append(
            Sampled(
                torch.randint(2, 500, (prompt_size,), generator=generator),
                response,
                torch.randn(size, generator=generator),
                ended,
            )
        )
    return batch


def padding(extra: int, seed: int):
    """A ``pad`` that pads further than need be, with garbage; masks stay masks."""
    generator = torch.Generator().manual_seed(seed)

    def pad(rows, value=0):
        padded = plain_pad(rows, value)
        wide = torch.cat([padded, padded.new_zeros(len(rows), extra, *padded.shape[2:])], dim=1)
        if wide.dtype == torch.bool:
            return wide
        outside = torch.arange(wide.shape[1])[None] >= torch.tensor([len(row) for row in rows])[:, None]
        garbage = torch.randint(2, 500, wide.shape, generator=generator).to(wide.dtype)
        return torch.where(outside.reshape(*outside.shape, *[1] * (wide.ndim - 2)), garbage, wide)

    return pad


@PROPERTY
@given(batch=batches(), budget=st.sampled_from([1, 20, 45, 4096]), extra=st.integers(0, 5), data=st.data())
def test_an_update_equals_the_plain_loop_whatever_padding_packing_and_order(
    rig, monkeypatch, batch, budget, extra, data
):
    """Loss, gradients of both optimizer steps, advantages, returns, KL and all logged means. The second epoch
    clips."""
    order = data.draw(st.permutations(range(len(batch))))
    shuffled = [batch[row] for row in order]
    metrics, result = rig.update(monkeypatch, shuffled, padding(extra, 7), microbatch_tokens=budget)
    rig_after = {name: parameter.detach().clone() for name, parameter in rig.trained.items()}
    rig.restart()
    twin = Twin(rig, engine_rig.settings(rig.recipe))
    seen = twin.watched(batch, [list(range(len(batch)))] * 2)
    assert_equal(rig, metrics, twin, seen)
    for name, parameter in twin.named.items():
        torch.testing.assert_close(rig_after[name].double(), parameter, rtol=1e-3, atol=1e-4)
    for place, row in enumerate(order):
        for name in ("kl", "values", "advantages"):
            torch.testing.assert_close(
                result.rows(getattr(result, name))[place].double(),
                seen.columns[name][row],
                rtol=1e-3,
                atol=1e-4,
            )


def test_the_critic_may_learn_the_plain_sums_of_what_follows(rig, monkeypatch):
    """With a lambda of 1 of its own; the policy's advantages keep theirs."""
    batch = [
        Sampled(
            torch.tensor([5, 6, 7]), torch.tensor([8, 9, 10, EOS]), torch.tensor([0.3, -1.0, 0.5, 2.0]), True
        ),
        Sampled(torch.tensor([5]), torch.tensor([11, 12]), torch.tensor([1.0, -0.2])),
    ]
    metrics, _ = rig.update(monkeypatch, batch, gae_lambda=0.5, value_lambda=1.0)
    rig.restart()
    twin = Twin(rig, replace(engine_rig.settings(rig.recipe), lam=0.5))
    twin.unbiased_returns = True
    assert_equal(rig, metrics, twin, twin.watched(batch, [[0, 1]] * 2))


@PROPERTY
@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    longest=st.integers(8, 20),
    seed=st.integers(0, 2**31),
)
def test_sampling_does_not_depend_on_left_padding_nor_on_what_lies_there(sizes, longest, seed):
    """A long prompt beside them pads the others on the left, with a token whose embedding is garbage."""
    lm = random_model(CONFIGS["llama"])
    with torch.no_grad():
        lm.get_input_embeddings().weight[0] = 100.0
    generator = torch.Generator().manual_seed(seed)
    prompts = [torch.randint(2, 500, (size,), generator=generator).tolist() for size in [*sizes, longest]]
    how, ends = Sampling(max_new_tokens=8, temperature=0.8, top_p=0.95), list(range(100, 140))
    wide, narrow = (
        sampled(lm, prompts, how, ends, seed, keep={2}),
        sampled(lm, prompts[:-1], how, ends, seed, keep={2}),
    )
    exact = random_model(CONFIGS["llama"]).double()
    exact.load_state_dict(lm.state_dict())
    for row, ids in enumerate(narrow.response_ids):
        assert wide.response_ids[row].tolist() == ids.tolist()
        assert wide.ended[row] == narrow.ended[row]
        torch.testing.assert_close(wide.logprobs[row], narrow.logprobs[row], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(wide.states.at(2)[row], narrow.states.at(2)[row], rtol=1e-3, atol=1e-3)
        sequence = torch.cat([narrow.prompt_ids[row], ids])
        with torch.no_grad():
            logits = (
                exact(input_ids=sequence[None]).logits[0, len(narrow.prompt_ids[row]) - 1 : -1]
                / how.temperature
            )
        wanted = logits.log_softmax(-1)[torch.arange(len(ids)), ids]
        torch.testing.assert_close(narrow.logprobs[row].double(), wanted, rtol=1e-4, atol=1e-4)


def test_the_penalised_reward_has_the_exact_gradient():
    """All 9 sequences of a policy of 3 tokens and 2 steps: PPO's first step on ``reward - beta k1``, with GAE
    and a critic that is wrong, has the gradient of ``E[reward] - beta KL``. The KL is not in the loss, so no
    estimator's own gradient matters."""
    generator = torch.Generator().manual_seed(2)
    first, second, base, other, reward, wrong = (
        torch.randn(*shape, generator=generator, dtype=torch.double)
        for shape in ((3,), (3, 3), (3,), (3, 3), (3, 3), (4,))
    )
    first.requires_grad_(True)
    second.requires_grad_(True)

    def logprobs(one, two):  # [3, 3, 2]: of both tokens of every sequence
        return torch.stack([one.log_softmax(-1)[:, None].expand(3, 3), two.log_softmax(-1)], dim=-1)

    policy, reference = logprobs(first, second), logprobs(base, other)
    chance, log_ratio = policy.sum(-1).exp(), policy.sum(-1) - reference.sum(-1)
    exact = torch.autograd.grad((chance * (reward - 0.3 * log_ratio)).sum(), [first, second])

    flat, old = logprobs(first, second).reshape(9, 2), policy.detach().reshape(9, 2)
    rewards = -0.3 * token_kl(old, reference.reshape(9, 2))
    rewards[:, 1] += reward.reshape(9)
    values = torch.stack(
        [wrong[:1].expand(9), wrong[1:].repeat_interleave(3)], dim=1
    )  # of the states: start, first token
    advantages, _ = gae(rewards, values, torch.ones(9, 2, dtype=torch.bool), 1.0, 1.0)
    weighted = advantages * chance.detach().reshape(9, 1)
    zeros = torch.zeros(18, dtype=torch.double)
    known = OldTokens(old.flatten(), weighted.flatten(), zeros, zeros)
    loss = ppo_loss(flat.flatten(), zeros, known, 0.2, 0.2).policy_loss
    for found, wanted in zip(torch.autograd.grad(loss, [first, second]), exact, strict=True):
        torch.testing.assert_close(-found, wanted)


def test_the_penalty_is_k1_whatever_estimator_is_logged(model, monkeypatch, tmp_path):
    batch = [
        Sampled(torch.tensor([5, 6]), torch.tensor([7, 8, 9, EOS]), torch.tensor([0.0, 0.0, 0.0, 1.0]), True)
    ]
    seen = {}
    for estimator in ("k1", "k2", "k3"):
        how = engine_rig.recipe(ADAPTS["LoRA"], kl=Kl(target=None, coefficient=0.5, estimator=estimator))
        seen[estimator] = Rig(model, how, spread=0.3).update(monkeypatch, batch)
    assert len({round(metrics["kl"], 5) for metrics, _ in seen.values()}) == 3
    for estimator in ("k2", "k3"):
        torch.testing.assert_close(seen["k1"][1].advantages, seen[estimator][1].advantages)


def test_gradients_of_the_clipped_losses_by_hand():
    old = torch.log(torch.tensor([0.5, 0.5, 0.5, 0.5]))
    new = torch.log(torch.tensor([0.75, 0.75, 0.25, 0.25])).requires_grad_(True)  # ratios 1.5, 1.5, 0.5, 0.5
    values = torch.tensor([1.0, 0.1, 0.0, 0.5], requires_grad=True)
    advantages, returns = torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.tensor([2.0, 0.0, 0.0, 0.2])
    parts = ppo_loss(new, values, OldTokens(old, advantages, torch.zeros(4), returns), 0.2, 0.2)
    (parts.policy_loss + parts.value_loss).backward()
    assert new.grad.tolist() == pytest.approx([0, 1.5, -0.5, 0])  # -A r where it is not clipped
    assert values.grad.tolist() == pytest.approx(
        [0, 0.1, 0, 0.3]
    )  # v - R; nothing once v left its range on the wrong side


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize(
    "adapt",
    [
        Adapt(lora_rank=4),
        Adapt(lora_rank=4, train_layers=2),
        Adapt(lora_rank=0),
        Adapt(lora_rank=0, train_layers=2),
    ],
)
def test_the_first_epochs_ratio_is_one_with_temperature_top_p_and_top_k(tmp_path, family, adapt):
    """Every token's re-scored log-probability is the sampler's, in every update: also once the policy has
    left its reference. The monitors say so at run time."""
    model = Model(name=model_folder(tmp_path / "model", CONFIGS[family]), dtype="float32")
    (tmp_path / "r.py").write_text(COUNT)
    how = engine_rig.recipe(
        adapt,
        reward=[RewardTerm(function=f"{tmp_path}/r.py:f")],
        batch_size=8,
        minibatch_size=4,
        sampling=Sampling(max_new_tokens=10, temperature=0.7, top_p=0.9, top_k=30),
        optimizer=Optimizer(lr=0.003, warmup=0),
    )
    prompts = [Prompt(id=text, prompt=text) for text in ("the film was", "I", "very much a")]
    trainer = build_ppo(how, model, prompts, Accelerator())
    for step in range(3):
        metrics, batch = trainer.update(step)
        assert metrics["first_ratio_error"] < 1e-4
        assert metrics["sampler_drift_max"] < 1e-4
        for new, old in zip(batch.rows(batch.logprobs), batch.rollout.logprobs, strict=True):
            assert (new - old).abs().max() < 1e-4
    assert metrics["kl"] > 1e-3


@pytest.mark.parametrize("adapt", ["LoRA", "LoRA, upper layers", "full"])
def test_a_sequence_reward_is_ordinary_ppo(model, tmp_path, adapt):
    """Parameters after 3 updates are those of the plain loop in float32, which knows a score at the last
    token and nothing else."""
    (tmp_path / "r.py").write_text(COUNT)
    prompts = ["the film was", "I liked", "this is a", "why", "not good at all"]
    how = engine_rig.recipe(
        ADAPTS[adapt],
        reward=[RewardTerm(function=f"{tmp_path}/r.py:f")],
        batch_size=8,
        minibatch_size=4,
        epochs=2,
        clip=0.1,
        value_clip=0.1,
        sampling=Sampling(max_new_tokens=10, temperature=0.8),
        optimizer=Optimizer(lr=0.003, head_lr=0.01, warmup=0.3, decay="linear", max_grad_norm=0.5),
    )
    rig = Rig(model, how, prompts)
    steps, rising = 3 * 2 * 2, round(0.3 * 12)
    twin = Twin(
        rig,
        engine_rig.settings(how),
        torch.float32,
        lambda step: step / rising if step < rising else (steps - step) / (steps - rising),
    )
    norms = []
    for step in range(3):
        metrics, batch = rig.ppo.update(step)
        norms.append(metrics["grad_norm"])
        rollout = batch.rollout
        scores = [
            float(rig.tokenizer.decode(ids, skip_special_tokens=True).count("a"))
            for ids in rollout.response_ids
        ]
        batch = [
            Sampled(prompt, ids, score_at_the_end(len(ids), score), ended)
            for prompt, ids, score, ended in zip(
                rollout.prompt_ids, rollout.response_ids, scores, rollout.ended, strict=True
            )
        ]
        seen = twin.watched(
            batch, [rows for epoch in range(2) for rows in minibatches(8, 4, 7919 * step, epoch)]
        )
        for name, value in seen.means.items():
            assert metrics[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    assert min(norms) > 0.5, "an update without clipping"
    moved = max((parameter - rig.start[name]).abs().max().item() for name, parameter in rig.trained.items())
    assert moved > 0.005
    for name, parameter in twin.named.items():
        torch.testing.assert_close(rig.trained[name].detach(), parameter.detach(), rtol=0, atol=1e-6)


def test_values_within_the_clip_range_are_not_counted_as_clipped():
    generator = torch.Generator().manual_seed(0)
    old, values = 0.05 * torch.rand(10000, generator=generator), 0.1 * torch.rand(10000, generator=generator)
    zeros, returns = torch.zeros(10000), torch.randn(10000, generator=generator)
    parts = ppo_loss(zeros, values, OldTokens(zeros, zeros, old, returns), clip=0.2, value_clip=0.2)
    assert parts.value_clip_fraction.item() == 0
