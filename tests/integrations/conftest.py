"""A tiny reward model whose head says something."""

from pathlib import Path

import pytest
import torch

from redline.engine.settings import Adapt, Model
from redline.reward.model import new_reward_model, save_reward_model
from redline.reward.settings import Reward


@pytest.fixture(scope="module")
def reward_folder(tiny_model, tmp_path_factory) -> Path:
    model, _ = new_reward_model(
        Reward(adapt=Adapt(lora_rank=0, train_layers=1)), Model(name=tiny_model, dtype="float32")
    )
    torch.nn.init.normal_(model.head.weight, std=0.5)
    folder = tmp_path_factory.mktemp("served") / "reward"
    save_reward_model(model, None, folder, tiny_model)
    return folder
