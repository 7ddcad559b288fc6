"""A sampler of the user's, as docs/policy.md shows it: everything that samples draws through it."""

import json
from pathlib import Path

import pytest
import torch

from redline.data.records import Prompt
from redline.direct.best_of_n import best_of_n
from redline.engine.settings import Adapt, Model
from redline.errors import UserError
from redline.policy.evaluate import side_by_side
from redline.policy.settings import Policy
from redline.policy.train import train_policy
from redline.policy.watch import Gold
from redline.reward.settings import RewardTerm
from redline.sampling.local import InProcess
from redline.sampling.open import open_sampler
from redline.sampling.protocol import CurrentPolicy, Drawn, Request
from redline.sampling.rollouts import sample_rollout
from redline.sampling.settings import Sampling
from tiny_models import CONFIGS, model_folder, random_model, trunk

SAMPLERS = '''
import torch


class Plain:
    """Draws with nothing but Transformers, one response at a time, and says how likely each token was."""

    def __init__(self):
        self.calls = []

    def sync(self, policy):
        self.calls.append(("sync", policy))
        self.lm = policy.lm

    @torch.no_grad()
    def sample(self, prompts, n, request):
        self.calls.append(("sample", len(prompts) * n))
        rows = [prompt for prompt in prompts for _ in range(n)]
        drawn = [self.one(*pair, request) for pair in zip(rows, request.places_of(len(rows)))]
        return [ids for ids, _ in drawn], [logprobs for _, logprobs in drawn]

    def one(self, prompt, place, request):
        random = torch.Generator().manual_seed(1000 * request.seed + place)
        ids, logprobs = [], []
        while len(ids) < request.sampling.max_new_tokens and not (ids and ids[-1] in request.stop):
            logits = self.lm(torch.tensor([prompt + ids])).logits[0, -1].float()
            chances = (logits / request.sampling.temperature).log_softmax(-1)
            ids.append(int(torch.multinomial(chances.exp(), 1, generator=random)))
            logprobs.append(float(chances[ids[-1]]))
        return ids, logprobs


class Coarse(Plain):
    """Its log-probabilities are a quarter of a nat off."""

    def sample(self, prompts, n, request):
        ids, logprobs = super().sample(prompts, n, request)
        return ids, [[nats - 0.25 for nats in row] for row in logprobs]


def plain():
    return Plain()

def reward(prompts, responses):
    return [float(text.count("a")) for text in responses]

def before(lm, prompts, sampling, seed):
    return [[5] for _ in prompts]

def nothing():
    return object()
'''
PROMPTS = [Prompt(id=text, prompt=text) for text in ("the film was", "I liked", "this is a", "why")]
HELD_OUT = [Prompt(id=text, prompt=text) for text in ("a book", "not good")]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    return Model(name=model_folder(tmp_path_factory.mktemp("model")), dtype="float32")


@pytest.fixture
def samplers(tmp_path) -> Path:
    path = tmp_path / "samplers.py"
    path.write_text(SAMPLERS)
    return path


