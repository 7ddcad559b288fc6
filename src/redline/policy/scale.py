"""The factor that gives a response's return a standard deviation of 1, from a few measured returns."""

import torch
from torch import Tensor

FAR = 4.0  # robust deviations from the median, beyond which a return counts as one at that distance
LARGEST = 100.0  # rewards that differ less than a hundredth are not blown up further
SAME = 1e-6  # returns that differ less are the same
QUARTILES = 1.349  # quartiles of a normal distribution are so many standard deviations apart


def reward_scale(returns: Tensor) -> tuple[float, str | None]:
    """The factor for measured returns ``[N]``, and a line for the user where they are not as one expects.

    One outlier would make all other rewards vanish, so returns far from the median count as at ``FAR`` robust
    deviations (the quartiles' distance over 1.349). Returns that hardly differ would be blown up to noise:
    the factor is at most ``LARGEST``, and 1 where they are all the same.
    """
    values = returns.double().sort().values
    quartiles = torch.quantile(values, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
    spread = float(quartiles[2] - quartiles[0]) / QUARTILES
    median = float(quartiles[1])
    inside = values.clamp(median - FAR * spread, median + FAR * spread) if spread > SAME else values
    outliers = int((inside != values).sum())
    deviation = float(inside.std(correction=0))
    count = len(values)
    if deviation <= SAME:
        return 1.0, (
            f"the reward of all {count} responses of the reference is the same ({float(values[0]):.3g}): "
            "there is nothing to scale by or to learn from. Check policy.reward."
        )
    if 1 / deviation > LARGEST:
        return LARGEST, (
            f"the rewards of {count} responses of the reference hardly differ (standard deviation "
            f"{deviation:.2g}): they are scaled by {LARGEST:g}, not by {1 / deviation:,.0f}, which would "
            "learn from noise. Check policy.reward, or set policy.reward_scale."
        )
    if outliers and float(values.std(correction=0)) > 2 * deviation:
        return 1 / deviation, (
            f"the rewards of {outliers} of {count} responses of the reference are far from all others (from "
            f"{float(values[0]):.3g} to {float(values[-1]):.3g}, median {median:.3g}): the scale is measured "
            "as if they were nearer. Check policy.reward, or set policy.reward_scale."
        )
    return 1 / deviation, None
