"""PPO on a tiny model: it learns, resumes bit for bit, equals a plain loop, and stops on what is not
finite."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from redline.data.records import Prompt
from redline.engine.models import load_causal_lm
from redline.engine.settings import Adapt, Model, Optimizer
from redline.errors import UserError
from redline.policy.ppo import Ppo
from redline.policy.settings import Kl, Policy
from redline.policy.train import build_ppo, train_policy
from redline.reward.settings import RewardTerm
from redline.sampling.settings import Sampling
from tiny_models import model_folder

REWARDS = '''
def vowels(prompts, responses):
    """A reward for each a of the response: dense, by character spans."""
    return [[(i, i + 1, 1.0) for i, letter in enumerate(text) if letter in "ae"] for text in responses]

def count(prompts, responses):
    return [float(sum(letter in "ae" for letter in text)) for text in responses]

def broken(prompts, responses):
    return [float("nan")] * len(responses)

def short(prompts, responses):
    return [1.0]

class Generate:
    """Greedy responses by Transformers' own generate."""

    def sync(self, policy):
        self.lm = policy.lm

    def sample(self, prompts, n, request):
        import torch
        ids = []
        for prompt in prompts:
            whole = self.lm.generate(
                torch.tensor([prompt]), do_sample=False, max_new_tokens=request.sampling.max_new_tokens
            )
            ids.append(whole[0, len(prompt):].tolist())
        return ids, None