def test_a_training_and_its_watch_draw_through_it(tmp_path, model, samplers):
    how = Policy(
        reward=[RewardTerm(function=f"{samplers}:reward")],
        reward_scale=1.0,
        updates=2,
        batch_size=4,
        sampler=f"{samplers}:Coarse",
        adapt=Adapt(lora_rank=4, train_layers=2),
        sampling=Sampling(max_new_tokens=6, temperature=0.8),
    )
    gold = Gold("all alike", lambda a, b: [0.5] * len(a), HELD_OUT, every=1)
    train_policy(how, model, PROMPTS, tmp_path / "out", gold=gold)
    lines = [json.loads(line) for line in (tmp_path / "out/log.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    assert [line["sampler_drift"] for line in lines] == pytest.approx([0.25, 0.25], abs=1e-4)
    assert [line["sampler_drift_max"] for line in lines] == pytest.approx([0.25, 0.25], abs=1e-4)
    assert all("gold" in line for line in lines)


@pytest.mark.parametrize("made_by", ["Plain", "plain"])
def test_the_comparison_draws_through_it(model, samplers, made_by):
    sampler = open_sampler(f"{samplers}:{made_by}")
    how = Sampling(max_new_tokens=5)
    a, b, guard = side_by_side(model, model, HELD_OUT, how, 3, sampler)
    assert [name for name, _ in sampler.calls] == ["sync", "sample"] * 2
    assert [response.response for response in a] == [response.response for response in b]
    assert guard["kl"] == pytest.approx(0, abs=1e-4)


def test_best_of_n_draws_through_it(model, samplers):
    sampler = open_sampler(f"{samplers}:Plain")
    terms = [RewardTerm(function=f"{samplers}:reward")]
    best_of_n(model, terms, None, HELD_OUT, Sampling(max_new_tokens=5), 2, 3, sampler)
    assert [size for name, size in sampler.calls if name == "sample"] == [2, 2, 2]


def test_it_is_told_the_adapter_that_is_at_work(tmp_path, model, samplers):
    """A server needs the adapter's file: of a policy in training, of a saved one, and none of a reference."""
    from redline.policy.actor import ActorCritic

    actor = ActorCritic(model, Adapt(lora_rank=4))
    actor.current().adapter.save_pretrained(tmp_path / "adapter")
    assert (tmp_path / "adapter/adapter_model.safetensors").exists()
    with actor.current_reference() as reference:
        assert reference.adapter is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("before", r"takes lm, prompts, sampling, seed; it must take nothing.*becomes the method `sample`"),
        ("nothing", r"has no method sync\(\)"),
        ("absent", "has no function `absent`"),
    ],
)
def test_what_is_no_sampler_is_one_clear_line(samplers, name, message):
    with pytest.raises(UserError, match=message):
        open_sampler(f"{samplers}:{name}")


class Returns:
    def __init__(self, *returned):
        self.returned = returned

    def sync(self, policy):
        pass

    def sample(self, prompts, n, request):
        return self.returned


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (([[5]], None), "1 responses where 2 were asked for"),
        (([[5] * 11, [5]], None), "11 tokens for response 0, of at most 10"),
        (([[5], [501]], None), "1 tokens for response 1, of at most 10 in a vocabulary of 501"),
        (([[5, 1, 5], [5]], None), "tokens behind the end of text for response 0"),
        (([[5], [5, 6]], [[-1.0], [-1.0]]), "one log-probability for each token"),
        (([[5], [5]], [[-1.0], [float("nan")]]), "not finite"),
    ],
)
def test_what_a_sampler_returns_is_checked(returned, message):
    policy = CurrentPolicy(random_model(CONFIGS["llama"]))
    request = Request(Sampling(max_new_tokens=10), stop=[1], seed=0)
    with pytest.raises(UserError, match=message):
        sample_rollout(Returns(*returned), policy, [[7], [8]], request)


def test_several_responses_to_a_prompt_stand_behind_each_other():
    lm = random_model(CONFIGS["llama"])
    sampler, policy = InProcess(), CurrentPolicy(lm, trunk=trunk({2}))
    sampler.sync(policy)
    request = Request(Sampling(max_new_tokens=6), stop=[1], seed=4)
    rollout = sample_rollout(sampler, policy, [[5, 6], [7]], request, n=3, texts=["a", "b"])
    assert rollout.prompts == ["a"] * 3 + ["b"] * 3
    single = sample_rollout(sampler, policy, [[5, 6]] * 3 + [[7]] * 3, request)
    for ids, alone in zip(rollout.response_ids, single.response_ids, strict=True):
        assert torch.equal(ids, alone)


def test_states_that_a_sampler_does_not_keep_are_computed():
    """What it draws is what this process would have drawn: so are the states below."""
    lm = random_model(CONFIGS["llama"])
    policy, ours = CurrentPolicy(lm, trunk=trunk({2})), InProcess()
    ours.sync(policy)
    request = Request(Sampling(max_new_tokens=6), stop=[1], seed=4)
    kept = sample_rollout(ours, policy, [[5, 6], [7]], request)
    drawn = ours.sample([[5, 6], [7]], 1, request)
    computed = sample_rollout(Returns(drawn.ids, drawn.logprobs), policy, [[5, 6], [7]], request)
    assert isinstance(drawn, Drawn)
    for one, other, ended in zip(kept.states.at(2), computed.states.at(2), kept.ended, strict=True):
        size = len(one) - ended  # that of end-of-text is read by nobody
        torch.testing.assert_close(one[:size], other[:size], rtol=1e-4, atol=1e-4)
