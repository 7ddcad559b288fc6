"""Sampling: re-scored log-probabilities equal the sampler's; padding, neighbours and finished rows change
nothing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from redline.data.records import Prompt
from redline.data.tokenization import load_tokenizer
from redline.engine.batching import pad
from redline.engine.logprobs import token_logprobs
from redline.engine.models import load_causal_lm
from redline.engine.settings import Model
from redline.engine.views import Split
from redline.sampling.drawing import draw, weights_of
from redline.sampling.local import InProcess
from redline.sampling.protocol import CurrentPolicy
from redline.sampling.rollouts import respond
from redline.sampling.settings import Sampling
from tiny_models import CONFIGS, random_model, sampled

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13], [14], [15, 16]]
EOS = list(range(100, 160))  # an eighth of the vocabulary ends a response: some do, some do not


def rescored(model, rollout, temperature=1.0):
    hidden = model.base_model(input_ids=pad(rollout.sequences)).last_hidden_state
    head = model.get_output_embeddings()
    return [
        token_logprobs(hidden[row, len(prompt) - 1 : len(prompt) - 1 + len(ids)], head, ids, temperature)[0]
        for row, (prompt, ids) in enumerate(zip(rollout.prompt_ids, rollout.response_ids, strict=True))
    ]


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3", "gemma3", "phi"])
@pytest.mark.parametrize(
    "sampling",
    [Sampling(max_new_tokens=12), Sampling(max_new_tokens=12, temperature=0.6, top_p=0.9, top_k=40)],
)
def test_rescored_logprobs_equal_the_samplers(family, sampling):
    model = random_model(CONFIGS[family])
    rollout = sampled(model, PROMPTS, sampling, EOS, seed=3)
    assert any(rollout.ended)
    with torch.no_grad():
        for found, kept in zip(rescored(model, rollout, sampling.temperature), rollout.logprobs, strict=True):
            torch.testing.assert_close(found, kept, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_states_kept_while_sampling_are_the_lower_states(family):
    model = random_model(CONFIGS[family])
    rollout = sampled(model, PROMPTS, Sampling(max_new_tokens=9), EOS, seed=1, keep={1, 3})
    for cut in (1, 3):
        for ids, states, ended in zip(rollout.sequences, rollout.states.at(cut), rollout.ended, strict=True):
            size = len(ids) - ended  # end-of-text has no state: nothing reads it
            torch.testing.assert_close(
                states[:size], Split(model, cut).lower(ids[None])[0, :size], rtol=1e-4, atol=1e-4
            )


def test_a_row_does_not_depend_on_its_neighbours():
    model = random_model(CONFIGS["llama"])
    together = sampled(model, PROMPTS, Sampling(max_new_tokens=10), EOS, seed=5)
    first = sampled(model, PROMPTS[:1], Sampling(max_new_tokens=10), EOS, seed=5)
    assert together.response_ids[0].tolist() == first.response_ids[0].tolist()


@pytest.mark.parametrize("cuts", [set(), {2}])
def test_finished_rows_cost_nothing(cuts):
    """The model is given the rows that still run and no others, at every step."""
    model, given = random_model(CONFIGS["llama"]), []
    model.base_model.register_forward_pre_hook(
        lambda _, __, inputs: given.append(len(inputs["input_ids"])), with_kwargs=True
    )
    rollout = sampled(model, PROMPTS * 4, Sampling(max_new_tokens=12), EOS, seed=3, keep=cuts)
    live = [sum(size > step for size in rollout.sizes) for step in range(12)]
    assert len(set(live)) > 4
    assert live[-1] > 0
    last = [rollout.ended.count(False)] if cuts else []  # the states of the last tokens of what was cut off
    assert given == live + last


def test_no_end_before_the_minimum_and_none_beyond_the_maximum():
    model = random_model(CONFIGS["llama"])
    rollout = sampled(model, PROMPTS * 8, Sampling(max_new_tokens=8, min_new_tokens=5), EOS, seed=2)
    assert all(5 <= size <= 8 for size in rollout.sizes)
    assert all(
        (ids[-1].item() in EOS) == ended
        for ids, ended in zip(rollout.response_ids, rollout.ended, strict=True)
    )
    assert not any(torch.isin(ids[:5], torch.tensor(EOS)).any() for ids in rollout.response_ids)
    for ids, prompt, response, logprobs in zip(
        rollout.sequences, rollout.prompt_ids, rollout.response_ids, rollout.logprobs, strict=True
    ):  # of the whole vocabulary, the end included
        with torch.no_grad():
            whole = model(ids[None]).logits[0, len(prompt) - 1 : -1].log_softmax(1)
        torch.testing.assert_close(logprobs, whole.gather(1, response[:, None])[:, 0], rtol=1e-4, atol=1e-4)


def test_all_end_at_once_and_an_empty_prompt_is_refused():
    model = random_model(CONFIGS["llama"])
    rollout = sampled(model, PROMPTS, Sampling(max_new_tokens=8), list(range(501)), seed=2, keep={2})
    assert rollout.sizes == [1] * 4
    assert all(rollout.ended)
    with pytest.raises(ValueError, match="no tokens"):
        sampled(model, [[1], []], Sampling(), EOS, seed=2)


def test_draws_follow_the_probabilities():
    weights = torch.tensor([5, 3, 2, 0.0]).expand(4000, 4)
    tokens = draw(weights, (torch.arange(4000) + 0.5) / 4000)
    assert torch.bincount(tokens, minlength=4).tolist() == [2000, 1200, 800, 0]


@settings(deadline=None)
@given(vocabulary=st.integers(1, 700), seed=st.integers(0, 999), few=st.booleans())
def test_draws_are_those_of_the_cumulative_sum_and_never_what_weighs_nothing(vocabulary, seed, few):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(50, vocabulary, generator=generator) ** 8
    if few:
        weights *= torch.rand(50, vocabulary, generator=generator) < 3 / vocabulary
        weights[:, seed % vocabulary] = 1e-30
    uniforms = torch.rand(50, generator=generator)
    uniforms[:2] = torch.tensor([0.0, 1 - 2**-24])
    tokens = draw(weights, uniforms)
    assert bool((weights.gather(1, tokens[:, None]) > 0).all())
    cumulative = weights.double().cumsum(1)
    target = uniforms.double() * cumulative[:, -1]
    lower = torch.nn.functional.pad(cumulative, (1, 0)).gather(1, tokens[:, None])[:, 0]
    error = 1e-5 * cumulative[:, -1]
    assert bool(
        (lower <= target + error).all()
        and (target <= cumulative.gather(1, tokens[:, None])[:, 0] + error).all()
    )


def test_log_probabilities_hold_where_logits_are_far_apart():
    logits = torch.tensor([[0.0, -300.0, 5.0], [900.0, 899.0, -900.0]])
    weights, normaliser = weights_of(logits)
    torch.testing.assert_close(normaliser, logits.logsumexp(1))
    torch.testing.assert_close(weights / weights.sum(1, keepdim=True), logits.softmax(1))


def test_logits_that_are_not_numbers_are_drawn_from_without_an_error_of_their_own():
    weights, _ = weights_of(torch.full((2, 600), torch.nan))
    assert bool((draw(weights, torch.tensor([0.1, 0.9])) < 600).all())


def test_how_many_are_answered_at_once_changes_nothing(tiny_model):
    lm, tokenizer = load_causal_lm(Model(name=tiny_model, dtype="float32")), load_tokenizer(tiny_model)
    prompts = [Prompt(id=str(size), prompt="word " * size) for size in (3, 1, 5, 2, 4)]
    policy, how = CurrentPolicy(lm), Sampling(max_new_tokens=6)
    together, whole = respond(InProcess(), policy, tokenizer, prompts, how, 7)
    apart, parts = respond(InProcess(at_once=16), policy, tokenizer, prompts, how, 7)
    assert together == apart
    assert [response.id for response in apart] == ["3", "1", "5", "2", "4"]
    for one, other in zip(whole.logprobs, parts.logprobs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
