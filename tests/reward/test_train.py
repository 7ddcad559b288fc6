"""Both sides of an edit in one row: losses, gradients and rewards are those of the two sides read apart."""

import copy

import pytest
import torch

from redline.recipe import Adapt, Model, Reward
from redline.reward.examples import Example, Side
from redline.reward.model import new_reward_model
from redline.reward.train import _Trainer
from tiny_models import CONFIGS, model_folder

KINDS = {"soft": {"loss": "soft"}, "hard": {"loss": "hard"}, "pairwise": {"loss": "pairwise"}, "sequence": {"kind": "sequence"}}
ROWS = {  # prompt, better, worse
    "a common beginning": ([5, 6, 7], [8, 9, 10, 11, 12], [8, 9, 20, 12]),
    "no common beginning": ([], [8, 9, 10], [20, 9, 10, 11]),
    "only the prompt is common": ([5, 6], [8, 9, 10], [20, 9, 10, 11]),
    "the better is the beginning of the worse": ([5], [8, 9], [8, 9, 10, 11]),
    "the worse is the beginning of the better": ([], [8, 9, 10, 11, 12, 13], [8, 9]),
    "equal sides": ([5, 6], [8, 9, 10], [8, 9, 10]),
    "responses of one token": ([5], [8], [9]),
    "a long one, so that others are padded": ([30, 31], list(range(40, 60)), [*range(40, 52), 99, *range(53, 58)]),
}


def edits() -> list[Example]:
    """One edit for each case; tokens that differ place by place are marked as changed."""
    found = []
    for name, (prompt, better, worse) in ROWS.items():
        marks = [int(place >= len(worse) or token != worse[place]) for place, token in enumerate(better)]
        other = [-int(place >= len(better) or token != better[place]) for place, token in enumerate(worse)]
        found.append(Example(name, *(Side(torch.tensor(prompt + ids), len(prompt), torch.tensor(labels))
                                     for ids, labels in ((better, marks), (worse, other)))))
    return found


def trainer(folder, out, depth_trained: int | None = None, rank: int = 4, **kind) -> _Trainer:
    """A trainer whose adapters and head are no longer zero."""
    from accelerate import Accelerator

    recipe = Reward(adapt=Adapt(lora_rank=rank, train_layers=depth_trained), **kind)
    reward, _ = new_reward_model(recipe, Model(name=folder, dtype="float32"))
    generator = torch.Generator().manual_seed(0)
    for parameter in reward.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return _Trainer(recipe, reward, Accelerator(), out, 0)


def loss_and_gradients(trained: _Trainer, batch: list[Example]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    trained.model.zero_grad()
    loss = trained._loss(batch)
    loss.backward()
    return loss.detach(), {name: parameter.grad.clone() for name, parameter in trained.model.named_parameters()
                           if parameter.grad is not None}


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma", "gpt2"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("depth_trained", "rank"), [(None, 4), (2, 4), (2, 0)], ids=["all layers", "upper layers", "full, upper"])
def test_one_row_for_both_sides_has_the_losses_and_gradients_of_two(tmp_path, family, kind, depth_trained, rank):
    trained = trainer(model_folder(tmp_path / "model", CONFIGS[family]), tmp_path, depth_trained, rank, **KINDS[kind])
    found = {}
    for joint in (False, True):
        batch = edits()
        trained.joint = joint
        for example in batch:
            example.lay_out(joint)
        assert len(batch[0].rows) == 2 - joint
        found[joint] = *loss_and_gradients(trained, batch), trained.rewards(batch)
    torch.testing.assert_close(found[True][0], found[False][0], rtol=1e-5, atol=1e-6)
    assert found[True][1].keys() == found[False][1].keys()
    assert len(found[True][1]) > 3
    for name, gradient in found[False][1].items():
        torch.testing.assert_close(found[True][1][name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()), msg=name)
    for example, one, two in zip(edits(), found[True][2], found[False][2], strict=True):
        assert [len(part) for part in one] == [1 if kind == "sequence" else len(side.labels) for side in example.sides]
        for mine, plain in zip(one, two, strict=True):
            torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-5)
