"""What several tests of PPO share."""

import pytest

from redline.engine.settings import Model
from tiny_models import model_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    """A tiny random model in a folder, in float32."""
    return Model(name=model_folder(tmp_path_factory.mktemp("model")), dtype="float32")
