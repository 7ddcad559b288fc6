"""The switch of the fast paths: ``REDLINE_PLAIN=1`` turns all of them off.

What is off then, and where its one call site is:

- attention of short sequences on CPUs (``attention.use_short_attention``)
- LoRA's layers in one autograd function (``adapters.fused``)
- packed weights while a CPU samples (``packed.packed``)
- log-probabilities without whole logits (``logprobs.token_logprobs``)
- views of the upper layers, and with them the states that are kept below (``views.Split``)
- both sides of an edit in one row (``views.Split.can_fork``)
- a reward model on the policy's own weights (``redline.reward.model.load_reward_model``)

The same numbers come out, up to rounding: for whoever suspects one of them of an error, and for tests.
"""

import os


def plain() -> bool:
    """Whether everything is to be computed the plain way."""
    return os.environ.get("REDLINE_PLAIN", "") not in ("", "0")
