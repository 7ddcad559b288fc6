"""A reward from two language models, against log-probabilities made by hand."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from redline.data.tokenization import encode_prompt
from redline.engine.rollout import Rollout
from redline.errors import UserError
from redline.recipe import check
from redline.reward.log_ratio import log_ratio_reward, with_context
from redline.reward.settings import LogRatio, RewardTerm
from tiny_models import model_folder


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two models with one tokenizer, the second with other weights."""
    folder = tmp_path_factory.mktemp("two")
    names = [model_folder(folder / name) for name in ("a", "b")]
    other = AutoModelForCausalLM.from_pretrained(names[1])
    with torch.no_grad():
        for weights in other.parameters():
            weights.mul_(0.9)
    other.save_pretrained(names[1])
    return names


def rollout(tokenizer, prompts, responses):
    return Rollout(
        prompts=prompts,
        prompt_ids=[torch.tensor(encode_prompt(tokenizer, prompt)) for prompt in prompts],
        response_ids=[
            torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in responses
        ],
        logprobs=[],
        ended=[False] * len(prompts),
    )


def by_hand(name, tokenizer, prompt, ids):
    lm = AutoModelForCausalLM.from_pretrained(name).double()
    before = encode_prompt(tokenizer, prompt)
    with torch.no_grad():
        logits = lm(torch.tensor([[*before, *ids.tolist()]])).logits[0, len(before) - 1 : -1]
    return logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]


def test_each_token_has_the_difference_of_its_log_probabilities(two):
    tokenizer = AutoTokenizer.from_pretrained(two[0])
    batch = rollout(tokenizer, ["the film was", "I liked the"], [" good and fair", " book"])
    how = LogRatio(model=two[0], over=two[1], beta=0.5)
    for prompt, ids, found in zip(
        batch.prompts, batch.response_ids, log_ratio_reward(how, tokenizer)(batch), strict=True
    ):
        a, b = (by_hand(name, tokenizer, prompt, ids) for name in two)
        torch.testing.assert_close(
            found.double(), 0.5 * (a - b), rtol=0, atol=2e-2
        )  # bfloat16, where it is quick
        assert found.shape == ids.shape


def test_a_context_is_put_before_the_prompt_of_the_first_model_alone(two):
    tokenizer = AutoTokenizer.from_pretrained(two[0])
    batch = rollout(tokenizer, ["the film was"], [" good"])
    how = LogRatio(model=two[0], over=two[0], context="Be kind.", beta=1)
    [found] = log_ratio_reward(how, tokenizer)(batch)
    ids = batch.response_ids[0]
    a = by_hand(two[0], tokenizer, "Be kind.\n\nthe film was", ids)
    b = by_hand(two[0], tokenizer, "the film was", ids)
    torch.testing.assert_close(found.double(), a - b, rtol=0, atol=5e-2)
    assert float(found.abs().max()) > 0.1
    without = LogRatio(model=two[0], over=two[0], beta=1)
    assert float(log_ratio_reward(without, tokenizer)(batch)[0].abs().max()) == 0


def test_a_context_becomes_the_systems_message():
    talk = [{"role": "user", "content": "film?"}]
    system = {"role": "system", "content": "Short."}
    assert with_context(talk, "Kind.") == [{"role": "system", "content": "Kind."}, *talk]
    assert with_context([system, *talk], "Kind.")[0]["content"] == "Kind.\n\nShort."
    assert with_context(talk, "") is talk


def test_another_tokenizers_rewards_move_by_characters(two, tmp_path):
    """The policy's tokens are single characters here: the total stays."""
    ours = AutoTokenizer.from_pretrained(two[0])
    letters = AutoTokenizer.from_pretrained(two[0])
    letters.add_tokens(["ood"])
    batch = rollout(letters, ["the film was"], [" good and fair"])
    how = LogRatio(model=two[0], over=two[1], beta=1)
    [found] = log_ratio_reward(how, letters)(batch)
    [wanted] = log_ratio_reward(how, ours)(rollout(ours, ["the film was"], [" good and fair"]))
    assert len(found) != len(wanted)
    torch.testing.assert_close(found.sum(), wanted.sum(), rtol=1e-4, atol=1e-4)


def test_a_term_is_of_one_kind():
    ratio = {"model": "a", "over": "b"}
    with pytest.raises(
        UserError, match="one of `model`, `function` and `log_ratio`; this has model and log_ratio"
    ):
        check({"model": "c", "log_ratio": ratio}, RewardTerm, "here")
    assert not RewardTerm(log_ratio=LogRatio(**ratio)).own
