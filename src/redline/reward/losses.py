"""The losses of reward models: pure functions on the tokens of a batch, laid end to end."""

import torch
import torch.nn.functional as F
from torch import Tensor


def classification_loss(logits: Tensor, labels: Tensor, changed_weight: float) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each token with its label: the weighted sum over tokens, and the sum of the weights.

    ``logits`` ``[N, C]``, ``labels`` ``[N]`` in -1, 0, +1. With C = 2 (negative, positive) targets are soft:
    a neutral token's is (0.5, 0.5) (TLCR, Yoon et al. 2024). With C = 3 (negative, neutral, positive) they
    are hard. Changed tokens weigh ``changed_weight``, neutral ones 1. Divide the sums of a whole batch for
    its loss.
    """
    if logits.shape[1] == 2:
        positive = (labels.to(logits.dtype) + 1) / 2
        targets = torch.stack([1 - positive, positive], dim=1)
    else:
        targets = F.one_hot(labels + 1, 3).to(logits.dtype)
    weights = torch.where(labels == 0, 1.0, changed_weight)
    losses = -(targets * logits.log_softmax(dim=1)).sum(dim=1)
    return (weights * losses).sum(), weights.sum()


def pairwise_loss(better: Tensor, worse: Tensor) -> Tensor:
    """Bradley-Terry: the sum over pairs of ``-log sigmoid(better - worse)``. Shapes ``[B]``.

    For sequence models the two are the responses' scores; for token models the sums of rewards over changed
    tokens so that unchanged tokens carry no gradient.
    """
    return -F.logsigmoid(better - worse).sum()


def token_rewards(logits: Tensor) -> Tensor:
    """The reward of each token ``[N]`` from a token model's logits ``[N, C]``.

    C = 1: the logit itself (pairwise models). C = 2 or 3: ``p(positive) - p(negative)`` in [-1, 1]; for two
    classes that is TLCR's ``2 D - 1``.
    """
    if logits.shape[1] == 1:
        return logits[:, 0]
    probabilities = logits.softmax(dim=1)
    return probabilities[:, -1] - probabilities[:, 0]
