"""Forms, spreads and sums of rewards; what a reward may not be."""

import numpy as np
import pytest
import torch

from redline.engine.rollout import Rollout
from redline.errors import UserError
from redline.reward.functions import function_reward
from redline.reward.rewards import checked, discrete, last, shuffled, uniform, weighted_sum
from tiny_tokenizers import byte_bpe

TOKENIZER = byte_bpe()


def rollout(*texts: str, ended: bool = True) -> Rollout:
    ids = [
        torch.tensor(
            [
                *TOKENIZER(text, add_special_tokens=False)["input_ids"],
                *([TOKENIZER.eos_token_id] if ended else []),
            ],
            dtype=torch.long,
        )
        for text in texts
    ]
    return Rollout(
        prompts=["p"] * len(ids),
        prompt_ids=[torch.tensor([5])] * len(ids),
        response_ids=ids,
        logprobs=[torch.zeros(len(row)) for row in ids],
        ended=[ended] * len(ids),
    )


def given(*rows: list[float]):
    return lambda batch: [torch.tensor(row) for row in rows]


def test_forms_and_spreads_by_hand():
    batch = rollout("the film", "good")
    reward = given([0.6, -0.7, 0.2], [0.4, -0.1])
    assert [row.tolist() for row in discrete(reward, 0.5)(batch)] == [[1, -1, 0], [0, 0]]
    assert last(reward)(batch)[0].tolist() == pytest.approx([0, 0, 0.1])
    assert uniform(reward)(batch)[1].tolist() == pytest.approx([0.15, 0.15])
    moved = shuffled(reward)(batch)
    assert sorted(moved[0].tolist()) == sorted(torch.tensor([0.6, -0.7, 0.2]).tolist())
    assert [row.tolist() for row in shuffled(reward)(batch)] == [row.tolist() for row in moved]
    total = weighted_sum([(2.0, reward), (-1.0, uniform(reward))])(batch)
    assert total[1].tolist() == pytest.approx([0.65, -0.35])
    assert last(given([]))(batch)[0].tolist() == []


def test_a_functions_number_lies_on_the_last_token_and_spans_on_theirs():
    batch = rollout("the film was bad", "good")
    assert function_reward(lambda prompts, responses: [1, 2.5], TOKENIZER)(batch)[0].tolist()[-1] == 1
    spans = function_reward(lambda prompts, responses: [[(13, 16, -2.0)], []], TOKENIZER)(batch)
    assert spans[0].sum() == -2
    assert spans[0][:-4].abs().sum() == 0
    assert spans[1].abs().sum() == 0


@pytest.mark.parametrize("as_given", [list, tuple, np.array, torch.tensor])
def test_a_function_may_give_one_float_for_each_token(as_given):
    """It sees the tokens by a parameter of that name; end-of-text is the last one, without text."""
    seen: list[list[str]] = []

    def longest(prompts, responses, tokens):
        seen.extend(tokens)
        return [as_given([float(len(token)) for token in row]) for row in tokens]

    batch = rollout("the film was bad", "good")
    rewards = function_reward(longest, TOKENIZER)(batch)
    assert ["".join(row) for row in seen] == ["the film was bad", "good"]
    assert [row.tolist() for row in rewards] == [[float(len(token)) for token in row] for row in seen]
    assert [len(row) for row in rewards] == batch.sizes
    assert rewards[1][-1] == 0


def test_a_functions_single_figure_may_be_a_tensors_entry():
    rewards = function_reward(lambda prompts, responses: torch.tensor([1.5, -2.0]), TOKENIZER)
    assert [row[-1].item() for row in rewards(rollout("the film", "good"))] == [1.5, -2.0]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "returned None"),
        ([1.0], "1 rewards for 2"),
        (["good", "bad"], "must be one float"),
        ([[(1, 2)], 3.0], "must be one float"),
        ([[0.5], 3.0], "1 floats for response 0, which has 2 tokens"),
        ([torch.zeros(3), 3.0], "3 floats for response 0, which has 2 tokens"),
    ],
)
def test_what_a_function_may_not_return(returned, message):
    with pytest.raises(UserError, match=message):
        function_reward(lambda prompts, responses: returned, TOKENIZER)(rollout("a", "b"))


def test_a_wrong_vector_is_named():
    batch = rollout("the film", "good")
    sizes = batch.sizes
    with pytest.raises(UserError, match=rf"1 rewards for {sizes[1]} tokens for sample 1"):
        checked(given([0.0] * sizes[0], [0.0]))(batch)
    with pytest.raises(UserError, match="NaN or infinite for sample 0"):
        checked(given([float("inf")] * sizes[0], [0.0] * sizes[1]))(batch)
    with pytest.raises(UserError, match="1 vectors for 2 responses"):
        checked(given([0.0]))(batch)
