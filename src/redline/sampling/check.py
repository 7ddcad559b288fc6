"""Whether this process can sample from a model: tried before anything is trained."""

from typing import TYPE_CHECKING

import torch

from redline.engine.logits import logits_of
from redline.errors import UserError
from redline.sampling.local import InProcess
from redline.sampling.protocol import CurrentPolicy, Request
from redline.sampling.settings import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TRIAL_TOKENS = 6
MEAN_ERROR = 0.2  # nats that a token may be off on average: rounding of bfloat16 is a tenth of that


@torch.no_grad()
def check_logits(lm: "PreTrainedModel") -> None:
    """Raise UserError for a model that does something to its logits that ``logits_of`` does not know (some
    families scale them), or whose sampling here is not what one pass gives (some keep their past in another
    way)."""
    ids = torch.arange(3, 9, device=lm.device)[None]
    whole = lm(input_ids=ids).logits.float()
    ours = logits_of(lm, lm.base_model(input_ids=ids).last_hidden_state).float()
    if not torch.allclose(whole, ours, rtol=1e-2, atol=1e-2):
        raise UserError(
            f"{lm.name_or_path}: {type(lm).__name__} changes its logits behind the output embedding in a "
            "way that Redline does not know. Choose a model of another family."
        )
    prompts = [ids[0].tolist(), ids[0, :3].tolist()]
    sampler = InProcess()
    sampler.sync(CurrentPolicy(lm))
    drawn = sampler.sample(prompts, 1, Request(Sampling(max_new_tokens=TRIAL_TOKENS), stop=[], seed=0))
    errors = []
    for prompt, response, logprobs in zip(prompts, drawn.ids, drawn.logprobs or (), strict=True):
        sequence = torch.tensor([[*prompt, *response]], device=lm.device)
        hidden = lm.base_model(input_ids=sequence).last_hidden_state
        in_one_pass = logits_of(lm, hidden[0, len(prompt) - 1 : -1]).float().log_softmax(-1).cpu()
        chosen = in_one_pass.gather(1, torch.tensor(response)[:, None])[:, 0]
        errors.append(chosen - torch.tensor(logprobs))
    if float(torch.cat(errors).abs().mean()) > MEAN_ERROR:
        raise UserError(
            f"{lm.name_or_path}: {type(lm).__name__} gives other probabilities a token at a time, with "
            "prompts padded on the left, than in one pass. Choose a model of another family."
        )
