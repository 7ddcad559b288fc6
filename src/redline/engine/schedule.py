"""The learning rate's schedule, the same for reward models and policies."""

from typing import Any

from redline.engine.settings import Optimizer


def scheduler(optimizer: Any, how: Optimizer, steps: int) -> Any:
    """Linear warm-up over ``how.warmup`` of the steps, then ``how.decay``; a torch LR scheduler."""
    from transformers import get_scheduler

    name = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}[how.decay]
    return get_scheduler(
        name, optimizer, num_warmup_steps=round(how.warmup * steps), num_training_steps=steps
    )
