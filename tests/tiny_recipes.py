"""A recipe that trains in seconds, and what a finished model computes."""

from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoModelForCausalLM

ADAPT = {"lora_rank": 4, "train_layers": 2}


def write_recipe(folder: Path, model: dict[str, Any], **sections: Any) -> Path:
    """A recipe of one reward model and two updates."""
    recipe = {
        "name": "tiny",
        "model": {"dtype": "float32", **model},
        "data": {"edits": {"path": str(folder / "edits.jsonl")}, "validation_share": 0.3},
        "reward": {"adapt": ADAPT, "epochs": 1, "batch_size": 8, "eval_every": 1},
        "policy": {
            "adapt": ADAPT,
            "updates": 2,
            "batch_size": 4,
            "minibatch_size": 4,
            "sampling": {"max_new_tokens": 6},
            "optimizer": {"lr": 0.02},
        },
        "watch": {"every": 0},
        "compare": {"judge": "length"},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe | sections))
    return path


def logits(folder: Path | str) -> torch.Tensor:
    """Of a folder, by plain Transformers."""
    lm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return lm(input_ids=torch.arange(5, 30)[None]).logits
