"""One optimizer step over micro-batches, on any number of processes, for every training of our own."""

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from redline.engine.sharding import clip_gradients, unfinished

if TYPE_CHECKING:
    from accelerate import Accelerator

SPARE = [0]  # what a process computes, and counts for nothing, while others have a micro-batch left


class Stepper:
    """Adds up the gradients of micro-batches, and takes a step when they are all there.

    ``model`` and ``optimizer`` are as Accelerate prepared them; ``schedule`` sets the learning rate, and
    moves on with each step; without one the rate stays. For each batch, on every process::

        for rows, counts in stepper.micro_batches(groups):
            stepper.backward(counts * loss_sum(rows) / size_of_the_whole_batch)
        norm = stepper.step()
    """

    def __init__(
        self,
        accelerator: "Accelerator",
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: Any,
        max_grad_norm: float,
    ):
        self.accelerator, self.model = accelerator, model
        self.optimizer, self.schedule = optimizer, schedule
        self.max_grad_norm = max_grad_norm

    def micro_batches(self, groups: Sequence[list[int]]) -> Iterator[tuple[list[int], float]]:
        """This process's groups of rows, each with a weight of 1.

        Every process makes as many passes as the one with the most groups, since sharded layers are gathered
        together. One that has no group left gets ``SPARE`` with a weight of 0. Processes exchange their
        gradients with the last pass.
        """
        here = torch.tensor([len(groups)], device=self.accelerator.device)
        passes = int(self.accelerator.gather(here).max())
        for place in range(passes):
            last = place == passes - 1
            with nullcontext() if last else unfinished(self.accelerator, self.model):
                yield (groups[place], 1.0) if place < len(groups) else (SPARE, 0.0)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss. Losses add up over micro-batches and processes: each is this
        process's sum over its rows, divided by the size of the whole batch."""
        # DDP and FSDP take the mean over processes
        self.accelerator.backward(loss * self.accelerator.num_processes)

    def step(self) -> float:
        """Clip the gradients, take the step, and forget them; returns the norm they had. Where it is not
        finite, no step is taken."""
        norm = clip_gradients(self.accelerator, self.model, self.max_grad_norm)
        if math.isfinite(norm):
            self.optimizer.step()
            if self.schedule is not None:
                self.schedule.step()
            self.optimizer.zero_grad()
        return norm

    def leave_out(self) -> None:
        """Forget the gradients without a step."""
        self.optimizer.zero_grad()

    def skip_rate(self) -> None:
        """Move the learning rate on as if a step had been taken."""
        self.schedule.step()

    @property
    def learning_rate(self) -> float:
        rate: float = self.schedule.get_last_lr()[0]
        return rate


class SummingStepper(Stepper):
    """A stepper for a model that runs in parts, past the wrapper that Accelerate gives a model.

    ``model`` and ``optimizer`` are as they were made. The loss of a batch is a mean over terms, and their
    number is known only after its last micro-batch. So gradients are sums until ``step`` divides them::

        for rows in groups:
            stepper.backward(loss_sum(rows))
        norm = stepper.step(terms)
    """

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss: the sum over some of this process's rows."""
        if loss.requires_grad:
            loss.backward()

    def step(self, terms: float = 1.0) -> float:
        """Add up the gradients of all processes, divide them by ``terms`` (of the whole batch), and go on as
        ``Stepper.step``."""
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                self._sum(parameter)
                parameter.grad /= max(terms, 1.0)
        return super().step()

    def _sum(self, parameter: nn.Parameter) -> None:
        """The gradient of one parameter over all processes; zero where no loss depends on it."""
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if self.accelerator.num_processes > 1:
            parameter.grad = self.accelerator.reduce(parameter.grad, "sum")


def adamw(head: nn.Module | None, model: nn.Module, settings: Any) -> torch.optim.Optimizer:
    """AdamW with the rates of a recipe's ``optimizer`` section: ``head_lr`` for the new head, where there is
    one, ``lr`` for everything else that is trained."""
    of_head = [] if head is None else list(head.parameters())
    others = []
    for parameter in model.parameters():
        if parameter.requires_grad and not any(parameter is other for other in of_head):
            others.append(parameter)
    groups = [{"params": others, "lr": settings.lr}]
    if head is not None:
        groups.append({"params": of_head, "lr": settings.head_lr})
    return torch.optim.AdamW(groups, eps=settings.eps, weight_decay=settings.weight_decay)
