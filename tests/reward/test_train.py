"""Both sides of an edit in one row: losses, gradients and rewards are those of the two sides read apart."""

import pytest
import torch
from transformers import BloomConfig

from redline.engine.settings import Adapt, Model
from redline.engine.views import Split, forked
from redline.reward.examples import Example, Side
from redline.reward.model import new_reward_model
from redline.reward.settings import Reward
from redline.reward.train import RewardTrainer
from tiny_models import CONFIGS, model_folder, random_model

BLOOM = BloomConfig(
    hidden_size=32, n_layer=2, n_head=4, vocab_size=501, bos_token_id=0, eos_token_id=1
)  # no positions: ALiBi
KINDS = {
    "soft": {"loss": "soft"},
    "hard": {"loss": "hard"},
    "pairwise": {"loss": "pairwise"},
    "sequence": {"kind": "sequence"},
}
ROWS = {  # prompt, better, worse
    "a common beginning": ([5, 6, 7], [8, 9, 10, 11, 12], [8, 9, 20, 12]),
    "no common beginning": ([], [8, 9, 10], [20, 9, 10, 11]),
    "only the prompt is common": ([5, 6], [8, 9, 10], [20, 9, 10, 11]),
    "the better is the beginning of the worse": ([5], [8, 9], [8, 9, 10, 11]),
    "the worse is the beginning of the better": ([], [8, 9, 10, 11, 12, 13], [8, 9]),
    "equal sides": ([5, 6], [8, 9, 10], [8, 9, 10]),
    "responses of one token": ([5], [8], [9]),
    "a long one, so that others are padded": (
        [30, 31],
        list(range(40, 60)),
        [*range(40, 52), 99, *range(53, 58)],
    ),
}


def edits() -> list[Example]:
    """One edit for each case; tokens that differ place by place are marked as changed."""
    found = []
    for name, (prompt, better, worse) in ROWS.items():
        marks = [int(place >= len(worse) or token != worse[place]) for place, token in enumerate(better)]
        other = [-int(place >= len(better) or token != better[place]) for place, token in enumerate(worse)]
        found.append(
            Example(
                name,
                *(
                    Side(torch.tensor(prompt + ids), len(prompt), torch.tensor(labels))
                    for ids, labels in ((better, marks), (worse, other))
                ),
            )
        )
    return found


def trainer(folder, out, depth_trained: int | None = None, rank: int = 4, **kind) -> RewardTrainer:
    """A trainer whose adapters and head are no longer zero."""
    from accelerate import Accelerator

    recipe = Reward(adapt=Adapt(lora_rank=rank, train_layers=depth_trained), **kind)
    torch.manual_seed(0)
    reward, _ = new_reward_model(recipe, Model(name=folder, dtype="float32"))
    generator = torch.Generator().manual_seed(0)
    for parameter in reward.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return RewardTrainer(recipe, reward, Accelerator(), out, 0)


def loss_and_gradients(
    trained: RewardTrainer, batch: list[Example]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    trained.model.zero_grad()
    loss = trained.loss(batch)
    loss.backward()
    return loss.detach(), {
        name: parameter.grad.clone()
        for name, parameter in trained.model.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma", "gpt2"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("depth_trained", "rank"), [(None, 4), (2, 4), (2, 0)], ids=["all layers", "upper layers", "full, upper"]
)
def test_one_row_for_both_sides_has_the_losses_and_gradients_of_two(
    tmp_path, family, kind, depth_trained, rank
):
    trained = trainer(
        model_folder(tmp_path / "model", CONFIGS[family]), tmp_path, depth_trained, rank, **KINDS[kind]
    )
    found = {}
    for joint in (False, True):
        batch = edits()
        trained.lay_out(batch, apart=not joint)
        assert len(batch[0].rows) == 2 - joint
        found[joint] = *loss_and_gradients(trained, batch), trained.rewards(batch)
    torch.testing.assert_close(found[True][0], found[False][0], rtol=1e-5, atol=1e-6)
    assert found[True][1].keys() == found[False][1].keys()
    assert len(found[True][1]) > 3
    for name, gradient in found[False][1].items():
        torch.testing.assert_close(
            found[True][1][name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()), msg=name
        )
    for example, one, two in zip(edits(), found[True][2], found[False][2], strict=True):
        assert [len(part) for part in one] == [
            1 if kind == "sequence" else len(side.labels) for side in example.sides
        ]
        for mine, plain in zip(one, two, strict=True):
            torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-5)