'''
PROMPTS = [
    Prompt(id=str(index), prompt=text)
    for index, text in enumerate(
        [
            "the film was",
            "I liked",
            "this is a",
            "why did they",
            "not good",
            "very much",
            "a book",
            "the actors were",
        ]
    )
]


@pytest.fixture(scope="module")
def rewards(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("rewards") / "rewards.py"
    path.write_text(REWARDS)
    return path


def recipe(rewards: Path, function: str = "vowels", **changes) -> Policy:
    return Policy(
        **{
            "reward": [RewardTerm(function=f"{rewards}:{function}")],
            "updates": 4,
            "batch_size": 8,
            "minibatch_size": 4,
            "epochs": 2,
            "adapt": Adapt(lora_rank=4, train_layers=2),
            "sampling": Sampling(max_new_tokens=10),
            "kl": Kl(target=None, coefficient=0.02),
            "optimizer": Optimizer(lr=0.01, warmup=0),
            "no_eos_penalty": 0,
            "checkpoint_every": 1,
            "sample_every": 1,
            **changes,
        }
    )


def weights(folder: Path) -> dict:
    path = folder / "adapter" / "adapter_model.safetensors"
    return load_file(path if path.exists() else folder / "model.safetensors")


def log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "adapt",
    [
        Adapt(lora_rank=4, train_layers=2),
        Adapt(lora_rank=4),
        Adapt(lora_rank=0, train_layers=1),
        Adapt(lora_rank=0),
    ],
)
def test_it_learns_with_every_kind_of_training(tmp_path, model, rewards, adapt):
    """Credit is local here (gamma and lambda near 0), which is what a reward at every token is for: fifteen
    updates suffice."""
    how = recipe(
        rewards,
        updates=15,
        batch_size=32,
        minibatch_size=16,
        gamma=0.01,
        gae_lambda=0,
        adapt=adapt,
        checkpoint_every=15,
        optimizer=Optimizer(lr=0.02 if adapt.lora_rank else 0.005, warmup=0),
        kl=Kl(target=None, coefficient=0),
    )
    train_policy(how, model, PROMPTS, tmp_path)
    lines = log(tmp_path)
    first, last = (sum(line["raw_reward"] for line in part) / 4 for part in (lines[:4], lines[-4:]))
    assert last > first + 0.4
    assert all(line["first_ratio_error"] < 1e-4 for line in lines)
    assert all(line["sampler_drift_max"] < 1e-4 for line in lines)
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-4)  # the reference is the model before training
    assert lines[-1]["kl"] > 0.01
    assert load_causal_lm(Model(name=str(tmp_path), dtype="float32")).config.num_hidden_layers == 4


def test_the_saved_adapter_is_the_trained_policy_for_plain_peft(tmp_path, model, rewards):
    from peft import AutoPeftModelForCausalLM

    train_policy(recipe(rewards), model, PROMPTS, tmp_path)
    plain = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter", dtype=torch.float32).eval()
    merged = load_causal_lm(Model(name=str(tmp_path), dtype="float32"))
    ids = torch.arange(5, 25)[None]
    torch.testing.assert_close(
        plain(input_ids=ids).logits, merged(input_ids=ids).logits, rtol=1e-4, atol=1e-4
    )
    assert not torch.allclose(
        merged(input_ids=ids).logits, load_causal_lm(model)(input_ids=ids).logits, atol=1e-3
    )


def test_other_settings_than_the_checkpoints_are_refused(tmp_path, model, rewards):
    train_policy(recipe(rewards, updates=1), model, PROMPTS, tmp_path)
    with pytest.raises(UserError, match=r"other settings \(.*updates: 1 before, 2 now"):
        train_policy(recipe(rewards, updates=2), model, PROMPTS, tmp_path)


def test_a_damaged_checkpoint_is_passed_over(tmp_path, model, rewards, capsys):
    train_policy(recipe(rewards, updates=2), model, PROMPTS, tmp_path)
    before = weights(tmp_path)
    newest = max((tmp_path / "checkpoints").iterdir())
    (newest / "optimizer.bin").write_bytes((newest / "optimizer.bin").read_bytes()[:100])
    train_policy(recipe(rewards, updates=2), model, PROMPTS, tmp_path)
    assert "damaged checkpoint" in capsys.readouterr().err
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(tmp_path).items())


def test_a_dense_total_on_the_last_token_is_sequence_reward_ppo(tmp_path, model, rewards):
    dense = [RewardTerm(function=f"{rewards}:vowels", spread="last")]
    train_policy(recipe(rewards, reward=dense), model, PROMPTS, tmp_path / "dense")
    train_policy(recipe(rewards, "count"), model, PROMPTS, tmp_path / "sequence")
    one, other = weights(tmp_path / "dense"), weights(tmp_path / "sequence")
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-5)


def test_micro_batches_do_not_change_the_result(tmp_path, model, rewards):
    for name, budget in (("large", 4096), ("small", 16)):
        train_policy(recipe(rewards, updates=2, microbatch_tokens=budget), model, PROMPTS, tmp_path / name)
    one, other = weights(tmp_path / "large"), weights(tmp_path / "small")
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "message"),
    [("broken", "NaN or infinite for sample 0"), ("short", "1 rewards for 8 responses")],
)
def test_a_reward_that_is_none_is_one_clear_line(tmp_path, model, rewards, function, message):
    """The batch that did it is kept for inspection."""
    with pytest.raises(UserError, match=rf"{message}.*bad_batch\.jsonl"):
        train_policy(recipe(rewards, function, reward_scale=1.0), model, PROMPTS, tmp_path)
    batch = [json.loads(line) for line in (tmp_path / "bad_batch.jsonl").read_text().splitlines()]
    assert [record["update"] for record in batch] == [1] * 8


@pytest.mark.parametrize("length_normalise", [False, True])
def test_the_scale_gives_the_references_returns_a_standard_deviation_of_1(model, rewards, length_normalise):
    how = recipe(rewards, length_normalise=length_normalise, sampling=Sampling(max_new_tokens=12))
    trainer, seen = watched_trainer(how, model)
    trainer.calibrate()
    rows = [row for _, rewards in seen for row in rewards]
    sizes = [size for rollout, _ in seen for size in rollout.sizes]
    assert len(rows) == 4 * how.batch_size
    assert len(set(sizes)) > 2
    returns = np.array([trainer.shaping.shape(row, False).sum().item() for row in rows])
    plain = np.array([row.sum().item() for row in rows]) / (np.array(sizes) if length_normalise else 1)
    assert returns.std() == pytest.approx(1, rel=1e-4)
    assert returns / returns.std() == pytest.approx(plain / plain.std(), rel=1e-4, abs=1e-6)
    if length_normalise:
        assert trainer.shaping.mean_length == pytest.approx(np.mean(sizes))


def watched_trainer(how: Policy, model: Model) -> tuple[Ppo, list]:
    """A trainer whose responses end often, so that they differ in length, and what its reward is given and
    gives."""
    built, seen = build_ppo(how, model, PROMPTS, Accelerator()), []

    def reward(rollout):
        seen.append((rollout, built.reward(rollout)))
        return seen[-1][1]

    return dataclasses.replace(built, stop=list(range(100, 160)), reward=reward), seen


def test_a_few_sampled_responses_are_logged_with_four_numbers_a_token(tmp_path, model, rewards, monkeypatch):
    monkeypatch.setattr("redline.policy.train.SHOWN", 3)
    train_policy(recipe(rewards, updates=5, sample_every=3), model, PROMPTS, tmp_path)
    records = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [record["update"] for record in records] == [1, 1, 1, 3, 3, 3, 5, 5, 5]
    for record in records:
        assert all(
            len(record[name]) == len(record["offsets"]) for name in ("rewards", "values", "kl", "advantages")
        )


def test_a_family_without_plain_layers_trains_by_whole_passes(tmp_path, rewards):
    from tiny_models import NO_PLAIN_STACK

    whole = Model(name=model_folder(tmp_path / "model", NO_PLAIN_STACK), dtype="float32")
    how = recipe(rewards, updates=1, adapt=Adapt(lora_rank=0))
    train_policy(how, whole, PROMPTS, tmp_path / "out")
    assert log(tmp_path / "out")[0]["first_ratio_error"] < 1e-4


def test_rewards_at_the_end_of_text(model, rewards):
    """On the last token: one for a response that ended, another for one that was cut off."""
    how = recipe(rewards, updates=1, eos_reward=2.0, no_eos_penalty=3.0, reward_scale=0.0)
    trainer, _ = watched_trainer(how, model)
    _, batch = trainer.update(0)
    ended = [ids[-1].item() in trainer.stop for ids in batch.rollout.response_ids]
    assert set(ended) == {True, False}
    assert batch.rollout.ended == ended
    rows = batch.rows(batch.rewards)
    assert [row[-1].item() for row in rows] == [2.0 if end else -3.0 for end in ended]
    assert not any(row[:-1].any() for row in rows)


def test_a_critic_of_its_own_leaves_the_policy_to_the_policy_loss(tmp_path, model, rewards):
    """Whatever the value loss weighs, the policy ends the same; with a shared trunk it does not."""

    def policy(critic: str, weight: float, adapt: Adapt) -> dict:
        out = tmp_path / f"{critic}-{weight}-{adapt.lora_rank}"
        how = recipe(
            rewards,
            updates=1,
            critic=critic,
            value_coefficient=weight,
            adapt=adapt,
            reward_scale=1,
            optimizer=Optimizer(lr=0.005, head_lr=0.1, warmup=0, max_grad_norm=1e9),
        )
        train_policy(how, model, PROMPTS, out)
        return weights(out)

    for adapt in (Adapt(lora_rank=4, train_layers=2), Adapt(lora_rank=0, train_layers=2)):
        own = [policy("own", weight, adapt) for weight in (0.0, 3.0)]
        shared = [policy("shared", weight, adapt) for weight in (0.0, 3.0)]
        assert all(torch.equal(own[0][name], own[1][name]) for name in own[0])
        assert own[0].keys() == shared[0].keys(), "the critic's weights are no part of the policy"
    assert any(not torch.allclose(shared[0][name], shared[1][name], atol=1e-6) for name in shared[0])


def test_a_batch_that_moved_the_policy_far_enough_is_left(tmp_path, model, rewards):
    train_policy(
        recipe(rewards, updates=2, epochs=4, kl=Kl(target=None, per_batch=1e-7)), model, PROMPTS, tmp_path
    )
    assert log(tmp_path)[0]["optimizer_steps"] == 1
    train_policy(recipe(rewards, updates=2, epochs=4), model, PROMPTS, tmp_path / "all")
    assert log(tmp_path / "all")[0]["optimizer_steps"] == 8
    assert (
        log(tmp_path)[0]["learning_rate"] == log(tmp_path / "all")[0]["learning_rate"] == 0.005
    )  # it goes by updates


@pytest.mark.parametrize("adapt", [Adapt(lora_rank=4, train_layers=2), Adapt(lora_rank=4)])
def test_another_engine_may_sample(tmp_path, model, rewards, adapt):
    """Greedy sampling by Transformers' generate gives what our own sampler gives at top-k 1, down to the
    trained weights."""
    how = {"adapt": adapt, "sampling": Sampling(max_new_tokens=10, top_k=1)}
    train_policy(recipe(rewards, **how), model, PROMPTS, tmp_path / "own")
    train_policy(recipe(rewards, sampler=f"{rewards}:Generate", **how), model, PROMPTS, tmp_path / "theirs")
    own, theirs = weights(tmp_path / "own"), weights(tmp_path / "theirs")
    assert all(torch.allclose(own[name], theirs[name], atol=1e-4) for name in own)
    assert [line["length"] for line in log(tmp_path / "own")] == [
        line["length"] for line in log(tmp_path / "theirs")
    ]
    unknown = {(line["sampler_drift"], line["sampler_drift_max"]) for line in log(tmp_path / "theirs")}
    assert unknown == {(None, None)}, "a sampler without log-probabilities has no drift that could be known"


@pytest.mark.parametrize("sampler", [None, "Generate"])
def test_a_prompt_without_tokens_is_named(tmp_path, model, rewards, sampler):
    how = recipe(rewards, sampler=sampler and f"{rewards}:{sampler}")
    with pytest.raises(UserError, match="prompt nothing: is empty"):
        train_policy(how, model, [*PROMPTS, Prompt(id="nothing", prompt="")], tmp_path)
