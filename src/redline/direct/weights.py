"""Weights that make one set of prompts look like another: underlying distribution matching, for BCO."""

import torch
from torch import Tensor

COMPONENTS, FOLDS = 16, 5
STRENGTH = 0.01  # of the data against the penalty on the coefficients, in units of one observation
LEAST, MOST = 0.5, 10.0
NEWTON = 25


def matched_weights(features: Tensor, liked: Tensor, seed: int) -> tuple[Tensor, float, float]:
    """A weight for each disliked row: how much likelier its prompt is among the liked ones.

    ``features`` ``[N, H]`` describe the prompts, ``liked`` ``[N]`` says which rows are liked. The ratio of
    the two densities is estimated by logistic regression on the first ``COMPONENTS`` principal components,
    each row by fits that have not seen it. Weights lie between ``LEAST`` and ``MOST`` and are then divided by
    their mean, so that the disliked rows keep their total weight. Returns also the shares of weights at the
    two bounds. The idea is the authors' (2404.04656, version 1); the projection and the folds are ours, since
    with some hundred prompts and no cross-fitting the weights are noise."""
    centred = (features - features.mean(0)).double()
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    points = centred @ directions[:COMPONENTS].T
    points = points / points.std(0).clamp(min=1e-9)
    folds = _folds(liked, seed)
    ratios = torch.ones(len(points), dtype=torch.float64)
    for fold in range(FOLDS):
        inside, outside = folds == fold, folds != fold
        classes = liked[outside]
        if not inside.any() or classes.all() or not classes.any():
            continue
        coefficients = logistic_regression(points[outside], classes)
        scores = points[inside] @ coefficients[1:] + coefficients[0]
        ratios[inside] = scores.exp()
    weights = ratios[~liked].clamp(LEAST, MOST)
    floor, cap = (float((weights == bound).double().mean()) for bound in (LEAST, MOST))
    return (weights / weights.mean()).float(), floor, cap


def _folds(liked: Tensor, seed: int) -> Tensor:
    """The fold of each row, by its place alone: a row's class does not decide with whom it is held out."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(len(liked), generator=generator) % FOLDS


def logistic_regression(points: Tensor, classes: Tensor, strength: float = STRENGTH) -> Tensor:
    """Intercept and coefficients ``[1 + D]`` of a logistic regression with balanced classes, by Newton's
    method.

    The squared coefficients are penalised by ``1 / (2 strength)``, the intercept is not.
    """
    design = torch.cat([torch.ones(len(points), 1, dtype=points.dtype), points], 1)
    wanted = classes.to(points.dtype)
    shares = torch.where(classes, 0.5 / wanted.mean(), 0.5 / (1 - wanted.mean()))
    penalty = torch.full((design.shape[1],), 1 / strength, dtype=points.dtype)
    penalty[0] = 1e-9
    coefficients = torch.zeros(design.shape[1], dtype=points.dtype)
    for _ in range(NEWTON):
        chances = torch.sigmoid(design @ coefficients)
        slope = design.T @ (shares * (chances - wanted)) + penalty * coefficients
        curvature = (design.T * (shares * chances * (1 - chances))) @ design + penalty.diag()
        step = torch.linalg.solve(curvature, slope)
        coefficients = coefficients - step
        if step.abs().max() < 1e-9:
            break
    return coefficients