def test_what_is_shared_is_computed_once():
    example = edits()[0]  # three tokens of prompt and two of the response in common
    example.lay_out(joint=True)
    (row,) = example.rows
    assert (row.ids.tolist(), row.fork, row.second) == ([5, 6, 7, 8, 9, 10, 11, 12, 20, 12], 5, 8)
    assert [(place, columns.tolist()) for place, columns in example.places] == [
        (0, [3, 4, 5, 6, 7]),
        (0, [3, 4, 8, 9]),
    ]
    assert example.cost == 10
    example.lay_out(joint=False)
    assert example.cost == 16


def test_the_second_branch_takes_the_places_after_the_fork_and_does_not_see_the_first():
    how = forked(torch.tensor([[1, 3], [4, 4]]), 5, torch.float32)
    assert how["position_ids"].tolist() == [[0, 1, 2, 1, 2], [0, 1, 2, 3, 4]]
    seen = (how["attention_mask"][:, 0] == 0).int().tolist()
    assert seen[0] == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 0, 0, 1, 0], [1, 0, 0, 1, 1]]
    assert seen[1] == torch.ones(5, 5).tril().int().tolist()


def test_steps_in_micro_batches_add_up_either_way(tmp_path, tiny_model):
    """Three optimizer steps: the same parameters, whatever the rows and the micro-batches."""
    ended = []
    for apart, budget in ((True, 8192), (False, 8192), (False, 30)):
        trained, batch = trainer(tiny_model, tmp_path, 2), edits()
        trained.budget = budget
        trained.stepper.optimizer = torch.optim.SGD(
            trained.model.parameters(), lr=0.3
        )  # Adam would make much of a gradient of 1e-9
        trained.lay_out(batch, apart)
        for _ in range(3):
            trained.step(batch)
        ended.append(
            {
                name: parameter.detach()
                for name, parameter in trained.model.named_parameters()
                if parameter.requires_grad
            }
        )
    for other in ended[1:]:
        for name, parameter in ended[0].items():
            torch.testing.assert_close(other[name], parameter, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("share", [0.1, 10])
def test_a_step_follows_the_gradient_clipped_to_the_limit(tmp_path, tiny_model, share):
    """A limit of a tenth of the gradient's norm makes the step a tenth; one above it changes nothing."""
    trained, batch = trainer(tiny_model, tmp_path, 2), edits()
    trained.lay_out(batch)
    weight, (_, summed) = trained._weight(batch), loss_and_gradients(trained, batch)
    norm = float(torch.stack([gradient.norm() for gradient in summed.values()]).norm()) / weight
    trained.stepper.max_grad_norm = share * norm
    trained.stepper.optimizer = torch.optim.SGD(trained.model.parameters(), lr=1.0)
    trained.stepper.optimizer.zero_grad()
    before = {name: parameter.detach().clone() for name, parameter in trained.model.named_parameters()}
    trained.step(batch)
    for name, parameter in trained.model.named_parameters():
        wanted = min(share, 1) * summed[name] / weight if name in summed else torch.zeros_like(parameter)
        torch.testing.assert_close(
            before[name] - parameter.detach(), wanted, rtol=1e-3, atol=1e-4 * norm, msg=name
        )


@pytest.mark.parametrize(
    ("config", "longest", "can"),
    [
        (CONFIGS["llama"], 300, True),
        (CONFIGS["gemma2"], 4, True),
        (CONFIGS["gemma2"], 5, False),
        (CONFIGS["gemma3"], 300, False),
        (BLOOM, 300, False),
    ],
    ids=["llama", "gemma2", "beyond its window", "gemma3", "bloom"],
)
def test_a_model_that_cannot_read_rows_that_fork_is_known(config, longest, can):
    assert Split(random_model(config), 0).can_fork(longest) == can


def test_a_model_that_cannot_reads_the_sides_apart_and_says_so(tmp_path, capsys):
    trained, batch = trainer(model_folder(tmp_path / "model", CONFIGS["gemma2"]), tmp_path), edits()
    trained.lay_out(batch)
    assert [len(example.rows) for example in batch] == [2] * len(batch)
    assert "reads the two sides of an edit apart" in " ".join(capsys.readouterr().err.split())
    assert trained.step(batch) > 0
