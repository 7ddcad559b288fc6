"""Whether the sampler draws from the policy: its log-probabilities beside those of the pass that learns."""

import torch

WORTH_A_LOOK = {4: 0.01, 2: 0.1}  # nats a token, by the bytes of a weight: ten times what rounding makes


def drift_warning(drift: float, dtype: torch.dtype) -> str | None:
    """A line for the user where the mean difference is more than rounding makes."""
    if drift <= WORTH_A_LOOK[min(dtype.itemsize, 4)]:
        return None
    return (
        f"the sampler's log-probabilities are {drift:.2g} nats a token from the policy's (sampler_drift): it "
        "computes the model in another way. Lower sampling.max_new_tokens or data.max_prompt_tokens, or use "
        "dtype float32."
    )
