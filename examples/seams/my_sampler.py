"""A sampler of your own: here Transformers' generate. In a recipe:

policy: {sampler: "examples/seams/my_sampler.py:Generate"}
"""

import torch


class Generate:
    """Draws one response after the other."""

    def sync(self, policy):
        """Draw from these weights from now on."""
        self.lm = policy.lm

    def sample(self, prompts, n, request):
        """``n`` responses to each prompt (token ids); None: their log-probabilities are not known."""
        sampling, responses = request.sampling, []
        for prompt in prompts:
            torch.manual_seed(request.seed)
            whole = self.lm.generate(
                torch.tensor([prompt], device=self.lm.device).repeat(n, 1),
                do_sample=True,
                temperature=sampling.temperature,
                max_new_tokens=sampling.max_new_tokens,
                eos_token_id=list(request.stop) or None,
            )
            responses += [_up_to_end(row[len(prompt) :].tolist(), request.stop) for row in whole]
        return responses, None


def _up_to_end(ids, stop):
    """Without the padding behind the end of text."""
    for place, token in enumerate(ids):
        if token in stop:
            return ids[: place + 1]
    return ids
