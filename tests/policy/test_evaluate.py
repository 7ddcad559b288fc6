"""The figures that guard a win rate, against plain Transformers passes over the text of each response."""

import pytest
import torch

from redline.data.records import Prompt
from redline.data.tokenization import load_tokenizer
from redline.engine.models import load_causal_lm
from redline.engine.saving import save
from redline.engine.settings import Model
from redline.policy.evaluate import side_by_side
from redline.sampling.local import InProcess
from redline.sampling.protocol import CurrentPolicy
from redline.sampling.rollouts import respond
from redline.sampling.settings import Sampling


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_kl_and_perplexities(tiny_model, tmp_path, temperature):
    reference = Model(name=tiny_model, dtype="float32")
    base, tokenizer = load_causal_lm(reference), load_tokenizer(tiny_model)
    moved = load_causal_lm(reference)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    save(moved, None, tokenizer, tmp_path / "policy", tiny_model)
    prompts = [Prompt(id=str(size), prompt="word " * size) for size in range(1, 6)]
    sampling = Sampling(max_new_tokens=7, temperature=temperature)
    policy = Model(name=str(tmp_path / "policy"), dtype="float32")
    first, second, found = side_by_side(policy, reference, prompts, sampling, 3)

    def logprobs(lm, rollout, heat):
        return [
            torch.log_softmax(lm(ids[None]).logits[0, len(prompt) - 1 : -1] / heat, 1).gather(
                1, response[:, None]
            )[:, 0]
            for ids, prompt, response in zip(
                rollout.sequences, rollout.prompt_ids, rollout.response_ids, strict=True
            )
        ]

    with torch.no_grad():
        (said_a, rollout_a), (said_b, rollout_b) = (
            respond(InProcess(), CurrentPolicy(lm), tokenizer, prompts, sampling, 3) for lm in (moved, base)
        )
        nats = torch.stack(
            [
                (own - other).sum()
                for own, other in zip(
                    logprobs(moved, rollout_a, temperature),
                    logprobs(base, rollout_a, temperature),
                    strict=True,
                )
            ]
        )
        perplexities = [
            (-torch.cat(logprobs(base, rollout, 1.0)).mean()).exp().item()
            for rollout in (rollout_a, rollout_b)
        ]
    assert (first, second) == (said_a, said_b)
    assert found["kl"] == pytest.approx(nats.mean().item(), abs=1e-4)
    assert found["kl"] > 0.01
    assert found["kl_error"] == pytest.approx((nats.std() / 5**0.5).item(), abs=1e-4)
    assert [found["perplexity_a"], found["perplexity_b"]] == pytest.approx(perplexities, rel=1e-4)
    assert perplexities[0] != pytest.approx(perplexities[1], rel=1e-3)
