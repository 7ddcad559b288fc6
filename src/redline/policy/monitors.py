"""What describes a batch beyond its means, and memory: pure functions on rewards and advantages, and two
gauges."""

import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor


def reward_monitors(
    rewards: Sequence[Tensor],
    shaped: Sequence[Tensor],
    ended: Sequence[bool],
    total: Callable[[Tensor], Tensor] = lambda part: part,
) -> dict[str, float]:
    """Where a batch's reward lies, from the reward's own values and the scaled ones with their terms,
    ``[R_i]`` each.

    ``raw_reward_changed``: the mean reward of tokens that look changed, in the reward's own unit, and
    ``changed_share``, their share of all tokens. A token looks changed where its reward is further from 0
    (neutral) than the batch's root mean square: a rule that needs no unit, so it holds for classifiers,
    functions and a single score at the end alike. ``reward_eos``: the mean scaled reward at end-of-text, over
    responses that ended. A mean over nothing is left out. ``total`` adds a tensor up over processes.
    """
    raw = torch.cat([*rewards, torch.zeros(0)]).double()
    squares, tokens = total(
        torch.stack([raw.square().sum(), torch.tensor(float(len(raw)), dtype=torch.float64)])
    ).tolist()
    # a little above the root mean square: where all rewards are equal, rounding must not decide
    changed = raw[raw.abs() > (squares / max(tokens, 1)) ** 0.5 * (1 + 1e-6)]
    final = torch.tensor(
        [float(row[-1]) for row, end in zip(shaped, ended, strict=True) if end and len(row)],
        dtype=torch.float64,
    )
    count, summed, ends, at_end = total(
        torch.stack(
            [
                torch.tensor(float(len(changed)), dtype=torch.float64),
                changed.sum(),
                torch.tensor(float(len(final)), dtype=torch.float64),
                final.sum(),
            ]
        )
    ).tolist()
    found = {"changed_share": count / max(tokens, 1)}
    if count:
        found["raw_reward_changed"] = summed / count
    if ends:
        found["reward_eos"] = at_end / ends
    return found


def advantage_monitors(
    advantages: Tensor,
    mask: Tensor,
    total: Callable[[Tensor], Tensor] = lambda part: part,
) -> dict[str, float]:
    """``advantage_mean`` and ``advantage_std`` of the valid entries (``[B, T]``, mask True at them) before
    they are whitened.

    Whitening hides both from the loss. A mean that drifts from 0 says that the critic is behind the returns,
    a deviation that grows that rewards, and with them what a step is divided by, grow.
    """
    kept = advantages.where(mask, 0).double()
    count, summed, squares = total(
        torch.stack([mask.sum().double(), kept.sum(), kept.square().sum()])
    ).tolist()
    mean = summed / max(count, 1)
    return {"advantage_mean": mean, "advantage_std": max(squares / max(count, 1) - mean * mean, 0.0) ** 0.5}


def peak_gb() -> float:
    """Peak memory in gigabytes: of the accelerator since ``start_phase``, where there is one, else of this
    process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def start_phase() -> None:
    """Begin to measure a phase's own peak, on an accelerator."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def phase_gb() -> float:
    """Gigabytes of a phase that ends now: its peak on the accelerator, or what this process holds now (no
    system keeps a peak by phase; where there is no /proc, the peak so far)."""
    held = Path("/proc/self/statm")
    if torch.cuda.is_available() or not held.exists():
        return peak_gb()
    return int(held.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e9


class Phases:
    """Time and memory of each phase of an update."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.gb: dict[str, float] = {}

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Around a phase; its parts add up."""
        start_phase()
        start = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start
        self.gb[phase] = phase_gb()

    def metrics(self) -> dict[str, float]:
        """For the log: ``seconds_*`` and ``gb_*`` by phase, and of the update."""
        by_phase = {f"seconds_{phase}": seconds for phase, seconds in self.seconds.items()}
        by_phase["seconds"] = sum(self.seconds.values())
        by_phase |= {f"gb_{phase}": size for phase, size in self.gb.items()}
        by_phase["peak_gb"] = max(peak_gb(), *self.gb.values())
        return by_phase
