"""How a token is drawn from logits: temperature, shortest length, top-k and top-p, and the inverse of the
cumulative distribution."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from redline.sampling.protocol import Request
from redline.sampling.settings import Sampling

if TYPE_CHECKING:
    from transformers.generation import LogitsProcessorList


class Drawing:
    """Draws the tokens of some responses, a step at a time.

    ``places`` are the responses' places in the whole batch: a response's random numbers depend on its place
    and the request's seed alone.
    """

    def __init__(self, request: Request, places: list[int], device: torch.device):
        self.sampling = request.sampling
        self.stop = torch.tensor(list(request.stop), dtype=torch.long, device=device)
        generator = torch.Generator().manual_seed(request.seed)
        of_batch = torch.rand(max(places) + 1, self.sampling.max_new_tokens, generator=generator)
        self.uniforms = of_batch[places].to(device)
        self.warpers: Any = _warpers(self.sampling)

    def next(self, logits: Tensor, rows: Tensor, step: int, before: Tensor) -> tuple[Tensor, Tensor]:
        """The next tokens ``[L]`` of the responses ``rows`` ``[L]``, and their log-probabilities ``[L]``.

        ``logits`` ``[L, V]`` are the model's in float32, ``before`` ``[L, step]`` the tokens drawn so far.
        The log-probabilities are under the temperature and over the whole vocabulary: end-of-text counts in
        them also where it must not be drawn yet, and so do tokens outside of top-k and top-p.
        """
        if self.sampling.temperature != 1:
            logits = logits / self.sampling.temperature
        ending = None
        if step < self.sampling.min_new_tokens:
            ending = logits[:, self.stop].logsumexp(1)
            logits = logits.index_fill_(1, self.stop, -torch.inf)
        weights, normaliser = weights_of(logits)
        if ending is not None:
            normaliser = torch.logaddexp(normaliser, ending)
        if self.warpers:
            weights, _ = weights_of(self.warpers(before, logits))
        tokens = draw(weights, self.uniforms[rows, step])
        return tokens, logits.gather(1, tokens[:, None])[:, 0] - normaliser

    def ends(self, tokens: Tensor) -> Tensor:
        """Which of the tokens ``[L]`` end their response: bool ``[L]``."""
        return torch.isin(tokens, self.stop)


def draw(weights: Tensor, uniforms: Tensor, block: int = 256) -> Tensor:
    """Sample by inverse CDF: weights ``[B, V]`` in proportion to the probabilities, uniforms ``[B]`` in [0,
    1) -> tokens ``[B]``.

    Many times faster than ``torch.multinomial`` on a CPU, and a row's draw does not depend on its neighbours.
    Cumulative sums are slow there, so the vocabulary's blocks are summed first, and only the block that is
    hit is looked into.
    """
    blocks = torch.nn.functional.pad(weights, (0, -weights.shape[1] % block)).view(len(weights), -1, block)
    block_hit, share = _hit(blocks.sum(2), uniforms)
    rows = torch.arange(len(blocks), device=weights.device)
    place, _ = _hit(blocks[rows, block_hit], share)
    return (block_hit * block + place).clamp(max=weights.shape[1] - 1)  # NaN hits no place


def _hit(weights: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Where in the cumulative weights ``[B, N]`` each uniform ``[B]`` falls: the index, and how far into that
    weight, 0 to 1."""
    cumulative = weights.cumsum(1)
    total = cumulative[:, -1]
    below_total = total.nextafter(torch.zeros_like(total))
    target = torch.minimum(uniforms * total, below_total)  # never behind the last that weighs anything
    index = torch.searchsorted(cumulative, target[:, None], right=True).clamp(max=weights.shape[1] - 1)
    weight = weights.gather(1, index)
    share = (target[:, None] - (cumulative.gather(1, index) - weight)) / weight
    return index[:, 0], share[:, 0].clamp(0, 1)


def weights_of(logits: Tensor) -> tuple[Tensor, Tensor]:
    """``exp`` of logits ``[B, V]`` over that of their largest, and the logits' log-sum-exp ``[B]``."""
    peak = logits.amax(1, keepdim=True)
    weights = (logits - peak).exp_()
    return weights, peak[:, 0] + weights.sum(1).log()


def _warpers(sampling: Sampling) -> "LogitsProcessorList":
    from transformers.generation import LogitsProcessorList, TopKLogitsWarper, TopPLogitsWarper

    warpers = LogitsProcessorList()
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    return warpers
