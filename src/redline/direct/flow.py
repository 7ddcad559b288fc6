"""A flow from disliked to liked answers (preference flow matching, 2405.19806), as a score: how little an
answer would have to change to be liked.

Answers are points: mean hidden states, projected. The field learns to carry a disliked point to the liked one
of its pair, and to leave liked points where they are. What the authors do on text needs an autoencoder of its
own and is not built here; the use as a re-ranker is ours. docs/methods.md says what it is worth."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

NOISE = 0.1  # in units of a component's deviation
STEPS = 20  # of Euler's method


@dataclass(frozen=True)
class Projection:
    """The first principal components of some points, scaled to deviation 1."""

    mean: Tensor
    directions: Tensor
    scale: Tensor

    @classmethod
    def of(cls, points: Tensor, components: int) -> "Projection":
        """Fitted on points ``[N, H]``."""
        mean = points.mean(0)
        _, _, directions = torch.linalg.svd(points - mean, full_matrices=False)
        kept = directions[:components]
        return cls(mean, kept, ((points - mean) @ kept.T).std(0).clamp(min=1e-6))

    def __call__(self, points: Tensor) -> Tensor:
        """Points ``[N, H]`` -> ``[N, D]``."""
        return (points - self.mean) @ self.directions.T / self.scale


class Field(nn.Module):
    """A velocity ``[N, D]`` at a time ``[N, 1]`` and points ``[N, D]``."""

    def __init__(self, size: int, width: int = 128):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(size + 1, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, size)
        )

    def forward(self, time: Tensor, points: Tensor) -> Tensor:
        velocity: Tensor = self.layers(torch.cat([time, points], 1))
        return velocity


def on_the_way(start: Tensor, end: Tensor, time: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The point at a time ``[N, 1]`` between ``start`` and ``end`` ``[N, D]``, and the velocity wanted
    there."""
    return time * end + (1 - time) * start + NOISE * noise, end - start


def fit(disliked: Tensor, liked: Tensor, epochs: int = 200, batch: int = 64, seed: int = 0) -> Field:
    """The field of pairs ``[N, D]``: from disliked to liked, and from liked to itself, half and half."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        field = Field(disliked.shape[1])
    starts, ends = torch.cat([disliked, liked]), torch.cat([liked, liked])
    optimizer = torch.optim.Adam(field.parameters(), lr=1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(starts), generator=generator).split(batch):
            time = torch.rand(len(rows), 1, generator=generator)
            noise = torch.randn(len(rows), starts.shape[1], generator=generator)
            points, wanted = on_the_way(starts[rows], ends[rows], time, noise)
            loss = (field(time, points) - wanted).square().sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return field


@torch.no_grad()
def carried(field: Field, points: Tensor, steps: int = STEPS) -> Tensor:
    """Where the field carries points ``[N, D]`` from time 0 to 1."""
    for step in range(steps):
        time = torch.full((len(points), 1), step / steps)
        points = points + field(time, points) / steps
    return points


def scores(field: Field, points: Tensor) -> Tensor:
    """Minus the length of the way that each point is carried ``[N]``. Compare answers to one prompt only."""
    return -(carried(field, points) - points).norm(dim=1)
