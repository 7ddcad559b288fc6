"""The next batch is drawn while this one is learned from, and truncated importance weights correct for it."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from redline.data.records import Prompt
from redline.engine.settings import Adapt, Model, Optimizer
from redline.errors import UserError
from redline.policy.advantages import importance_weights
from redline.policy.settings import Kl, Policy
from redline.policy.train import train_policy
from redline.reward.settings import RewardTerm
from redline.sampling.settings import Sampling

PROMPTS = [
    Prompt(id=str(number), prompt=text) for number, text in enumerate(["the film", "I liked", "a book"])
]
HELPERS = '''
from redline.sampling.local import InProcess
from redline.sampling.protocol import Drawn

def vowels(prompts, responses):
    return [float(sum(letter in "aeiou" for letter in text)) for text in responses]

class Ahead(InProcess):
    """Draws at once and hands over later: the weights are those of the time of the call."""

    def later(self, prompts, n, request):
        drawn = self.sample(prompts, n, request)
        return lambda: Drawn(drawn.ids, drawn.logprobs)  # a server keeps no states
'''


@pytest.fixture
def train(tmp_path, tiny_model):
    (tmp_path / "helpers.py").write_text(HELPERS)

    def run(name: str, lr: float = 3e-3, updates: int = 4, **settings: object) -> list[dict]:
        policy = Policy(
            reward=[RewardTerm(function=f"{tmp_path / 'helpers.py'}:vowels")],
            sampler=f"{tmp_path / 'helpers.py'}:Ahead",
            adapt=Adapt(lora_rank=4, train_layers=2),
            optimizer=Optimizer(head_lr=1e-3).model_copy(update={"lr": lr}),
            kl=Kl(target=None, coefficient=0.05),
            sampling=Sampling(max_new_tokens=8),
            updates=updates,
            batch_size=6,
            minibatch_size=3,
            checkpoint_every=2,
        ).model_copy(update=settings)
        model = Model(name=tiny_model, dtype="float32")
        train_policy(policy, model, PROMPTS, tmp_path / name, seed=1)
        return log_of(tmp_path / name)

    return run


def log_of(folder: Path) -> list[dict]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    timing = ("seconds", "gb", "peak")
    return [
        {key: value for key, value in json.loads(line).items() if not key.startswith(timing)}
        for line in lines
    ]


def test_weights_are_the_ratio_of_probabilities_up_to_the_cap():
    policy = torch.tensor([0.5, 0.2, 0.9]).log()
    sampler = torch.tensor([0.5, 0.4, 0.1]).log()
    assert importance_weights(policy, sampler, cap=2.0).tolist() == pytest.approx([1.0, 0.5, 2.0])


def test_with_equal_probabilities_the_correction_changes_nothing(train):
    plain, corrected = train("plain"), train("corrected", importance_cap=2.0)
    for mine, theirs in zip(corrected, plain, strict=True):
        assert mine["importance"] == pytest.approx(1.0, abs=1e-5)
        assert mine["policy_loss"] == pytest.approx(theirs["policy_loss"], abs=1e-4)


def test_a_policy_that_stands_still_learns_the_same_ahead(train):
    for mine, theirs in zip(train("ahead", lr=0.0, ahead=1), train("in turn", lr=0.0), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5)


def test_responses_are_one_update_old(train):
    ahead, in_turn = train("ahead", ahead=1), train("in turn")
    assert ahead[0] == pytest.approx(in_turn[0], abs=1e-5)
    assert max(line["sampler_drift"] for line in in_turn) < 1e-5
    assert ahead[0]["sampler_drift"] < 1e-5
    assert min(line["sampler_drift"] for line in ahead[1:]) > 1e-4


def test_a_stopped_training_goes_on_with_the_batch_under_way(train, tmp_path):
    whole = train("whole", ahead=1)
    train("stopped", ahead=1)
    checkpoints = sorted((tmp_path / "stopped" / "checkpoints").iterdir())
    shutil.rmtree(checkpoints[-1])  # as if it had been stopped after the second update
    assert train("stopped", ahead=1) == whole


def test_the_sampler_in_this_process_cannot_draw_ahead(train):
    with pytest.raises(UserError, match="needs a sampler that draws outside of this process"):
        train("refused", ahead=1, sampler=None)
