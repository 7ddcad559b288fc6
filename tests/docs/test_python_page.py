"""What docs/python.md says is run as it stands, on a tiny model in the embedded one's place."""

import re
from pathlib import Path

import pytest
import torch

from redline.engine.settings import Adapt, Model
from redline.reward.model import new_reward_model, save_reward_model
from redline.reward.settings import Reward

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
RECIPE = """
model: {{name: {model}, dtype: float32}}
data: {{edits: {{path: edits.jsonl}}, validation_share: 0.3}}
reward: {{epochs: 1, adapt: {{train_layers: 1, lora_rank: 2}}}}
policy: {{batch_size: 4, minibatch_size: 2, adapt: {{lora_rank: 2}}, sampling: {{max_new_tokens: 6}}}}
compare: {{judge: length}}
watch: {{every: 0}}
"""


@pytest.fixture
def place(tiny_model, edits_file, tmp_path, monkeypatch) -> Path:
    """A folder with edits, a recipe and the reward model of a demo."""
    model, _ = new_reward_model(
        Reward(adapt=Adapt(lora_rank=0, train_layers=1)), Model(name=tiny_model, dtype="float32")
    )
    torch.nn.init.normal_(model.head.weight, std=0.5)
    save_reward_model(model, None, tmp_path / "runs/demo/reward", tiny_model)
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(model=tiny_model))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_as_it_stands(place, tiny_model, capsys):
    names: dict[str, object] = {}
    for block in BLOCKS:
        exec(block.replace("smollm2-135m", tiny_model), names)
    printed = capsys.readouterr().out
    assert printed.count(" in all") == 2
    assert re.search(r"^[+-]\d\.\d\d  characters 0 to \d+: '", printed, flags=re.MULTILINE)
    assert "a over b, judged by vader: win rate" in printed


def test_ten_lines_score_a_text_token_by_token():
    lines = [line for line in BLOCKS[0].splitlines() if line.strip()]
    assert len(lines) <= 10
    assert 'from_pretrained("runs/demo/reward")' in BLOCKS[0]  # what `make demo` leaves
